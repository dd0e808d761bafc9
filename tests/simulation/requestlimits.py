"""How many calls the simulated cloud takes: one token bucket per operation, for all who ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Capacity, and tokens that flow back per second. Source: the EC2 developer guide, "Request
#: throttling for the Amazon EC2 API".
LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "run_instances": (5, 2),
    "start_instances": (5, 2),
    "stop_instances": (50, 5),
    "terminate_instances": (100, 5),
    "create_tags": (100, 10),
    "describe": (100, 20),
    # Not requests, but what they launch.
    "instances": (1000, 2),
}


class RequestLimits:
    """The buckets of one account.

    Args:
        limits: As :data:`LIMITS`. What is not among them has the one of ``describe``.
    """

    def __init__(self, limits: Mapping[str, tuple[float, float]] = LIMITS) -> None:
        self._limits = limits
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, now: float, tokens: Mapping[str, float]) -> bool:
        """Take tokens out of each bucket that is named, or out of none."""
        levels = {name: self._level(name, now) for name in tokens}
        if any(levels[name] < count for name, count in tokens.items()):
            return False
        self._levels |= {name: (levels[name] - tokens[name], now) for name in tokens}
        return True

    def _level(self, name: str, now: float) -> float:
        capacity, refill = self._limits.get(name) or self._limits["describe"]
        level, at = self._levels.get(name, (capacity, now))
        return min(capacity, level + (now - at) * refill)
