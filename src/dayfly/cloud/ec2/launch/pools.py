"""Where instances are asked for next: decided from what came and what did not, without I/O.

A *pool* is what EC2 takes an instance from: a market, an instance type and a subnet (so a
zone). Pools are tried in order of preference: market (spot before on-demand), then type, then
zone, the cheapest first. What is asked for at once is a *wave* of batches, over the zones of
one market and type; what it lacks is asked of the next pools in the next wave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from dayfly.model import Instance, Shortfall

#: Instances per call; EC2's advice is to break up larger requests.
BATCH: Final = 100
#: The quota of volumes, which all pools draw on.
VOLUMES: Final = "volumes"
#: Seconds for which a pool that had nothing is not asked again.
DRY_FOR: Final = 180.0


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One market, type and subnet.

    Attributes:
        family: Which quota counts it, see :func:`dayfly.cloud.ec2.launch.quotas.family`.
        vcpus: Of one instance.
        hourly: US dollars, as they go into a tag; empty where nobody knows.
    """

    instance_type: str
    spot: bool
    subnet: str
    zone: str
    family: str
    vcpus: int
    hourly: str = ""

    @property
    def key(self) -> str:
        """Its name among the pools of a region."""
        return f"{self.instance_type}/{self.market}/{self.subnet}"

    @property
    def market(self) -> str:
        """``spot`` or ``on-demand``."""
        return "spot" if self.spot else "on-demand"

    @property
    def tier(self) -> tuple[bool, str]:
        """Pools of one tier differ in their zone only."""
        return self.spot, self.instance_type

    @property
    def purse(self) -> str:
        """The quota that an instance of it is counted against."""
        return f"{self.market}/{self.family}"

    def size(self, quota: str) -> int:
        """What one instance of it takes from a quota."""
        return 1 if quota == VOLUMES else self.vcpus

    def __str__(self) -> str:
        return f"{self.instance_type} {self.market} in {self.zone}"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one call asks for."""

    pool: Pool
    count: int


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a quota that has refused, in vCPUs (or volumes).

    EC2 refuses a batch whole where only a part of it would fit, and does not say how much room
    there is: it is searched by halves.

    Attributes:
        most: What may still fit.
        ask: What to ask for next.
    """

    most: int
    ask: int

    def instances(self, size: int) -> int:
        """How many instances of a size to ask for next; 0 when none can fit."""
        return max(1, self.ask // size) if self.most >= size else 0


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch knows of its pools.

    Attributes:
        pools: In order of preference.
        missing: Instances still to be asked for.
        enough: Instances still missing to the minimum; none when zero or less.
        free: Addresses left, by subnet.
        closed: Keys of pools that have been asked in vain.
        resting: Keys of pools that were dry minutes ago, in another launch.
        room: What is known of quotas that have refused, by quota.
    """

    pools: tuple[Pool, ...]
    missing: int
    enough: int
    free: dict[str, int]
    closed: frozenset[str] = frozenset()
    resting: frozenset[str] = frozenset()
    room: dict[str, Room] = {}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one batch.

    Attributes:
        got: Instances that came, those included that have ended since.
        end: What follows for the pool; empty if it gave all.
        quota: The quota that refused: a pool's purse, or :data:`VOLUMES`.
        limit: What that quota allows in all, in vCPUs; ``None`` where nobody knows.
        code: The error's, or one that fits.
        message: The error's.
    """

    batch: Batch
    got: int
    end: str = ""
    quota: str = ""
    limit: int | None = None
    code: str = ""
    message: str = ""

    @property
    def shortfall(self) -> Shortfall | None:
        """What to report of it; ``None`` if it gave all."""
        if self.got >= self.batch.count:
            return None
        return Shortfall(
            pool=str(self.batch.pool),
            asked=self.batch.count,
            got=self.got,
            code=self.code,
            message=self.message,
        )


#: What may follow from a batch for its pool.
CLOSE, CLOSE_SUBNET, SHRINK, HALT = "close", "close subnet", "shrink", "halt"


def plan(outlook: Outlook) -> list[Batch]:
    """The batches of the next wave; none when there is nothing left to ask, or nobody."""
    if outlook.missing <= 0:
        return []
    for resting in (False, True):
        if resting and outlook.enough <= 0:
            return []  # no need to bother a pool that was dry minutes ago
        for tier in dict.fromkeys(pool.tier for pool in outlook.pools):
            pools = [
                pool
                for pool in outlook.pools
                if pool.tier == tier and _open(pool, outlook, resting=resting)
            ]
            if pools:
                return _spread(pools, outlook)
    return []


def _open(pool: Pool, outlook: Outlook, *, resting: bool) -> bool:
    return (
        pool.key not in outlook.closed
        and (resting or pool.key not in outlook.resting)
        and outlook.free.get(pool.subnet, 0) > 0
        and all(count > 0 for count in _rooms(pool, outlook))
    )


def _rooms(pool: Pool, outlook: Outlook) -> list[int]:
    """How many instances of a pool the quotas may allow, as far as they are known."""
    return [
        outlook.room[quota].instances(pool.size(quota))
        for quota in (pool.purse, VOLUMES)
        if quota in outlook.room
    ]


def _spread(pools: Sequence[Pool], outlook: Outlook) -> list[Batch]:
    """Batches over the zones of one tier, turn by turn, as far as addresses and quotas go."""
    rooms = _rooms(pools[0], outlook)
    left = min([outlook.missing, *rooms])
    free = {pool.subnet: outlook.free[pool.subnet] for pool in pools}
    batches = []
    while left > 0 and any(free.values()):
        for pool in pools:
            count = min(left, BATCH, free[pool.subnet])
            if count > 0:
                batches.append(Batch(pool=pool, count=count))
                free[pool.subnet] -= count
                left -= count
                if rooms:
                    return batches  # near a quota: one call, whose answer is clear
    return batches


def learn(outlook: Outlook, outcomes: Iterable[Outcome]) -> Outlook:
    """What a launch knows after a wave."""
    outcomes = list(outcomes)
    came = sum(outcome.got for outcome in outcomes)
    free, closed, room = dict(outlook.free), set(outlook.closed), dict(outlook.room)
    missing = outlook.missing - came
    for outcome in outcomes:
        pool = outcome.batch.pool
        free[pool.subnet] = max(0, free[pool.subnet] - outcome.got)
        if outcome.end == CLOSE:
            closed.add(pool.key)
        elif outcome.end == CLOSE_SUBNET:
            free[pool.subnet] = 0
        elif outcome.end == HALT:
            missing = 0
    for outcome in outcomes:
        _measure(room, outcome)
    return msgspec.structs.replace(
        outlook,
        missing=missing,
        enough=outlook.enough - came,
        free=free,
        closed=frozenset(closed),
        room=room,
    )


def _measure(room: dict[str, Room], outcome: Outcome) -> None:
    """Narrow the search for the room in a quota by what became of a batch."""
    pool = outcome.batch.pool
    for quota in (pool.purse, VOLUMES):
        size = pool.size(quota)
        if outcome.end == SHRINK and outcome.quota == quota:
            most = outcome.batch.count * size - 1
            ask = most // 2
            if outcome.limit is not None and outcome.limit < most:
                most = ask = outcome.limit  # most often nothing else runs
            if quota in room and room[quota].most < most:
                most, ask = room[quota].most, room[quota].most // 2
            room[quota] = Room(most=most, ask=max(ask, 1))
        elif quota in room:
            most = max(0, room[quota].most - outcome.got * size)
            room[quota] = Room(most=most, ask=(most + 1) // 2)


def unasked(outlook: Outlook) -> list[Shortfall]:
    """Why pools were not asked although instances are missing."""
    found = []
    for pool in outlook.pools:
        if pool.key in outlook.closed or outlook.missing <= 0:
            continue
        if outlook.free.get(pool.subnet, 0) <= 0:
            code, message = "InsufficientFreeAddressesInSubnet", f"{pool.subnet} is full"
        elif pool.key in outlook.resting:
            code, message = "InsufficientInstanceCapacity", "it had none some minutes ago"
        else:
            continue
        found.append(
            Shortfall(pool=str(pool), asked=outlook.missing, got=0, code=code, message=message)
        )
    return found


def order(pools: Iterable[Pool]) -> tuple[Pool, ...]:
    """Put the zones of each tier in order, the cheapest first; tiers stay as they are."""
    pools = list(pools)
    tiers = list(dict.fromkeys(pool.tier for pool in pools))
    return tuple(
        sorted(
            pools,
            key=lambda pool: (tiers.index(pool.tier), float(pool.hourly or "inf")),
        )
    )


class Resting:
    """The pools that were dry minutes ago, for all launches of a process."""

    def __init__(self) -> None:
        # By market, type and zone, which is what runs dry, whatever the subnet.
        self._until: dict[tuple[str, bool, str, str], float] = {}

    def add(self, region: str, pool: Pool | Instance, now: float, since: float = 0.0) -> None:
        """A pool had nothing.

        Args:
            region: Where.
            pool: Which one; or an instance that it took back.
            now: In seconds of the monotonic clock.
            since: How many seconds ago that was.
        """
        key, until = _supply(region, pool), now + DRY_FOR - max(0.0, since)
        self._until[key] = max(until, self._until.get(key, 0.0))

    def among(self, region: str, pools: Iterable[Pool], now: float) -> frozenset[str]:
        """The keys of those pools that rest."""
        return frozenset(
            pool.key for pool in pools if self._until.get(_supply(region, pool), 0.0) > now
        )

    def forget(self) -> None:
        """Let all pools be asked again."""
        self._until.clear()


def _supply(region: str, pool: Pool | Instance) -> tuple[str, bool, str, str]:
    return region, pool.spot, pool.instance_type, pool.zone


#: The resting pools of this process.
RESTING: Final = Resting()
