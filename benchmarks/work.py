"""The functions that are called, and the values that travel."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

#: Processes that every peer has.
PROCESSES = 4

SLEEPS = 400
SLEEP = 0.05
#: The shortest and the longest of the calls that differ, in seconds.
MIXED = (0.005, 0.5)
BLOBS = 1_000
BLOB = 100_000
LARGE_BLOBS = 100
LARGE_BLOB = 10_000_000


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


def doze(seconds: float) -> float:
    """Take as long as is said, and no processor."""
    time.sleep(seconds)
    return seconds


def durations() -> list[float]:
    """The same 400 in every run, in no order."""
    chance = random.Random(6)
    return [chance.uniform(*MIXED) for _ in range(SLEEPS)]


def blobs() -> list[bytes]:
    """1,000 values of 100 kB that no compression or sharing makes smaller."""
    block = os.urandom(BLOB + BLOBS)
    return [block[start : start + BLOB] for start in range(BLOBS)]


def large_blobs() -> Iterator[bytes]:
    """100 values of 10 MB, made as they are asked for; the same in every iteration."""
    block = random.Random(6).randbytes(LARGE_BLOB)
    for number in range(LARGE_BLOBS):
        yield number.to_bytes(4, "big") + block[4:]
