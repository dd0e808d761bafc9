"""The process behind an SSH channel: what all have in common, and the form with pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import cast

import asyncssh

from dayfly.cloud.localhost import processes
from dayfly.cloud.localhost.machine import Machine


class Guest(asyncio.SubprocessProtocol):
    """A process whose output goes to a channel."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._chan = chan
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def send(self, name: str) -> None:
        """Send a signal by its name in RFC 4254, such as ``KILL``."""
        number = getattr(signal, f"SIG{name}", None)
        if self._transport is not None and number is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.killpg(self._transport.get_pid(), number)

    def _exit(self) -> None:
        """Tell the client how it ended."""
        status = self._transport.get_returncode() if self._transport else None
        if self._chan.is_closing():
            return
        if status is not None and status < 0:
            self._chan.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            self._chan.exit(status or 0)

    def feed(self, data: bytes) -> None:
        """Give it input."""
        raise NotImplementedError

    def feed_eof(self) -> None:
        """End its input."""
        raise NotImplementedError

    def pause(self) -> None:
        """Read no more from it for now."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read from it again."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Let go of it."""
        raise NotImplementedError


class PipedGuest(Guest):
    """A process behind three pipes."""

    @classmethod
    async def start(
        cls, machine: Machine, command: list[str], chan: asyncssh.SSHServerChannel[bytes]
    ) -> PipedGuest:
        """Start it."""
        _, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(chan),
            *command,
            env=machine.environment,
            cwd=machine.layout.home,
            start_new_session=True,
            preexec_fn=processes.die_with_parent,
        )
        return process

    def _pipe(self, number: int) -> asyncio.BaseTransport | None:
        return self._transport.get_pipe_transport(number) if self._transport else None

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: D102
        if not self._chan.is_closing():
            self._chan.write(data, asyncssh.EXTENDED_DATA_STDERR if fd == 2 else None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102, ARG002
        # It ended and so did all its pipes, those that it left to others included.
        self._exit()

    def pause_writing(self) -> None:  # noqa: D102
        self._chan.pause_reading()

    def resume_writing(self) -> None:  # noqa: D102
        # Not at once: a pipe that is given its last data and its end by this very call
        # closes without writing them (asyncio's _UnixWritePipeTransport._write_ready).
        asyncio.get_running_loop().call_soon(self._chan.resume_reading)

    def feed(self, data: bytes) -> None:  # noqa: D102
        pipe = self._pipe(0)
        if pipe is not None and not pipe.is_closing():
            cast("asyncio.WriteTransport", pipe).write(data)

    def feed_eof(self) -> None:  # noqa: D102
        pipe = self._pipe(0)
        if pipe is not None:
            pipe.close()

    def pause(self) -> None:  # noqa: D102
        for number in (1, 2):
            pipe = self._pipe(number)
            if pipe is not None and not pipe.is_closing():
                cast("asyncio.ReadTransport", pipe).pause_reading()

    def resume(self) -> None:  # noqa: D102
        for number in (1, 2):
            pipe = self._pipe(number)
            if pipe is not None and not pipe.is_closing():
                cast("asyncio.ReadTransport", pipe).resume_reading()

    def hang_up(self) -> None:  # noqa: D102
        for number in range(3):
            pipe = self._pipe(number)
            if isinstance(pipe, asyncio.WriteTransport):
                pipe.abort()
            elif pipe is not None:
                pipe.close()
