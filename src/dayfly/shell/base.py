"""The seam to a VM's shell: one page that real SSH and the tests' forms keep to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from dayfly.model import Guarded


class Target(Guarded, frozen=True, kw_only=True):
    """A VM to talk to, and how to know it and be known by it.

    Attributes:
        alias: The name that the host's key or certificate must be good for.
        known_hosts: Lines in OpenSSH's ``known_hosts`` format; the only keys that are trusted.
        private_key: The client's key, in OpenSSH's PEM format; never logged.
    """

    name: str
    address: str
    port: int
    username: str
    alias: str
    known_hosts: str
    private_key: str


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a command left behind.

    Attributes:
        status: Exit status; ``128 + n`` when signal ``n`` ended it.
    """

    status: int
    stdout: str
    stderr: str


class Connection(Protocol):
    """An open connection to a VM."""

    async def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        heard: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command by the VM's ``/bin/sh``, whatever its exit status.

        Args:
            command: Its text.
            stdin: Its standard input.
            timeout: Seconds that it may take.
            heard: Called with each whole line of its standard output, as soon as it comes.

        Raises:
            CommandError: It did not end within ``timeout`` seconds.
            UnreachableError: The connection broke meanwhile.
        """
        ...

    async def forward(self, host: str, port: int) -> Path:
        """Open a Unix socket here that leads to ``host:port`` as the VM reaches it.

        The socket lies in a folder that only this user can enter, and goes with the
        connection.
        """
        ...

    async def wait_closed(self) -> None:
        """Return when the connection is gone, for whatever reason."""
        ...

    async def aclose(self) -> None:
        """Close the connection and what was opened through it."""
        ...


class Shell(Protocol):
    """How a VM is reached."""

    async def connect(self, target: Target, *, timeout: float = 5.0) -> Connection:
        """Try once: a full handshake, the host's key verified.

        Raises:
            UnreachableError: Nobody answered, or not in SSH, within ``timeout`` seconds.
            HostKeyError: The host's key is not one that ``target`` trusts.
            AccessDeniedError: The host refused our key.
        """
        ...
