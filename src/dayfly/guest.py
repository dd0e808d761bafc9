"""What a service of ours does to the VM that it runs on: readiness, deadline, power.

Everything lies below ``$DAYFLY_ROOT``, which is set on an embedded VM only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dayfly.clock import Clock
from dayfly.errors import CommandError

log = logging.getLogger(__name__)

#: Seconds in which further moves of the deadline are gathered into one write. It must be well
#: below the slack by which the VM's own deadline lies behind its orchestrator's.
GATHER = 1.0
#: Seconds for ``poweroff`` to return.
POWER_OFF = 30.0
#: Libraries that tell of every connection and every key that they find.
CHATTY = ("aiobotocore", "asyncssh", "botocore")


def path(absolute: str) -> Path:
    """Where an absolute path of this VM lies."""
    return Path(os.environ.get("DAYFLY_ROOT", "") + absolute)


def log_at(level: str) -> None:
    """Log to stderr, which is the service's log file; libraries tell only what is wrong.

    Args:
        level: By its name, in small letters.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    if level != "debug":
        for library in CHATTY:
            logging.getLogger(library).setLevel(logging.WARNING)


def ready() -> None:
    """Say ``READY=1`` to whoever started this service; silent where nobody listens.

    Source: sd_notify(3). An address that begins with ``@`` is in Linux's abstract namespace.

    Raises:
        OSError: The service manager named a socket that does not answer.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        sender.send(b"READY=1")


class Vm(Protocol):
    """The VM that a service runs on."""

    def ready(self) -> None:
        """The service is up: whoever started it may hear of it."""
        ...

    def set_deadline(self, seconds: float | None) -> None:
        """Power off in so many seconds, whatever becomes of this process; ``None``: never."""
        ...

    async def power_off(self) -> None:
        """Power off, now; a VM that refuses is left to its own deadline."""
        ...

    def armed(self) -> float:
        """When the VM's own deadline was armed, in seconds since the epoch: at its boot."""
        ...

    def close(self) -> None:
        """Let nothing be unwritten."""
        ...


class LinuxVm:
    """The real form: a file that ``dayfly-deadline.service`` obeys, and ``poweroff``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadline = Deadline(clock)

    def ready(self) -> None:  # noqa: D102
        ready()

    def set_deadline(self, seconds: float | None) -> None:  # noqa: D102
        self._deadline.set(seconds)

    async def power_off(self) -> None:  # noqa: D102
        try:
            async with asyncio.timeout(POWER_OFF):
                await power_off()
        except (TimeoutError, CommandError) as error:
            log.warning("the VM is left to its own deadline: %s", error)

    def armed(self) -> float:  # noqa: D102
        # Written once after each boot, which empties /run; see bootstrap.py.
        cap = path("/run/dayfly/cap")
        return cap.stat().st_mtime if cap.exists() else self._clock.now()

    def close(self) -> None:  # noqa: D102
        self._deadline.close()


class Deadline:
    """The file that ``dayfly-deadline.service`` obeys.

    The deadline moves with each job that begins or ends; it is written at once the first time,
    and then once per :data:`GATHER` seconds, off the road of the calls.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: float | None = None
        self._begun = False
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float | None) -> None:
        """Power the VM off in so many seconds, whatever becomes of us; ``None``: never."""
        self._due = None if seconds is None else self._clock.monotonic() + seconds
        if not self._begun:
            self._write()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._write)

    def close(self) -> None:
        """Write what has not been written."""
        if self._timer is not None:
            self._write()

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        line = "never"
        if self._due is not None:
            line = f"{self._uptime() + self._due - self._clock.monotonic():.3f}"
        target = path("/run/dayfly/deadline")
        scratch = target.with_name(f"deadline.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(line + "\n")
            scratch.replace(target)
        except OSError as error:  # the earlier deadline holds, or the cap
            log.error("the VM's own deadline cannot be set: %s", error)  # noqa: TRY400
        else:
            self._begun = True

    def _uptime(self) -> float:
        """Seconds on the clock of ``/proc/uptime``, which goes on while the VM is suspended."""
        uptime = Path("/proc/uptime")
        return float(uptime.read_text().split()[0]) if uptime.exists() else self._clock.monotonic()


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
        raise CommandError("sudo cannot be started", cause=str(error)) from error
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:  # this service is ended, as the VM goes down already
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise CommandError(
            f"sudo poweroff ended with exit status {process.returncode}",
            cause=output.decode("utf-8", "replace").strip(),
        )
