"""For the tests of the worker: real runner processes, and a master that is a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from dayfly import errors, serialize
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.model import (
    CallOutcome,
    DismantlePolicy,
    LogLine,
    OutcomeKind,
    StorageConfig,
    WorkerConfig,
)
from dayfly.storage.base import Storage
from dayfly.storage.directory import DirectoryStorage
from dayfly.wire import link
from dayfly.wire import messages as m
from dayfly.worker import errands
from dayfly.worker.agent import Agent
from dayfly.worker.environments import Environments
from dayfly.worker.notices import Interruptions
from dayfly.worker.pool import Pool, PoolJob
from dayfly.worker.spawn import Command

SECRET = "a-secret-of-this-test"
M = TypeVar("M", bound=m.Message)


class Owner:
    """Whom the pool tells: keeps everything, in order."""

    def __init__(self, storage: Storage | None = None) -> None:
        self.outcomes: dict[tuple[str, int], CallOutcome] = {}
        self.lines: list[LogLine] = []
        self.events: list[CallOutcome | LogLine] = []
        self.troubles: list[str] = []
        self._storage = storage
        self._news = asyncio.Event()

    def ended(self, job: str, outcomes: list[CallOutcome]) -> None:
        for outcome in outcomes:
            assert (job, outcome.index) not in self.outcomes, "a call has one outcome"
            self.outcomes[job, outcome.index] = outcome
        self.events += outcomes
        self._news.set()

    def line(self, line: LogLine) -> None:
        self.lines.append(line)
        self.events.append(line)
        self._news.set()

    def asked(self, request: bytes) -> asyncio.Future[tuple[bytes, bytes]]:
        assert self._storage is not None
        return asyncio.ensure_future(errands.perform(self._storage, request))

    def trouble(self, text: str) -> None:
        self.troubles.append(text)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()


class Bench:
    """A pool and its owner: run calls, get outcomes."""

    def __init__(self, pool: Pool, owner: Owner) -> None:
        self.pool = pool
        self.owner = owner

    def open(
        self,
        fn: Callable[..., Any],
        *,
        job: str = "job",
        extra_args: Any = None,
        payload: bytes = b"",
        **facts: Any,
    ) -> None:
        dump = serialize.dump_function(fn, extra_args)
        facts.setdefault("reserved", dump.reserved)
        self.pool.open(PoolJob(id=job, function=payload or dump.payload, **facts))

    def add(self, items: Sequence[Any], *, job: str = "job", start: int = 0) -> None:
        self.pool.add(job, enumerate(serialize.dump_items(items, start), start))

    async def outcomes(self, count: int, *, job: str = "job") -> list[CallOutcome]:
        wanted = [(job, index) for index in range(count)]
        await self.owner.until(lambda: all(key in self.owner.outcomes for key in wanted))
        return [self.owner.outcomes[key] for key in wanted]

    async def run(self, fn: Callable[..., Any], items: Sequence[Any], **facts: Any) -> Any:
        """The outcomes of a whole job."""
        job = facts.setdefault("job", "job")
        self.open(fn, **facts)
        self.add(items, job=job)
        return await self.outcomes(len(items), job=job)

    async def values(self, fn: Callable[..., Any], items: Sequence[Any], **facts: Any) -> list[Any]:
        return [value_of(outcome) for outcome in await self.run(fn, items, **facts)]

    def texts(self, index: int) -> list[str]:
        return [line.text for line in self.owner.lines if line.index == index]


def value_of(outcome: CallOutcome) -> Any:
    assert outcome.kind is OutcomeKind.VALUE, outcome
    return pickle.loads(outcome.payload)  # noqa: S301


def error_of(outcome: CallOutcome) -> BaseException:
    error = serialize.decode(outcome, "job").error
    assert error is not None
    return error


@contextlib.asynccontextmanager
async def bench(
    processes: int = 1, *, interpreter: str = sys.executable, storage: Storage | None = None
) -> AsyncIterator[Bench]:
    """A pool of real runners; afterwards none is left."""
    owner = Owner(storage)
    command = Command(
        interpreter=interpreter, environment=dict(os.environ), directory=os.environ["HOME"]
    )
    pool = Pool(owner, command, processes=processes, worker="w-1", clock=SystemClock())
    pool.start()
    try:
        async with asyncio.timeout(20):
            yield Bench(pool, owner)
    finally:
        await pool.aclose()


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only the machine can tell."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


class Master:
    """What a worker's agent talks to: a real websocket server, told what to say by the test."""

    def __init__(self) -> None:
        self.ready: list[m.Ready] = []
        self.outcomes: dict[tuple[str, int], CallOutcome] = {}
        self.frames: list[m.Done] = []
        self.lines: list[LogLine] = []
        self.handed_back: list[m.HandBack] = []
        self.draining: list[m.Draining] = []
        self.unfit: list[m.Unfit] = []
        self.acknowledging = True
        self.refusing = False
        self.port = 0
        self._link: link.Link[m.FromWorker] | None = None
        self._news = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(link.PATH, self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._link is not None:
            await self._link.aclose()
        if self._runner is not None:
            await self._runner.cleanup()

    async def hang_up(self) -> None:
        assert self._link is not None
        await self._link.aclose()

    async def say(self, message: m.ToWorker) -> None:
        assert self._link is not None
        await self._link.send(message)

    async def assign(
        self,
        job: str,
        fn: Callable[..., Any],
        items: Sequence[Any],
        *,
        start: int = 0,
        attempt: int = 0,
        **more: Any,
    ) -> None:
        dump = serialize.dump_function(fn)
        brief = m.JobBrief(
            id=job, function=m.Payload(data=dump.payload), reserved=dump.reserved, **more
        )
        span = m.Span(start, start + len(items))
        pickles = serialize.dump_items(items, start)
        await self.say(m.Assign(job=job, span=span, brief=brief, items=pickles, attempt=attempt))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def values(self, job: str, count: int) -> list[Any]:
        await self.until(lambda: len([key for key in self.outcomes if key[0] == job]) >= count)
        return [value_of(self.outcomes[job, index]) for index in range(count)]

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=link.MAX_FRAME, compress=False)
        await socket.prepare(request)
        welcome = m.Welcome(instance="m-1", package="")
        try:
            hello = await link.answer(socket, {"worker": SECRET}, welcome)
        except errors.AuthenticationError:
            return socket
        self._link = conversation = link.Link(socket, m.FROM_WORKER, hello.name)
        if self.refusing:
            refused = m.Refused(
                code="WireError", reason=f"{hello.name} is no worker of this master"
            )
            await conversation.send(refused)
            await conversation.aclose()
            return socket
        async for message in conversation:
            match message:
                case m.Ready():
                    self.ready.append(message)
                case m.Done():
                    self.frames.append(message)
                    for outcome in message.outcomes:
                        self.outcomes.setdefault((message.job, outcome.index), outcome)
                    if self.acknowledging:
                        await conversation.send(m.Acknowledge(serial=message.serial))
                case m.Printed():
                    self.lines += message.lines
                case m.HandBack():
                    self.handed_back.append(message)
                case m.Draining():
                    self.draining.append(message)
                case m.Unfit():
                    # It is told before the calls come back: they are not to come again.
                    assert not [h for h in self.handed_back if h.job == message.job]
                    self.unfit.append(message)
            self._news.set()
        return socket


def worker_config(storage: Path, port: int, processes: int = 2) -> WorkerConfig:
    return WorkerConfig(
        instance="w-1",
        master_host="127.0.0.1",
        master_port=port,
        secret=SECRET,
        processes=processes,
        runtime=sys.executable,
        storage=StorageConfig(kind="localhost", location=str(storage)),
        policy=DismantlePolicy(),
    )


@contextlib.asynccontextmanager
async def working(
    storage: Storage | None = None,
    *,
    processes: int = 2,
    notices: Interruptions | None = None,
    environments: Environments | None = None,
) -> AsyncIterator[tuple[Master, Agent]]:
    """A master, and an agent that has just said that it is ready."""
    directory = Path(os.environ["HOME"]) / "storage"
    storage = storage or DirectoryStorage(directory)
    master = Master()
    await master.start()
    config = worker_config(directory, master.port, processes)
    agent = Agent(
        config,
        storage,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        notices=notices,
        environments=environments,
    )
    running = asyncio.create_task(agent.run())
    try:
        await master.until(lambda: bool(master.ready))
        yield master, agent
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # that is how it ends
            await running
        await master.stop()
        await storage.aclose()
