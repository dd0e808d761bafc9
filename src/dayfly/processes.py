"""The process that runs here, as others name it, and whether another one still runs."""

from __future__ import annotations

import getpass
import os
import socket
import time
from pathlib import Path
from typing import Protocol


class Process(Protocol):
    """One process of a user's."""

    @property
    def user(self) -> str:
        """Whose it is."""
        ...

    @property
    def host(self) -> str:
        """The name of the machine that it runs on."""
        ...

    @property
    def pid(self) -> int:
        """Its number there."""
        ...

    @property
    def place(self) -> str:
        """Those among whom its number is its own: a machine, or a container on it."""
        ...

    def alive(self, place: str, pid: int) -> bool:
        """Whether a process may still run: of one in another place that cannot be told."""
        ...


class ThisProcess:
    """The process that runs here."""

    @property
    def user(self) -> str:  # noqa: D102
        try:
            return getpass.getuser()
        except (KeyError, OSError):  # a container may run under a number that has no name
            return str(os.getuid())

    @property
    def host(self) -> str:  # noqa: D102
        return socket.gethostname()

    @property
    def pid(self) -> int:  # noqa: D102
        return os.getpid()

    @property
    def place(self) -> str:  # noqa: D102
        # Containers may share a machine's name; on another machine all numbers are others'.
        return f"{self.host}/{space()}"

    def alive(self, place: str, pid: int) -> bool:  # noqa: D102
        return place != self.place or runs(pid)


def name_of(process: Process) -> str:
    """A process in words: ``user@host pid``."""
    return f"{process.user}@{process.host} {process.pid}"


def runs(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def space() -> str:
    """Names those among whom a process's number is its own: containers count each for itself."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # not Linux: there is one
        return ""


def age() -> float:
    """Seconds since this process was started, to a hundredth; 0 where nobody knows."""
    try:
        told = Path("/proc/self/stat").read_text("ascii", errors="replace")
    except OSError:  # not Linux
        return 0.0
    # Fields 3 and on, after the program's name in brackets; 22 is when it was started: proc(5).
    ticks = int(told.rpartition(")")[2].split()[22 - 3])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
