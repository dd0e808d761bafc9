"""One command or shell of an SSH connection, as a real process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import asyncssh

from dayfly.cloud.localhost.guest import Guest, PipedGuest
from dayfly.cloud.localhost.machine import Machine
from dayfly.cloud.localhost.terminal import TerminalGuest

_EXIT_NOT_STARTED = 126


class Session(asyncssh.SSHServerSession[bytes]):
    """A channel and its process.

    Without a terminal the process has pipes; when the client goes, they close, and the
    process goes on, as with OpenSSH's server. With one, it is hung up (SIGHUP).
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._command: str | None = None
        self._terminal: tuple[str, tuple[int, int, int, int]] | None = None
        self._process: Guest | None = None
        self._early: list[bytes] = []
        self._early_eof = False
        self._starting: asyncio.Task[None] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Remember the channel."""
        self._chan = chan

    def pty_requested(
        self,
        term_type: str,
        term_size: tuple[int, int, int, int],
        term_modes: Mapping[int, int],  # noqa: ARG002
    ) -> bool:
        """Have a terminal."""
        self._terminal = (term_type, term_size)
        return True

    def shell_requested(self) -> bool:
        """Run a shell."""
        return True

    def exec_requested(self, command: str) -> bool:
        """Run a command."""
        self._command = command
        return True

    def session_started(self) -> None:
        """Start the process; what the client sends meanwhile waits here."""
        chan = cast("asyncssh.SSHServerChannel[bytes]", self._chan)
        self._starting = asyncio.create_task(self._start(chan))

    async def _start(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        shell = ["/bin/sh"] if self._command is None else ["/bin/sh", "-c", self._command]
        try:
            if self._terminal is None:
                self._process = await PipedGuest.start(self._machine, shell, chan)
            else:
                self._process = await TerminalGuest.start(
                    self._machine, shell, chan, *self._terminal
                )
        except OSError as error:
            chan.write_stderr(f"{error}\n".encode())
            chan.exit(_EXIT_NOT_STARTED)
            return
        if chan.is_closing():
            self._process.hang_up()
            return
        for data in self._early:
            self._process.feed(data)
        self._early.clear()
        if self._early_eof:
            self._process.feed_eof()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:  # noqa: ARG002
        """Hand the client's bytes on."""
        if self._process is not None:
            self._process.feed(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool:
        """The client sends no more; what the process says still goes back."""
        if self._process is not None:
            self._process.feed_eof()
        self._early_eof = True
        return True

    def pause_writing(self) -> None:
        """The client reads slowly: so does the channel read from the process."""
        if self._process is not None:
            self._process.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._process is not None:
            self._process.resume()

    def signal_received(self, signal: str) -> None:
        """Pass a signal on, to the whole group."""
        if self._process is not None:
            self._process.send(signal)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        """Resize the terminal."""
        if isinstance(self._process, TerminalGuest):
            self._process.resize((width, height, pixwidth, pixheight))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client is gone."""
        if self._process is not None:
            self._process.hang_up()
