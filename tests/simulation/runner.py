"""Runner processes in virtual time: the real calls, in the real format, that take drawn time.

A runner is a process of its own beside the agent's, as the real one is: what it says waits for
the agent to read it, and it ends with its agent.
"""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import random
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from dayfly.worker import obituary, runner
from dayfly.worker.dispatch import Call
from dayfly.worker.process import Listener, Result
from dayfly.worker.spawn import Command
from tests.simulation.process import Process
from tests.simulation.surroundings import Strikes, heavy

#: Seconds until a runner is warm, about.
START = 0.08
#: One call in so many prints a line.
CHATTY = 8

Poison = Literal["", "service", "vm"]
How = Literal["", "value", "raised", "killed", "revoked"]


@dataclass
class Execution:
    """One run of a call, by the truth.

    Attributes:
        instance: The VM that it ran on.
        started: When, in seconds of the loop's time.
        ended: When it ended; ``None`` while it runs.
        how: What became of it: ``killed`` with its process, ``revoked`` by its agent.
    """

    job: str
    index: int
    instance: str
    started: float
    ended: float | None = None
    how: How = ""


class Work(Protocol):
    """What calls are like, and where it is told what became of them."""

    @property
    def faults(self) -> Strikes:
        """Which misfortunes strike."""
        ...

    @property
    def executions(self) -> list[Execution]:
        """Every run of a call so far."""
        ...

    def seconds(self, job: str, index: int) -> float:
        """How long a call takes."""
        ...

    def poison(self, job: str, index: int) -> Poison:
        """What a call takes with it when it runs."""
        ...

    def poisoned(self, instance: str, what: Poison) -> None:
        """A call takes its worker's service, or its whole VM, with it."""
        ...


class Workshop:
    """Starts the runners of one agent (:class:`dayfly.worker.process.Start`).

    Args:
        work: What calls are like.
        agent: The agent's process.
        instance: The VM's id.
        stream: What small things are drawn from.
    """

    def __init__(self, work: Work, agent: Process, instance: str, stream: random.Random) -> None:
        self.work = work
        self.agent = agent
        self.instance = instance
        self.stream = stream

    def __call__(self, id: int, command: Command, listener: Listener, /) -> SimRunner:
        return SimRunner(self, id, listener)


