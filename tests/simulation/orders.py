"""Launches as the simulated cloud keeps them: by their tokens, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dayfly.model import InstanceSpec, Shortfall
from tests.simulation.vms import Pool

#: Seconds after which a launch that was broken off is not gone on with, as on EC2.
STALE = 900.0


@dataclass
class Order:
    """One launch: what it is to bring, the pools that are still to be asked, what came.

    Attributes:
        at: When it was first said, in seconds of the loop's time.
        pools: Each is asked by one call, in order.
        ids: What came.
        failed: Nothing of it is to stay.
        silences: How often nobody heard an answer to it.
    """

    token: str
    spec: InstanceSpec
    count: int
    minimum: int
    at: float
    pools: list[Pool]
    ids: list[str] = field(default_factory=list)
    shortfalls: list[Shortfall] = field(default_factory=list)
    failed: bool = False
    silences: int = 0

    @property
    def missing(self) -> int:
        return self.count - len(self.ids)

    @property
    def over(self) -> bool:
        """Whether no call is left to make."""
        return self.failed or not self.missing or not self.pools

    def answer(self, pool: Pool, asked: int, ids: Sequence[str]) -> None:
        """What one pool gave."""
        self.ids += ids
        if len(ids) < asked:
            self.shortfalls.append(
                Shortfall(
                    pool=str(pool),
                    asked=asked,
                    got=len(ids),
                    code="InsufficientInstanceCapacity",
                    message=f"it had {len(ids)} of {asked}",
                )
            )
        self.failed = self.over and len(self.ids) < self.minimum


def pools_of(spec: InstanceSpec, zones: Sequence[str]) -> list[Pool]:
    """The pools that will do, in order of preference."""
    markets = [True, False] if spec.spot and spec.fallback else [spec.spot]
    return [
        Pool(instance_type, zone, spot)
        for spot in markets
        for instance_type in spec.instance_types
        for zone in zones
    ]
