"""Which worker does which call, and when a job is over: events in, actions out, no I/O.

The cost of an event does not grow with the job, and of a common one not with the workers.
"""

from __future__ import annotations

from typing import TypeAlias

from dayfly.environment.report import EnvironmentFailure
from dayfly.errors import (
    CostLimitError,
    DayflyError,
    EnvironmentFailedError,
    HardTimeoutError,
    JobError,
    NoWorkersError,
)
from dayfly.master import events as e
from dayfly.master import reasons, sizing
from dayfly.master.dealer import Dealer
from dayfly.master.hands import Hands
from dayfly.master.misfits import rule
from dayfly.master.openjob import Job
from dayfly.master.roster import Roster
from dayfly.model import CallOutcome, JobState, OutcomeKind

#: Seconds that a job lives on without any client attached to it.
CLIENT_GRACE = 60.0
#: Seconds after a restart in which known workers may still say what they hold. The fleet has given
#: up by then who does not connect, and whose connection has fallen silent before that was said.
RETURN_GRACE = 20.0
#: Seconds that a client has to send workers for a new job before it is asked to.
PATIENCE = 30.0
#: Bring-ups that may fail, per worker wanted, before a job that never had one is given up.
ROUNDS = 2

Actions: TypeAlias = list[e.Action]


