"""Files that several processes share: whole writes, and locks that end with their holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

#: Seconds between two tries to take a lock. Holders keep it for about a millisecond.
_LOCK_PAUSE = 0.002


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file; a reader sees the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, for its mode)
        file.write(content)
    draft.replace(path)


def try_lock(path: Path) -> int | None:
    """Take a lock; ``None`` while another process holds it.

    Returns:
        A descriptor. The lock lasts until every copy of it is closed, by whatever death.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def lock(path: Path, *, timeout: float) -> int:
    """Take a lock, waiting for its holder.

    Raises:
        TimeoutError: It was held all the while.
    """
    deadline = time.monotonic() + timeout
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{path} was locked by another process for {timeout:g} s")
        time.sleep(_LOCK_PAUSE)
    return descriptor


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = 10.0) -> Iterator[None]:
    """Hold a lock within a ``with``."""
    descriptor = lock(path, timeout=timeout)
    try:
        yield
    finally:
        os.close(descriptor)


def delete_tree(path: Path) -> None:
    """Delete a folder and all below it, also what its owner made unwritable."""
    if not path.exists():
        return
    for folder, folders, _ in os.walk(path):
        for name in folders:
            below = Path(folder, name)
            if not below.is_symlink() and not os.access(below, os.W_OK | os.X_OK | os.R_OK):
                below.chmod(0o700)
    shutil.rmtree(path)
