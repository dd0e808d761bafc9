"""What a run has cost so far, and the cap that it may not go above."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from dayfly.cost import bill, dollars, hourly_of
from dayfly.model import UP, Instance

#: Dollars that one job may cost at the most, however much is left.
JOB = 0.25
#: Dollars per hour that a VM without a known price is taken to cost: dear for what runs here.
UNKNOWN = 0.10


class SpentError(Exception):
    """The cap is reached."""


@dataclass
class Ledger:
    """US dollars, reckoned in two ways: the larger one counts.

    Attributes:
        cap: What the whole run may cost.
        by_jobs: The sum of ``job.cost``, which is dayfly's own word.
    """

    cap: float
    by_jobs: float = 0.0
    #: By id and start: each start is billed for itself.
    _bills: dict[tuple[str, float], float] = field(default_factory=dict)

    @property
    def by_listing(self) -> float:
        """The sum over all VMs that the cloud has listed, from their starts."""
        return sum(self._bills.values())

    @property
    def spent(self) -> float:
        """What counts."""
        return max(self.by_jobs, self.by_listing)

    @property
    def left(self) -> float:
        """Until the cap."""
        return self.cap - self.spent

    @property
    def for_a_job(self) -> float:
        """The ``max_cost`` of the next job.

        Raises:
            SpentError: There is none.
        """
        self.check()
        return min(JOB, self.left)

    def job(self, cost: float | None) -> None:
        """Book a job; of one that never met its master only the listing tells."""
        self.by_jobs += cost or 0.0

    def look(self, instances: Iterable[Instance], now: float | None = None) -> None:
        """Book what the cloud lists; one that is down was last billed when it was seen up."""
        now = time.time() if now is None else now
        for instance in instances:
            key = (instance.id, instance.launched_at)
            if instance.state in UP or key not in self._bills:
                hourly = hourly_of(instance)
                seconds = max(0.0, now - instance.launched_at)
                price = UNKNOWN if hourly is None else hourly
                self._bills[key] = bill(seconds, price, started=True)

    def check(self) -> None:
        """Refuse to go on.

        Raises:
            SpentError: The cap is reached.
        """
        if self.left <= 0:
            raise SpentError(f"the run has cost {self}, and may cost no more")

    def __str__(self) -> str:
        return (
            f"{dollars(self.spent)} of {dollars(self.cap)} (by the jobs' own word"
            f" {dollars(self.by_jobs)}, by EC2's listing {dollars(self.by_listing)})"
        )
