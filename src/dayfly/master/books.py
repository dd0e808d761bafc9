"""What is written down of jobs: by the turn of the loop in the journal, at their end in storage."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dayfly.master import events as e
from dayfly.master.archive import Archivist
from dayfly.master.dossier import Dossier
from dayfly.master.journal import KEPT_ROWS, Journal
from dayfly.master.logbook import Logbook
from dayfly.master.shelf import Shelf
from dayfly.model import CallOutcome, JobRow, JobState
from dayfly.storage.base import Storage
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Bytes of outcomes in one delivery, about; far below the wire's largest frame.
DELIVERY = 4 * 1024 * 1024
#: Jobs that storage has, and that no client has fetched, whose outcomes are kept here too.
UNFETCHED = 100


class Books:
    """The records of all jobs.

    Args:
        journal: Where they are kept.
        logbook: The function logs.
        storage: Where jobs that are over go.
        archived: Called when one is there, with the words of a failure or none.
        followed: Whether any client follows a job.
        clock_now: The date.

    Attributes:
        shelf: Chunks of items.
        rows: Jobs that are over, oldest first; the last :data:`KEPT_ROWS`.
    """

    def __init__(
        self,
        journal: Journal,
        logbook: Logbook,
        storage: Storage,
        *,
        archived: Callable[[JobRow, str], None],
        followed: Callable[[str], bool],
        clock_now: Callable[[], float],
    ) -> None:
        self.journal = journal
        self.logbook = logbook
        self.shelf = Shelf(journal)
        self.rows: dict[str, JobRow] = {}
        self.archivist = Archivist(journal, logbook, storage, self._archived)
        self._tell_archived = archived
        self._followed = followed
        self._now = clock_now
        self._dossiers: dict[str, Dossier] = {}
        self._fresh: dict[str, Dossier] = {}
        self._closing: list[e.JobClosed] = []
        #: In the order in which storage got them.
        self._unfetched: dict[str, None] = {}

    def dossier(self, job: str) -> Dossier | None:
        """A job that is not forgotten."""
        return self._dossiers.get(job)

    def knows(self, job: str) -> bool:
        """Whether a job runs, or has run."""
        return job in self._dossiers or job in self.rows

    def add(self, dossier: Dossier) -> None:
        """A new job, or one from the journal."""
        self._dossiers[dossier.spec.id] = dossier
        if dossier.row is not None:
            self._put_away(dossier, dossier.row)

    def deliver(self, job: str, outcomes: list[CallOutcome]) -> None:
        """Outcomes for the next delivery."""
        dossier = self._fresh[job] = self._dossiers[job]
        dossier.fresh += outcomes

    def remember(self, action: e.Tried | e.Marked | e.Absolved) -> None:
        """What has happened to calls that are to be run again."""
        match action:
            case e.Tried(job=name, index=index, tried=tried):
                self.journal.tried(name, index, tried)
            case e.Marked(job=name, loss=loss):
                self.journal.lost(name, loss)
            case e.Absolved(job=name, worker=worker, incarnation=incarnation):
                self.journal.absolved(name, worker, incarnation)

    def close(self, action: e.JobClosed) -> None:
        """A job is over, after what was delivered so far."""
        self._closing.append(action)

    def release(self, job: str) -> None:
        """A client holds every outcome of a job."""
        dossier = self._dossiers.get(job)
        if dossier is not None and dossier.ended is not None:
            dossier.released = True
            self.journal.released(job)
            self.drop_if_done(job)

    def drop_if_done(self, job: str) -> None:
        """Forget all but the row of a job that nobody needs any more."""
        dossier = self._dossiers.get(job)
        if dossier is None or not dossier.archived:
            return
        if not dossier.released:
            self._unfetched[job] = None
            oldest = (each for each in self._unfetched if not self._followed(each))
            if len(self._unfetched) > UNFETCHED and (first := next(oldest, None)) is not None:
                self.release(first)
            return
        self._unfetched.pop(job, None)
        if not self._followed(job):
            self.journal.drop(job)
            del self._dossiers[job]
            self._forget_rows()

    def _forget_rows(self) -> None:
        """Forget the oldest jobs altogether; storage has them until it is cleaned."""
        while len(self.rows) > KEPT_ROWS:
            oldest = next((job for job in self.rows if job not in self._dossiers), None)
            if oldest is None:
                return
            del self.rows[oldest]
            self.journal.forget(oldest)
            self.logbook.delete(oldest)

    def commit(self) -> list[str]:
        """Write what this turn has brought, and let followers read it.

        Returns:
            The jobs whose followers have something to read.
        """
        fresh, self._fresh = self._fresh, {}
        closing, self._closing = self._closing, []
        numbers = {job: self._write(job, dossier) for job, dossier in fresh.items()}
        ends = [self._end(action, numbers) for action in closing]
        self.journal.commit()
        for job, number in numbers.items():
            fresh[job].last = number
        for dossier, ended, row in ends:
            dossier.ended = ended
            self._put_away(dossier, row)
        return [*numbers, *(ended.job for _, ended, _ in ends)]

    def _write(self, job: str, dossier: Dossier) -> int:
        """Write a job's fresh outcomes as deliveries; returns the number of the last one."""
        number, size, first = dossier.last, 0, 0
        for place, outcome in enumerate(dossier.fresh):
            size += len(outcome.payload) + 64
            if size >= DELIVERY or place == len(dossier.fresh) - 1:
                number += 1
                part = dossier.fresh[first : place + 1]
                frame = m.ENCODER.encode(m.Delivery(job=job, number=number, outcomes=part))
                self.journal.deliver(job, number, frame)
                size, first = 0, place + 1
        dossier.fresh.clear()
        return number

    def _end(
        self, action: e.JobClosed, numbers: dict[str, int]
    ) -> tuple[Dossier, m.JobEnded, JobRow]:
        job, dossier = action.job, self._dossiers[action.job]
        total = action.done if action.state is JobState.COMPLETED else action.total
        row = dossier.row_now(action.done, action.failed, total, action.state, action.reason)
        dossier.row = self.rows[job] = row
        ended = m.JobEnded(
            job=job,
            state=action.state,
            after=numbers.get(job, dossier.last),
            error=action.error,
            reason=action.reason,
            failure=action.failure,
            cost=dossier.cost,
            total=total,
        )
        self.journal.ended(ended, row, self._now())
        self.shelf.forget(job)
        self.logbook.close_job(job)
        log.info("job %s is over: %s %s", job, action.state, action.reason)
        return dossier, ended, row

    def _put_away(self, dossier: Dossier, row: JobRow) -> None:
        if dossier.archived:
            self.drop_if_done(row.id)
        elif dossier.ended is not None:
            self.archivist.begin(dossier.record(row, dossier.ended))

    def _archived(self, row: JobRow, failure: str) -> None:
        if not failure:
            self.journal.archived(row.id)
            if (dossier := self._dossiers.get(row.id)) is not None:
                dossier.archived = True
                if dossier.spec.detach:
                    # Nobody need come for it here: storage holds it for whoever attaches.
                    dossier.released = True
                    self.journal.released(row.id)
            self.drop_if_done(row.id)
        self._tell_archived(row, failure)
