"""The functions that are called, and the values that travel."""

from __future__ import annotations

import os
import time

#: Processes that every peer has.
PROCESSES = 4

SLEEPS = 400
SLEEP = 0.05
BLOBS = 1_000
BLOB = 100_000


def nothing(item: int) -> int:
    """Return at once."""
    return item


def echo(item: bytes) -> bytes:
    """Return what came."""
    return item


def nap(item: int) -> int:
    """Take 50 ms, and no processor."""
    time.sleep(SLEEP)
    return item


def blobs() -> list[bytes]:
    """1,000 values of 100 kB that no compression or sharing makes smaller."""
    block = os.urandom(BLOB + BLOBS)
    return [block[start : start + BLOB] for start in range(BLOBS)]
