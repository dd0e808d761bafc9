"""One open job, as the scheduler thinks of it."""

from __future__ import annotations

from dayfly.environment.report import EnvironmentFailure
from dayfly.master import events as e
from dayfly.master import sizing
from dayfly.master.apart import Apart
from dayfly.master.ledger import Ledger
from dayfly.model import JobSpec


class Job:
    """An open job.

    Attributes:
        started: When its first call was handed out.
        dealt: Which of all deals gave it calls last; 0 for none.
        mean: Moving mean of its calls' durations, seconds.
        restored: It ran before the master restarted: calls may be in unknown hands.
        asked: Workers that its client has been asked for and that have not come.
        losses: What happened to each worker that it lost, in words.
        unfit: Workers that could not be given what its functions need, and why, since one could.
        had_worker: Whether a worker was ever ready for it, and could be given that.
        spared: See :class:`dayfly.wire.messages.WorkersNeeded`; to be said when it is asked next.
        alone_since: Since when it has no worker, and a client that could launch some.
        orphan_since: Since when every client has left it, so that it ends after a grace.
        submitter_left: Since when the client that hands in its items has left it.
        followers: Clients that are attached. Only they can launch.
    """

    def __init__(self, spec: JobSpec, now: float) -> None:
        self.spec = spec
        self.pool = e.pool_of(spec)
        self.ledger = Ledger()
        self.apart = Apart(self.ledger)
        self.submitted = now
        self.started: float | None = None
        self.dealt = 0
        self.mean: float | None = None
        self.restored = False
        self.asked = 0
        self.losses: list[str] = []
        self.unfit: dict[str, EnvironmentFailure] = {}
        self.had_worker = False
        self.spared = 0
        self.alone_since: float | None = None
        self.orphan_since: float | None = None
        self.submitter_left: float | None = None
        self.followers = 1

    @classmethod
    def restored_from(cls, event: e.JobRestored, now: float) -> Job:
        """As the journal remembers it."""
        job = cls(event.spec, now)
        for chunk in event.chunks:
            job.ledger.extend(chunk.stop - chunk.start)
        job.ledger.mark(event.done)
        job.ledger.failed = event.failed
        job.ledger.total = event.total
        job.apart.restore(event.tries, event.losses, now)
        job.started = event.started
        job.had_worker = event.started is not None
        job.restored = True
        job.followers = 0
        job.orphan_since = now if event.orphan else None
        job.submitter_left = now if event.deserted else None
        return job

    @property
    def load(self) -> float:
        """What it uses now, in processes: the job with least goes first."""
        return self.ledger.leased * sizing.cost(self.mean)

    @property
    def outlives_its_client(self) -> bool:
        """Whether it runs to its end by itself: it was detached, and all of its items are here."""
        return self.spec.detach and self.ledger.total is not None

    @property
    def deserted(self) -> float | None:
        """Since when nobody is there who could hand in the rest of its items."""
        return self.submitter_left if self.ledger.total is None else None

    @property
    def due(self) -> float | None:
        """When ``hard_dismantle_timeout`` cuts it."""
        if not self.spec.policy.auto:
            return None
        return (self.submitted if self.started is None else self.started) + self.spec.policy.hard
