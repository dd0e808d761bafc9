"""When the cloud takes this VM back: it says so before, where one knows to look.

On EC2 that is the metadata service, asked by IMDSv2; on the embedded cloud a file that reads the
same. Source: EC2 user guide, "Spot Instance interruption notices": to be looked at every five
seconds, two minutes ahead as a rule.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec

from dayfly import guest
from dayfly.clock import Clock
from dayfly.worker import metadata

log = logging.getLogger(__name__)

#: Seconds between two looks at it, also when it does not answer.
PACE, SILENT_PACE = 5.0, 60.0
_NOTICE = "latest/meta-data/spot/instance-action"
#: Seconds between two looks at a file.
FILE_PACE = 1.0


class Interruptions(Protocol):
    """Where a VM learns that it is taken back."""

    async def next(self) -> float:
        """Wait until that is announced; returns the seconds that are left."""
        ...


class _Action(msgspec.Struct):
    """What is announced.

    Attributes:
        action: ``terminate``, ``stop`` or ``hibernate``.
        time: When, at the earliest: ``2026-09-18T08:22:00Z``.
    """

    action: str
    time: datetime


_ACTION = msgspec.json.Decoder(_Action)


def interruptions(clock: Clock) -> Interruptions:
    """The source that the environment of this VM names."""
    if where := metadata.address():
        return Metadata(clock, where)
    return NoticeFile(clock, guest.path("/run/spot-instance-action"))


class NoticeFile:
    """A file that is not there until the VM is to be taken back."""

    def __init__(self, clock: Clock, path: Path) -> None:
        self._clock = clock
        self._path = path

    async def next(self) -> float:  # noqa: D102
        while True:
            if self._path.exists():
                return _left(self._path.read_bytes(), self._clock)
            await self._clock.sleep(FILE_PACE)


class Metadata:
    """The metadata service at an address, by IMDSv2; where it is silent that is told once."""

    def __init__(self, clock: Clock, address: str) -> None:
        self._clock = clock
        self._address = address
        self._silent = False

    async def next(self) -> float:  # noqa: D102
        async with metadata.connection() as session:
            imds = metadata.Imds(session, self._address)
            while True:
                try:
                    action = await imds.get(_NOTICE)
                except (aiohttp.ClientError, TimeoutError) as error:
                    self._trouble(error)
                    await self._clock.sleep(SILENT_PACE)
                    continue
                if action:
                    return _left(action, self._clock)
                self._silent = False
                await self._clock.sleep(PACE)

    def _trouble(self, error: Exception) -> None:
        if not self._silent:
            self._silent = True
            log.warning(
                "the metadata service %s does not answer (%r): spot interruptions will not be"
                " known before they happen",
                self._address,
                error,
            )


def _left(announced: bytes, clock: Clock) -> float:
    """Seconds until what is announced; what cannot be read is taken to be now."""
    try:
        action = _ACTION.decode(announced)
    except msgspec.MsgspecError as error:
        log.warning("an interruption is announced that cannot be read: %s", error)
        return 0.0
    when = action.time if action.time.tzinfo else action.time.replace(tzinfo=UTC)
    return max(0.0, when.timestamp() - clock.now())
