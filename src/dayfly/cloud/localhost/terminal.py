"""The process behind an SSH channel that has a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import termios

import asyncssh

from dayfly.cloud.localhost import processes
from dayfly.cloud.localhost.guest import Guest
from dayfly.cloud.localhost.machine import Machine


class TerminalGuest(Guest):
    """A process with a terminal of its own."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], terminal: int) -> None:
        super().__init__(chan)
        self._terminal = terminal
        self._open = True
        self._ended = False
        self._input = bytearray()

    @classmethod
    async def start(
        cls,
        machine: Machine,
        command: list[str],
        chan: asyncssh.SSHServerChannel[bytes],
        kind: str,
        size: tuple[int, int, int, int],
    ) -> TerminalGuest:
        """Start it; an interactive shell reads the user's profile, as a login does."""
        terminal, end = pty.openpty()
        loop = asyncio.get_running_loop()

        def take_terminal() -> None:
            processes.die_with_parent()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        try:
            _, process = await loop.subprocess_exec(
                lambda: cls(chan, terminal),
                *command,
                stdin=end,
                stdout=end,
                stderr=end,
                env={**machine.environment, "TERM": kind or "dumb"},
                cwd=machine.layout.home,
                start_new_session=True,
                preexec_fn=take_terminal,
            )
        except OSError:
            os.close(terminal)
            raise
        finally:
            os.close(end)
        process.resize(size)
        os.set_blocking(terminal, False)
        loop.add_reader(terminal, process._read)
        return process

    def _read(self) -> None:
        try:
            data = os.read(self._terminal, 65536)
        except BlockingIOError:
            return
        except OSError:  # EIO: no process has the terminal any more
            data = b""
        if data:
            if not self._chan.is_closing():
                self._chan.write(data)
        else:
            self._close()
            if self._ended:
                self._exit()

    def _close(self) -> None:
        if self._open:
            self._open = False
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._terminal)
            loop.remove_writer(self._terminal)
            os.close(self._terminal)

    def process_exited(self) -> None:  # noqa: D102
        self._ended = True
        if not self._open:
            self._exit()
            return
        # What it printed last is read first; a process that it left behind is not waited for.
        for _ in range(64):
            self._read_rest()
            if not self._open:
                return
        self._close()
        self._exit()

    def _read_rest(self) -> None:
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # nothing there, or no process has the terminal any more
            self._close()
            self._exit()
            return
        if not self._chan.is_closing():
            self._chan.write(data)

    def feed(self, data: bytes) -> None:  # noqa: D102
        if self._open:
            self._input += data
            self._write()

    def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            del self._input[: os.write(self._terminal, self._input)]
        except BlockingIOError:
            pass  # its input is full: the loop says when to go on
        except OSError:
            self._input.clear()  # EIO: no process has the terminal any more
        if self._input:
            loop.add_writer(self._terminal, self._write)
        else:
            loop.remove_writer(self._terminal)

    def feed_eof(self) -> None:  # noqa: D102
        self.feed(b"\x04")

    def pause(self) -> None:  # noqa: D102
        if self._open:
            asyncio.get_running_loop().remove_reader(self._terminal)

    def resume(self) -> None:  # noqa: D102
        if self._open:
            asyncio.get_running_loop().add_reader(self._terminal, self._read)

    def resize(self, size: tuple[int, int, int, int]) -> None:
        """Set the size, in columns, rows and pixels."""
        if self._open:
            columns, rows, width, height = size
            packed = struct.pack("HHHH", rows, columns, width, height)
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, packed)

    def hang_up(self) -> None:  # noqa: D102
        self._close()
