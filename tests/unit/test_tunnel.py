"""The master is called through an SSH tunnel that breaks."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from dayfly.client.tunnel import open_door
from dayfly.config import load
from dayfly.errors import UnreachableError
from dayfly.parts import Parts, open_parts
from dayfly.shell.base import Connection


class Tunnel:
    """Takes calls here, and leads nowhere."""

    def __init__(self) -> None:
        self.taken, self.broken = asyncio.Event(), asyncio.Event()
        self.hung_up = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken.set()
        while await reader.read(4096):
            pass
        self.hung_up.set()
        writer.close()

    async def wait_closed(self) -> None:
        await self.broken.wait()


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # its name must be short
        yield Path(folder, "ssh")


@pytest.fixture
def parts() -> Parts:
    return open_parts(load({}))


async def test_a_call_through_a_tunnel_that_breaks_does_not_wait_for_its_timeout(
    socket: Path, parts: Parts
) -> None:
    tunnel = Tunnel()
    async with await asyncio.start_unix_server(tunnel.take, socket), asyncio.timeout(5):
        calling = asyncio.create_task(
            open_door(parts, cast("Connection", tunnel), socket, "secret-of-clients")
        )
        await tunnel.taken.wait()
        tunnel.broken.set()
        with pytest.raises(UnreachableError, match="broke while the master was called"):
            await calling
        await tunnel.hung_up.wait()
    await parts.aclose()


async def test_who_gives_up_calling_hangs_up(socket: Path, parts: Parts) -> None:
    tunnel = Tunnel()
    async with await asyncio.start_unix_server(tunnel.take, socket), asyncio.timeout(5):
        calling = asyncio.create_task(
            open_door(parts, cast("Connection", tunnel), socket, "secret-of-clients")
        )
        await tunnel.taken.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await tunnel.hung_up.wait()
    await parts.aclose()
