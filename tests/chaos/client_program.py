"""A user's program: maps, and what comes back is written to a file as it comes.

    python client_program.py ORDERS LIFE

ORDERS is a JSON file; LIFE numbers the runs of this very program, since it may be killed and is
then run again. It stands alone, as a user's program does: the standard library and dayfly.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from dayfly import FunctionExecutor, Job, JobError


def answer(job: str, index: int, size: int) -> bytes:
    """What a call returns: nobody else's, and of a size that may be large."""
    digest = hashlib.sha256(f"{job} {index}".encode()).digest()
    return (digest * (size // len(digest) + 1))[:size]


def told(value: bytes) -> str:
    """What is written down of an answer."""
    return hashlib.sha256(value).hexdigest()[:16]


def work(job: str, index: int, nap: float, size: int, fails: bool, life: str, ledger: str) -> bytes:
    """One call. It signs in before it works, so that everyone can see what was run how often."""
    entry = {"life": life, "job": job, "index": index, "pid": os.getpid(), "at": time.time()}
    entry["instance"] = os.environ.get("DAYFLY_INSTANCE", "")
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps(entry).encode() + b"\n")
    os.close(descriptor)
    time.sleep(nap)
    if fails:
        raise ValueError(f"call {index} of {job} fails on purpose")
    return answer(job, index, size)


def together(answers: list[bytes]) -> bytes:
    """What is left of all answers."""
    return hashlib.sha256(b"".join(answers)).digest()


class Program:
    """One life of the program."""

    def __init__(self, orders: dict[str, Any], life: str) -> None:
        self._orders = orders
        self._life = life
        path = orders["received"].format(life=life)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def run(self) -> None:
        """Run all jobs at the same time."""
        async with asyncio.TaskGroup() as group:
            for keys, jobs in self._orders["executors"]:
                group.create_task(self._use(keys, jobs))
        self._write(program="done")

    async def _use(self, keys: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
        async with FunctionExecutor(**keys) as executor, asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(self._follow(executor, job))

    async def _follow(self, executor: FunctionExecutor, order: dict[str, Any]) -> None:
        name = order["name"]
        try:
            if not (order["detached"] and await self._take_up(executor, name)):
                await getattr(self, f"_{order['style']}")(executor, order)
        except Exception as error:  # noqa: BLE001  # it is told, and judged elsewhere
            frames = traceback.format_tb(error.__traceback__)
            self._write(job=name, ended=type(error).__name__, text=str(error), frames=frames)
        else:
            self._write(job=name, ended="")

    async def _take_up(self, executor: FunctionExecutor, name: str) -> bool:
        """Go on with a job that an earlier run began; whether there is one."""
        begun = self._begun(name)
        if not begun:
            return False
        try:
            job = await executor.reattach(begun)
        except JobError as error:
            self._write(job=name, unknown=begun, text=str(error))
            return False
        self._write(job=name, id=begun)
        await self._collect(name, job)
        return True

    def _begun(self, name: str) -> str:
        """The id under which an earlier run began a job; empty if it did not come that far."""
        client = self._life.partition(".")[0]
        ids = [""]
        for path in sorted(Path(self._orders["received"].format(life="")).glob(f"{client}.*")):
            lines = map(json.loads, path.read_text().splitlines())
            ids += [line["id"] for line in lines if line.get("job") == name and "id" in line]
        return ids[-1]

    # -- the ways to wait for results --

    def _map(
        self, executor: FunctionExecutor, order: dict[str, Any], items: Any = None
    ) -> Job[list[bytes]]:
        job = executor.map(
            work,
            self._items(order) if items is None else items,
            extra_args=self._extra,
            return_exceptions=True,
            detach=order["detached"],
        )
        self._write(job=order["name"], id=job.id)
        return job

    def _items(self, order: dict[str, Any]) -> list[tuple[Any, ...]]:
        return [(order["name"], index, *call) for index, call in enumerate(order["calls"])]

    @property
    def _extra(self) -> dict[str, str]:
        return {"life": self._life, "ledger": self._orders["ledger"]}

    async def _collect(self, name: str, job: Job[Any]) -> None:
        async for outcome in job.as_completed():
            self._received(name, outcome.index, outcome.value, outcome.error)

    async def _completed(self, executor: FunctionExecutor, order: dict[str, Any]) -> None:
        await self._collect(order["name"], self._map(executor, order))

    async def _slow(self, executor: FunctionExecutor, order: dict[str, Any]) -> None:
        async def trickle() -> AsyncIterator[tuple[Any, ...]]:
            for item in self._items(order):
                yield item
                await asyncio.sleep(0.01)

        await self._collect(order["name"], self._map(executor, order, trickle()))

    async def _list(self, executor: FunctionExecutor, order: dict[str, Any]) -> None:
        values: list[Any] = await self._map(executor, order)
        for index, value in enumerate(values):
            if isinstance(value, BaseException):
                self._received(order["name"], index, None, value)
            else:
                self._received(order["name"], index, value, None)

    async def _futures(self, executor: FunctionExecutor, order: dict[str, Any]) -> None:
        job = self._map(executor, order)
        futures = job.futures
        for index, future in enumerate(futures):
            future.add_done_callback(self._on_done(order["name"], index))
        await asyncio.wait(futures)
        await job

    async def _submits(self, executor: FunctionExecutor, order: dict[str, Any]) -> None:
        async def submit(item: tuple[Any, ...]) -> None:
            name, index, *_ = item
            job = executor.submit(work, *item, **self._extra)
            self._write(job=name, id=job.id)
            value: bytes | None = None
            failure: BaseException | None = None
            try:
                value = await job
            except Exception as error:  # noqa: BLE001
                failure = error
            self._received(name, index, value, failure)

        async with asyncio.TaskGroup() as group:
            for item in self._items(order):
                group.create_task(submit(item))

    async def _reduce(self, executor: FunctionExecutor, order: dict[str, Any]) -> None:
        job = executor.map_reduce(work, self._items(order), together, extra_args=self._extra)
        self._write(job=order["name"], id=job.id)
        self._received(order["name"], -1, await job, None)

    def _on_done(self, name: str, index: int) -> Callable[[asyncio.Future[Any]], None]:
        def done(future: asyncio.Future[Any]) -> None:
            error = future.exception()
            self._received(name, index, None if error else future.result(), error)

        return done

    def _received(
        self, job: str, index: int, value: bytes | None, error: BaseException | None
    ) -> None:
        if error is None:
            assert value is not None
            self._write(job=job, index=index, value=told(value))
        else:
            self._write(job=job, index=index, error=type(error).__name__, text=str(error))

    def _write(self, **line: Any) -> None:
        os.write(self._file, json.dumps({"at": time.time(), **line}).encode() + b"\n")


def tell_all() -> None:
    """Print what every task waits for or failed by: asked by SIGUSR1, when we seem to hang."""
    tasks = [each for each in gc.get_objects() if isinstance(each, asyncio.Task)]
    for task in tasks:
        if not task.done():
            task.print_stack(file=sys.stderr)
        elif not task.cancelled() and (error := task.exception()):
            print(f"{task.get_name()} failed:", file=sys.stderr)
            traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()


async def main() -> None:
    """Run one life."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell_all)
    orders = json.loads(Path(sys.argv[1]).read_text())
    await Program(orders, sys.argv[2]).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    asyncio.run(main())
