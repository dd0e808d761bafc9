"""Signals and cuts, for processes of one round only.

A pid may be given to another process at any moment, so a process is held by a descriptor
(pidfd_open(2)) and looked at again before anything is done to it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.victims import Who, Wire, look

#: pidfd_getfd(2), Linux 5.6; Python has no name for it. The number is that of every platform
#: but alpha (linux/arch/*/syscall*.tbl).
_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def _held(who: Who, home: Path) -> Iterator[int | None]:
    """A descriptor of this very process; ``None`` when it is gone."""
    try:
        handle = os.pidfd_open(who.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        now = look(who.pid, home)
        yield handle if now is not None and now.born == who.born else None
    finally:
        os.close(handle)


def send(who: Who, number: signal.Signals, home: Path) -> bool:
    """Send a signal; whether the process was still there."""
    with _held(who, home) as handle:
        if handle is None:
            return False
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        return True


def cut(wire: Wire, home: Path) -> bool:
    """Shut a connection of another process down, both ways; whether it was still there.

    Raises:
        PermissionError: The kernel does not let us reach into another process of ours.
    """
    with _held(wire.owner, home) as handle:
        if handle is None:
            return False
        descriptor = _libc.syscall(_PIDFD_GETFD, handle, wire.descriptor, 0)
        if descriptor < 0:
            code = ctypes.get_errno()
            if isinstance(error := OSError(code, os.strerror(code)), PermissionError):
                raise error
            return False
        with socket.socket(fileno=descriptor) as end:
            try:
                if end.getpeername() != wire.far:
                    return False  # another connection has this descriptor by now
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                return False
        return True


def can_cut() -> bool:
    """Whether the kernel lets us cut connections of other processes (ptrace(2), "ptrace_scope")."""
    command = [sys.executable, "-ISc", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        handle = os.pidfd_open(child.pid)
        try:
            descriptor = _libc.syscall(_PIDFD_GETFD, handle, 0, 0)
            if descriptor >= 0:
                os.close(descriptor)
            return bool(descriptor >= 0)
        finally:
            os.close(handle)
            child.kill()
