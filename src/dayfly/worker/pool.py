"""The runner processes and the calls they run: carries out what :mod:`.dispatch` decides."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Protocol

import msgspec

from dayfly.clock import Clock
from dayfly.model import CallOutcome, LogLine, OutcomeKind
from dayfly.worker import obituary
from dayfly.worker.dispatch import Call, Dispatcher, Give, Replace
from dayfly.worker.process import Result, Runner, RunnerProcess, Start
from dayfly.worker.spawn import Command

#: Seconds that calls may wait behind another one while a runner is idle.
PATIENCE = 0.005
#: Seconds that killed runners may take to be gone.
FAREWELL = 10.0
#: Seconds after a runner's SIGTERM in which the agent's own may come.
GOING_DOWN = 1.0
#: Runners that may fail to start in a row before their calls are failed.
STARTS = 3
STREAMS = {1: "stdout", 2: "stderr"}
KINDS = tuple(OutcomeKind)


class PoolJob(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool must know of a job.

    Attributes:
        function: Header and pickle, as :mod:`dayfly.serialize` made them.
        modules: Directory of its local modules; empty for none.
        interpreter: The Python that it runs in; empty: the pool's own.
        timeout: Seconds that one call may run.
    """

    id: str
    function: bytes
    modules: str = ""
    interpreter: str = ""
    timeout: float | None = None
    environment: dict[str, str] = {}
    reserved: list[str] = []


class Verdict(msgspec.Struct, frozen=True):
    """What a runner is being killed for, and so what to say of the call that it runs."""

    number: int
    kind: OutcomeKind | None
    text: str


class Known(msgspec.Struct):
    """What the pool knows of a runner.

    Attributes:
        slots: Numbers of the jobs that it has loaded.
        interpreter: See :class:`PoolJob`.
        since: When the call that it runs began, as far as can be told.
        proven: Whether it has told an outcome yet.
        last: The call that it ended last.
        limit: The timer of the call that it runs.
    """

    process: Runner
    slots: set[int]
    interpreter: str = ""
    since: float = 0.0
    proven: bool = False
    last: Call | None = None
    limit: asyncio.TimerHandle | None = None
    verdict: Verdict | None = None


class Owner(Protocol):
    """Who the pool works for."""

    def ended(self, job: str, outcomes: list[CallOutcome]) -> None:
        """Calls have ended, in this order."""
        ...

    def line(self, line: LogLine) -> None:
        """A function has printed."""
        ...

    def asked(self, request: bytes) -> asyncio.Future[tuple[bytes, bytes]]:
        """A function wants something of storage: the answer's JSON and data, in time."""
        ...

    def trouble(self, text: str) -> None:
        """Something that belongs in the service's log."""
        ...


