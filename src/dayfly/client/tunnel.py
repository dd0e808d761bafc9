"""The master is called through an SSH tunnel, which may break just then."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dayfly.errors import UnreachableError
from dayfly.parts import Parts
from dayfly.processes import name_of
from dayfly.shell.base import Connection
from dayfly.wire.client import MasterDoor


async def open_door(parts: Parts, connection: Connection, socket: Path, secret: str) -> MasterDoor:
    """Call the master; a call whose tunnel breaks ends with it.

    The tunnel's end here still takes a call as it breaks, and then nobody answers that: it would
    last for all of its timeout.

    Args:
        parts: Who is calling, and how.
        connection: To the master's VM.
        socket: The tunnel's end here.
        secret: Of the cluster's clients.

    Raises:
        UnreachableError: The connection broke.
        WireError: Nobody answered; or one of its kinds, as :func:`dayfly.wire.link.dial`.
    """
    name = name_of(parts.process)
    calling = asyncio.create_task(
        MasterDoor.open(socket, secret=secret, name=name, dial=parts.dial), name="dayfly call"
    )
    closing = asyncio.create_task(connection.wait_closed(), name="dayfly tunnel")
    try:
        await asyncio.wait([calling, closing], return_when=asyncio.FIRST_COMPLETED)
        if calling.done():
            return calling.result()
        raise UnreachableError(
            "the connection with the master's VM broke while the master was called",
            hint="dayfly worker list shows whether the VM is still up",
        )
    except BaseException:
        await _hang_up(calling)
        raise
    finally:
        closing.cancel()
        await asyncio.wait([closing])


async def _hang_up(calling: asyncio.Task[MasterDoor]) -> None:
    calling.cancel()
    (end,) = await asyncio.gather(calling, return_exceptions=True)
    if isinstance(end, MasterDoor):  # it was answered just as we were told to give up
        async with end:
            pass
