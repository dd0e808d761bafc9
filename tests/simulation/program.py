"""A user's program: its jobs, how it reads them and how it stops them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dayfly import FunctionExecutor, bootstrap, config, errors, provision
from dayfly.client.job import Job
from dayfly.model import ExecMode
from tests.simulation import work
from tests.simulation.expectations import Expectations
from tests.simulation.invariants import Judge
from tests.simulation.knobs import ClientKnobs, JobKnobs
from tests.simulation.process import Process

#: Seconds within which a cancelled await must be over: the master is told for 10 s, the
#: conversation closes for 5 s (``course.TELLING``, ``CLOSING``).
STOPPING = 25.0
#: Seconds within which ``aclose`` must be over: launches under way are waited for, for 30 s
#: (``session.CLOSING``), after the jobs were stopped.
LEAVING = 75.0
#: Seconds after which an installation that hangs is given up, whatever ``start_timeout`` is.
INSTALLING = provision.INSTALL + bootstrap.STEPS


Reader = Callable[[Job[Any], JobKnobs], Coroutine[Any, Any, None]]


class LeftError(Exception):
    """The program leaves ``async with`` in the middle of a job."""


@dataclass
class Script:
    """What is left to do of a client's program, whichever process runs it.

    Attributes:
        jobs: Those that have not come to an end.
        attempts: How often the first of them was begun.
        printed: The id of the first of them, once it has begun.
        attaches: Whether who runs it next attaches to that, and does not begin anew.
    """

    client: ClientKnobs
    jobs: list[JobKnobs]
    attempts: int = 0
    printed: str = ""
    attaches: bool = False


class Program:
    """One run of a script, in one process.

    Args:
        ends: Counts how the awaits of jobs ended.
    """

    def __init__(self, judge: Judge, script: Script, process: Process, ends: Counter[str]) -> None:
        self._judge = judge
        self._world = judge.world
        self._script = script
        self._process = process
        self._ends = ends
        self._expectations = Expectations(judge)
        self._reading: list[asyncio.Task[None]] = []
        self._attached: list[Job[Any]] = []
        self._left: list[Job[Any]] = []

    async def run(self) -> None:
        """The whole program."""
        sections = self._judge.config
        parts = self._world.parts(self._process, config.load(sections))
        executor = FunctionExecutor(
            sections,
            parts=parts,
            progress=False,
            clock=parts.clock,
            entropy=parts.entropy,
        )
        try:
            if self._script.client.together:
                await self._together(executor)
            else:
                await self._one_by_one(executor)
        except LeftError:
            self._note("leaves its executor")
        finally:
            now = self._judge.now
            with self._judge.bounded(f"{self._name}: aclose", lambda: self._left_by(now)):
                await asyncio.gather(*(job.aclose() for job in self._attached))
                left = [job for job in self._left if not job.done()]
                try:
                    await executor.aclose()
                except errors.JobError as error:
                    self._note(f"is told of what it leaves: {error!r} of {error.__cause__!r}")
                    self._expectations.not_handed_over(left, error)
                for job in left:
                    self._judge.left_alone(job)
                # Whoever waits for a job of an executor that is closed is told so.
                await asyncio.gather(*self._reading, return_exceptions=True)
        self._nothing_left()

    def _left_by(self, since: float) -> float:
        """Until when leaving may take: detached jobs are handed to the master before."""
        since = max(since, self._judge.resumed.get(self._process, 0.0))
        if any(job.detach for job in self._script.client.jobs):
            knobs = self._judge.knobs
            # A cloud that refuses calls does so for a while, and launches are said again till then.
            calm = max(knobs.heal, self._world.cloud.throttled_until) if knobs.faults else 0.0
            since = max(since, calm) + 2 * knobs.start_timeout
            if "ssh hangs" in knobs.faults:
                since += INSTALLING
        return since + LEAVING

    def _stopped_by(self, since: float, handle: Job[Any]) -> float:
        """Until when an await that is cancelled may take: one that was attached to closes too."""
        since = max(since, self._judge.resumed.get(self._process, 0.0))
        return since + (LEAVING if handle in self._attached else STOPPING)

    @property
    def _name(self) -> str:
        return f"{self._process.name} on {self._process.host.name}"

    def _note(self, text: str) -> None:
        self._world.note(f"{self._name}: {text}")

    def _nothing_left(self) -> None:
        """An executor that is closed has left no task on the loop."""
        own = asyncio.current_task()
        left = [
            task.get_name()
            for task in asyncio.all_tasks()
            if task is not own and self._process is getattr(task, "process", None)
        ]
        if left:
            self._judge.violated("a closed executor leaves no task", f"{self._name} left {left}")

    # -- its jobs --

    async def _one_by_one(self, executor: FunctionExecutor) -> None:
        while self._script.jobs:
            job = self._script.jobs[0]
            self._script.attempts += 1
            if self._script.attempts == 1:
                self._judge.begins_in(job.after)
                await asyncio.sleep(job.after)
            await self._job(executor, job)
            self._script.jobs.pop(0)
            self._script.attempts, self._script.printed = 0, ""

    async def _together(self, executor: FunctionExecutor) -> None:
        async def one(job: JobKnobs) -> None:
            with suppress(LeftError):  # the others go on
                await self._job(executor, job)
            self._script.jobs.remove(job)

        self._script.attempts += 1
        async with asyncio.TaskGroup() as jobs:
            for job in list(self._script.jobs):
                jobs.create_task(one(job))

    async def _job(self, executor: FunctionExecutor, job: JobKnobs) -> None:
        begun = self._judge.now
        script = self._script
        attached = None
        if script.attaches and script.printed:
            attached = await self._attach(job, script.printed)
        if attached is not None:
            handle = attached
        else:
            handle = self._begin(executor, job)
            self._note(f"job {handle.id} begins: {job.calls} calls, by {job.reading}")
        script.attaches = False
        if not script.client.together:
            script.printed = handle.id
        self._judge.begin(handle.id, job, self._process)
        reading = asyncio.create_task(self._read(handle, job), name=f"read {handle.id}")
        self._reading.append(reading)
        with self._judge.bounded(f"job {handle.id}", lambda: self._limit(begun)):
            end = await self._until_end(handle, job, reading)
        self._ends[end] += 1
        self._note(f"job {handle.id} ends: {end}")
        self._judge.end(handle.id)
        if end == "detached":
            script.attaches = True
            self._left.append(handle)
        if end in ("left", "detached"):
            raise LeftError
        await handle.aclose()

    async def _attach(self, job: JobKnobs, name: str) -> Job[Any] | None:
        """Take up a job that was begun by an earlier run; ``None`` if nobody knows it."""
        parts = self._world.parts(self._process, config.load(self._judge.config))
        self._note(f"attaches to {name}")
        now = self._judge.now
        by = self._judge.bound(now, self._process)
        try:
            with self._judge.bounded(f"attaching to {name}", lambda: by):
                attached = await FunctionExecutor.attach(
                    name, self._judge.config, parts=parts, progress=False, clock=parts.clock
                )
        except errors.DayflyError as error:
            self._expectations.not_attached(name, job, error)
            return None
        self._attached.append(attached)
        return attached

    def _begin(self, executor: FunctionExecutor, job: JobKnobs) -> Job[Any]:
        handle: Job[Any]
        more: dict[str, Any] = {"retries": job.retries} if job.retries else {}
        if job.reading == "submit":
            handle = executor.submit(work.work, **work.item(job, 0))
        elif job.reading == "map_reduce":
            before = set(executor._jobs)
            handle = executor.map_reduce(
                work.work, _source(job), work.add, chunksize=job.chunksize, **more
            )
            for mapped in [each for each in executor._jobs if each not in before | {handle}]:
                self._judge.jobs[mapped.id] = job
                self._world.durations[mapped.id] = job.durations
        else:
            handle = executor.map(
                work.work,
                _source(job),
                chunksize=job.chunksize,
                timeout=job.timeout,
                return_exceptions=job.return_exceptions,
                detach=job.detach,
                **more,
            )
            self._world.durations[handle.id] = job.durations
            self._poison(handle.id, job)
        return handle

    def _poison(self, name: str, job: JobKnobs) -> None:
        """Some take the whole VM with them: not in ``consume``, where there is only the one."""
        mode = self._judge.knobs.mode
        self._world.poisons[name] = {
            index: "vm" if index % 2 and mode is not ExecMode.CONSUME else "service"
            for index in job.poisonous
        }
        if job.poisonous:
            self._judge.faults.struck("poisonous call", f"{name}: {sorted(job.poisonous)}")

    def _limit(self, begun: float) -> float:
        """Until when an await of a job may take; see :meth:`Judge.bound`."""
        return self._judge.bound(begun, self._process)

    # -- reading it, and stopping --

    async def _until_end(self, handle: Job[Any], job: JobKnobs, reading: asyncio.Task[None]) -> str:
        """Wait for the end, or stop it; returns which end it was."""
        if job.reading == "attach" and self._script.attempts == 1:
            await asyncio.wait([reading], timeout=job.stop_after)
            if not reading.done():
                return "detached"
        if job.stop:
            stopped = await self._stop(handle, job, reading)
            if stopped in ("left", "detached"):
                return stopped
        else:
            stopped = ""
        if stopped:
            at = self._judge.now
            with self._judge.bounded(
                f"{job.stop} of {handle.id}", lambda: self._stopped_by(at, handle)
            ):
                await asyncio.wait([reading])
        else:
            await asyncio.wait([reading])
        return self._expectations.end(handle, job, reading, stopped)

    async def _stop(self, handle: Job[Any], job: JobKnobs, reading: asyncio.Task[None]) -> str:
        """Returns how it was stopped, or nothing if it ended before."""
        if job.stop == "timeout":
            return ""  # the reader has it for itself
        await asyncio.wait([reading], timeout=job.stop_after)
        if reading.done():
            return ""
        self._judge.faults.struck("cancel", f"{job.stop} of {handle.id}")
        match job.stop:
            case "task":
                reading.cancel()
            case "job.cancel":
                handle.cancel()
            case "futures":
                self._cancel_some(handle)
                return ""
            case "leave":
                return "detached" if job.detach else "left"
        return job.stop

    def _cancel_some(self, handle: Job[Any]) -> None:
        try:
            futures = handle.futures
        except errors.UsageError:
            return  # how many calls there are is not known yet
        for future in futures[:: max(1, len(futures) // 3)]:
            future.cancel()

    async def _read(self, handle: Job[Any], job: JobKnobs) -> None:
        readers: dict[str, Reader] = {"as_completed": self._as_completed, "futures": self._futures}
        reader = readers.get(job.reading, self._await)
        if job.stop == "timeout":
            async with asyncio.timeout(job.stop_after):
                await reader(handle, job)
        else:
            await reader(handle, job)

    async def _await(self, handle: Job[Any], job: JobKnobs) -> None:
        self._expectations.results(handle.id, job, await handle)

    async def _as_completed(self, handle: Job[Any], job: JobKnobs) -> None:
        seen: list[int] = []
        async for outcome in handle.as_completed():
            seen.append(outcome.index)
            self._expectations.outcome(handle.id, job, outcome.index, outcome.value, outcome.error)
        self._expectations.complete(handle.id, job, seen)

    async def _futures(self, handle: Job[Any], job: JobKnobs) -> None:
        try:
            futures = handle.futures
        except errors.UsageError:
            # Attached to, it does not know yet how many calls it has.
            await self._await(handle, job)
            return
        if futures:
            await asyncio.wait(futures)
        self._expectations.futures(handle, job, futures)


def _source(job: JobKnobs) -> Any:
    items = [work.item(job, index) for index in range(job.calls)]

    def generate() -> Iterator[dict[str, Any]]:
        yield from items

    async def generate_slowly() -> AsyncIterator[dict[str, Any]]:
        for each in items:
            await asyncio.sleep(0.003)
            yield each

    return {"list": items, "generator": generate(), "async generator": generate_slowly()}[
        job.source
    ]
