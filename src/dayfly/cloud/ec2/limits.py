"""How fast EC2 lets an account call: token buckets, kept for the whole process.

EC2 refuses what comes too fast (``RequestLimitExceeded``) per account, region and operation. A
client that waits here first is not refused, and knows how long it will wait.

Source of the figures: the EC2 developer guide, "Request throttling for the Amazon EC2 API", and
the simulator that Karpenter's authors hold against EC2 (``kwok/ec2/ratelimiting.go``).
"""

from __future__ import annotations

from typing import Final

import msgspec


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that flow back at a steady rate. A debt is allowed: whoever makes it waits.

    Attributes:
        capacity: Tokens when it is full.
        refill: Tokens per second.
        level: Tokens at ``at``; below zero while somebody waits.
        at: In seconds of the monotonic clock.
    """

    capacity: float
    refill: float
    level: float
    at: float = 0.0

    def filled(self, now: float) -> Bucket:
        """The bucket as it is now."""
        level = min(self.capacity, self.level + max(0.0, now - self.at) * self.refill)
        return msgspec.structs.replace(self, level=level, at=max(now, self.at))

    def take(self, now: float, count: float = 1.0) -> tuple[Bucket, float]:
        """Take tokens, those of the future too; returns the seconds until they are there."""
        filled = self.filled(now)
        level = filled.level - count
        return msgspec.structs.replace(filled, level=level), max(0.0, -level / self.refill)

    def give(self, count: float) -> Bucket:
        """Put back tokens that were not used."""
        return msgspec.structs.replace(self, level=min(self.capacity, self.level + count))

    def keep(self, now: float, share: float) -> Bucket:
        """Keep a share of the tokens: EC2 says that there are fewer than was thought."""
        filled = self.filled(now)
        return msgspec.structs.replace(filled, level=min(filled.level, filled.level * share))


#: Capacity and refill per second of an operation's requests.
_REQUESTS: Final = {
    "run_instances": (5, 2),
    "start_instances": (5, 2),
    "stop_instances": (50, 5),
    "terminate_instances": (100, 5),
    "create_tags": (100, 10),
}
_READS: Final = (100, 20)
_WRITES: Final = (50, 5)
#: Of what RunInstances launches: one token per instance.
_INSTANCES: Final = (1000, 2)
READ_PREFIXES: Final = ("describe_", "get_", "list_", "lookup_", "decode_")


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What EC2 lets an account launch.

    Attributes:
        now: Instances that may be launched at once.
        rest: Instances beyond these.
        seconds: Until the last of the rest may be launched.
    """

    now: int
    rest: int
    seconds: float

    def __str__(self) -> str:
        if not self.rest:
            return f"{self.now} launches now"
        return f"{self.now} launches now, the other {self.rest} within {self.seconds:.0f} s"


class Limits:
    """The buckets of one account, by region and operation.

    EC2's throttling is per account, so one process has one of these (:data:`SHARED`).
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], Bucket] = {}
        self._instances: dict[str, Bucket] = {}

    def take(self, region: str, operation: str, now: float, instances: int = 0) -> float:
        """Take what one call needs; returns the seconds to wait before it is made.

        Args:
            region: Where.
            operation: By botocore's name, such as ``run_instances``.
            now: In seconds of the monotonic clock.
            instances: How many it may launch.
        """
        key = (region, operation)
        self._requests[key], wait = self._of(region, operation, now).take(now)
        if instances:
            self._instances[region], longer = self._launches(region, now).take(now, instances)
            wait = max(wait, longer)
        return wait

    def give(self, region: str, instances: int) -> None:
        """Put back launches that did not happen."""
        if region in self._instances:
            self._instances[region] = self._instances[region].give(instances)

    def refused(self, region: str, operation: str, now: float, *, again: bool = False) -> None:
        """EC2 refused a call as too fast: somebody else draws on the same buckets.

        Args:
            region: Where.
            operation: By botocore's name.
            now: In seconds of the monotonic clock.
            again: Whether it had been refused before, and waited. EC2 does not say which of
                its buckets is empty; then it is that of the launches, if it is one.
        """
        self._requests[region, operation] = self._of(region, operation, now).keep(now, 0.0)
        if again and operation == "run_instances":
            self._instances[region] = self._launches(region, now).keep(now, 0.5)

    def budget(self, region: str, count: int, now: float) -> Budget:
        """What becomes of a launch of ``count`` instances."""
        level = self._launches(region, now).filled(now).level
        at_once = max(0, min(count, int(level)))
        rest = count - at_once
        seconds = max(0.0, (count - level) / _INSTANCES[1]) if rest else 0.0
        return Budget(now=at_once, rest=rest, seconds=seconds)

    def within(self, region: str, seconds: float, now: float) -> int:
        """How many instances may be launched in the next seconds."""
        level = self._launches(region, now).filled(now).level
        return max(0, int(level + seconds * _INSTANCES[1]))

    def forget(self) -> None:
        """Begin with full buckets."""
        self._requests.clear()
        self._instances.clear()

    def _of(self, region: str, operation: str, now: float) -> Bucket:
        default = _READS if operation.startswith(READ_PREFIXES) else _WRITES
        capacity, refill = _REQUESTS.get(operation, default)
        full = Bucket(capacity=capacity, refill=refill, level=capacity, at=now)
        return self._requests.get((region, operation), full)

    def _launches(self, region: str, now: float) -> Bucket:
        capacity, refill = _INSTANCES
        full = Bucket(capacity=capacity, refill=refill, level=capacity, at=now)
        return self._instances.get(region, full)


#: The buckets of this process.
SHARED: Final = Limits()
