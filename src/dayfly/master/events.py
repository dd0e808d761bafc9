"""What happens to the scheduler, and what it wants done: frozen values, no I/O.

Times are seconds on the clock that :meth:`Scheduler.handle` is given.
"""

from __future__ import annotations

import msgspec

from dayfly.environment.report import EnvironmentFailure
from dayfly.master.suspects import Loss
from dayfly.model import CallOutcome, ExecMode, JobSpec, JobState, Try
from dayfly.wire import messages as m
from dayfly.wire.messages import Span


class Pool(msgspec.Struct, frozen=True):
    """Which workers may serve which jobs: those of the same pool.

    Attributes:
        kind: See :attr:`dayfly.model.JobSpec.kind`.
        job: Only for ``create``, whose workers serve the one job that they were made for.
    """

    mode: ExecMode
    runtime: str = ""
    kind: str = ""
    job: str = ""


def pool_of(spec: JobSpec) -> Pool:
    """The pool of a job."""
    if spec.mode is ExecMode.CREATE:
        return Pool(spec.mode, job=spec.id)
    if spec.mode is ExecMode.CONSUME:
        return Pool(spec.mode)
    return Pool(spec.mode, spec.runtime, spec.kind)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Anything that happens."""


class JobSubmitted(Event, frozen=True):
    """A new job, its items to follow."""

    spec: JobSpec


class JobRestored(Event, frozen=True):
    """A running job, read back from the journal.

    Attributes:
        chunks: The chunks of items that have come, as spans, in order.
        done: One bit of truth per call that has come: whether it has an outcome.
        failed: How many of those outcomes are failures.
        started: When its first call was handed out.
        tries: The failed tries of its calls that are to be run again.
        losses: The unexplained losses of its workers.
        orphan: Whether every client had left it; else they may be asleep, or on their way back.
        deserted: Whether the one that handed in its items had left before these were all there.
    """

    spec: JobSpec
    chunks: list[Span]
    total: int | None
    done: bytearray
    failed: int
    started: float | None
    tries: dict[int, list[Try]] = {}
    losses: list[Loss] = []
    orphan: bool = False
    deserted: bool = False


class ItemsCame(Event, frozen=True):
    """The next chunk of a job's items; calls of two chunks never share a span."""

    job: str
    start: int
    count: int


class ItemsEnded(Event, frozen=True):
    """All of a job's items have come."""

    job: str
    total: int


class FollowersChanged(Event, frozen=True):
    """How many clients are attached to a job now.

    Attributes:
        silent: Whether one that was attached went silent: it may be asleep, and come back.
        again: Whether one is to be asked again for the workers that the job lacks.
    """

    job: str
    count: int
    silent: bool = False
    again: bool = False


class SubmitterChanged(Event, frozen=True):
    """The client that hands in a job's items has left, or is back; not one that went silent."""

    job: str
    left: bool


class CancelAsked(Event, frozen=True):
    """Stop a job, or some of its calls."""

    job: str
    indices: list[int] | None
    reason: str


class WorkerComing(Event, frozen=True):
    """An instance is on its way to be a worker.

    Attributes:
        returning: It was a worker before the master restarted, and may hold calls.
        engaged: The jobs that it had taken part in.
    """

    worker: str
    pool: Pool
    returning: bool = False
    engaged: list[str] = []


class WorkerReady(Event, frozen=True):
    """A worker's standing request for work.

    Attributes:
        holding: Calls in its hands.
        attempts: Which attempt those are that had failed before.
    """

    worker: str
    incarnation: str
    processes: int
    holding: dict[str, list[Span]]
    attempts: dict[str, dict[int, int]] = {}


class WorkerDraining(Event, frozen=True):
    """The cloud takes a worker back: it finishes what it runs, and takes no more."""

    worker: str
    reason: str


class WorkerAway(Event, frozen=True):
    """A worker's connection has ended, or is new: nothing is handed out before it asks for it."""

    worker: str


class WorkerLost(Event, frozen=True):
    """A worker is gone, or never came.

    Attributes:
        reason: Why, with evidence.
        innocent: Whether it is known that none of its calls can have done it: its time was up,
            or the cloud took it.
    """

    worker: str
    reason: str
    innocent: bool = False


class WorkerGone(Event, frozen=True):
    """A worker that was lost does not come back.

    Attributes:
        innocent: As of :class:`WorkerLost`: it has turned out so since.
    """

    worker: str
    innocent: bool = False


class WorkerUnfit(Event, frozen=True):
    """A worker cannot be given what functions need; the calls that it had in hand come back.

    Attributes:
        job: Whose functions; empty: it cannot even be made a worker, for any job of its pool.
        witness: What the master met itself that explains it.
    """

    worker: str
    failure: EnvironmentFailure
    job: str = ""
    witness: str = ""


class OutcomesCame(Event, frozen=True):
    """Outcomes from a worker; the first one of a call counts."""

    worker: str
    job: str
    outcomes: list[CallOutcome]


class HandedBack(Event, frozen=True):
    """Calls that a worker did not start and will not."""

    worker: str
    job: str
    spans: list[Span]


class Tick(Event, frozen=True):
    """The moment of :attr:`Scheduler.wake` has come."""


class CostReached(Event, frozen=True):
    """A job has cost all that ``max_cost`` lets it.

    Attributes:
        spent: US dollars.
        hourly: US dollars per hour of the VMs that it had at the end.
    """

    job: str
    spent: float
    hourly: float


class MasterLeaving(Event, frozen=True):
    """The hard timer of the master's own VM has fired: no job outlives it."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Anything to be done."""


class Lease(Action, frozen=True):
    """Hand a span of calls to a worker.

    Attributes:
        attempt: How many times these calls have been run and have failed.
    """

    worker: str
    job: str
    span: Span
    attempt: int = 0


class Tell(Action, frozen=True):
    """Say something to a worker."""

    worker: str
    message: m.Revoke | m.Recall | m.Forget


class Deliver(Action, frozen=True):
    """Keep these outcomes, and hand them to whoever follows the job."""

    job: str
    outcomes: list[CallOutcome]


class Tried(Action, frozen=True):
    """Keep a failed try of a call that is to be run again."""

    job: str
    index: int
    tried: Try


class Marked(Action, frozen=True):
    """Keep that a worker was lost for no known reason with these calls in hand."""

    job: str
    loss: Loss


class Absolved(Action, frozen=True):
    """A worker that was thought lost is back: forget its loss."""

    job: str
    worker: str
    incarnation: str


class Dismiss(Action, frozen=True):
    """A worker has nothing more in hand, and is of no more use.

    Attributes:
        why: See :meth:`dayfly.master.fleet.Fleet.let_go`.
    """

    worker: str
    why: str


class JobStarted(Action, frozen=True):
    """The job's first call is handed out."""

    job: str


class JobClosed(Action, frozen=True):
    """The job is over, after what was delivered so far."""

    job: str
    state: JobState
    done: int
    failed: int
    total: int | None
    error: str = ""
    reason: str = ""
    failure: EnvironmentFailure | None = None


class Engage(Action, frozen=True):
    """A job is on this worker from now on; it started at ``started``."""

    worker: str
    job: str
    started: float


class Disengage(Action, frozen=True):
    """A job on this worker is over."""

    worker: str
    job: str


class NeedWorkers(Action, frozen=True):
    """Ask the job's client to launch ``count`` more workers.

    Attributes:
        spared: See :class:`dayfly.wire.messages.WorkersNeeded`.
    """

    job: str
    count: int
    reason: str
    spared: int = 0
