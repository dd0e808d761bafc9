"""Who gets the calls that wait: to each worker its share, and back from those with too many."""

from __future__ import annotations

from dayfly.master import events as e
from dayfly.master import sizing
from dayfly.master.openjob import Job
from dayfly.master.roster import Group, Roster, Worker
from dayfly.wire import messages as m

Actions = list[e.Action]


class Dealer:
    """Deals the calls of the open jobs to the workers of their pools.

    Attributes:
        started: Set when a job's first call is dealt.
    """

    def __init__(self, jobs: dict[str, Job], roster: Roster) -> None:
        self._jobs = jobs
        self._roster = roster
        self.started = False

    def feed(self, pool: e.Pool, now: float, out: Actions) -> None:
        """Give what waits to workers with a free process; recall for those left without."""
        group = self._roster.group(pool)
        while group.hungry:
            name, worker = next(iter(group.hungry.items()))
            if not self.top_up(worker, now, out):
                break
            if group.hungry.pop(name, None):
                group.hungry[name] = worker  # It waits its turn for a second helping.
        if group.hungry and group.queued and not self._waiting(group):
            self._recall(group, next(iter(group.hungry.values())), out)

    def top_up(self, worker: Worker, now: float, out: Actions) -> bool:
        """Give one worker its next spans; whether there were any."""
        if not worker.ready:
            return False
        group = self._roster.group(worker.pool)
        best: Job | None = None
        best_room = 0
        in_hand = self._in_hand(worker)
        for job_id in group.jobs:
            job = self._jobs[job_id]
            if not job.ledger.pending or (job.restored and group.returning):
                continue
            if best is not None and job.load >= best.load:
                continue
            room = sizing.room(job.mean, worker.processes, in_hand)
            if room > 0:
                best, best_room = job, room
        if best is None:
            return False
        self._lease(worker, best, best_room, group, now, out)
        return True

    def _lease(
        self, worker: Worker, job: Job, room: int, group: Group, now: float, out: Actions
    ) -> None:
        if job.started is None:
            job.started = now
            self.started = True
            out.append(e.JobStarted(job=job.spec.id))
        count = sizing.grant(
            job.mean,
            room,
            job.ledger.pending,
            max(1, group.ready),
            worker.processes,
            job.spec.chunksize,
        )
        spans = job.ledger.take(worker.number, count)
        self._roster.hold(worker, sum(span.stop - span.start for span in spans))
        self.engage(worker, job, out)
        out.extend(e.Lease(worker=worker.name, job=job.spec.id, span=span) for span in spans)

    def _in_hand(self, worker: Worker) -> list[tuple[int, float | None]]:
        jobs = (self._jobs[job_id] for job_id in worker.jobs)
        return [(job.ledger.held_by(worker.number), job.mean) for job in jobs]

    def _waiting(self, group: Group) -> bool:
        jobs = (self._jobs[job_id] for job_id in group.jobs)
        return any(job.ledger.pending and not (job.restored and group.returning) for job in jobs)

    def _recall(self, group: Group, needy: Worker, out: Actions) -> None:
        donors = [w for w in group.workers.values() if w.queued and not w.recalled]
        if not donors:
            return
        donor = max(donors, key=lambda worker: worker.queued)
        job = max(
            (self._jobs[job_id] for job_id in donor.jobs),
            key=lambda job: job.ledger.held_by(donor.number),
        )
        free = needy.processes - needy.held
        count = min(donor.queued, max(free, -(-donor.queued // 2)))
        donor.recalled = True
        recall = m.Recall(job=job.spec.id, count=count)
        out.append(e.Tell(worker=donor.name, message=recall))

    def engage(self, worker: Worker, job: Job, out: Actions) -> None:
        """A worker takes part in a job."""
        worker.jobs[job.spec.id] = None
        if job.spec.id not in worker.engaged:
            worker.engaged[job.spec.id] = None
            started = job.submitted if job.started is None else job.started
            out.append(e.Engage(worker=worker.name, job=job.spec.id, started=started))
