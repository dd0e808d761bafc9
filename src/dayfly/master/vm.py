"""The VM that the master runs on: the deadline that it keeps itself, and its power."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from dayfly import guest
from dayfly.clock import Clock
from dayfly.errors import CommandError

log = logging.getLogger(__name__)

#: Seconds for ``poweroff`` to return.
POWER_OFF = 30.0


class OwnVm(Protocol):
    """The VM that this process runs on."""

    def set_deadline(self, seconds: float | None) -> None:
        """Power off in so many seconds, whatever becomes of this process; ``None``: never."""
        ...

    async def power_off(self) -> None:
        """Power off, now."""
        ...


class LinuxVm:
    """The real form: a file that ``dayfly-deadline.service`` obeys, and ``poweroff``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadline = guest.Deadline(clock)

    def set_deadline(self, seconds: float | None) -> None:  # noqa: D102
        self._deadline.set(seconds)

    async def power_off(self) -> None:  # noqa: D102
        try:
            async with asyncio.timeout(POWER_OFF):
                await guest.power_off()
        except (TimeoutError, CommandError) as error:
            log.warning("the VM is left to its own deadline: %s", error)

    def first_start(self) -> float:
        """When this service started first since the VM's boot (``/run`` is emptied then)."""
        mark = guest.path("/run/dayfly/master-up")
        if mark.exists():
            return float(mark.read_text())
        mark.parent.mkdir(parents=True, exist_ok=True)
        now = self._clock.now()
        fresh = mark.with_suffix(".new")
        fresh.write_text(repr(now))
        fresh.replace(mark)
        return now

    def close(self) -> None:
        """Write the deadline if it has moved."""
        self._deadline.close()