class SimRunner:
    """A runner (:class:`dayfly.worker.process.Runner`)."""

    def __init__(self, shop: Workshop, id: int, listener: Listener) -> None:
        self.id = id
        self.unstarted: list[int] = []
        self._shop = shop
        self._listener = listener
        self._loop = shop.agent.loop
        self._process = shop.agent.host.start(f"runner {id}")
        self.pid = self._process.pid
        self._jobs: dict[int, runner.Job] = {}
        self._calls: dict[int, tuple[runner.Job, Call]] = {}
        self._tickets: deque[int] = deque()
        self._running: Execution | None = None
        self._warm = False
        self._said: deque[Callable[[], object]] = deque()
        self._reading = True
        self._readable: asyncio.Handle | None = None
        self._status = -signal.SIGKILL
        self._condemned = False
        # The kernel ends it with its agent.
        shop.agent.on_kill(self._process.kill)
        self._process.on_kill(self._ended)
        self._later(heavy(shop.stream, START), self._warmed_up)

    # -- to the runner --

    def load(self, slot: int, facts: bytes, function: bytes) -> None:
        self._jobs[slot] = runner.Job(json.loads(facts), memoryview(function))

    def give(self, slot: int, first: int, calls: Sequence[Call]) -> None:
        for number, call in enumerate(calls, first):
            self._calls[number] = self._jobs[slot], call
            self._tickets.append(number)
        self._later(0.0, self._next)

    def forget(self, slot: int) -> None:
        self._jobs.pop(slot, None)

    def reply(self, answer: bytes, data: bytes) -> None:
        raise AssertionError("no simulated function asks for storage")

    def withdraw(self) -> list[int]:
        numbers = list(self._tickets)
        self._tickets.clear()
        for number in numbers:
            self._calls.pop(number, None)
        return numbers

    def kill(self) -> None:
        self._condemned = True
        self._process.kill()

    def hold(self) -> None:
        self._reading = False

    def go_on(self) -> None:
        self._reading = True
        if self._said:
            self._heed()

    # -- from the runner --

    def drain(self) -> None:
        while self._said:
            self._said.popleft()()

    def _say(self, word: Callable[[], object]) -> None:
        self._said.append(word)
        if self._reading:
            self._heed()

    def _heed(self) -> None:
        if self._readable is None:
            context = self._shop.agent.context()
            self._readable = self._loop.call_soon(self._on_readable, context=context)

    def _on_readable(self) -> None:
        self._readable = None
        if self._reading and self._said:
            self.drain()
            self._listener.pause(self)

    # -- its own life --

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        if self._process.alive:
            self._loop.call_later(seconds, step, context=self._process.context())

    def _warmed_up(self) -> None:
        self._warm = True
        self._next()

    def _next(self) -> None:
        if not self._warm or self._running is not None or not self._tickets:
            return
        number = self._tickets.popleft()
        job, call = self._calls.pop(number)
        work = self._shop.work
        self._running = Execution(call.job, call.index, self._shop.instance, self._loop.time())
        work.executions.append(self._running)
        if job.timed:
            self._say(partial(self._listener.call_started, self, number))
        seconds = work.seconds(call.job, call.index)
        if poison := work.poison(call.job, call.index):
            self._later(seconds * self._shop.stream.random(), partial(self._take_along, poison))
        elif work.faults.strikes("runner crash"):
            share = min(1.0, work.faults.amount("runner crash", 0.01, 1.0))
            self._later(seconds * share, self._crash)
        else:
            began = self._process.clock.now()
            self._later(seconds, partial(self._end, number, job, call, began, seconds))

    def _take_along(self, poison: Poison) -> None:
        self._shop.work.poisoned(self._shop.instance, poison)

    def _crash(self) -> None:
        self._status = -signal.SIGSEGV
        self._process.kill()

    def _end(self, number: int, job: runner.Job, call: Call, began: float, seconds: float) -> None:
        running, self._running = self._running, None
        assert running is not None
        kind, payload = _call(job, call)
        running.ended = self._loop.time()
        running.how = "value" if kind == runner.VALUE else "raised"
        if self._shop.stream.random() * CHATTY < 1.0:
            when, text = self._process.clock.now(), f"call {call.index} is done"
            self._say(partial(self._listener.line, self, number, 1, when, text))
        ended = began + seconds
        result = Result(number, kind, began, ended, payload)
        self._say(partial(self._listener.calls_ended, self, [result]))
        self._later(0.0, self._next)

    def _ended(self) -> None:
        """It is dead, whatever of; its agent may be as well, and hears of it if not."""
        if self._running is not None:
            self._running.ended = self._loop.time()
            self._running.how = "revoked" if self._condemned else "killed"
            self._running = None
        self._loop.call_soon(self._buried, context=self._shop.agent.context())

    def _buried(self) -> None:
        self.drain()
        self.unstarted = self.withdraw()
        self._listener.died(self, obituary.Death(status=self._status))


def _call(job: runner.Job, call: Call) -> tuple[int, bytes]:
    """Run a call for real, and tell of it as the real runner does."""
    try:
        job.load()
        value = job.call(pickle.loads(call.item), {"id": call.index})  # noqa: S301
    except Exception as error:  # noqa: BLE001  # whatever the function raises is its outcome
        return runner.RAISED, runner.raised(error, call.index)
    return runner.VALUE, runner.dumps(value)


def drawn_seconds(seed: int, job: str, index: int, typical: float = 1.0) -> float:
    """How long a call takes of which nobody has said it: the same for each run of it."""
    return typical * math.exp(random.Random(f"{seed}/{job}/{index}").gauss(0.0, 1.0))
