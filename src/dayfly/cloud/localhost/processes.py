"""The processes of this machine: who descends from whom, who carries a mark, who must end.

Linux tells by ``/proc``; elsewhere ``ps`` is asked, which is slower and less exact.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

# Source: linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True)


class Process(NamedTuple):
    """A process, as the kernel tells of it."""

    pid: int
    parent: int
    group: int
    session: int


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (Linux only)."""
    if _LINUX:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Be killed when the parent dies (Linux only). Safe between fork and exec."""
    if _LINUX:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def table() -> dict[int, Process]:
    """Every process that is not a zombie."""
    return _proc_table() if _LINUX else _ps_table()


def _proc_table() -> dict[int, Process]:
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  (the hot path of every stop)
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                # The command's name, in parentheses, may contain anything.
                state, parent, group, session = file.read().rpartition(b")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if state not in b"ZX":
            pid = int(name)
            found[pid] = Process(pid, int(parent), int(group), int(session))
    return found


def _ps_table() -> dict[int, Process]:
    listing = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,pgid=,stat="], capture_output=True, check=True, timeout=10
    )
    found = {}
    for line in listing.stdout.splitlines():
        pid, parent, group, state = line.split()[:4]
        if not state.startswith(b"Z"):
            found[int(pid)] = Process(int(pid), int(parent), int(group), int(group))
    return found


def descendants(pid: int, processes: dict[int, Process] | None = None) -> set[int]:
    """The children of a process, theirs, and so on."""
    processes = table() if processes is None else processes
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    ahead = [pid]
    while ahead:
        for child in children.get(ahead.pop(), ()):
            if child not in found:
                found.add(child)
                ahead.append(child)
    return found


def marked(variable: str, value: str, *, below: bool = False) -> set[int]:
    """Our user's processes in whose environment ``variable`` has ``value``.

    Args:
        variable: Its name.
        value: What it must be.
        below: Any longer value that continues with ``/`` counts as well.
    """
    wanted = f"\0{variable}={value}\0".encode()
    longer = wanted[:-1] + b"/"
    found = set()
    for pid, environment in _environments():
        if wanted in environment or (below and longer in environment):
            found.add(pid)
    return found


def _environments() -> Iterable[tuple[int, bytes]]:
    if not _LINUX:
        listing = subprocess.run(
            ["ps", "-axEww", "-o", "pid=,command="], capture_output=True, check=True, timeout=10
        )
        for line in listing.stdout.splitlines():
            pid, _, rest = line.strip().partition(b" ")
            yield int(pid), b"\0" + rest.replace(b" ", b"\0") + b"\0"
        return
    user = os.geteuid()
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != user:  # noqa: PTH116
                continue
            with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
                yield int(name), b"\0" + file.read()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is not ours to look into


def kin(leader: int, mark: tuple[str, str]) -> set[int]:
    """A service's processes: its session and group, their descendants, and who carries its mark.

    Args:
        leader: The first process, which leads a session of its own.
        mark: A variable and its value in the environment of all of them.
    """
    processes = table()
    found = {
        process.pid
        for process in processes.values()
        if leader in (process.pid, process.group, process.session)
    }
    found |= marked(*mark)
    for pid in tuple(found):
        found |= descendants(pid, processes)
    return found


def send(pids: Collection[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may be gone already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def exterminate(find: Callable[[], set[int]], *, timeout: float = 5.0) -> set[int]:
    """SIGKILL whoever ``find`` finds, again and again until it finds nobody.

    Returns:
        Who is left at the deadline: nobody, unless the kernel itself holds on to one.
    """
    deadline = time.monotonic() + timeout
    while pids := find() - {os.getpid()}:
        send(pids, signal.SIGKILL)
        if time.monotonic() > deadline:
            return pids
        time.sleep(0.002)
    return set()


def command(pid: int) -> str:
    """A process's command line; empty when it is gone."""
    if not _LINUX:
        listing = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)],
            capture_output=True,
            check=False,
            timeout=10,
        )
        return listing.stdout.decode(errors="replace").strip()
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()
