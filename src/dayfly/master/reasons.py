"""Why a job was ended before all of its calls had their outcome, in words for its user."""

from __future__ import annotations

import msgspec

from dayfly.cost import dollars
from dayfly.environment.report import EnvironmentFailure
from dayfly.master import events as e
from dayfly.master.openjob import Job

#: Losses that are told, the last ones.
TOLD = 20


def alone(job: Job, what: str) -> str:
    """It had no worker; ``what`` says since when, or how often."""
    words = [f"{what} for job {job.spec.id}"]
    words += [f"  {loss}" for loss in job.losses[-TOLD:]]
    return "\n".join(words)


def unfit(job: Job, witness: str) -> EnvironmentFailure:
    """No worker could be given what its functions need; ``witness`` is what the master met."""
    last = list(job.unfit.values())[-1]
    if last.everywhere or len(job.unfit) == 1:
        what = f"job {job.spec.id} cannot run: {last.what}"
    else:
        words = [f"job {job.spec.id} cannot run: none of {len(job.unfit)} VMs could be prepared"]
        words += [f"  {failure.what}" for failure in list(job.unfit.values())[-TOLD:]]
        what = "\n".join(words)
    cause = "\n".join(filter(None, [last.cause, witness and f"the master: {witness}"]))
    return msgspec.structs.replace(last, what=what, cause=cause)


def too_long(job: Job) -> str:
    """Its hard timer fired."""
    return (
        f"job {job.spec.id} was cut by hard_dismantle_timeout"
        f" ({job.spec.policy.hard:g} s) with {_undone(job)} of its calls not done"
    )


def too_dear(job: Job, event: e.CostReached) -> str:
    """It has cost what it may."""
    cap = dollars(job.spec.max_cost or 0.0)
    return (
        f"job {job.spec.id} was cut by max_cost ({cap}) with {_undone(job)} of its calls not"
        f" done: its VMs have cost {dollars(event.spent)}, at {dollars(event.hourly)} per hour;"
        f" the {job.ledger.done} outcomes so far are kept"
    )


def deserted(job: Job) -> str:
    """Nobody can hand in the rest of its items."""
    known, done = job.ledger.known, job.ledger.done
    return (
        f"job {job.spec.id}: its client left before all of its items were there: {known} had come,"
        f" and {done} of their calls were done; the outcomes so far are kept"
    )


def _undone(job: Job) -> str:
    """How many calls have no outcome, as far as that can be told."""
    return "some" if job.ledger.total is None else str(job.ledger.total - job.ledger.done)
