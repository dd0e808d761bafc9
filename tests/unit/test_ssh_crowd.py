"""A thousand VMs that answer at the same moment."""

from __future__ import annotations

import asyncio

import asyncssh
import pytest

from dayfly.errors import UnreachableError
from dayfly.shell import ssh
from dayfly.shell.base import Target


async def test_vms_that_answer_all_at_once_are_greeted_some_at_a_time_and_each_in_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where all are greeted at once, a slow master has no handshake done before its timeout."""
    monkeypatch.setattr(ssh, "HANDSHAKES", 10)
    greeted, greeting, most = 0, 0, 0

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted, greeting, most
        if await reader.readline():
            greeted, greeting = greeted + 1, greeting + 1
            most = max(most, greeting)
            await reader.read()
            greeting -= 1
        writer.close()

    server = await asyncio.start_server(be_silent, "127.0.0.1", 0, backlog=1000)
    target = Target(
        name="vm",
        address="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
        username="me",
        alias="worker",
        known_hosts="",
        private_key=asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode(),
    )
    shell, crowd = ssh.SshShell(), 25

    async def reach() -> None:
        with pytest.raises(UnreachableError) as silent:
            await shell.connect(target, timeout=0.5)
        assert "not in SSH" in silent.value.cause

    async with server:
        await asyncio.gather(*(reach() for _ in range(crowd)))
    assert most <= 20, "ten, and those that hang up just then"
    assert greeted == crowd, "whoever waited for its turn has all of its time left"
