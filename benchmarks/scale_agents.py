"""Agents of the scale benchmark: each a real link to the master, and no machine behind it."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from benchmarks.scale_gauge import Gauge, obey
from dayfly.errors import WireError
from dayfly.model import CallOutcome, OutcomeKind
from dayfly.wire import messages as m
from dayfly.wire.link import Link, dial

#: What every call returns: five bytes.
VALUE = 7
PAYLOAD = pickle.dumps(VALUE, 5)
#: Seconds that a call is said to have taken.
SECONDS = 20e-6
#: Outcomes in a frame, as real agents gather them.
MOST = 1000
#: Seconds until a master that was too busy for a call is called again.
AGAIN = 0.2


class Agents:
    """The agents of one process.

    Args:
        port: The master's.
        secret: That of workers.
    """

    def __init__(self, port: int, secret: str) -> None:
        self._port = port
        self._secret = secret
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = 0
        self._changed = asyncio.Condition()

    def called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The master installs."""
        self._begin(self._listen(reader, writer))

    async def ready(self, count: int) -> int:
        """Wait until so many agents have a place in the master's fleet."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ready >= count)
        return self._ready

    async def aclose(self) -> None:
        """Be gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin an agent for each line, which is its instance's id."""
        try:
            while line := await reader.readline():
                self._begin(self._live(line.decode().strip()))
        finally:
            writer.close()

    async def _live(self, name: str) -> None:
        while True:
            try:
                link = await dial(
                    m.TO_WORKER,
                    role="worker",
                    name=name,
                    secret=self._secret,
                    host="127.0.0.1",
                    port=self._port,
                )
                break
            except WireError:
                await asyncio.sleep(AGAIN)
        try:
            await self._serve(name, link)
        except WireError:
            return  # the benchmark is over
        finally:
            await link.aclose()

    async def _serve(self, name: str, link: Link[m.ToWorker]) -> None:
        await link.send(m.Ready(incarnation=name, processes=1))
        kept: dict[int, m.Done] = {}
        serial, placed = 0, False
        async for message in link:
            match message:
                case m.Assign(job=job, span=span):
                    for start in range(span.start, span.stop, MOST):
                        serial += 1
                        stop = min(span.stop, start + MOST)
                        kept[serial] = _done(serial, job, range(start, stop), name)
                        await link.send(kept[serial])
                case m.Acknowledge(serial=upto):
                    for each in [each for each in kept if each <= upto]:
                        del kept[each]
                case m.Recall(job=job):
                    await link.send(m.HandBack(job=job, spans=[]))
                case m.SetDeadline() if not placed:
                    placed = True
                    async with self._changed:
                        self._ready += 1
                        self._changed.notify_all()
                case _:
                    pass


def _done(serial: int, job: str, indices: range, worker: str) -> m.Done:
    ended = time.time()
    started, kind = ended - SECONDS, OutcomeKind.VALUE
    outcomes = [CallOutcome(index, kind, PAYLOAD, started, ended, worker) for index in indices]
    return m.Done(serial=serial, job=job, outcomes=outcomes)


async def main(folder: Path, socket: str, port: int, secret: str) -> None:
    """Play agents until nobody wants any more."""
    agents = Agents(port, secret)
    server = await asyncio.start_unix_server(agents.called, folder / socket)
    async with server:
        await obey(Gauge(), {"ready": agents.ready})
        await agents.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *json.loads(sys.argv[2])))
