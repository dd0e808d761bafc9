"""A live SSH session between the user's terminal and a VM, for ``dayfly attach``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator

import asyncssh

#: What ssh(1) exits with when the connection breaks.
_BROKEN = 255
_CHUNK = 65536


async def interactive(connection: asyncssh.SSHClientConnection) -> int:
    """Give the user a shell on the VM until it ends.

    With a terminal on standard input the shell has one as well, of the same size, also when it
    is resized. Otherwise standard input is what ``/bin/sh`` reads on the VM.

    Returns:
        The shell's exit status; 255 when the connection broke.
    """
    descriptor = sys.stdin.fileno()
    session = _Session()
    if not os.isatty(descriptor):
        chan, _ = await connection.create_session(lambda: session, "/bin/sh", encoding=None)
        with _reading(descriptor, chan):
            await session.closed
        return _status(chan)
    chan, _ = await connection.create_session(
        lambda: session,
        term_type=os.environ.get("TERM", "dumb"),
        term_size=_size(descriptor),
        encoding=None,
    )
    with (
        _raw(descriptor),
        _following_size(lambda: chan.change_terminal_size(*_size(descriptor))),
        _reading(descriptor, chan),
    ):
        await session.closed
    return _status(chan)


class _Session(asyncssh.SSHClientSession[bytes]):
    """The VM's output, on its way to ours."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        stream = sys.stderr if datatype == asyncssh.EXTENDED_DATA_STDERR else sys.stdout
        stream.buffer.write(data)
        stream.buffer.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.closed.done():
            self.closed.set_result(None)


@contextlib.contextmanager
def _reading(descriptor: int, chan: asyncssh.SSHClientChannel[bytes]) -> Iterator[None]:
    """Send what comes from a descriptor, within a ``with``."""
    loop = asyncio.get_running_loop()

    def read() -> bool:
        data = os.read(descriptor, _CHUNK)
        if chan.is_closing():
            return False
        if data:
            chan.write(data)
            return True
        loop.remove_reader(descriptor)
        chan.write_eof()
        return False

    try:
        loop.add_reader(descriptor, read)
    except PermissionError:  # a regular file is always ready, and epoll has no place for it
        while read():
            pass
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Let each key through to the VM, Ctrl-C included, within a ``with``."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _following_size(tell: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, tell)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


def _size(descriptor: int) -> tuple[int, int]:
    size = os.get_terminal_size(descriptor)
    return size.columns, size.lines


def _status(chan: asyncssh.SSHClientChannel[bytes]) -> int:
    signalled = chan.get_exit_signal()
    if signalled is not None:
        return 128 + getattr(signal, f"SIG{signalled[0]}", 0)
    status = chan.get_exit_status()
    return _BROKEN if status is None else status
