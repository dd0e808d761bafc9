"""Waiting for what machines do by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(holds: Callable[[], bool], within: float = 15.0) -> float:
    """Wait until something holds; returns the seconds that it took.

    Raises:
        TimeoutError: It did not.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.05)
    return loop.time() - began
