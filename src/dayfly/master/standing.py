"""How jobs and VMs stand, for whoever follows them or asks."""

from __future__ import annotations

from dayfly.master.books import Books
from dayfly.master.fleet import Fleet
from dayfly.master.home import Home
from dayfly.master.scheduler import Scheduler
from dayfly.master.till import Till
from dayfly.model import JobRow, JobState, MasterConfig, WorkerRow
from dayfly.wire import messages as m


class Standing:
    """What can be told, from all who know a part of it."""

    def __init__(
        self,
        config: MasterConfig,
        scheduler: Scheduler,
        fleet: Fleet,
        home: Home,
        books: Books,
        till: Till,
    ) -> None:
        self._config = config
        self._scheduler = scheduler
        self._fleet = fleet
        self._home = home
        self._books = books
        self._till = till

    def status(self, job: str) -> m.JobStatus | None:
        """How a job stands; ``None`` for one that does not run."""
        open_job = self._scheduler.job(job)
        if open_job is None:
            return None
        ready, coming = self._scheduler.workers_for(job)
        waiting = self._fleet.waiting(coming, ready + len(coming))
        if not waiting and not ready:
            waiting = "workers to be launched"
        return m.JobStatus(
            job=job,
            done=open_job.ledger.done,
            running=open_job.ledger.leased,
            ready=ready,
            coming=len(coming),
            waiting=waiting,
            cost=self._till.cost(job),
            hourly=self._till.hourly(job),
            total=open_job.ledger.total,
        )

    def job_rows(self) -> list[JobRow]:
        """All jobs, oldest first."""
        rows = dict(self._books.rows)
        for job_id in self._scheduler.open_jobs:
            job, dossier = self._scheduler.job(job_id), self._books.dossier(job_id)
            if job is not None and dossier is not None:
                ledger = job.ledger
                dossier.cost = self._till.cost(job_id)
                rows[job_id] = dossier.row_now(
                    ledger.done, ledger.failed, ledger.total, JobState.RUNNING
                )
        return list(rows.values())

    def worker_rows(self) -> list[WorkerRow]:
        """The master itself, then its workers."""
        rows = self._fleet.rows(self._scheduler.held)
        running = sum(row.running for row in rows)
        return [self._home.row(self._config.instance, self._config.runtime, running), *rows]
