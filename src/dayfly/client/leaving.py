"""How jobs are left: those that end with their program, and those that go on without it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dayfly.errors import JobError
from dayfly.model import DismantlePolicy

if TYPE_CHECKING:
    from dayfly.client.job import Job


async def leave_all(jobs: list[Job[Any]]) -> None:
    """Cancel the jobs that end with their executor, and let the others go on.

    Raises:
        JobError: Some could not be handed over to their master; the others are left all the same.
    """
    for job in jobs:
        if not job.lasting:
            job.cancel()
    ends = await asyncio.gather(
        *(job.leave() if job.lasting else job.settled() for job in jobs), return_exceptions=True
    )
    untold = [end for end in ends if isinstance(end, BaseException)]
    for other in untold[1:]:
        untold[0].add_note(str(other))
    if untold:
        raise untold[0]


def left_at_once(policy: DismantlePolicy, jobs: list[Job[Any]], backend: str) -> str:
    """What may be left by a program that is interrupted while it tells the master to stop."""
    bound = (
        f"its timers end that within {policy.hard:.0f} s (hard_dismantle_timeout)"
        if policy.auto
        else "no timer ends that (auto_dismantle: False)"
    )
    left = ", ".join(sorted(job.id for job in jobs)) or "a job"
    workers = sum(job.progress.workers_ready + job.progress.workers_coming for job in jobs)
    return (
        f"dayfly: left at once; {left} may still run on the master and {workers} workers: "
        f"{bound}, or now: dayfly clean -b {backend}"
    )


def not_confirmed(job: str, why: str) -> JobError:
    """For a job that its master may have, and has not said that it has."""
    return JobError(
        f"job {job} was left, but its master has not said that it has all of it",
        cause=why,
        hint=f"dayfly job list: if it is there, it goes on, and dayfly job result {job} gets its"
        f" results, dayfly job cancel {job} ends it; else run it again",
    )


def not_complete(job: str, why: str) -> JobError:
    """For a job that its master cannot have in full."""
    return JobError(
        f"job {job} is cancelled: it was not handed over, so it could not go on by itself",
        cause=f"not all of its items were read and handed to the master: {why}",
        hint="run it again, and leave it when its items can all be read",
    )


def given_up(job: str, failure: BaseException) -> JobError:
    """For a job that failed on this side of its master, which so may not tell why."""
    untold = JobError(
        f"job {job} failed before it was handed over to its master",
        cause="; ".join([str(failure), *getattr(failure, "__notes__", ())]),
        hint="dayfly job list: if it is not there, run it again",
    )
    untold.__cause__ = failure
    return untold


def may_go_on(job: str) -> str:
    """For whoever is told here that a job has failed which its master may still run."""
    return (
        f"job {job} may still run under its timers, on a master that could not be reached:"
        f" dayfly job list shows it, dayfly job cancel {job} stops it"
    )
