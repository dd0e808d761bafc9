"""The course of a job: what is said between it and its session, and what has come of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import msgspec

from dayfly import errors, serialize
from dayfly.client import leaving
from dayfly.client.arrived import Arrived
from dayfly.client.channel import Event, JobChannel, Waiting
from dayfly.client.fetching import Fetch, Fetching
from dayfly.client.parties import Connect, Items, Owner
from dayfly.clock import Clock
from dayfly.model import CallOutcome, JobState
from dayfly.serialize import Outcome
from dayfly.wire import messages as m

#: Seconds that a cancellation waits for the master to be told, and then for the conversation
#: to close.
TELLING, CLOSING = 10.0, 5.0
#: Seconds that leaving a detached job waits until the master has all of its items and workers.
HANDOVER = 600.0
#: Seconds of decoding after which the loop gets its turn.
SLICE = 0.01


class Course:
    """One job from its first item to its end; it begins when it is made.

    Attributes:
        arrived: The outcomes.
        arrival: Set when the next outcomes come, or the end; a new one takes its place.
        decided: Set once it is known what an await gives.
        over: Set once nothing more will come.
        failure: Why the job as a whole failed.
        cancelled: Whether it was cancelled from here.
        left: Whether it goes on, and is followed no further.
        state: Its place in the life of a job.
        status: The master's last word on how it stands.
        started: When it began; like the moments below in seconds of the monotonic clock.
        waiting_since: Since when it waits for what ``status`` says.
        flowing_since: When its first call ran.
        ended: When it ended.
        told_at: When the master said last what it has cost.
    """

    def __init__(
        self,
        job: str,
        *,
        source: Items,
        connect: Connect,
        fetch: Fetch,
        owner: Owner,
        lasting: bool,
        clock: Clock,
    ) -> None:
        """Begin; a loop must be running.

        Args:
            job: The job's id.
            source: The items.
            connect: Brings the job to a session.
            fetch: Reads an object of storage.
            owner: Who is told what happens.
            lasting: Whether the job goes on when it is left.
            clock: Dates it.
        """
        self._job = job
        self._lasting = lasting
        self._source = source
        self._connect = connect
        self._fetching = Fetching(job, fetch, self._record, self._announce)
        self._owner = owner
        self._clock = clock

        self.arrived = Arrived(job)
        self.arrival = asyncio.Event()
        self.decided = asyncio.Event()
        self.over = asyncio.Event()
        self.failure: BaseException | None = None
        self.cancelled = False
        self.left = False
        self.state = JobState.RUNNING
        self.status = m.JobStatus(
            job=job, done=0, running=0, ready=0, coming=0, waiting="the first items"
        )
        self.started = self.waiting_since = clock.monotonic()
        self.flowing_since: float | None = None
        self.ended: float | None = None
        self.told_at = self.started

        self._channel: JobChannel | None = None
        self._connected = asyncio.Event()
        self._last_word: m.JobEnded | None = None
        self._errands: asyncio.TaskGroup | None = None
        self._withdrawn: list[int] = []
        self._parting: asyncio.Task[None] | None = None
        self._talk = asyncio.create_task(self._run(), name=f"dayfly handle {job}")
        self._talk.add_done_callback(self._finish)

    @property
    def stopping(self) -> bool:
        """Whether the master is being told to stop the job."""
        return self._parting is not None and not self.over.is_set()

    @property
    def total(self) -> int | None:
        """Calls in all; ``None`` while that is not known."""
        if self._source.total is not None:
            return self._source.total
        return self.status.total if self._last_word is None else self._last_word.total

    @property
    def cost(self) -> float | None:
        """US dollars of its VMs, so far or in all; ``None`` where no price is known.

        Between two words of the master it grows as the last one said.
        """
        if self._last_word is not None:
            return self._last_word.cost
        if self.status.cost is None:
            return None
        until = self._clock.monotonic() if self.ended is None else self.ended
        return self.status.cost + self.status.hourly * (until - self.told_at) / 3600.0

    # -- stopping it --

    def cancel(self) -> bool:
        """Stop every call; ``False`` when the job has ended already."""
        if self.over.is_set():
            return False
        if self.failure is None:
            self.cancelled = True
        self._part()
        return True

    def give_up(self, failure: BaseException) -> None:
        """The job has failed: its calls are stopped."""
        if self.failure is not None or self.cancelled:
            return
        self.failure = failure
        self.decided.set()
        if not self.over.is_set():
            self._part()

    async def leave(self, known: BaseException | None) -> errors.JobError | None:
        """Let the job go on without us, once the master has all that it needs for that.

        One that the master cannot have in full is cancelled: nobody could ever finish it. One that
        it may have is left to it, whatever keeps it from saying so.

        Args:
            known: What the job had failed of before anybody asked to leave it.

        Returns:
            What the user must know of a job that has neither been handed over nor come to an end
            that the master tells.
        """
        untold = None
        if not self.over.is_set() and self._parting is None:
            handed = await self._handed_over()
            if handed is False or self._too_late():
                await self.settled()  # it has ended: most often its outcomes are as good as here
            if isinstance(handed, bool):
                self._let_go()
            elif not self.over.is_set() and self._parting is None:
                untold = self._left_unsure(handed)
        await self.settled()
        told = self.left or self._last_word is not None or self.failure is known
        if untold is None and self.failure is not None and not told:
            untold = leaving.given_up(self._job, self.failure)
        return untold

    async def _handed_over(self) -> bool | BaseException | None:
        """Whether it was handed over; what kept it from that; nothing, if only time did."""
        handing = asyncio.create_task(self._hand_over(), name=f"dayfly leave {self._job}")
        over = asyncio.create_task(self.over.wait(), name=f"dayfly end {self._job}")
        try:
            await asyncio.wait(
                {handing, over}, timeout=HANDOVER, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            over.cancel()
            handing.cancel()
            ends = await asyncio.gather(handing, return_exceptions=True)
        return None if isinstance(ends[0], asyncio.CancelledError) else ends[0]

    async def _hand_over(self) -> bool:
        await self._connected.wait()
        assert self._channel is not None  # noqa: S101  # set before it is connected
        return await self._channel.handed_over()

    def _too_late(self) -> bool:
        """Whether it has ended just now; else it is its master's, if it can go on there."""
        if self._channel is None or not self._channel.entrusted or self._parting is not None:
            return False
        return not self._channel.leave()

    def _let_go(self) -> None:
        self._go(
            errors.UsageError(
                f"job {self._job} was left, and goes on without this executor",
                hint=f"await FunctionExecutor.attach({self._job!r}), or"
                f" dayfly job result {self._job}",
            )
        )

    def _go(self, told: errors.DayflyError) -> None:
        if self.over.is_set() or self._parting is not None:
            return
        self.left = True
        self.failure = told
        self._talk.cancel()

    def _left_unsure(self, error: BaseException | None) -> errors.JobError:
        """Its master has not said in time that it has all of it."""
        why = f"that took more than {HANDOVER:.0f} s" if error is None else repr(error)
        if self._channel is not None and self._channel.entrusted:
            untold = leaving.not_confirmed(self._job, why)
            self._go(untold)
            return untold
        self.cancel()
        return leaving.not_complete(self._job, why)

    def withdraw(self, index: int) -> None:
        """Stop one call."""
        if self.over.is_set() or self._last_word is not None:
            return
        self._withdrawn.append(index)
        # Those that are cancelled together are told together.
        if len(self._withdrawn) == 1 and self._errands is not None:
            self._errands.create_task(self._tell_withdrawn())

    async def settled(self, timeout: float = TELLING + CLOSING) -> None:
        """Wait until nothing of the job is left on this loop, at most ``timeout`` seconds."""
        tasks = {self._talk, *([self._parting] if self._parting else [])}
        await asyncio.wait(tasks, timeout=timeout)

    def when_settled(self, then: Callable[[], None]) -> None:
        """Call something once the master is no longer being told of a job that is over."""
        if self._parting is None or self._parting.done():
            then()
            return
        self._parting.cancel()  # there is nothing left to stop
        self._parting.add_done_callback(lambda _: then())

    def _part(self) -> None:
        if self._parting is None:
            self._parting = asyncio.create_task(
                self._tell_and_leave(), name=f"dayfly cancel {self._job}"
            )
            self._owner.changed()

    async def _tell_and_leave(self) -> None:
        try:
            await self._tell()
        finally:
            self._talk.cancel()

    async def _tell(self) -> None:
        """Tell the master to stop the job, within bounds."""
        if self._channel is None or self._last_word is not None:
            return
        try:
            async with asyncio.timeout(TELLING):
                await self._channel.cancel()
        except TimeoutError:
            self._owner.noted(
                f"job {self._job}: the master could not be told within {TELLING:.0f} s to stop "
                "it; its timers bound it, or: dayfly clean",
                "warning",
            )
        except errors.DayflyError as error:
            self._owner.noted(
                f"job {self._job}: the master could not be told to stop it: {error}", "warning"
            )
        except asyncio.CancelledError:
            if not self.over.is_set():
                self._owner.abandoned()
            raise

    async def _tell_withdrawn(self) -> None:
        assert self._channel is not None  # noqa: S101  # only called within the conversation
        indices, self._withdrawn = self._withdrawn, []
        await self._channel.cancel(indices)

    # -- the conversation --

    async def _run(self) -> None:
        try:
            async with aclosing(self._source):
                await self._converse()
        except asyncio.CancelledError:
            if self._parting is None and not self._lasting:
                # Nobody cancelled the job: the loop is being closed around it.
                self.cancelled = True
                await self._tell()
            raise

    async def _converse(self) -> None:
        self._channel = await self._connect(self.give_up)
        if self._channel is None:
            self._last_word = m.JobEnded(job=self._job, state=JobState.COMPLETED, after=0)
            return
        self._connected.set()
        self._wait_for("the master")
        events = self._channel.events()
        try:
            async with asyncio.TaskGroup() as errands:
                await self._listen(events, errands)
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    async def _listen(self, events: AsyncIterator[Event], errands: asyncio.TaskGroup) -> None:
        self._errands = errands
        try:
            if self._withdrawn:
                errands.create_task(self._tell_withdrawn())
            async for event in events:
                if isinstance(event, m.JobEnded):
                    self._last_word = event
                    return
                if isinstance(event, m.Delivery):
                    await self._receive(event.outcomes, errands)
                else:
                    self._take(event)
        finally:
            self._errands = None

    def _take(self, event: Waiting | m.Logs | m.JobStatus | m.Notice) -> None:
        match event:
            case m.JobStatus():
                self.told_at = self._clock.monotonic()
                self._stand(event)
            case Waiting(waiting=waiting):
                self._stand(msgspec.structs.replace(self.status, waiting=waiting))
            case m.Logs(lines=lines):
                for line in lines:
                    self._owner.heard(line)
            case m.Notice(text=text, level=level):
                self._owner.noted(text, level)

    def _stand(self, status: m.JobStatus) -> None:
        if status.waiting != self.status.waiting:
            self.waiting_since = self._clock.monotonic()
        if status.running:
            self._flow()
        self.status = status
        self._owner.changed()

    def _wait_for(self, what: str) -> None:
        self.status = msgspec.structs.replace(self.status, waiting=what)

    def _flow(self) -> None:
        if self.flowing_since is None:
            self.flowing_since = self._clock.monotonic()

    async def _receive(self, outcomes: list[CallOutcome], errands: asyncio.TaskGroup) -> None:
        self._flow()
        self._wait_for("")
        decode, record, job = serialize.decode, self._record, self._job
        monotonic = self._clock.monotonic
        turn = monotonic() + SLICE
        stored = []
        for outcome in outcomes:
            if outcome.kind is serialize.STORED:
                stored.append(outcome)
            else:
                record(decode(outcome, job))
            if monotonic() >= turn:
                self._announce()
                await asyncio.sleep(0)
                turn = monotonic() + SLICE
        self._announce()
        await self._fetching.begin(stored, errands)

    def _record(self, outcome: Outcome) -> None:
        self.arrived.add(outcome)
        self._owner.recorded(outcome)

    def had(self, place: int) -> None:
        """A reader that keeps no outcome has had those before ``place``."""
        self.arrived.had(place)
        self._source.settle(place)

    def _announce(self) -> None:
        """Wake who waits for outcomes."""
        self._source.settle(self.arrived.done_with)
        arrival, self.arrival = self.arrival, asyncio.Event()
        arrival.set()
        self._owner.changed()

    # -- its end --

    def _finish(self, talk: asyncio.Task[None]) -> None:
        """Whichever way the conversation went, settle what became of the job."""
        error = None if talk.cancelled() else talk.exception()
        if self._lasting and talk.cancelled() and not (self._parting or self.left):
            self._let_go()  # the loop is being closed around it
        if self.failure is None and not self.cancelled:
            self.failure = self._verdict(error)
        if self.left:
            pass  # how it ends is for others to see
        elif self.failure is not None:
            self.state = JobState.FAILED
        else:
            self.state = JobState.CANCELLED if self.cancelled else JobState.COMPLETED
        self.ended = self._clock.monotonic()
        self._channel = None  # what was said to the master is not kept with the results
        self.over.set()
        self.decided.set()
        self.arrival.set()
        self._owner.finished()

    def _verdict(self, error: BaseException | None) -> BaseException | None:
        """What the job failed of, if it did."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is not None:
            return error
        last = self._last_word
        if last is None:
            return errors.WireError(f"job {self._job}: the conversation ended before the job did")
        if last.state is JobState.CANCELLED:
            why = last.reason or "by another program or terminal"
            return errors.JobCancelledError(f"job {self._job} was cancelled: {why}")
        if last.state is not JobState.COMPLETED:
            words = last.reason or f"job {self._job} failed"
            if last.failure is not None:
                return last.failure.error()
            return errors.named(last.error, errors.JobError)(words)
        came, total = self.arrived.count, self.total
        if came != total:
            return errors.WireError(f"job {self._job} ended with {came} of {total} outcomes")
        return None
