"""Workers that cannot be given what a job's functions need: decisions only, no I/O.

Some failures are of the environment: every VM would meet them, so the job fails with the first.
Others are of one VM (a full disk, no route): others do its calls, and it goes if it is of no use.
It is replaced once another VM was seen to be fit, or if it was the only one; where the second
VM in a row is no better, the job fails with what each has said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dayfly.master import events as e
from dayfly.master.openjob import Job
from dayfly.master.roster import Roster, Worker
from dayfly.model import ExecMode

#: VMs that must say so before it is believed of all, when it is of one VM by its kind.
WITNESSES = 2


class Ruling(NamedTuple):
    """What follows.

    Attributes:
        failed: Jobs that no VM can serve.
        lacking: Jobs that have no worker left.
        useless: Whether the worker can go; one that never was a worker goes by itself.
    """

    failed: list[Job]
    lacking: list[Job]
    useless: bool


def rule(event: e.WorkerUnfit, worker: Worker, jobs: Mapping[str, Job], roster: Roster) -> Ruling:
    """Set a worker aside for the jobs that it cannot serve, and decide on them."""
    group, failure = worker.group, event.failure
    failed: list[Job] = []
    lacking: list[Job] = []
    for job_id in [event.job] if event.job else group.jobs:
        job = jobs.get(job_id)
        if job is None or job_id in worker.unfit:
            continue  # it is over, or this was said before
        job.unfit[worker.name] = failure
        roster.set_aside(worker, job_id)
        alone = len(job.unfit) >= WITNESSES or job.spec.mode is ExecMode.CONSUME
        if failure.everywhere:
            failed.append(job)
        elif not group.staying(job_id):
            (failed if event.witness or alone else lacking).append(job)
    own = event.job and not (failure.everywhere or event.witness)
    return Ruling(failed, lacking, useless=bool(own) and worker.unfit.issuperset(group.jobs))
