"""A client of the emulated EC2 that can be killed at any of its calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dayfly.aws.session import Aws
from dayfly.clock import SystemEntropy
from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.limits import Limits
from tests.aws.emulator import EmulatedAws

OWNER = "alice@123456789012"
REGION = EmulatedAws.region
OURS = {"dayfly:managed": "true", "dayfly:owner": OWNER}


class HurriedClock:
    """Time that runs faster, so that nobody waits long in a test."""

    rate = 200

    def __init__(self) -> None:
        self._since = time.monotonic()

    def now(self) -> float:
        return 1_700_000_000.0 + self.monotonic()

    def monotonic(self) -> float:
        return (time.monotonic() - self._since) * self.rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.rate)


class SkippingClock(HurriedClock):
    """Time that stands still but in sleeps, which take no time."""

    def __init__(self) -> None:
        super().__init__()
        self._slept = 0.0

    def monotonic(self) -> float:
        return self._slept

    async def sleep(self, seconds: float) -> None:
        # A moment for the emulated account, whose own clock runs on.
        await asyncio.sleep(0.005)
        self._slept += seconds


class KilledError(BaseException):
    """The client died here: nothing of it runs on."""


class Mortal(Ec2Api):
    """A client that dies before or after its n-th change.

    Calls that only look are not counted: to die among them leaves what it leaves to die after
    the change before them.

    Args:
        aws: The account.
        die: At which change, from 1; 0: never.
        after: The call is done all the same, and nobody hears of it.
        clock: By default one that skips.
    """

    def __init__(
        self, aws: Aws, *, die: int = 0, after: bool = False, clock: HurriedClock | None = None
    ) -> None:
        super().__init__(
            aws, clock=clock or SkippingClock(), entropy=SystemEntropy(), limits=Limits()
        )
        self.said: list[str] = []
        self._die = die
        self._after = after
        self._dead = False

    async def call(
        self, operation: str, *, service: str = "ec2", **parameters: Any
    ) -> dict[str, Any]:
        if self._dead:
            raise KilledError
        self.said.append(operation)
        changes = [said for said in self.said if not said.startswith(("describe_", "get_"))]
        mortal = len(changes) == self._die and operation in changes[-1:]
        if mortal:
            self._dead = True
            if not self._after:
                raise KilledError
        answer = await super().call(operation, service=service, **parameters)
        if mortal:
            raise KilledError
        return answer


@asynccontextmanager
async def client(
    *, die: int = 0, after: bool = False, clock: HurriedClock | None = None
) -> AsyncIterator[Mortal]:
    aws = Aws(REGION)
    try:
        yield Mortal(aws, die=die, after=after, clock=clock)
    finally:
        await aws.aclose()


async def launch(
    api: Ec2Api,
    aws: EmulatedAws,
    count: int = 1,
    *,
    tags: dict[str, str] | None = None,
    **more: Any,
) -> list[str]:
    """Launch instances with tags, by default ours, on all that comes with them."""
    pairs = [{"Key": key, "Value": value} for key, value in (tags or OURS).items()]
    kinds = ["instance", "volume", "network-interface"]
    if "InstanceMarketOptions" in more:
        kinds.append("spot-instances-request")
    answer = await api.call(
        "run_instances",
        ImageId=aws.image,
        InstanceType="t3.micro",
        MinCount=count,
        MaxCount=count,
        TagSpecifications=[{"ResourceType": kind, "Tags": pairs} for kind in kinds],
        **more,
    )
    return [instance["InstanceId"] for instance in answer["Instances"]]
