"""What can be had: capacity per type, zone and market, vCPU quotas, and prices."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

#: US dollars per hour and vCPU, on demand in us-east-1, by family; rounded.
_PER_VCPU = {
    "t2": 0.0232,
    "t3": 0.0208,
    "t3a": 0.0188,
    "t4g": 0.0168,
    "m5": 0.048,
    "m6i": 0.048,
    "m6g": 0.0385,
    "m7g": 0.0408,
    "c5": 0.0425,
    "c6i": 0.0425,
    "c6g": 0.034,
    "c7g": 0.0363,
    "r5": 0.063,
}


def vcpus(instance_type: str) -> int:
    """The vCPUs of a type that exists."""
    return int(INSTANCE_TYPES[instance_type]["VCpuInfo"]["DefaultVCpus"])


def facts(instance_type: str) -> dict[str, Any] | None:
    """What DescribeInstanceTypes says of a type; ``None``: there is no such type."""
    found: dict[str, Any] | None = INSTANCE_TYPES.get(instance_type)
    return found


def is_offered(instance_type: str, zone: str) -> bool:
    """Whether a zone has the type at all."""
    key = (instance_type, zone)
    if not _OFFERED:
        for offerings in INSTANCE_TYPE_OFFERINGS["availability-zone"].values():
            _OFFERED.update((each["InstanceType"], each["Location"]) for each in offerings)
    return key in _OFFERED


_OFFERED: set[tuple[str, str]] = set()


def on_demand_price(instance_type: str) -> float:
    family, _, size = instance_type.partition(".")
    count = vcpus(instance_type)
    # Small burstable sizes have one or two vCPUs and a fraction of the memory.
    scale = {"nano": 0.125, "micro": 0.25, "small": 0.5}.get(size, 1.0)
    if family == "t2":
        scale *= 2 if count == 1 else 1
    return round(_PER_VCPU.get(family, 0.05) * count * scale, 4)


def spot_price(instance_type: str, zone: str) -> float:
    """Believable and always the same: 28 to 45 % of the price on demand, by zone."""
    spread = zlib.crc32(f"{instance_type} {zone}".encode()) % 1000 / 1000
    return round(on_demand_price(instance_type) * (0.28 + 0.17 * spread), 6)


@dataclass
class Pools:
    """What is left of each pool; what nobody limited has no end.

    Attributes:
        left: Type, zone (``""``: each zone for itself) and market (``None``: both) -> instances.
    """

    left: dict[tuple[str, str, bool | None], int] = field(default_factory=dict)

    def limit(
        self, instance_type: str, zone: str | None, spot: bool | None, left: int | None
    ) -> None:
        key = (instance_type, zone or "", spot)
        if left is None:
            self.left.pop(key, None)
        else:
            self.left[key] = left

    def draw(self, pool: tuple[str, str, bool], count: int) -> int:
        """Take up to ``count`` instances; tells how many there were."""
        keys = self._keys(pool)
        had = min([count, *(self.left[key] for key in keys)])
        for key in keys:
            self.left[key] -= had
        return had

    def give_back(self, pool: tuple[str, str, bool]) -> None:
        for key in self._keys(pool):
            self.left[key] += 1

    def _keys(self, pool: tuple[str, str, bool]) -> list[tuple[str, str, bool | None]]:
        instance_type, zone, spot = pool
        either: tuple[bool | None, ...] = (spot, None)
        ours = [(t, z, s) for t in (instance_type, "*") for z in (zone, "") for s in either]
        return [key for key in ours if key in self.left]
