"""One job as the service keeps it beside the scheduler: for its followers and its row."""

from __future__ import annotations

import msgspec

from dayfly.master.journal import KeptJob
from dayfly.model import CallOutcome, JobRecord, JobRow, JobSpec, JobState
from dayfly.wire import messages as m


class Dossier:
    """One job that is not forgotten yet.

    Attributes:
        last: Number of the last delivery that is committed: as far as followers may read.
        fresh: Outcomes that wait for the next delivery.
        ended: The last word, once it is committed.
        row: Its row, once it is over.
        workers: Those that took part.
        archived: Whether storage has it.
        released: Whether a client holds every outcome.
        cost: US dollars of its VMs when they were last counted; ``None`` where no price is
            known.
        blind: Whether its followers were told that its ``max_cost`` cannot be kept.
    """

    def __init__(self, submit: m.Submit) -> None:
        spec = submit.spec
        self.spec: JobSpec = spec
        self.brief = m.JobBrief(
            id=spec.id,
            function=submit.function,
            modules=submit.modules,
            timeout=spec.timeout,
            environment=spec.environment,
            packages=spec.packages,
            system=spec.system,
            reserved=spec.reserved,
        )
        self.last = 0
        self.fresh: list[CallOutcome] = []
        self.ended: m.JobEnded | None = None
        self.row: JobRow | None = None
        self.workers: dict[str, None] = {}
        self.archived = False
        self.released = False
        self.cost: float | None = None
        self.blind = False

    @classmethod
    def of(cls, submit: m.Submit, kept: KeptJob) -> Dossier:
        """As the journal remembers it."""
        dossier = cls(submit)
        dossier.last = kept.last
        dossier.ended = kept.ended
        dossier.row = kept.row
        dossier.archived = kept.archived
        dossier.released = kept.released
        return dossier

    def row_now(
        self, done: int, failed: int, total: int | None, state: JobState, reason: str = ""
    ) -> JobRow:
        """Its row with these counts."""
        return JobRow(
            id=self.spec.id,
            function=self.spec.function,
            submitted_at=self.spec.submitted_at,
            workers=len(self.workers),
            done=done,
            failed=failed,
            total=total,
            state=state,
            reason=reason,
            client=self.spec.client,
            cost=self.cost,
        )

    def record(self, row: JobRow, ended: m.JobEnded) -> JobRecord:
        """What storage is to keep of it, but for its outcomes."""
        return JobRecord(
            **msgspec.structs.asdict(row),
            after=ended.after,
            error=ended.error,
            failure=ended.failure,
            single=self.spec.single,
            return_exceptions=self.spec.return_exceptions,
        )