class Pool:
    """Warm runner processes and their queue.

    Args:
        owner: Who is told of outcomes and lines.
        command: How to start a runner.
        processes: How many.
        worker: This worker's name, for outcomes and lines.
        clock: For the dates of what runners cannot date themselves.
        runner: Starts one.
    """

    def __init__(
        self,
        owner: Owner,
        command: Command,
        *,
        processes: int,
        worker: str,
        clock: Clock,
        runner: Start = RunnerProcess,
    ) -> None:
        self._clock = clock
        self._start_runner = runner
        self._owner = owner
        self._command = command
        self._processes = processes
        self._worker = worker
        self._dispatcher = Dispatcher()
        self._jobs: dict[str, PoolJob] = {}
        self._slots: dict[str, int] = {}
        self._slot_numbers = count(1)
        self._runner_numbers = count(1)
        self._runners: dict[int, Known] = {}
        #: Those whose runner is gone, for a reason that is not told yet.
        self._unexplained: list[Call] = []
        self._failed_starts = 0
        self._broken = ""
        self._held = False
        self._closing = False
        self._all_gone = asyncio.Event()
        self._impatience: asyncio.TimerHandle | None = None

    # -- its life --

    def start(self) -> None:
        """Start the runners; they are warm some 50 ms later."""
        self._replenish("")

    def _replenish(self, interpreter: str) -> None:
        while len(self._runners) < self._processes and self._failed_starts < STARTS:
            self._add_runner(interpreter=interpreter)

    async def aclose(self) -> None:
        """End every runner, and whatever they have started.

        Raises:
            TimeoutError: The kernel does not let go of one.
        """
        self._closing = True
        if self._impatience is not None:
            self._impatience.cancel()
        for known in self._runners.values():
            known.process.kill()
        if self._runners:
            async with asyncio.timeout(FAREWELL):
                await self._all_gone.wait()

    # -- calls --

    def open(self, job: PoolJob) -> None:
        """Make a job known; one that is known already stays as it is."""
        if job.id in self._jobs:
            return
        self._jobs[job.id] = job
        self._slots[job.id] = next(self._slot_numbers)
        self._dispatcher.open(
            job.id,
            modules=job.modules,
            interpreter=job.interpreter,
            single=job.timeout is not None,
        )
        if self._broken:  # its cause may be gone
            self._broken, self._failed_starts = "", 0
            self.start()

    def add(self, job: str, items: Iterable[tuple[int, bytes]]) -> None:
        """Run these calls of a known job: each an index and a pickled item."""
        self._dispatcher.add(job, [Call(job, index, item) for index, item in items])
        self._feed()

    def revoke(self, job: str, indices: set[int] | None = None) -> None:
        """Drop calls, running or not: with outcomes CANCELLED if named, without if all."""
        for runner in self._dispatcher.holders(job):
            self._withdraw(runner)
        dropped = self._dispatcher.drop(job, indices)
        kind = None if indices is None else OutcomeKind.CANCELLED
        text = "it was asked for"
        if kind is not None:
            for index in dropped:
                self._finish(Call(job, index, b""), kind, text, 0.0, 0.0)
        for runner in self._dispatcher.holders(job):
            known, running = self._runners[runner], self._dispatcher.first(runner)
            if running and (indices is None or running[1].index in indices):
                self._condemn(known, Verdict(running[0], kind, text))
        self._feed()

    def recall(self, job: str, count: int) -> list[int]:
        """Give back up to ``count`` calls that have not been started, the newest first."""
        found = self._dispatcher.take_newest(job, count)
        if len(found) < count:
            for runner in self._dispatcher.holders(job):
                self._withdraw(runner)
            found += self._dispatcher.take_newest(job, count - len(found))
            self._feed()
        return found

    def forget(self, job: str) -> None:
        """Drop a job and whatever is left of it."""
        if self._jobs.pop(job, None) is None:
            return
        self.revoke(job)
        self._dispatcher.close(job)
        slot = self._slots.pop(job)
        for known in self._runners.values():
            if slot in known.slots:
                known.slots.discard(slot)
                known.process.forget(slot)

    def knows(self, job: str) -> bool:
        """Whether the job is open."""
        return job in self._jobs

    def indices(self) -> dict[str, set[int]]:
        """The calls in hand, by job."""
        found = self._dispatcher.indices()
        for call in self._unexplained:
            found.setdefault(call.job, set()).add(call.index)
        return found

    def hold(self) -> None:
        """Read no more from the runners: what they have said already cannot be sent on."""
        self._held = True
        for known in self._runners.values():
            known.process.hold()

    def go_on(self) -> None:
        """Read again."""
        self._held = False
        for known in self._runners.values():
            known.process.go_on()

    # -- what a runner says --

    def call_started(self, process: Runner, number: int) -> None:  # noqa: D102
        known = self._runners[process.id]
        running = self._dispatcher.first(process.id)
        if running is None or running[0] != number:
            return
        job = self._jobs.get(running[1].job)
        known.since = self._clock.now()
        if job is not None and job.timeout is not None:
            text = f"it was still running after {job.timeout:g} s"
            verdict = Verdict(number, OutcomeKind.TIMED_OUT, text)
            loop = asyncio.get_running_loop()
            known.limit = loop.call_later(job.timeout, self._condemn, known, verdict)

    def calls_ended(self, process: Runner, results: Sequence[Result]) -> None:  # noqa: D102
        known = self._runners[process.id]
        worker = self._worker
        by_job: dict[str, list[CallOutcome]] = {}
        for number, kind, started, ended, payload in results:
            call = self._dispatcher.ended(process.id, number, ended - started)
            if call is None:
                continue
            known.since, known.last = ended, call
            outcome = CallOutcome(call.index, KINDS[kind], payload, started, ended, worker)
            by_job.setdefault(call.job, []).append(outcome)
        if not by_job:
            return
        if known.limit is not None:
            known.limit.cancel()
            known.limit = None
        if not known.proven:
            known.proven = True
            self._failed_starts = 0
        for job, outcomes in by_job.items():
            self._owner.ended(job, outcomes)

    def line(  # noqa: D102
        self, process: Runner, number: int | None, stream: int, when: float | None, text: str
    ) -> None:
        known = self._runners[process.id]
        running = self._dispatcher.first(process.id)
        if running is not None and number in (None, running[0]):
            call: Call | None = running[1]
        else:
            call = known.last
        if call is None:
            self._owner.trouble(f"runner {process.pid} says: {text}")
            return
        self._owner.line(
            LogLine(
                call.job, call.index, STREAMS[stream], when or self._clock.now(), text, self._worker
            )
        )

    def asked(self, process: Runner, request: bytes) -> None:  # noqa: D102
        def answer(done: asyncio.Future[tuple[bytes, bytes]]) -> None:
            if not done.cancelled() and process.id in self._runners:
                process.reply(*done.result())

        self._owner.asked(request).add_done_callback(answer)

    def pause(self, process: Runner) -> None:  # noqa: D102
        for action in self._dispatcher.decide_for(process.id):
            self._do(action)
        if not self._dispatcher.waiting:
            self._watch_for_idleness()

    def died(self, process: Runner, death: obituary.Death) -> None:  # noqa: D102
        known = self._runners.pop(process.id)
        if known.limit is not None:
            known.limit.cancel()
        self._dispatcher.put_back(self._dispatcher.withdrawn(process.id, process.unstarted))
        # At most one is left: it had a ticket, and has no outcome.
        left = self._dispatcher.leave(process.id)
        for number, call in left.items():
            if death.status == -signal.SIGTERM and known.verdict is None:
                # A VM that goes down sends SIGTERM to everyone: ours may be on its way.
                self._unexplained.append(call)
                loop = asyncio.get_running_loop()
                loop.call_later(GOING_DOWN, self._explain, known, number, call, death)
            else:
                self._explain(known, number, call, death)
        if self._closing:
            if not self._runners:
                self._all_gone.set()
            return
        if not (known.proven or known.verdict or left):
            interpreter = known.interpreter or self._command.interpreter
            self._start_failed(obituary.describe(death), interpreter)
        if not known.verdict:
            self._owner.trouble(f"runner {process.pid}: {obituary.describe(death)}")
        self._replenish(known.interpreter)
        self._feed()

    # -- carrying out --

    def _feed(self) -> None:
        if self._broken:
            for call in self._dispatcher.take_all():
                self._finish(call, OutcomeKind.CRASHED, self._broken, 0.0, 0.0)
            return
        for action in self._dispatcher.decide():
            self._do(action)
        self._watch_for_idleness()

    def _do(self, action: Give | Replace) -> None:
        known = self._runners[action.runner]
        if isinstance(action, Replace):
            self._dispatcher.leave(action.runner)
            known.verdict = Verdict(0, None, "replaced")
            known.process.kill()
            self._add_runner(action.modules, action.interpreter)
            return
        slot = self._slots[action.job]
        if slot not in known.slots:
            known.slots.add(slot)
            job = self._jobs[action.job]
            facts = {
                "timed": job.timeout is not None,
                "environment": job.environment,
                "reserved": job.reserved,
                "modules": job.modules,
            }
            known.process.load(slot, json.dumps(facts).encode(), job.function)
        running = self._dispatcher.first(action.runner)
        if running is not None and running[0] == action.first:
            known.since = self._clock.now()
        known.process.give(slot, action.first, action.calls)

    def _add_runner(self, modules: str = "", interpreter: str = "") -> None:
        command = self._command
        if interpreter:
            command = msgspec.structs.replace(command, interpreter=interpreter)
        try:
            process = self._start_runner(next(self._runner_numbers), command, self)
        except OSError as error:
            self._start_failed(str(error), command.interpreter)
            return
        self._runners[process.id] = Known(process, set(), interpreter)
        self._dispatcher.join(process.id, modules=modules, interpreter=interpreter)
        if self._held:
            process.hold()

    def _start_failed(self, reason: str, interpreter: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= STARTS and not self._runners:
            self._broken = (
                f"no runner process can be started on {self._worker} with {interpreter!r}: {reason}"
            )
            self._owner.trouble(self._broken)

    def _withdraw(self, runner: int) -> None:
        numbers = self._runners[runner].process.withdraw()
        self._dispatcher.put_back(self._dispatcher.withdrawn(runner, numbers))

    def _condemn(self, known: Known, verdict: Verdict) -> None:
        """Kill a runner for the call that it runs, unless that has just ended."""
        known.process.drain()
        running = self._dispatcher.first(known.process.id)
        if running is not None and running[0] == verdict.number:
            known.verdict = verdict
            known.process.kill()
        else:
            self.pause(known.process)

    def _explain(self, known: Known, number: int, call: Call, death: obituary.Death) -> None:
        if self._closing:
            return
        if call in self._unexplained:
            self._unexplained.remove(call)
        verdict = known.verdict
        if verdict is None or verdict.number != number:
            verdict = Verdict(number, OutcomeKind.CRASHED, obituary.describe(death))
        if verdict.kind is not None:
            self._finish(call, verdict.kind, verdict.text, known.since, self._clock.now())

    def _finish(
        self, call: Call, kind: OutcomeKind, text: str, started: float, ended: float
    ) -> None:
        outcome = CallOutcome(call.index, kind, text.encode(), started, ended, self._worker)
        self._owner.ended(call.job, [outcome])

    def _watch_for_idleness(self) -> None:
        if self._impatience is None and not self._held and self._dispatcher.victim() is not None:
            loop = asyncio.get_running_loop()
            self._impatience = loop.call_later(PATIENCE, self._relieve)

    def _relieve(self) -> None:
        """Take calls from behind a long one for a runner that is idle."""
        self._impatience = None
        victim = self._dispatcher.victim()
        if victim is not None:
            self._withdraw(victim)
            self._feed()
