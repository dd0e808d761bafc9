"""The timers of all processes, in the order in which they ring."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.simulation.process import CURRENT, Host, Process

#: Seconds that the shortest wait takes.
RESOLUTION = 1e-6
#: How many cancelled timers are kept before they are thrown out.
_CANCELLED = 1_000


class Timers:
    """A queue of timers, and virtual time, which goes from one to the next.

    Attributes:
        time: Virtual time, in seconds since the run began.
        lateness: By how many seconds a process's timers ring late; asked for each of them that
            is due. A process that is late hears all of its timers when it wakes, the earliest
            first, as if its machine had been busy with something else.
    """

    def __init__(self, keep: Callable[[object], None]) -> None:
        self.time = 0.0
        self.lateness: Callable[[Process], float] | None = None
        self._keep = keep  # where timers of the dead are kept
        # When it rings, when it was to ring, the order of their making, the timer.
        self._timers: list[tuple[float, float, int, Any]] = []
        self._asleep: list[tuple[float, float, int, Any]] = []  # those of suspended hosts
        self._made = 0
        self._cancelled = 0

    def add(self, timer: asyncio.TimerHandle) -> None:
        # Time goes on a little for whoever waits at all: else a moment that rounding puts just
        # behind this one would be waited for without end.
        when = max(timer.when(), self.time + RESOLUTION)
        self._made += 1
        heapq.heappush(self._timers, (when, when, self._made, timer))

    def cancelled(self) -> None:
        """One of them was cancelled: it stays until it would have rung, or there are many."""
        self._cancelled += 1
        if self._cancelled > _CANCELLED and self._cancelled * 2 > len(self._timers):
            self._timers = [each for each in self._timers if not each[3]._cancelled]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def postpone(self, host: Host, seconds: float) -> None:
        """Have all timers of a host ring later: it was suspended for so long."""
        timers, self._timers, self._asleep = self._timers + self._asleep, [], []
        for due, when, number, timer in timers:
            process = timer._context.get(CURRENT)
            later = seconds if process is not None and process.host is host else 0.0
            self._timers.append((due + later, when + later, number, timer))
        heapq.heapify(self._timers)

    def ring(self, queue: deque[Any], *, wait: bool) -> bool:
        """Move what is due to ``queue``; whether time went on.

        Args:
            wait: Let time go on until there is something, if there is nothing in the queue.
        """
        timers = self._timers
        before = self.time
        while timers:
            due, when, number, timer = timers[0]
            if due > self.time and (queue or not wait):
                break
            heapq.heappop(timers)
            if timer._cancelled:
                self._cancelled -= 1
                continue
            process = timer._context.get(CURRENT)
            if process is not None:
                if not process.alive:
                    self._keep(timer)
                    continue
                if process.host.suspended_at is not None:
                    self._asleep.append((due, when, number, timer))
                    continue
                if due == when and process.asleep_until <= due and self.lateness is not None:
                    process.asleep_until = due + self.lateness(process)
                if process.asleep_until > due:
                    heapq.heappush(timers, (process.asleep_until, when, number, timer))
                    continue
            self.time = max(self.time, due)
            timer._scheduled = False
            queue.append(timer)
        return self.time > before
