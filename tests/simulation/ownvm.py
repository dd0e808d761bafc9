"""A VM as what runs on it sees it: its own deadline, its power, what the cloud announces."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Protocol

from dayfly import guest
from dayfly.worker.notices import PACE
from tests.simulation.process import Process

#: Seconds after which the deadline's script is no longer polite.
IMPOLITE = 120.0


class Inside(Protocol):
    """The machine (:class:`tests.simulation.machine.Machine`)."""

    @property
    def deadline(self) -> Deadline | None: ...
    def deadline_reached(self) -> None: ...
    def power_off(self) -> None: ...
    def force_off(self) -> None: ...
    async def interruption(self) -> float: ...


class Deadline:
    """The script that powers a VM off at its own deadline (:mod:`dayfly.bootstrap`).

    It looks once a second; here, only when there is something to be seen.

    Attributes:
        armed_at: Since when it runs, in seconds of the loop's time; ``None`` while it does not.
        armed_on: The same as a date, by the VM's clock of then.
        fired: Whether it has powered the VM off.
    """

    def __init__(self, machine: Inside, init: Process, phase: float) -> None:
        self.armed_at: float | None = None
        self.armed_on: float | None = None
        self.fired = False
        self._machine = machine
        self._init = init
        self._phase = phase
        self._cap: float | None = None
        self._told = ""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def uptime(self) -> float:
        """Seconds since the boot."""
        return self._init.clock.monotonic()

    @property
    def due(self) -> float | None:
        """When it will power the VM off, in seconds since the boot; ``None``: never."""
        if self.armed_at is None:
            return None
        told = self._told.partition(".")[0]
        if told == "never":
            return None
        return float(told) if told.isdecimal() else self._cap

    def arm(self, cap: str) -> None:
        """Start it; the cap counts from its first start since the boot."""
        if self.armed_at is None:
            self.armed_at = self._init.loop.time()
            self.armed_on = self._init.clock.now()
            self._cap = None if cap == "never" else math.floor(self.uptime) + float(cap)
            self._look()

    def tell(self, line: str) -> None:
        """Write the file that it reads."""
        self._told = line
        self._look()

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.due
        if due is None or self.fired or not self._init.alive:
            return
        left = due + self._phase - self.uptime
        if left > 1e-6:
            context = self._init.context()
            self._timer = self._init.loop.call_later(left, self._look, context=context)
            return
        self.fired = True
        self._machine.deadline_reached()
        self._init.loop.call_later(IMPOLITE, self._machine.force_off, context=self._init.context())


class SimVm:
    """The VM as one of its services sees it (:class:`dayfly.guest.Vm`)."""

    def __init__(self, machine: Inside, process: Process, ready: Callable[[], None]) -> None:
        self._machine = machine
        self._process = process
        self._ready = ready
        self._deadline = _DeadlineFile(machine, process)

    def ready(self) -> None:
        self._process.check()
        self._ready()

    def set_deadline(self, seconds: float | None) -> None:
        self._process.check()
        self._deadline.set(seconds)

    async def power_off(self) -> None:
        self._process.check()
        await asyncio.sleep(0.05)  # systemctl poweroff returns at once
        self._process.check()
        self._machine.power_off()

    def armed(self) -> float:
        self._process.check()
        deadline, now = self._machine.deadline, self._process.clock.now()
        return now if deadline is None or deadline.armed_on is None else deadline.armed_on

    def close(self) -> None:
        self._process.check()
        self._deadline.close()


class _DeadlineFile(guest.Deadline):
    """The real gathering of moves; what is written goes to the simulated machine."""

    def __init__(self, machine: Inside, process: Process) -> None:
        super().__init__(process.clock)
        self._machine = machine
        self._process = process

    def _write(self) -> None:
        self._process.check()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._machine.deadline
        assert deadline is not None
        line = "never"
        if self._due is not None:
            line = f"{deadline.uptime + self._due - self._clock.monotonic():.3f}"
        deadline.tell(line)
        self._begun = True


class SimNotices:
    """Where one of its services learns that the VM is taken back (:mod:`dayfly.worker.notices`)."""

    def __init__(self, machine: Inside, process: Process, stream: random.Random) -> None:
        self._machine = machine
        self._process = process
        self._stream = stream

    async def next(self) -> float:
        self._process.check()
        at = await self._machine.interruption()
        # It is looked for every so often.
        await asyncio.sleep(PACE * self._stream.random())
        return max(0.0, at - self._process.loop.time())
