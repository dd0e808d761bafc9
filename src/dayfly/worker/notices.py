"""When the cloud takes this VM back: it says so before, where one knows to look.

On EC2 that is the metadata service, asked by IMDSv2; on the embedded cloud a file that reads the
same. Source: EC2 user guide, "Spot Instance interruption notices": to be looked at every five
seconds, two minutes ahead as a rule.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec

from dayfly import guest
from dayfly.clock import Clock

log = logging.getLogger(__name__)

#: The instance's own address of EC2's metadata service.
METADATA = "http://169.254.169.254"
#: Variables that name another one: ours, and that of AWS's own libraries.
ELSEWHERE = ("DAYFLY_METADATA", "AWS_EC2_METADATA_SERVICE_ENDPOINT")
#: Seconds between two looks at it, also when it does not answer, and for one answer.
PACE, SILENT_PACE, ANSWER = 5.0, 60.0, 2.0
#: Seconds for which a token is asked; the most that there is.
TOKEN = 21600
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
    for name in ELSEWHERE:
        if address := os.environ.get(name):
            return Metadata(clock, address)
    if os.environ.get("DAYFLY_ROOT"):
        return NoticeFile(clock, guest.path("/run/spot-instance-action"))
    return Metadata(clock, METADATA)


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
        self._address = address.rstrip("/")
        self._token = ""
        self._silent = False

    async def next(self) -> float:  # noqa: D102
        timeout = aiohttp.ClientTimeout(total=ANSWER)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    action = await self._look(session)
                except (aiohttp.ClientError, TimeoutError) as error:
                    self._trouble(error)
                    await self._clock.sleep(SILENT_PACE)
                    continue
                if action:
                    return _left(action, self._clock)
                self._silent = False
                await self._clock.sleep(PACE)

    async def _look(self, session: aiohttp.ClientSession) -> bytes:
        """What is announced; empty for nothing."""
        if not self._token:
            lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN)}
            address = f"{self._address}/latest/api/token"
            async with session.put(address, headers=lifetime) as answer:
                answer.raise_for_status()
                self._token = await answer.text()
        address = f"{self._address}/latest/meta-data/spot/instance-action"
        headers = {"X-aws-ec2-metadata-token": self._token}
        async with session.get(address, headers=headers) as answer:
            if answer.status == 401:  # its time is over
                self._token = ""
                return b""
            if answer.status == 404:
                return b""
            answer.raise_for_status()
            return await answer.read()

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
