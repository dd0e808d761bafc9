"""Call on a master without making one: for those who list, follow, cancel and log in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dayfly import errors, provision
from dayfly.client.access import find_access
from dayfly.client.ascent import Ascender, cluster_key
from dayfly.client.tunnel import open_door
from dayfly.model import Access, Instance, InstanceState
from dayfly.parts import Parts
from dayfly.shell.base import Connection
from dayfly.wire.client import MasterDoor

#: Seconds to wait for a VM that the cloud calls running.
PATIENCE = 5.0


@asynccontextmanager
async def visit(parts: Parts) -> AsyncIterator[MasterDoor | None]:
    """Open the door of the master that is up; ``None`` when none is.

    Raises:
        ShellError: Its VM is up, but cannot be reached.
        WireError: It can be reached, but its service does not answer.
    """
    found = await _master(parts)
    if found is None:
        yield None
        return
    ascender, access, instance = found
    if instance.state is not InstanceState.RUNNING:
        yield None
        return
    connection = await _reach(parts, ascender, instance)
    try:
        path = await connection.forward(instance.inner_address, instance.service_port)
        door = await open_door(parts, connection, path, access.client_secret)
        async with door:
            yield door
    finally:
        await connection.aclose()


@asynccontextmanager
async def shell_on_master(parts: Parts, *, start: bool) -> AsyncIterator[Connection]:
    """Open an SSH connection to the master's VM.

    Args:
        parts: Which master.
        start: Start the VM if it is stopped.

    Raises:
        CloudError: There is no master, or it is stopped and ``start`` is false.
    """
    found = await _master(parts)
    if found is None:
        raise errors.CloudError("there is no master", hint="dayfly hello makes one")
    ascender, _, instance = found
    if instance.state is InstanceState.STOPPED and not start:
        raise errors.CloudError(
            f"the master {instance.id} is stopped", hint="dayfly attach --start"
        )
    until = parts.clock.monotonic() + parts.config.compute.start_timeout
    instance = await ascender.cluster.bring_up(instance, until)
    connection = await _reach(parts, ascender, instance, until)
    try:
        yield connection
    finally:
        await connection.aclose()


async def _master(parts: Parts) -> tuple[Ascender, Access, Instance] | None:
    owner = await parts.cloud.owner()
    access = await find_access(parts.storage, cluster_key(parts.config))
    if access is None:
        return None
    ascender = Ascender(parts, access, owner)
    instance = await ascender.find()
    return None if instance is None else (ascender, access, instance)


async def _reach(
    parts: Parts, ascender: Ascender, instance: Instance, until: float | None = None
) -> Connection:
    target = await ascender.target(instance)

    async def reach(deadline: float) -> Connection:
        return await provision.reach(
            parts.shell, target, deadline=deadline, clock=parts.clock, entropy=parts.entropy
        )

    try:
        return await reach(parts.clock.monotonic() + PATIENCE)
    except errors.UnreachableError:
        # Perhaps this machine has moved since the network was made, or the VM is booting.
        await parts.cloud.admit()
        return await reach(until or parts.clock.monotonic() + PATIENCE)
