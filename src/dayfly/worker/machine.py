"""The VM under the agent: its own deadline, and its power."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dayfly import errors
from dayfly.clock import Clock


def path(absolute: str) -> Path:
    """A path on this VM: below ``$DAYFLY_ROOT``, which is set on an embedded one only."""
    return Path(os.environ.get("DAYFLY_ROOT", "") + absolute)


def set_deadline(seconds: float | None, clock: Clock) -> None:
    """Write when the VM must power itself off: in so many seconds, or never.

    The deadline is on the clock of ``/proc/uptime``, which goes on while the VM is suspended
    and starts anew with each boot, as ``/run`` does.
    """
    target = path("/run/dayfly/deadline")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(".new")
    scratch.write_text("never\n" if seconds is None else f"{_uptime(clock) + seconds:.3f}\n")
    scratch.replace(target)


async def power_off() -> None:
    """Power the VM off.

    Raises:
        CommandError: The VM refuses.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            "sudo", "poweroff", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise errors.CommandError("sudo cannot be started", cause=str(error)) from error
    output, _ = await process.communicate()
    if process.returncode:
        raise errors.CommandError(
            f"sudo poweroff ended with exit status {process.returncode}",
            cause=output.decode("utf-8", "replace").strip(),
        )


def _uptime(clock: Clock) -> float:
    uptime = Path("/proc/uptime")
    return float(uptime.read_text().split()[0]) if uptime.exists() else clock.monotonic()
