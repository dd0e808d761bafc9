"""The VM that the master runs on: the deadline that it keeps itself, and its power."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dayfly.clock import Clock

#: Seconds for ``systemctl poweroff`` to return.
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
    """The real form: a file that ``dayfly-deadline.service`` obeys, and ``systemctl``.

    Args:
        root: ``$DAYFLY_ROOT``.
        clock: Where time comes from.
    """

    def __init__(self, root: str, clock: Clock) -> None:
        self._clock = clock
        self._run = Path(f"{root}/run/dayfly")

    def set_deadline(self, seconds: float | None) -> None:  # noqa: D102
        line = "never" if seconds is None else f"{_uptime(self._clock) + seconds:.3f}"
        self._run.mkdir(parents=True, exist_ok=True)
        fresh = self._run / "deadline.master"
        fresh.write_text(line + "\n")
        fresh.replace(self._run / "deadline")

    async def power_off(self) -> None:  # noqa: D102
        process = await asyncio.create_subprocess_exec("sudo", "systemctl", "poweroff")
        with suppress(TimeoutError):  # then the VM's own deadline takes it
            await asyncio.wait_for(process.wait(), POWER_OFF)

    def first_start(self) -> float:
        """When this service started first since the VM's boot (``/run`` is emptied then)."""
        mark = self._run / "master-up"
        if mark.exists():
            return float(mark.read_text())
        self._run.mkdir(parents=True, exist_ok=True)
        now = self._clock.now()
        fresh = self._run / "master-up.new"
        fresh.write_text(repr(now))
        fresh.replace(mark)
        return now


def _uptime(clock: Clock) -> float:
    """Seconds on the clock of ``/proc/uptime``, which goes on while the VM is suspended."""
    uptime = Path("/proc/uptime")
    return float(uptime.read_text().split()[0]) if uptime.exists() else clock.monotonic()


def dayfly_root() -> str:
    """``$DAYFLY_ROOT``: what stands before every absolute path of ours on this VM."""
    return os.environ.get("DAYFLY_ROOT", "")
