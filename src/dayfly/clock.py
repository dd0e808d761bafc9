"""Time and chance, as arguments.

Whoever waits, dates or draws takes a :class:`Clock` or an :class:`Entropy`; only the two
real forms in this file ask the machine. Tests hand in forms of their own.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Wall-clock seconds since the epoch, for dates that people and other machines read."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump, for deadlines within one process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` of monotonic time."""
        ...


class Entropy(Protocol):
    """Where chance comes from."""

    def hex(self, count: int) -> str:
        """``count`` random hexadecimal digits, fit for names and secrets."""
        ...

    def fraction(self) -> float:
        """A number drawn evenly from [0, 1), for jitter."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:  # noqa: D102
        return time.time()

    def monotonic(self) -> float:  # noqa: D102
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:  # noqa: D102
        await asyncio.sleep(seconds)


class SystemEntropy:
    """The machine's own random source."""

    def hex(self, count: int) -> str:  # noqa: D102
        return secrets.token_hex((count + 1) // 2)[:count]

    def fraction(self) -> float:  # noqa: D102
        return secrets.randbelow(1 << 53) / (1 << 53)


def moment(clock: Clock, date: float) -> float:
    """A date in the past, on ``clock.monotonic()``; one in the future is now."""
    # A wall clock that was set back must not put the past into the future.
    return clock.monotonic() - max(0.0, clock.now() - date)


async def happens(event: asyncio.Event, by: float, clock: Clock) -> bool:
    """Wait for ``event`` until ``by``, in ``clock.monotonic()`` seconds; whether it was set."""
    if event.is_set():
        return True
    happening = asyncio.ensure_future(event.wait())
    sleeping = asyncio.ensure_future(clock.sleep(max(0.0, by - clock.monotonic())))
    try:
        await asyncio.wait({happening, sleeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        happening.cancel()
        sleeping.cancel()
    return event.is_set()
