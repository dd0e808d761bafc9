"""Who gets the calls that wait: to each worker its share, and back from those with too many."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from dayfly.master import events as e
from dayfly.master import sizing
from dayfly.master.openjob import Job
from dayfly.master.roster import Group, Roster, Worker
from dayfly.wire import messages as m

Actions = list[e.Action]

#: Seconds for which a worker stays with one of several jobs that have as little load: a process
#: that changes between two jobs may have to import the modules of the other one.
TURN = 2.0


class Dealer:
    """Deals the calls of the open jobs to the workers of their pools.

    Attributes:
        started: Set when a job's first call is dealt.
    """

    def __init__(self, jobs: dict[str, Job], roster: Roster) -> None:
        self._jobs = jobs
        self._roster = roster
        self._deals = 0
        self.started = False

    def feed(self, pool: e.Pool, now: float, out: Actions) -> None:
        """Give what waits to workers with a free process; recall for those left without."""
        group = self._roster.group(pool)
        # Not every worker may have every call that waits apart.
        apart = any(self._jobs[job].ledger.aside for job in group.jobs)
        choosy = apart or bool(group.unfit)
        if apart or group.kept:
            self._see_to_suspects(group, now, out)
        refused = 0
        while group.hungry and refused < (len(group.hungry) if choosy else 1):
            name, worker = next(iter(group.hungry.items()))
            gave = self.top_up(worker, now, out)
            refused = 0 if gave else refused + 1
            if (gave or choosy) and name in group.hungry:
                group.hungry[name] = group.hungry.pop(name)  # It waits its turn for more.
        if apart:
            for worker in [worker for worker in group.hungry.values() if not worker.held]:
                self._give_alone(worker, group, now, out)
        self._share(group, out)

    def went_away(self, worker: Worker, out: Actions) -> None:
        """A worker went silent: what it was to hand back is asked of another one."""
        self._share(worker.group, out)

    def top_up(self, worker: Worker, now: float, out: Actions) -> bool:
        """Give one worker its next spans; whether there were any."""
        if not worker.open:
            return False
        group = worker.group
        best: Job | None = None
        least, best_room = (math.inf, 0), 0
        in_hand = self._in_hand(worker)
        stays_with = worker.turn if now < worker.turn_ends else ""
        for job in self._dealt(group, worker.unfit):
            standing = job.load, -1 if job.spec.id == stays_with else job.dealt
            if standing >= least:
                continue
            room = self._room(worker, job, group, in_hand)
            if room > 0:
                best, least, best_room = job, standing, room
        if best is None:
            return False
        self._lease(worker, best, best_room, group, now, out)
        return True

    def _dealt(self, group: Group, but: Collection[str] = ()) -> Iterator[Job]:
        """The jobs that have calls to be dealt, ``but`` for some."""
        for job_id in group.jobs:
            job = self._jobs[job_id]
            if job_id not in but and job.ledger.pending and not (job.restored and group.returning):
                yield job

    def _room(
        self, worker: Worker, job: Job, group: Group, in_hand: list[tuple[int, float | None]]
    ) -> int:
        """How many calls of a job a worker may be given now."""
        if job.ledger.aside:
            if job.apart.careful():
                return max(0, worker.processes - worker.held)
            others = group.serving(job.spec.id) > 1
            if not job.ledger.queued and not job.apart.again(worker.name, others=others):
                return 0
        return sizing.room(job.mean, worker.processes, in_hand)

    def _lease(
        self, worker: Worker, job: Job, room: int, group: Group, now: float, out: Actions
    ) -> None:
        careful = False
        if job.ledger.aside:
            careful = job.apart.careful()
            others = group.serving(job.spec.id) > 1
            for index in job.apart.take(worker.number, worker.name, room, others=others):
                self._hand(worker, job, index, now, out)
                room -= 1
        if careful or room <= 0 or not job.ledger.queued:
            return
        self._serve(worker, job, now, out)
        count = sizing.grant(
            job.mean,
            room,
            job.ledger.queued,
            max(1, group.ready),
            worker.processes,
            job.spec.chunksize,
        )
        spans = job.ledger.take(worker.number, count)
        self._roster.hold(worker, sum(span.stop - span.start for span in spans))
        self.engage(worker, job, out)
        out.extend(e.Lease(worker=worker.name, job=job.spec.id, span=span) for span in spans)

    def _hand(self, worker: Worker, job: Job, index: int, now: float, out: Actions) -> None:
        """A worker has been given a call that waited apart."""
        self._serve(worker, job, now, out)
        self._roster.hold(worker, 1)
        self.engage(worker, job, out)
        span, attempt = m.Span(index, index + 1), job.apart.attempt(index)
        out.append(e.Lease(worker=worker.name, job=job.spec.id, span=span, attempt=attempt))

    def _serve(self, worker: Worker, job: Job, now: float, out: Actions) -> None:
        """A job is dealt calls: of those with as little load, the others go before it next."""
        self._deals += 1
        job.dealt = self._deals
        if now >= worker.turn_ends:
            worker.turn, worker.turn_ends = job.spec.id, now + TURN
        if job.started is None:
            job.started = now
            self.started = True
            out.append(e.JobStarted(job=job.spec.id))

    # -- calls that are handed out alone --

    def _see_to_suspects(self, group: Group, now: float, out: Actions) -> None:
        """Keep a worker for suspects while any waits, whatever else waits too."""
        for worker in list(group.kept.values()):
            if not worker.held and not self._give_alone(worker, group, now, out):
                self._roster.keep(worker, kept=False)
        suspected = {job.spec.id for job in self._dealt(group) if job.apart.suspected()}
        if not group.kept and suspected:
            choice = [w for w in group.workers.values() if w.open and not suspected <= w.unfit]
            if choice:
                emptiest = min(choice, key=lambda worker: worker.held)
                self._roster.keep(emptiest, kept=True)
                if not emptiest.held:
                    self._give_alone(emptiest, group, now, out)

    def _give_alone(self, worker: Worker, group: Group, now: float, out: Actions) -> bool:
        """Give a suspect to a worker that has nothing in hand; whether there was one."""
        if not worker.serves:
            return False  # it would be lost with a call that never reached it
        for job in self._dealt(group, worker.unfit):
            index = job.apart.take_alone(worker.number)
            if index is not None:
                self._hand(worker, job, index, now, out)
                self._roster.keep(worker, kept=True)
                worker.alone = (job.spec.id, index)
                return True
        return False

    def _in_hand(self, worker: Worker) -> list[tuple[int, float | None]]:
        jobs = (self._jobs[job_id] for job_id in worker.jobs)
        return [(job.ledger.held_by(worker.number), job.mean) for job in jobs]

    def _waiting(self, group: Group) -> bool:
        return any(job.ledger.queued for job in self._dealt(group))

    def _share(self, group: Group, out: Actions) -> None:
        """Have calls handed back for a worker that is left without."""
        if group.hungry and group.queued and not self._waiting(group):
            needy = next((w for w in group.hungry.values() if not w.unfit), None)
            if needy is not None:
                self._recall(group, needy, out)

    def _recall(self, group: Group, needy: Worker, out: Actions) -> None:
        donors = group.donors.values()
        for donor in sorted(donors, key=lambda worker: (-worker.queued, worker.number)):
            jobs = [self._jobs[job_id] for job_id in donor.jobs if job_id not in donor.begun]
            job = max(jobs, key=lambda job: job.ledger.held_by(donor.number), default=None)
            if job is not None and job.ledger.held_by(donor.number):
                free = needy.processes - needy.held
                count = min(donor.queued, max(free, -(-donor.queued // 2)))
                self._roster.recall(donor, count)
                recall = m.Recall(job=job.spec.id, count=count)
                out.append(e.Tell(worker=donor.name, message=recall))
                return

    def handed_back(self, worker: Worker, job: str, count: int) -> None:
        """A worker has answered a recall; of a job that gave too few it has begun the rest."""
        if count < worker.recalled and job in worker.jobs:
            worker.begun.add(job)
        self._roster.recall(worker, 0)

    def engage(self, worker: Worker, job: Job, out: Actions) -> None:
        """A worker takes part in a job, and has calls of it that it has not begun."""
        worker.begun.discard(job.spec.id)
        worker.jobs[job.spec.id] = None
        if job.spec.id not in worker.engaged:
            worker.engaged[job.spec.id] = None
            started = job.submitted if job.started is None else job.started
            out.append(e.Engage(worker=worker.name, job=job.spec.id, started=started))
