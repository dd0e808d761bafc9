"""The forms of a cloud, and what the contract suite must know of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dayfly.cloud.base import Cloud
from dayfly.model import Instance
from tests.aws.clouds import ec2_cloud, given_network
from tests.aws.emulator import EmulatedAws
from tests.embedded import embedded_cloud
from tests.simulation.cloud import CloudState, SimCloud, Times

_CONSOLE = (
    "cloud-init\n-----BEGIN SSH HOST KEY KEYS-----\nssh-ed25519 AAAAC3Nz root@vm\n"
    "-----END SSH HOST KEY KEYS-----\n"
)


def _nothing(instance: Instance) -> None:
    pass


@dataclass(frozen=True)
class Form:
    """A cloud, and what differs between its forms.

    Attributes:
        instance_type: One that it has.
        processes: A type and its vCPUs.
        unknown: Types that it has not: one that nobody has, and one of another cloud.
        boot: Do what a VM does while it boots, where nothing does it by itself.
    """

    cloud: Cloud
    instance_type: str
    processes: tuple[str, int]
    unknown: tuple[str, str]
    boot: Callable[[Instance], None] = _nothing


@asynccontextmanager
async def localhost(directory: Path) -> AsyncIterator[Form]:
    """The embedded cloud."""
    async with embedded_cloud(directory) as embedded:
        yield Form(
            cloud=embedded.cloud,
            instance_type="local.2",
            processes=("local.4", 4),
            unknown=("local.0", "t2.micro"),
        )


@asynccontextmanager
async def aws_ec2(aws: EmulatedAws) -> AsyncIterator[Form]:
    """EC2, emulated."""

    def boot(instance: Instance) -> None:
        aws.consoles[instance.id] = _CONSOLE

    # A network that was given: what purge must leave alone may be in it.
    cloud = ec2_cloud(given_network(aws))
    try:
        yield Form(
            cloud=cloud,
            instance_type="t3.micro",
            processes=("m5.xlarge", 4),
            unknown=("t3.nope", "local.2"),
            boot=boot,
        )
    finally:
        await cloud.aclose()


@asynccontextmanager
async def simulated() -> AsyncIterator[Form]:
    """The simulated cloud, on a loop whose time is real, and so with times that are short."""
    loop = asyncio.get_running_loop()
    short = Times(answer=0.0005, launch=0.01, stop=0.01, terminate=0.01, off=0.005)
    state = CloudState(loop, random.Random(0), epoch=time.time() - loop.time(), times=short)

    def boot(instance: Instance) -> None:
        state.printed(instance.id, _CONSOLE)

    yield Form(
        cloud=SimCloud(state, pace=0.01),
        instance_type="t3.micro",
        processes=("m5.xlarge", 4),
        unknown=("t3.nope", "local.2"),
        boot=boot,
    )
