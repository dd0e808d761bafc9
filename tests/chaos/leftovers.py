"""What a round has left: processes, sockets, objects, files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from dayfly.model import InstanceState
from tests.chaos.victims import listening, of_round, records, role_of

#: Names of what the harness itself keeps in a round's directory.
CLOUD, STORAGE, TEMPORARY = "cloud", "storage", "tmp"


def processes(home: Path, *, besides: frozenset[str] = frozenset()) -> list[str]:
    """The round's processes, less those of some VMs."""
    return [
        f"{who.pid} {' '.join(who.words)[:120]}"
        for who in of_round(home)
        if who.instance not in besides and not besides & set(who.words)
    ]


def files(home: Path, *, besides: frozenset[str] = frozenset()) -> list[str]:
    """Socket folders, objects in storage, and what the cloud left on its disk."""
    found = []
    for part in (STORAGE, TEMPORARY, CLOUD):
        for path in sorted((home / part).rglob("*")):
            name = path.relative_to(home)
            if besides and part == CLOUD:
                continue  # a user's own VM keeps the cloud's folder
            if part == TEMPORARY and "dayfly" not in str(name):
                continue  # of a library, in a client that was killed
            if path.is_file() or path.is_socket() or part == TEMPORARY:
                found.append(f"{name}")
    return found


def sockets(addresses: set[str]) -> list[str]:
    """Addresses of the round at which somebody still listens."""
    return [f"somebody listens at {place}" for place in listening(addresses)]


def not_at_rest(home: Path, *, besides: frozenset[str] = frozenset()) -> list[str]:
    """VMs that are up after their timers: workers gone or stopped, masters stopped."""
    rest = {InstanceState.STOPPED, InstanceState.TERMINATED}
    return [
        f"{role_of(record)} {record.id} is {record.state}"
        for record in records(home)
        if record.state not in rest and record.id not in besides
    ]


def untouched(own: str, logs: Iterable[str]) -> frozenset[str]:
    """The user's own VM, if dayfly was never on it: it stays as it was.

    Args:
        own: Its id; empty: there is none.
        logs: Names of all that was kept of the round's VMs.
    """
    touched = any(name.startswith(f"{own}.bootstrap.") for name in logs)
    return frozenset() if touched or not own else frozenset({own})


async def gone(look: Callable[[], list[str]], within: float) -> list[str]:
    """Wait until nothing is left; what is left at the deadline."""
    deadline = time.monotonic() + within
    while left := await asyncio.to_thread(look):
        if time.monotonic() >= deadline:
            return left
        await asyncio.sleep(0.1)
    return []
