"""The token buckets that throttle EC2's API, per action and account.

The figures are those of Karpenter's own simulator of EC2 (``kwok/ec2/ratelimiting.go``) and of
Amazon's page on API throttling, as far as they are published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Action -> capacity and refill per second of the bucket of requests.
REQUESTS = {
    "RunInstances": (5, 2),
    "StartInstances": (5, 2),
    "StopInstances": (50, 5),
    "TerminateInstances": (100, 5),
    "CreateTags": (100, 10),
}
#: The same, one token per instance.
INSTANCES = {
    "RunInstances": (1000, 2),
    "StartInstances": (1000, 2),
    "StopInstances": (1000, 20),
    "TerminateInstances": (1000, 20),
}
#: Describe* with filters, ids or pages; Describe* of everything; anything else that changes things.
PAGED, UNPAGED, CHANGES = (100, 20), (50, 10), (50, 5)


@dataclass
class Bucket:
    capacity: float
    refill: float
    tokens: float
    at: float

    def take(self, count: int, now: float) -> bool:
        grown = self.tokens + (now - self.at) * self.refill
        self.tokens, self.at = min(self.capacity, grown), now
        if self.tokens < count:
            return False
        self.tokens -= count
        return True


@dataclass
class Buckets:
    """All of an account's buckets; full at first."""

    held: dict[str, Bucket] = field(default_factory=dict)

    def admit(self, action: str, params: dict[str, Any], now: float) -> bool:
        """Whether a request may pass; the tokens are taken then."""
        if not self._bucket(action, self._size(action, params), now).take(1, now):
            return False
        if action not in INSTANCES:
            return True
        count = int(params.get("MaxCount") or len(params.get("InstanceIds", [])))
        return self._bucket(f"{action} instances", INSTANCES[action], now).take(count, now)

    def _bucket(self, name: str, size: tuple[int, int], now: float) -> Bucket:
        if name not in self.held:
            self.held[name] = Bucket(*size, tokens=size[0], at=now)
        return self.held[name]

    @staticmethod
    def _size(action: str, params: dict[str, Any]) -> tuple[int, int]:
        if not action.startswith(("Describe", "Get", "List")):
            return REQUESTS.get(action, CHANGES)
        narrow = any(key.endswith(("Ids", "Filters", "Results")) for key in params)
        return PAGED if narrow else UNPAGED
