"""What became of a call that launches, in a launch's terms: decided from the answer alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from dayfly.cloud.ec2.api import meaning, message_of
from dayfly.cloud.ec2.launch.pools import (
    CLOSE,
    CLOSE_SUBNET,
    HALT,
    SHRINK,
    VOLUMES,
    Batch,
    Outcome,
)
from dayfly.cloud.ec2.launch.quotas import name_of
from dayfly.cloud.ec2.launch.waves import Order, Wave
from dayfly.cloud.ec2.reactions import Kind
from dayfly.errors import ApiError, CapacityError, ConfigError, DayflyError
from dayfly.model import Instance

#: What EC2 says of a network of ours that it does not know yet.
_NEW_NETWORK: Final = frozenset(
    {"InvalidSubnetID.NotFound", "InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound"}
)


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one batch.

    Attributes:
        outcome: What came, and what follows for the pool.
        instances: Those that came, as EC2 told of them.
        dry: Whether the pool had too few.
        fatal: What makes the whole launch impossible.
    """

    outcome: Outcome
    instances: list[Instance] = []
    dry: bool = False
    fatal: DayflyError | None = None


def answered(batch: Batch, instances: Sequence[Instance]) -> Carried:
    """A call that launched something, if perhaps less than was asked."""
    got = len(instances)
    if got >= batch.count:
        return Carried(outcome=Outcome(batch=batch, got=got), instances=list(instances))
    outcome = Outcome(
        batch=batch,
        got=got,
        end=CLOSE,
        code="InsufficientInstanceCapacity",
        message=f"it had {got} of {batch.count}",
    )
    return Carried(outcome=outcome, instances=list(instances), dry=True)


#: What follows for a pool from an error that is about it alone.
_ENDS: Final = {
    Kind.DRY: CLOSE,
    Kind.UNFIT: CLOSE,
    Kind.SUBNET_FULL: CLOSE_SUBNET,
    Kind.QUOTA: SHRINK,
    Kind.THROTTLED: HALT,
}


def refused(order: Order, batch: Batch, error: ApiError) -> Carried:
    """A call that launched nothing.

    Raises:
        ApiError: Nobody knows whether it did.
    """
    meant, message = meaning(error), message_of(error)
    if meant.kind is Kind.UNKNOWN:
        raise error
    if meant.kind is Kind.ENDED:
        return Carried(outcome=Outcome(batch=batch, got=batch.count))
    by_quota = meant.kind is Kind.QUOTA
    outcome = Outcome(
        batch=batch,
        got=0,
        end=_ENDS.get(meant.kind, ""),
        quota=(VOLUMES if meant.quota == VOLUMES else batch.pool.purse) if by_quota else "",
        limit=_limit(message) if by_quota else None,
        code=error.code,
        message=message,
    )
    fatal: DayflyError | None = None
    if meant.kind in (Kind.CONFIG, Kind.NEW_PROFILE):
        fatal = _misconfigured(order, batch, error)
    elif meant.kind not in _ENDS:
        fatal = error
    return Carried(outcome=outcome, dry=meant.kind is Kind.DRY, fatal=fatal)


def complaint(order: Order, wave: Wave) -> CapacityError:
    """The error of a launch that brought too little: every pool, and what it said."""
    came = len(wave.came)
    reasons = dict.fromkeys(f"{s.pool}: {s.code}: {s.message}" for s in wave.shortfalls)
    quotas = sorted(name_of(quota) for quota in wave.outlook.room)
    if quotas:
        hint = f"ask AWS to raise a quota: {', '.join(quotas)}; or fewer, smaller VMs"
    elif any(s.code == "InsufficientFreeAddressesInSubnet" for s in wave.shortfalls):
        hint = "give larger subnets, or more of them, in subnet_id"
    else:
        hint = "give more types in worker_instance_type, or on_demand_fallback: True"
    return CapacityError(
        f"{order.count} VMs ({order.recipe.spec.role}) were asked for, and at least "
        f"{order.minimum}; EC2 gave {came}",
        cause="; ".join(reasons) or "no pool could be asked",
        hint=hint,
    )


def may_be_new(order: Order, error: ApiError) -> bool:
    """Whether EC2 may only not know it yet: an instance profile, or a network of ours."""
    if meaning(error).kind is Kind.NEW_PROFILE:
        return True
    return order.recipe.own_network and error.code in _NEW_NETWORK


def _limit(message: str) -> int | None:
    """The vCPUs that a quota allows, which VcpuLimitExceeded tells."""
    found = re.search(r"vCPU limit of (\d+)", message)
    return int(found[1]) if found else None


def _misconfigured(order: Order, batch: Batch, error: ApiError) -> ConfigError:
    role = order.recipe.spec.role
    keys = [
        key
        for key in meaning(error).keys
        # A type is one key for the master and another for the workers.
        if not key.endswith("_instance_type") or key.startswith(role)
    ]
    ours = ConfigError(
        f"EC2 does not launch {batch.pool} with this configuration; "
        f"look at {', '.join(f'aws_ec2.{key}' for key in keys)}",
        cause=error.cause,
        hint=error.hint,
    )
    ours.__cause__ = error
    return ours
