"""Clients of the emulated EC2, each with limits of its own, as other programs would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dayfly.aws.session import Aws
from dayfly.clock import Clock, SystemClock, SystemEntropy
from dayfly.cloud.base import Notes
from dayfly.cloud.ec2.cloud import Ec2Cloud
from dayfly.cloud.ec2.launch.pools import Resting
from dayfly.cloud.ec2.limits import Limits
from dayfly.config.sections import Ec2Section
from tests.aws.emulator import EmulatedAws
from tests.aws.notes import MemoryNotes


async def source() -> str:
    """This machine's public address."""
    return "203.0.113.7"


def security_group(aws: EmulatedAws) -> str:
    """The default network's own."""
    groups: Any = aws.world.backend.describe_security_groups()
    (found,) = [group.id for group in groups if group.name == "default"]
    return str(found)


def given_network(aws: EmulatedAws, **keys: Any) -> Ec2Section:
    """A section that names all of the network, so that nothing of it is dayfly's."""
    section = Ec2Section(
        region=aws.region,
        instance_role=aws.role,
        subnet_id=tuple(aws.subnets().values()),
        security_group_id=security_group(aws),
    )
    return msgspec.structs.replace(section, **keys)


def own_network(aws: EmulatedAws, **keys: Any) -> Ec2Section:
    """A section that names nothing of the network."""
    return msgspec.structs.replace(Ec2Section(region=aws.region, instance_role=aws.role), **keys)


def ec2_cloud(
    section: Ec2Section,
    notes: Notes | None = None,
    *,
    account: Aws | None = None,
    clock: Clock | None = None,
    told: Callable[[str], None] = print,
    limits: Limits | None = None,
) -> Ec2Cloud:
    """A client; whoever made it closes it.

    Args:
        section: What it is told.
        notes: What other clients see too.
        account: Open already, to spare the opening.
        clock: Time.
        told: Told what is being waited for.
        limits: Shared with other clients; else its own.
    """
    return Ec2Cloud(
        section,
        account or Aws(section.region),
        notes or MemoryNotes(),
        clock=clock or SystemClock(),
        entropy=SystemEntropy(),
        caller="me@here",
        source=source,
        told=told,
        limits=limits or Limits(),
        resting=Resting(),
    )
