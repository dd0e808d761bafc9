"""What runs already counts against the quotas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from dayfly.cloud.ec2.launch.quotas import family


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an account has running, in vCPUs by quota (``spot/Standard ...``).

    Attributes:
        ours: Of one owner, and thus part of the fleet already.
        others: All else.
    """

    ours: Mapping[str, int] = {}
    others: Mapping[str, int] = {}


def purse(instance_type: str, *, spot: bool) -> str:
    """The quota that an instance counts against, as :attr:`.launch.pools.Pool.purse` has it."""
    return f"{'spot' if spot else 'on-demand'}/{family(instance_type)}"


def usage(instances: Iterable[Mapping[str, Any]], is_ours: Mapping[str, str]) -> Usage:
    """Count instances that are up, as EC2 describes them.

    Args:
        instances: Elements of ``Instances``.
        is_ours: The tags that ours carry.
    """
    ours: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for instance in instances:
        quota = purse(instance["InstanceType"], spot=instance.get("InstanceLifecycle") == "spot")
        count = ours if is_ours.items() <= tags_of(instance).items() else others
        count[quota] += _vcpus(instance)
    return Usage(ours=ours, others=others)


def tags_of(told: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a thing as EC2 describes it."""
    return {tag["Key"]: tag.get("Value", "") for tag in told.get("Tags", ())}


def _vcpus(instance: Mapping[str, Any]) -> int:
    options = instance.get("CpuOptions") or {}
    return int(options.get("CoreCount", 1)) * int(options.get("ThreadsPerCore", 1))
