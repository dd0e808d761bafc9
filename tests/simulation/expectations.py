"""What a user may be given: the right values, each once, or an error that has a reason."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dayfly import errors
from dayfly.client.job import Job
from dayfly.client.launches import SAID_AGAIN
from tests.simulation import work
from tests.simulation.cloud import NO_ANSWER
from tests.simulation.knobs import JobKnobs

if TYPE_CHECKING:
    from tests.simulation.invariants import Judge

#: Seconds after the faults are over from which on a new job has no excuse to fail.
SETTLED = 900.0

#: Kinds by which a runner dies, or a worker is lost with no reason that its master could know:
#: three such losses with a call in hand look like its doing.
CRASHING = {"runner crash", "vm dies", "spot loss", "worker service killed", "partition",
            "lease expiry race"}  # fmt: skip

ONCE = "each outcome is delivered exactly once, and right"
REASON = "an await fails only for a reason that its user can know"
KINDS = "errors are of dayfly's kinds or the user's own"


class Expectations:
    """Looks at what one program is given."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    # -- outcomes --

    def results(self, name: str, job: JobKnobs, given: Any) -> None:
        """What ``await`` gave."""
        if job.reading == "map_reduce":
            given, wanted = [given], [sum(range(job.calls))]
            if given != wanted:
                self._wrong(name, f"the reduction is {given[0]!r}, not {wanted[0]}")
            return
        if job.reading == "submit":
            given = [given]
        if len(given) != job.calls:
            self._wrong(name, f"{len(given)} results for {job.calls} items")
        for index, value in enumerate(given):
            if isinstance(value, BaseException):
                self.outcome(name, job, index, None, value)
            else:
                self.outcome(name, job, index, value, None)

    def outcome(
        self, name: str, job: JobKnobs, index: int, value: Any, error: BaseException | None
    ) -> None:
        """What one call gave."""
        self._judge.delivered += 1
        self._convicted(error)
        if error is None:
            if index in job.failing | job.poisonous or value != work.value(job, index):
                self._wrong(name, f"call {index} gave {_short(value)}")
        elif not self._call_may_fail(job, index, error):
            self._judge.violated(REASON, f"{name}, call {index}: {error!r}")

    def complete(self, name: str, job: JobKnobs, seen: Sequence[int]) -> None:
        """``as_completed`` has come to its end."""
        if sorted(seen) != list(range(job.calls)):
            twice = sorted({index for index in seen if seen.count(index) > 1})
            lost = sorted(set(range(job.calls)) - set(seen))
            self._wrong(name, f"as_completed: twice {twice[:5]}, never {lost[:5]}")

    def futures(
        self, handle: Job[Any], job: JobKnobs, futures: Sequence[asyncio.Future[Any]]
    ) -> None:
        """All futures are done."""
        for index, future in enumerate(futures):
            if future.cancelled():
                if not job.stop:
                    self._wrong(handle.id, f"future {index} is cancelled, and nobody did that")
                continue
            error = future.exception()
            if handle._course.left and isinstance(error, errors.UsageError):
                continue  # its reader left it, and is told so
            if error is not None and self._job_may_fail(handle.id, job, error):
                continue
            self.outcome(handle.id, job, index, None if error else future.result(), error)

    def not_attached(self, name: str, job: JobKnobs, error: errors.DayflyError) -> None:
        """A job that was begun could not be attached to."""
        self._judge.world.note(f"not attached to {name}: {error!r}")
        known = name in self._judge.evidence.opened
        if self._judge.forgotten(name, error):
            self._judge.violated("a job that was left to its master is known there", f"{error!r}")
        elif not self._job_may_fail(name, job, error) and known:
            self._judge.violated("a job can be attached to", f"{name}: {error!r}")

    def not_handed_over(self, left: Sequence[Job[Any]], error: errors.JobError) -> None:
        """Leaving an executor has failed: of which of its jobs, and may it?"""
        said = "\n".join([str(error), *getattr(error, "__notes__", ())])
        told = [job.id for job in left if job.id in said]
        if not told:
            self._judge.violated(REASON, f"leaving names no job that is left: {error!r}")
        self._judge.disowned.update(told)
        cause = error.__cause__
        for name in told[:1]:
            if cause is None and not self._judge.knobs.faults:
                self._judge.violated(REASON, f"{name} was not handed over: {error!r}")
            elif cause is not None and not self._job_may_fail(name, self._judge.jobs[name], cause):
                self._judge.violated(REASON, f"{name} was not handed over: {cause!r}")

    # -- ends --

    def end(self, handle: Job[Any], job: JobKnobs, reading: asyncio.Task[None], stop: str) -> str:
        """How the await of a job ended, in a word; what has no reason is told."""
        if not reading.done():
            self._judge.violated("no await hangs", f"{handle.id}: its reader does not end")
            return "hangs"
        if reading.cancelled():
            if stop not in ("task", "job.cancel"):
                text = f"{handle.id}: CancelledError, and nobody cancelled it"
                self._judge.violated(KINDS, text)
            return "CancelledError"
        error = reading.exception()
        if error is None:
            return "value"
        kind = type(error).__name__
        self._convicted(error)
        if isinstance(error, errors.UnreachableError):
            self._judge.evidence.fired("start_timeout of a client")
        if type(error) is TimeoutError and job.stop == "timeout":
            self._judge.faults.struck("cancel", f"timeout of {handle.id}")
            return "the user's timeout"
        if not self._own(job, error) and not isinstance(error, errors.DayflyError):
            self._judge.violated(KINDS, f"{handle.id}: {error!r}")
        elif not self._own(job, error) and not self._job_may_fail(handle.id, job, error):
            at_call = not job.return_exceptions and job.reading != "as_completed"
            if not (at_call and self._call_may_fail(job, None, error)):
                self._judge.violated(REASON, f"{handle.id}: {error!r}")
        return kind

    def _convicted(self, error: BaseException | None) -> None:
        if isinstance(error, errors.CallCrashedError) and "nothing else to do" in str(error):
            self._judge.evidence.fired("call convicted")

    def _own(self, job: JobKnobs, error: BaseException) -> bool:
        return bool(job.failing) and work.is_own_error(error, None)

    # -- reasons --

    def _call_may_fail(self, job: JobKnobs, index: int | None, error: BaseException) -> bool:
        rates = self._judge.knobs.faults
        # A call near its timeout may end after it where timers ring late.
        bearable = (job.timeout or math.inf) * 0.8 - 3 * self._judge.knobs.late
        any_late = max(job.durations, default=0.0) > bearable
        match error:
            case ValueError():
                if index is None:
                    return self._own(job, error)
                return index in job.failing and work.is_own_error(error, index)
            case errors.CallTimeoutError():
                return any_late if index is None else job.durations[index] > bearable
            case errors.CallCrashedError():
                guilty = bool(job.poisonous) if index is None else index in job.poisonous
                return guilty or bool(rates.keys() & CRASHING)
            case errors.CallCancelledError():
                return job.stop == "futures"
            case errors.StorageError():
                return bool(rates.keys() & {"storage error", "storage ambiguous put"})
        return False

    def _job_may_fail(self, name: str, job: JobKnobs, error: BaseException) -> bool:
        judge, knobs = self._judge, self._judge.knobs
        if name in judge.disowned and isinstance(error, errors.JobError):
            return True  # as whoever left it was told
        since = judge.begun.get(name, 0.0)
        slow = judge.now - since > knobs.start_timeout - 5.0
        if NO_ANSWER in str(error) and not self._silent():
            return False  # it would have been said again
        if "does not hold the outcomes of job" in str(error) and not self._taken_over(name):
            return False  # its client would have given it to the next master
        match error:
            case errors.HardTimeoutError():
                return knobs.auto and judge.now - since > knobs.hard - judge.deadlines.slack
            case errors.CostLimitError():
                return knobs.max_cost is not None
            case errors.ConfigError():
                return knobs.max_cost is not None and "max_cost" in str(error)
            case errors.ShellError() | errors.CloudError() | errors.NoWorkersError() if slow:
                return True  # a boot may take longer than start_timeout, in any story
            case errors.WireError() if slow and "start_timeout" in str(error):
                return True  # and so may the service's first answer
            case errors.JobCancelledError():
                if judge.cleaning or name in judge.orphans:
                    return True
            case errors.WireError() if "outcomes" in str(error):
                return False  # too few came before the end, or too many
        if not isinstance(error, errors.DayflyError) or isinstance(error, errors.UsageError):
            return False
        if not knobs.faults:
            return False
        return since < knobs.heal + SETTLED or judge.haunted

    def _taken_over(self, name: str) -> bool:
        """Whether a job's client did not begin it, or may not learn what became of it."""
        judge = self._judge
        untold = judge.cleaning or "storage error" in judge.knobs.faults
        return untold or name in judge.attached

    def _silent(self) -> bool:
        """Whether a launch was said as often as it is said, and nobody heard an answer."""
        if "throttled" in self._judge.knobs.faults:
            return True  # one that is refused is said again as often, in all
        orders = self._judge.world.cloud.orders.values()
        return any(order.silences > len(SAID_AGAIN) for order in orders)

    def _wrong(self, name: str, what: str) -> None:
        self._judge.violated(ONCE, f"{name}: {what}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:60]}... ({len(text)} characters)"
