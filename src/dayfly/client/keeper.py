"""Closes what a job that was attached to has to itself, when it is over or is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dayfly.client.job import Job


class Keeper:
    """Keeps an executor open for its one job.

    Args:
        close: Closes the executor.
    """

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def keep(self, job: Job[Any]) -> None:
        """Begin; a task of its own, so that it closes too when the loop is closed around it."""
        self._task = asyncio.create_task(self._keep(job), name=f"dayfly keep {job.id}")

    async def let_go(self) -> None:
        """Close, and wait until that is done."""
        self._leaving.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _keep(self, job: Job[Any]) -> None:
        ends = [asyncio.create_task(job.over()), asyncio.create_task(self._leaving.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await self._close()