class Scheduler:
    """The master's mind: give it what happens, do what it answers.

    Args:
        start_timeout: Seconds that a job may be without any worker.
        client_grace: Seconds that a job lives on without any client.

    Attributes:
        wake: When to send :class:`~dayfly.master.events.Tick`, at the latest; ``None`` for never.
    """

    def __init__(self, *, start_timeout: float, client_grace: float = CLIENT_GRACE) -> None:
        self._start_timeout = start_timeout
        self._client_grace = client_grace
        self._jobs: dict[str, Job] = {}
        self._roster = Roster()
        self._dealer = Dealer(self._jobs, self._roster)
        self._hands = Hands(self._jobs, self._roster, self._dealer)
        self._rewake = False
        self.wake: float | None = None

    # -- what can be asked --

    def job(self, job: str) -> Job | None:
        """An open job."""
        return self._jobs.get(job)

    @property
    def open_jobs(self) -> list[str]:
        """The jobs that run, oldest first."""
        return list(self._jobs)

    def jobs_of(self, worker: str) -> list[str]:
        """The open jobs that a worker may serve."""
        known = self._roster.get(worker)
        return list(known.group.jobs) if known else []

    def held(self, worker: str) -> int:
        """Calls in a worker's hands."""
        known = self._roster.get(worker)
        return known.held if known else 0

    def accuses(self, worker: str) -> bool:
        """Whether a call is failed if this worker, which was lost, does not come back."""
        return any(job.apart.accused_with(worker) for job in self._jobs.values())

    def workers_for(self, job: str) -> tuple[int, list[str]]:
        """How many workers are ready for a job, and the names of those on their way."""
        if (open_job := self._jobs.get(job)) is None:
            return 0, []
        group = self._roster.group(open_job.pool)
        if group.ready == len(group.workers):
            return group.ready, []
        return group.ready, [w.name for w in group.workers.values() if not w.ready]

    # -- what happens --

    def handle(self, event: e.Event, now: float) -> Actions:
        """Take in what happened at ``now``, in seconds that never jump.

        Returns:
            What is to be done, in order.
        """
        out: Actions = []
        match event:
            case e.OutcomesCame():
                self._outcomes(event, now, out)
            case e.ItemsCame():
                self._items(event, now, out)
            case e.HandedBack():
                self._handed_back(event, now, out)
            case e.ItemsEnded():
                if job := self._jobs.get(event.job):
                    job.ledger.total = event.total
                    self._close_if_complete(job, out)
            case e.JobSubmitted():
                self._open(Job(event.spec, now))
            case e.JobRestored():
                self._open(Job.restored_from(event, now))
            case e.FollowersChanged():
                self._followers(event, now, out)
            case e.SubmitterChanged():
                if job := self._jobs.get(event.job):
                    job.submitter_left = now if event.left else None
                    self._rewake = True
            case e.CancelAsked():
                self._cancel(event, now, out)
            case e.WorkerComing():
                self._coming(event, now, out)
            case e.WorkerReady():
                self._ready(event, now, out)
            case e.WorkerDraining():
                self._draining(event, now, out)
            case e.WorkerAway():
                if worker := self._roster.get(event.worker):
                    self._roster.set_away(worker)
                    self._dealer.went_away(worker, out)
            case e.WorkerLost():
                self._lost(event, now, out)
            case e.WorkerGone():
                self._gone(event, now, out)
            case e.WorkerUnfit():
                self._unfit(event, now, out)
            case e.Tick():
                self._tick(now, out)
            case e.CostReached():
                if job := self._jobs.get(event.job):
                    self._fail(job, CostLimitError, reasons.too_dear(job, event), out)
                    self._dealer.feed(job.pool, now, out)
            case e.MasterLeaving():
                for job in list(self._jobs.values()):
                    self._fail(job, HardTimeoutError, reasons.too_long(job), out)
        for worker in self._roster.drained():
            out.append(e.Dismiss(worker=worker.name, why="spot"))
        if self._rewake or self._dealer.started:
            self._rewake = self._dealer.started = False
            self.wake = min(self._moments(), default=None)
        return out

    # -- jobs --

    def _open(self, job: Job) -> None:
        if job.spec.id in self._jobs:
            return
        self._jobs[job.spec.id] = job
        group = self._roster.open_job(job.spec.id, job.pool)
        # One whose connection has just broken, or that is to come back, has served before.
        served = any(w.incarnation for w in group.workers.values()) or bool(group.returning)
        job.had_worker |= group.ready > 0 or served
        if not group.workers:
            job.alone_since = job.submitted
        self._rewake = True

    def _items(self, event: e.ItemsCame, now: float, out: Actions) -> None:
        job = self._jobs.get(event.job)
        if job is None or event.start != job.ledger.known:
            return
        if early := job.ledger.extend(event.count):
            self._cancel_calls(job, early, "cancelled before its item had come", out)
        self._dealer.feed(job.pool, now, out)

    def _followers(self, event: e.FollowersChanged, now: float, out: Actions) -> None:
        job = self._jobs.get(event.job)
        if job is None:
            return
        self._rewake = True
        before, job.followers = job.followers, event.count
        if not event.count:
            # One that went silent may wake up and come back, so only the timers bound the job.
            goes_on = event.silent or job.outlives_its_client
            job.orphan_since = None if goes_on else now
            return
        job.orphan_since = None
        if not before and job.alone_since is not None:
            job.alone_since = now  # until now nobody could have launched
        came, left = not before, event.count < before
        if event.again or ((came or left) and (job.losses or job.alone_since is not None)):
            # Whoever was asked for workers before may be gone with the asking.
            job.asked = 0
            self._ask_for_workers(job, (job.losses or ["no worker of its kind is up"])[-1], out)

    def _cancel(self, event: e.CancelAsked, now: float, out: Actions) -> None:
        job = self._jobs.get(event.job)
        if job is None:
            return
        if event.indices is None:
            self._close(job, JobState.CANCELLED, out, reason=event.reason)
        else:
            self._cancel_calls(job, event.indices, event.reason, out)
            self._close_if_complete(job, out)
        self._dealer.feed(job.pool, now, out)

    def _cancel_calls(self, job: Job, indices: list[int], reason: str, out: Actions) -> None:
        text = reason.encode()
        outcomes: list[CallOutcome] = []
        for index in dict.fromkeys(indices):
            if job.ledger.knows(index):
                outcomes.append(CallOutcome(index, OutcomeKind.CANCELLED, text))
            else:
                job.ledger.cancel_early(index)
        self._hands.settle(job, outcomes, out)

    def _close_if_complete(self, job: Job, out: Actions) -> None:
        if job.ledger.complete:
            self._close(job, JobState.COMPLETED, out)

    def _close(
        self,
        job: Job,
        state: JobState,
        out: Actions,
        *,
        error: str = "",
        reason: str = "",
        failure: EnvironmentFailure | None = None,
    ) -> None:
        job_id, ledger = job.spec.id, job.ledger
        self._hands.close(job, out)
        del self._jobs[job_id]
        self._roster.close_job(job_id, job.pool)
        self._rewake = True
        out.append(
            e.JobClosed(
                job=job_id,
                state=state,
                done=ledger.done,
                failed=ledger.failed,
                total=ledger.total,
                error=error,
                reason=reason,
                failure=failure,
            )
        )

    # -- workers --

    def _coming(self, event: e.WorkerComing, now: float, out: Actions) -> None:
        if (before := self._roster.get(event.worker)) is not None:
            anew = e.WorkerLost(worker=before.name, reason="its VM was started anew", innocent=True)
            self._hands.lost(before, anew, out)
            self._roster.remove(before)
        worker = self._roster.add(event.worker, event.pool)
        worker.engaged = dict.fromkeys(job for job in event.engaged if job in self._jobs)
        if event.returning:
            self._roster.group(event.pool).returning[event.worker] = now + RETURN_GRACE
        for job_id in self._roster.group(event.pool).jobs:
            job = self._jobs[job_id]
            job.alone_since = None
            job.had_worker |= event.returning
            if before is None:
                job.asked = max(0, job.asked - 1)
        self._rewake = True
        self._dealer.feed(event.pool, now, out)

    def _ready(self, event: e.WorkerReady, now: float, out: Actions) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        self._hands.ready(worker, event, out)
        for job_id in list(worker.group.jobs):
            self._jobs[job_id].had_worker = True
            self._close_if_complete(self._jobs[job_id], out)
        self._rewake = True
        self._dealer.feed(worker.pool, now, out)
        self._dealer.top_up(worker, now, out)

    def _draining(self, event: e.WorkerDraining, now: float, out: Actions) -> None:
        worker = self._roster.get(event.worker)
        if worker is None or worker.draining:
            return
        self._roster.drain(worker)
        for job_id in worker.group.jobs:
            job = self._jobs[job_id]
            job.spared += 1
            self._ask_for_workers(job, event.reason, out)
        self._dealer.feed(worker.pool, now, out)

    def _lost(self, event: e.WorkerLost, now: float, out: Actions) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        self._hands.lost(worker, event, out)
        for job_id in list(worker.jobs):
            self._close_if_complete(self._jobs[job_id], out)
        group = worker.group
        self._roster.remove(worker)
        self._rewake = True
        for job_id in list(group.jobs):
            job = self._jobs[job_id]
            if worker.name in job.unfit:
                continue  # it was missed when that was heard
            job.losses.append(f"{worker.name}: {event.reason}")
            if group.staying(job_id):
                self._ask_for_workers(job, event.reason, out)
                continue
            job.alone_since = now
            given_up = len(job.losses) + len(job.unfit) >= ROUNDS * max(1, job.spec.wanted)
            if not job.had_worker and given_up and job.followers:
                reason = reasons.alone(job, "no worker could be had")
                self._fail(job, NoWorkersError, reason, out)
            else:
                self._ask_for_workers(job, event.reason, out)
        self._dealer.feed(worker.pool, now, out)

    def _unfit(self, event: e.WorkerUnfit, now: float, out: Actions) -> None:
        if (worker := self._roster.get(event.worker)) is None:
            return
        ruling = rule(event, worker, self._jobs, self._roster)
        for job in ruling.failed:
            failure = reasons.unfit(job, event.witness)
            self._fail(job, EnvironmentFailedError, str(failure.error()), out, failure=failure)
        for job in ruling.lacking:
            job.had_worker, job.alone_since = False, now
            self._ask_for_workers(job, event.failure.what, out)
        if ruling.useless:
            out.append(e.Dismiss(worker=worker.name, why=event.failure.what))
        self._rewake = True
        self._dealer.feed(worker.pool, now, out)

    def _gone(self, event: e.WorkerGone, now: float, out: Actions) -> None:
        for job in self._hands.gone(event, out):
            self._close_if_complete(job, out)
            self._dealer.feed(job.pool, now, out)

    def _ask_for_workers(self, job: Job, reason: str, out: Actions) -> None:
        group, ledger = self._roster.group(job.pool), job.ledger
        usable = job.spec.wanted
        if ledger.total is not None:
            processes = max(1, job.spec.processes)
            usable = min(usable, -(-(ledger.total - ledger.done) // processes))
        count = usable - group.staying(job.spec.id) - job.asked
        if count > 0:
            job.asked += count
            out.append(
                e.NeedWorkers(job=job.spec.id, count=count, reason=reason, spared=job.spared)
            )
            if job.followers:  # else nobody has heard it
                job.spared = 0

    # -- calls --

    def _outcomes(self, event: e.OutcomesCame, now: float, out: Actions) -> None:
        job, worker = self._jobs.get(event.job), self._roster.get(event.worker)
        if job is None:
            return
        fresh, again = self._hands.heard(job, worker, event.outcomes, now, out)
        if not fresh and not again:
            return
        self._rewake |= again
        if fresh and job.unfit:
            # Now that a VM was found that can have what the functions need, others are worth it.
            first, *_ = job.unfit.values()
            job.unfit.clear()
            self._ask_for_workers(job, first.what, out)
        timed = [o.ended - o.started for o in fresh if o.started]
        if timed:
            job.mean = sizing.mean_after(job.mean, max(0.0, sum(timed)), len(timed))
        self._close_if_complete(job, out)
        if worker is not None:
            self._dealer.top_up(worker, now, out)
        self._dealer.feed(job.pool, now, out)

    def _handed_back(self, event: e.HandedBack, now: float, out: Actions) -> None:
        worker, job = self._roster.get(event.worker), self._jobs.get(event.job)
        if worker is None:
            return
        count = sum(span.stop - span.start for span in event.spans)
        self._dealer.handed_back(worker, event.job, count)
        if job is not None:
            self._hands.handed_back(worker, job, event.spans)
        self._dealer.feed(worker.pool, now, out)

    # -- time --

    def _moments(self) -> list[float]:
        moments = [until for group in self._roster.groups() for until in group.returning.values()]
        for job in self._jobs.values():
            if (due := job.due) is not None:
                moments.append(due)
            if job.orphan_since is not None:
                moments.append(job.orphan_since + self._client_grace)
            if (deserted := job.deserted) is not None:
                moments.append(deserted + self._client_grace)
            if (patient := job.apart.patient_until) is not None:
                moments.append(patient)
            if job.alone_since is not None and job.followers:
                moments.append(job.alone_since + self._start_timeout)
                if not job.losses and not job.asked:
                    moments.append(job.alone_since + PATIENCE)
        return moments

    def _tick(self, now: float, out: Actions) -> None:
        self._rewake = True
        for group in self._roster.groups():
            for name in [name for name, until in group.returning.items() if now >= until]:
                del group.returning[name]
        for job in list(self._jobs.values()):
            self._check(job, now, out)
            job.apart.tick(now)
            self._dealer.feed(job.pool, now, out)

    def _check(self, job: Job, now: float, out: Actions) -> None:
        # Only a client can launch: while none is attached, a job waits for one, or for a worker to
        # come back, until its timers end it.
        alone, orphan = job.alone_since if job.followers else None, job.orphan_since
        if (due := job.due) is not None and now >= due:
            self._fail(job, HardTimeoutError, reasons.too_long(job), out)
        elif orphan is not None and now >= orphan + self._client_grace:
            reason = f"no client was attached to it for {self._client_grace:g} s"
            self._close(job, JobState.CANCELLED, out, reason=reason)
        elif (deserted := job.deserted) is not None and now >= deserted + self._client_grace:
            self._fail(job, JobError, reasons.deserted(job), out)
        elif alone is not None and now >= alone + self._start_timeout:
            what = f"no worker could be had within start_timeout ({self._start_timeout:g} s)"
            self._fail(job, NoWorkersError, reasons.alone(job, what), out)
        elif alone is not None and not job.losses and not job.asked and now >= alone + PATIENCE:
            self._ask_for_workers(job, "no worker of its kind is up", out)

    def _fail(
        self,
        job: Job,
        error: type[DayflyError],
        reason: str,
        out: Actions,
        failure: EnvironmentFailure | None = None,
    ) -> None:
        name = error.__name__
        self._close(job, JobState.FAILED, out, error=name, reason=reason, failure=failure)
