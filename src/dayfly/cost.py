"""What VMs cost: EC2's way of billing as plain arithmetic, in US dollars.

An instance is billed by the second from the start of each run, for 60 s at least (EC2's
StartInstances page: "a one-minute minimum charge"). To its type's price come its root volume
and its public address. Left out, as small beside these: requests to storage, traffic, and the
seconds that a VM lives on after its job, by ``soft_dismantle_timeout``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from dayfly.dismantle import SLACK
from dayfly.errors import ConfigError
from dayfly.model import DismantlePolicy, Instance, InstanceState, Price, Role

#: Seconds that are billed for each start of an instance, at least.
MINIMUM = 60.0
#: Dollars per hour of a public IPv4 address (AWS, for every address since February 2024).
IPV4_HOURLY = 0.005
#: GiB of the root volume of Ubuntu's images, and dollars per GiB and month of gp3 in
#: us-east-1 (AWS's page on EBS prices, 2025; up to twice as much in other regions).
ROOT_GIB, GP3_MONTHLY = 8, 0.08
#: Hours of a month, as AWS reckons it.
MONTH = 730.0
ROOT_HOURLY = ROOT_GIB * GP3_MONTHLY / MONTH


def all_in(hourly: float, *, public: bool = True) -> float:
    """Dollars per hour of a VM, given those of its type; one that is free has no extras."""
    if not hourly:
        return 0.0
    return hourly + ROOT_HOURLY + (IPV4_HOURLY if public else 0.0)


def hourly_of(instance: Instance) -> float | None:
    """Dollars per hour of an instance, all in; ``None`` where nobody knows.

    One whose addresses are not settled yet is taken to get a public one.
    """
    if instance.hourly is None:
        return None
    settled = instance.state is InstanceState.RUNNING and instance.private_address
    private = bool(settled) and instance.address == instance.private_address
    return all_in(instance.hourly, public=not private)


def bill(seconds: float, hourly: float, *, started: bool) -> float:
    """Dollars for a while of a VM.

    Args:
        seconds: How long.
        hourly: Dollars per hour, all in.
        started: The VM was started for it, so that the minimum counts.
    """
    return max(MINIMUM if started else 0.0, seconds) * hourly / 3600.0


def dollars(amount: float, *, up: bool = False) -> str:
    """An amount as people read it: ``$0.0012``, ``$0.19``, ``$1,234.50``.

    Args:
        amount: In US dollars.
        up: Round up, as a bound must be.
    """
    if 0 < amount < 0.00005:
        return "<$0.0001"
    # What would be rounded to ten cents and more has no need of four digits.
    digits = 2 if amount >= 0.095 or not amount else 4
    if up:
        amount = math.ceil(amount * 10**digits - 1e-6) / 10**digits
    return f"${amount:,.{digits}f}"


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """VMs of one kind that a job needs.

    Attributes:
        price: Of the type that is preferred.
        others: Prices of what may come in its place: other types, on-demand for spot.
        starts: Whether they are yet to be started.
    """

    role: Role
    count: int
    instance_type: str
    price: Price
    others: tuple[Price, ...] = ()
    spot: bool = False
    starts: bool = True

    @property
    def words(self) -> str:
        """``4 x t3.medium spot``, ``master t2.micro``."""
        spot = " spot" if self.spot else ""
        if self.role == "master":
            return f"master {self.instance_type}{spot}"
        return f"{self.count:,} x {self.instance_type}{spot}"


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's VMs will cost.

    Attributes:
        words: The VMs.
        known: Whether every price is known; else the sums are ``None``.
        unknown: The types without a price, and why, for people.
        minimum: As soon as they are launched, however short the job: 60 s of each start.
        worst: Up to ``hard_dismantle_timeout``, by the dearest that may come; ``None`` also
            where no timer bounds it.
        per_hour: By the preferred prices.
        source: Where the prices are from, and of which date.
    """

    words: str
    known: bool
    unknown: str = ""
    minimum: float | None = None
    worst: float | None = None
    per_hour: float | None = None
    source: str = ""

    def __str__(self) -> str:
        if self.per_hour is None:
            return f"{self.words}: no price known ({self.unknown})"
        bound = "with no bound, as auto_dismantle is off"
        if self.worst is not None:
            bound = f"at most {dollars(self.worst, up=True)} by hard_dismantle_timeout"
        return f"{self.words}: {dollars(self.per_hour)} per hour; {bound} ({self.source})"


def estimate(
    shares: Sequence[Share],
    policy: DismantlePolicy,
    *,
    start_timeout: float,
    public: bool = True,
) -> Estimate:
    """Reckon what VMs will cost.

    Args:
        shares: All that the job needs, the master among them.
        policy: When they go.
        start_timeout: Seconds of each start that lie before the job's own.
        public: Whether they have public addresses.
    """
    shares = [share for share in shares if share.count]
    words = " + ".join(share.words for share in shares)
    prices = [price for share in shares for price in (share.price, *share.others)]
    unknown = {
        f"{share.instance_type}: {price.source}": None
        for share in shares
        for price in (share.price, *share.others)
        if price.hourly is None
    }
    if unknown:
        return Estimate(words=words, known=False, unknown="; ".join(unknown))
    preferred = dearest = minimum = 0.0
    for share in shares:
        each = [all_in(p.hourly or 0.0, public=public) for p in (share.price, *share.others)]
        preferred += share.count * each[0]
        dearest += share.count * max(each)
        minimum += share.count * bill(0.0, min(each), started=share.starts)
    seconds = start_timeout + policy.hard + SLACK
    return Estimate(
        words=words,
        known=True,
        minimum=minimum,
        worst=bill(seconds, dearest, started=True) if policy.auto else None,
        per_hour=preferred,
        source="; ".join(dict.fromkeys(price.source for price in prices)),
    )


def check_cap(found: Estimate, max_cost: float | None) -> None:
    """Refuse a job that its cap cannot hold, before anything is launched.

    Raises:
        ConfigError: ``max_cost`` is below what the launch alone costs, or no price is known
            to hold it against.
    """
    if max_cost is None:
        return
    if found.minimum is None:
        raise ConfigError(
            f"max_cost: {dollars(max_cost)} cannot be kept: no price is known of all of"
            f" {found.words}",
            cause=found.unknown,
            hint="leave max_cost out: hard_dismantle_timeout and max_workers still bound the job",
        )
    if max_cost < found.minimum:
        raise ConfigError(
            f"max_cost: {dollars(max_cost)} is less than the launch alone costs,"
            f" {dollars(found.minimum)}: {found.words}",
            cause=f"each start of a VM is billed for {MINIMUM:g} s at least ({found.source})",
            hint="raise max_cost, or lower max_workers",
        )
