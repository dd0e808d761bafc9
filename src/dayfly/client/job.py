"""The handle of a job: awaitable, cancellable, and full of what has come back so far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Self, TypeVar, cast

from dayfly import errors
from dayfly.client import progress as reading
from dayfly.client.course import Course
from dayfly.client.display import Display
from dayfly.client.futures import CallFuture
from dayfly.client.parties import Connect, Items, Owner
from dayfly.client.progress import Progress
from dayfly.clock import Clock
from dayfly.model import LogLine
from dayfly.phases import CLIENT, DELIVERY, FIRST_CALL, Phase, Timeline
from dayfly.serialize import Outcome

T = TypeVar("T")

#: Seconds that an await which fails waits for the master to be told to stop the rest: "at
#: once" while the master is there.
PARTING = 1.0
#: Results that are put in order before the loop gets its turn.
PIECE = 20_000


class Job(Generic[T]):
    """One ``map``, ``submit`` or ``map_reduce``, begun already.

    ``await job`` gives the results in the order of the items. The first call that fails
    raises there as its own type and stops the calls that remain, unless the job was started
    with ``return_exceptions``. Cancelling the last await cancels the job: the calls are
    stopped on their workers before the cancellation goes on.

    Leaving ``async with job``, or ``await job.aclose()``, lets go of it: a job that was detached,
    or attached to, goes on; another one is cancelled. A job that was attached to is let go of
    by itself when it is over, which waits for launches that are under way for it.

    Attributes:
        id: The job's name everywhere: in ``dayfly job list``, in storage, in logs.
        lasting: Whether it goes on when it is left.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002  # the public attribute's name
        function: str,
        source: Items,
        connect: Connect,
        fetch: Callable[[str], Awaitable[bytes]],
        single: bool,
        return_exceptions: bool,
        display: Display,
        on_log: Callable[[LogLine], None] | None,
        on_ended: Callable[[Job[Any]], None],
        on_abandoned: Callable[[], None],
        clock: Clock,
        timeline: Timeline,
        lasting: bool = False,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Begin; a loop must be running. Jobs are made by the executor.

        Args:
            id: The job's id.
            function: The function's name, for people.
            source: The items.
            connect: Brings the job to a session.
            fetch: Reads an object of storage.
            single: Whether ``await`` gives the value of the one call, and not a list.
            return_exceptions: Whether failed calls give their exception as result.
            display: Where it is shown.
            on_log: Called with each line that the function prints or logs.
            on_ended: Called when nothing more will come.
            on_abandoned: Called when the master could not be told of a cancellation because
                that was interrupted too.
            clock: Dates what the display shows.
            timeline: What its executor knows of what took how long.
            lasting: Whether it goes on when it is left.
            close: Closes what the job has to itself.
        """
        self.id = id
        self.lasting = lasting
        self._close = close
        self._function = function
        self._single = single
        self._return_exceptions = return_exceptions
        self._display = display
        self._on_log = on_log
        self._on_ended = on_ended
        self._clock = clock
        self._timeline = timeline
        self._first_at: float | None = None
        self._loop = asyncio.get_running_loop()
        self._failed = 0
        self._first_failure: Exception | None = None
        self._futures: list[CallFuture] = []
        #: Who waits: for the result, or for the next outcome.
        self._waiters = 0
        self._awaited = False
        owner = Owner(
            recorded=self._recorded,
            changed=lambda: display.changed(self),
            heard=self._heard,
            noted=display.note,
            finished=self._finished,
            abandoned=on_abandoned,
        )
        self._course = Course(
            id,
            source=source,
            connect=connect,
            fetch=fetch,
            owner=owner,
            lasting=lasting,
            clock=clock,
        )
        display.add(self)

    def __await__(self) -> Generator[Any, None, T]:
        return self._result().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of it; see the class.

        Raises:
            JobError: It was detached, and could not be handed over to its master.
        """
        if self._close is not None:
            await self._close()
        elif self.lasting:
            await self.leave()
        else:
            self.cancel()
            await self.settled()

    def __repr__(self) -> str:
        state = self._course.state.value
        return f"<Job {self.id} {self._function} {state} {reading.tally(self.progress)}>"

    def _repr_html_(self) -> str:
        return reading.html(self.view(), self._clock.monotonic())

    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._course.over.is_set()

    def cancel(self) -> bool:
        """Stop every call of the job; awaiting it raises ``CancelledError`` from then on.

        Returns:
            ``False`` when it has ended already.
        """
        return self._course.cancel()

    @property
    def progress(self) -> Progress:
        """The counts, as they stand now."""
        status, over = self._course.status, self.done()
        return Progress(
            total=self._course.total,
            done=self._course.arrived.count,
            failed=self._failed,
            running=0 if over else status.running,
            workers_ready=status.ready,
            workers_coming=0 if over else status.coming,
            waiting="" if over else status.waiting,
        )

    @property
    def cost(self) -> float | None:
        """US dollars of the job's VMs, so far or at its end; ``None`` where no price is known.

        It is reckoned from prices of the launch, for the time from the job's submission to
        its end; VMs that live on after that, by ``soft_dismantle_timeout``, come on top.
        """
        return self._course.cost

    @property
    def phases(self) -> list[Phase]:
        """What went on for its sake until its first outcome was here, the earliest first.

        What was under way already when it began, or was there, is not among it. Their ``start``
        is in seconds since the job began.
        """
        began, here = self._course.started, self._first_at
        found = self._timeline.between(began, self._clock.monotonic() if here is None else here)
        if here is not None:
            called = [phase.end for phase in found if phase.what == FIRST_CALL]
            since = min([each for each in called if each < here], default=here)
            found.append(Phase(who=CLIENT, what=DELIVERY, start=since, seconds=here - since))
        return [phase.later(-began) for phase in found]

    def as_completed(self, *, keep: bool = True) -> AsyncIterator[Outcome]:
        """The outcomes in the order in which they come, failed ones among them.

        Ask ``outcome.result()`` for the value, or for the call's own exception to be raised.
        Leaving the loop does not stop the job; being cancelled while it waits does.

        Args:
            keep: ``False`` keeps none that was given, and has a generator of items read only as
                far as outcomes are taken: millions of calls in flat memory. The job cannot be
                awaited then.

        Raises:
            DayflyError: The job as a whole failed.
            CancelledError: The job was cancelled.
        """
        return _Arrivals(self, self._course, keep=keep)

    @property
    def futures(self) -> list[asyncio.Future[Any]]:
        """One future per call, in the order of the items, for ``asyncio.wait`` and friends.

        Cancelling one stops that call only; for the job it then counts as failed, by
        :class:`~dayfly.errors.CallCancelledError`.

        Raises:
            UsageError: How many calls there are is not known yet, or outcomes were not kept.
        """
        total = self._course.total
        if total is None:
            raise errors.UsageError(
                f"job {self.id}: how many calls it has is not known before its items are read",
                cause="they come from an iterable without a length",
                hint="map(fn, list(items)), or as_completed()",
            )
        if not self._futures:
            arrived, withdraw = self._course.arrived.all(), self._course.withdraw
            self._futures = [CallFuture(i, withdraw) for i in range(total)]
            for outcome in arrived:
                self._settle_future(outcome)
            if self.done():
                self._settle_futures()
        return list(self._futures)

    def view(self) -> reading.View:
        """How it stands, for a display."""
        course = self._course
        return reading.View(
            job=self.id,
            function=self._function,
            counts=self.progress,
            started=course.started,
            state=course.state,
            cancelling=course.stopping,
            waiting_since=course.waiting_since,
            flowing_since=course.flowing_since,
            ended=course.ended,
            error=reading.in_a_line(course.failure),
            cost=course.cost,
        )

    async def settled(self) -> None:
        """Wait until nothing of a cancelled job is left on this loop.

        That is bounded: the master is told, or given up on, within seconds.
        """
        await self._course.settled()

    async def over(self) -> None:
        """Wait until nothing more will come, whatever became of it.

        Unlike an await of the job, this one takes nothing along when it is cancelled.
        """
        await self._course.over.wait()

    def leave(self) -> Coroutine[Any, Any, None]:
        """Follow a job no further that goes on by itself, once the master can do without us.

        Raises:
            JobError: It was not handed over to its master; what may become of it is told.
        """
        # Looked at here: what fails from now on, before a task for it has begun, is to be told.
        return self._leave(self._course.failure)

    async def _leave(self, known: BaseException | None) -> None:
        untold = await self._course.leave(known)
        if untold is None or (self._first_failure and untold.__cause__ is self._first_failure):
            return  # or whoever awaits it was given that
        raise untold

    # -- waiting for it --

    async def _result(self) -> T:
        try:
            return await self._outcome()
        finally:
            await self._close_at_end()

    async def _close_at_end(self) -> None:
        if self._close is not None and self.done():
            await self._close()

    async def _outcome(self) -> T:
        course = self._course
        self._awaited = True
        self._heed_failure()
        await self._attend(course.decided)
        if not self.done():
            await course.settled(timeout=PARTING)
        self._raise_first_failure()
        self._raise_failure()
        results: Any = await self._in_order(course.arrived.all())
        return cast("T", results[0] if self._single else results)

    async def _in_order(self, arrived: list[Outcome]) -> list[Any]:
        """What is given for each item; of a million the loop gets its turn between pieces."""
        results: list[Any] = [None] * len(arrived)  # of each item there is one
        for start in range(0, len(arrived), PIECE):
            if start:
                await asyncio.sleep(0)
            for outcome in arrived[start : start + PIECE]:
                results[outcome.index] = outcome.value if outcome.error is None else outcome.error
        return results

    async def _attend(self, event: asyncio.Event) -> None:
        """Wait on the caller's behalf; the last caller that is cancelled takes the job along."""
        self._waiters += 1
        try:
            await event.wait()
        except asyncio.CancelledError:
            if self._waiters == 1 and self.cancel():
                await self.settled()
            raise
        finally:
            self._waiters -= 1

    def _heed_failure(self) -> None:
        """A call that fails ends the job for those who await it, not for other readers."""
        if self._first_failure is not None and self._awaited and not self._return_exceptions:
            self._course.give_up(self._first_failure)

    def _raise_first_failure(self) -> None:
        """Most often that is why its client cancelled it, which says less."""
        cancelled = isinstance(self._course.failure, errors.JobCancelledError)
        if cancelled and self._first_failure is not None and not self._return_exceptions:
            raise self._first_failure

    def _raise_failure(self) -> None:
        if self._course.failure is not None:
            raise self._course.failure
        if self._course.cancelled:
            raise asyncio.CancelledError(f"job {self.id} was cancelled")

    # -- what its course tells it --

    def _recorded(self, outcome: Outcome) -> None:
        self._settle_future(outcome)
        if self._first_at is None:
            self._first_at = self._clock.monotonic()
        if outcome.error is not None:
            self._failed += 1
            if self._first_failure is None:
                self._first_failure = outcome.error
            self._heed_failure()

    def _heard(self, line: LogLine) -> None:
        self._display.log(line)
        if self._on_log is not None:
            # What it raises goes to the loop's exception handler, not into the job.
            self._loop.call_soon(self._on_log, line)

    def _finished(self) -> None:
        self._settle_futures()
        self._display.remove(self)
        self._course.when_settled(lambda: self._on_ended(self))

    def _settle_future(self, outcome: Outcome) -> None:
        if outcome.index < len(self._futures):
            self._futures[outcome.index].settle(outcome.value, outcome.error)

    def _settle_futures(self) -> None:
        for future in self._futures:
            if self._course.failure is not None:
                future.settle(None, self._course.failure)
            elif self._course.cancelled:
                future.cancel()


class _Arrivals:
    """One reader's place among a job's outcomes."""

    def __init__(self, job: Job[Any], course: Course, *, keep: bool) -> None:
        self._job = job
        self._course = course
        self._keep = keep
        self._place = 0

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        if not self._keep:
            self._course.had(self._place)
        while self._place >= self._course.arrived.count:
            if self._job.done():
                await self._job._close_at_end()
                self._job._raise_failure()
                raise StopAsyncIteration
            await self._job._attend(self._course.arrival)
        self._place += 1
        return self._course.arrived.at(self._place - 1)
