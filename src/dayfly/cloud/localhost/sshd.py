"""The embedded VM's SSH server: host keys, who may come in, and where they may go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Literal

import asyncssh

from dayfly.cloud.localhost import shadow
from dayfly.cloud.localhost.faults import read_faults
from dayfly.cloud.localhost.machine import Machine
from dayfly.cloud.localhost.session import Session
from dayfly.cloud.localhost.sshdconfig import SshdConfig
from dayfly.cloud.localhost.userdata import SshKeys

#: What a client may call this VM when it asks for a connection through it.
_SELF = ("127.0.0.1", "localhost", "::1")


def host_key(machine: Machine, given: SshKeys | None) -> Path:
    """Put the host's key on the disk, at its first boot, and print its public half.

    Returns:
        The private key's file; its certificate, if any, lies beside it.
    """
    path = machine.inside("/etc/ssh/ssh_host_ed25519_key")
    if not path.exists():
        if given is None:
            key = asyncssh.generate_private_key("ssh-ed25519", comment=machine.layout.id)
            _write(path, key.export_private_key().decode())
            _write(path.with_name(f"{path.name}.pub"), key.export_public_key().decode())
        else:
            _write(path, given.ed25519_private)
            _write(path.with_name(f"{path.name}.pub"), given.ed25519_public)
            if given.ed25519_certificate:
                _write(path.with_name(f"{path.name}-cert.pub"), given.ed25519_certificate)
    public = path.with_name(f"{path.name}.pub").read_text().strip()
    # As cloud-init prints them, for whoever reads the console to learn them from.
    machine.print("-----BEGIN SSH HOST KEY KEYS-----")
    machine.print(public)
    machine.print("-----END SSH HOST KEY KEYS-----")
    return path


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text.rstrip("\n") + "\n")


@contextlib.asynccontextmanager
async def serve(
    machine: Machine, config: SshdConfig, key: Path, port: int, cloud: Path
) -> AsyncIterator[None]:
    """Serve SSH within a ``with``.

    Args:
        machine: The VM.
        config: Its sshd's settings, as they are at each login.
        key: The host's private key.
        port: Where to listen.
        cloud: The cloud's directory, for the faults that it asks for.
    """
    acceptor = await asyncssh.create_server(
        lambda: Server(machine, config, cloud),
        machine.address,
        port,
        server_host_keys=[str(key)],
        encoding=None,
        line_editor=False,
        x11_forwarding=False,
        agent_forwarding=False,
        allow_scp=False,
        kbdint_auth=False,
        compression_algs=["none"],
        login_timeout=30,
        keepalive_interval=30,
        config=None,
    )
    try:
        yield
    finally:
        acceptor.close()


@contextlib.asynccontextmanager
async def say_nothing(address: str, port: int) -> AsyncIterator[None]:
    """Accept connections within a ``with``, and never say a word."""
    held: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(accept, address, port)
    try:
        yield
    finally:
        server.close()
        for writer in held:
            writer.close()


class Server(asyncssh.SSHServer):
    """One connection: any user name, by public key or, where that is set, by password.

    It forwards to this VM only.
    """

    def __init__(self, machine: Machine, config: SshdConfig, cloud: Path) -> None:
        self._machine = machine
        self._config = config
        self._cloud = cloud
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Cut it later, if that fault was asked for."""
        self._connection = conn
        seconds = read_faults(self._cloud).ssh_drops_after
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, conn.abort)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        """Read the authorized keys anew, as sshd does."""
        keys = self._machine.layout.home / ".ssh" / "authorized_keys"
        if self._connection is not None and keys.exists() and keys.stat().st_size:
            self._connection.set_authorized_keys(str(keys))
        return True

    def password_auth_supported(self) -> bool:
        """Whether passwords count, by sshd's settings."""
        return self._config.passwords

    async def validate_password(self, username: str, password: str) -> bool:
        """Hold a password against the account's, beside the loop: that takes a while."""
        return await asyncio.to_thread(
            shadow.is_password, self._machine.layout.root, username, password
        )

    def session_requested(self) -> Session:
        """Run a command or a shell."""
        return Session(self._machine)

    def connection_requested(
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,  # noqa: ARG002
        orig_port: int,  # noqa: ARG002
    ) -> Literal[False] | Coroutine[Any, Any, Any]:
        """Lead to this VM's own address, by whichever name, and nowhere else."""
        if self._connection is None or dest_host not in (*_SELF, self._machine.address):
            return False
        return self._connection.forward_connection(self._machine.address, dest_port)
