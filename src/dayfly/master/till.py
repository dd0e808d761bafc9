"""Keeps jobs within their ``max_cost``: the meter, fed with dates, and woken at the caps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dayfly.clock import Clock, happens, moment
from dayfly.master import events as e
from dayfly.master.journal import KeptInstance
from dayfly.master.member import pool_of_instance
from dayfly.master.meter import Meter
from dayfly.model import Instance, JobSpec


class Till:
    """What the open jobs cost.

    Args:
        master: The master's own instance.
        launched: When it came up last, on ``clock.monotonic()``.
        reached: Told of a job that has reached its cap; it must close the job.
        clock: Where time comes from.
    """

    def __init__(
        self,
        master: Instance,
        launched: float,
        *,
        reached: Callable[[e.CostReached], None],
        clock: Clock,
    ) -> None:
        self._own = master.id
        self._meter = Meter(master, started=launched)
        self._reached = reached
        self._clock = clock
        self._recount = asyncio.Event()

    def opened(self, spec: JobSpec) -> None:
        """A job is open; its VMs count from the date of its submission."""
        since = moment(self._clock, spec.submitted_at)
        self._meter.submitted(spec.id, e.pool_of(spec), since=since, cap=spec.max_cost)
        self._recount.set()

    def closed(self, job: str) -> float | None:
        """A job is over; returns its dollars, ``None`` where a price is not known."""
        self._recount.set()
        return self._meter.closed(job, self._clock.monotonic())

    def count(self, kept: KeptInstance) -> e.Pool | None:
        """A worker is here, or gone; returns its pool if that is news."""
        instance = kept.instance
        pool = pool_of_instance(instance, kept.job, here=instance.id == self._own)
        news = False
        if not kept.gone or kept.ended is not None:
            started = moment(self._clock, instance.launched_at)
            news = self._meter.adopted(instance, pool, started=started)
        if kept.ended is not None:
            news = self._meter.gone(instance, moment(self._clock, kept.ended)) or news
        if news:
            self._recount.set()
        return pool if news else None

    def cost(self, job: str) -> float | None:
        """Dollars of an open job so far; ``None`` where a price is not known."""
        return self._meter.cost(job, self._clock.monotonic())

    def hourly(self, job: str) -> float:
        """By how many dollars per hour that grows now."""
        return self._meter.hourly(job, self._clock.monotonic())

    async def run(self) -> None:
        """Wake when a cap is reached, wherever the VMs that come and go move that moment to."""
        while True:
            self._recount.clear()
            now = self._clock.monotonic()
            cap = self._meter.next_cap(now)
            if cap is None:
                await self._recount.wait()
            elif cap.at <= now:
                spent = self._meter.cost(cap.job, now) or 0.0
                self._reached(e.CostReached(job=cap.job, spent=spent, hourly=cap.hourly))
                # Whatever became of it, it is not asked for twice.
                self._meter.closed(cap.job, now)
            else:
                await happens(self._recount, cap.at, self._clock)
