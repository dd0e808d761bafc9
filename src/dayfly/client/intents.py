"""Launches, written down in storage before they are made.

A client may be killed at any moment. Who comes next finds what it was about to launch, and
either says the very same again, which launches nothing twice, or ends what came of it.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from dayfly.clock import Clock
from dayfly.model import ExecMode, InstanceSpec, JobSpec, Tag
from dayfly.processes import Process
from dayfly.storage.notes import StorageNotes

#: Seconds after which a launch that was written down is not made any more: what came of it is
#: long to be seen in the cloud's listing.
STALE = 900.0
_INTENT = "/intent"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One launch, as it was meant.

    Attributes:
        cluster: Whose.
        at: When it was written down, in seconds since the epoch.
        place: Where the client runs that launches; see :class:`~dayfly.processes.Process`.
        pid: Its process there.
    """

    cluster: str
    token: str
    spec: InstanceSpec
    count: int
    at: float
    place: str
    pid: int

    def old(self, now: float) -> bool:
        """Whether it is not to be made any more."""
        return now - self.at > STALE

    def serves(self, spec: JobSpec) -> bool:
        """Whether what it launches may serve a job in ``reuse`` mode."""
        tags = self.spec.tags
        return (
            self.spec.role == "worker"
            and tags.get(Tag.MODE) == spec.mode.value == ExecMode.REUSE.value
            and tags.get(Tag.RUNTIME) == spec.runtime
            and tags.get(Tag.KIND) == spec.kind
        )

    def orphaned(self, now: float, seen_by: Process) -> bool:
        """Whether it was for one job alone, whose client is gone."""
        if self.spec.tags.get(Tag.MODE) != ExecMode.CREATE.value:
            return False
        return self.old(now) or not seen_by.alive(self.place, self.pid)


class Intents:
    """The launches of one cluster."""

    def __init__(
        self, notes: StorageNotes, cluster: str, *, process: Process, clock: Clock
    ) -> None:
        self._notes = notes
        self._process = process
        self._cluster = cluster
        self._clock = clock

    async def write(self, spec: InstanceSpec, count: int, token: str) -> Intent:
        """Write a launch down, before it is made.

        Returns:
            The launch to make: that of whoever wrote this token down first.
        """
        ours = Intent(
            cluster=self._cluster,
            token=token,
            spec=spec,
            count=count,
            at=self._clock.now(),
            place=self._process.place,
            pid=self._process.pid,
        )
        first = await self._notes.claim(token + _INTENT, msgspec.msgpack.encode(ours))
        return msgspec.msgpack.decode(first, type=Intent)

    async def open(self) -> list[Intent]:
        """The launches that were written down and not handed over, oldest first."""
        found = []
        for name in await self._notes.names():
            if not name.endswith(_INTENT):
                continue
            note = await self._notes.read(name)
            if note is None:
                continue
            # Another version may have written it; that is no reason to launch nothing.
            with suppress(msgspec.MsgspecError):
                found.append(msgspec.msgpack.decode(note, type=Intent))
        ours = [intent for intent in found if intent.cluster == self._cluster]
        return sorted(ours, key=lambda intent: intent.at)

    async def close(self, token: str) -> None:
        """What came of a launch is in somebody's hands.

        What the cloud noted of it stays for a while: another client may just be saying it again.
        """
        await self._notes.forget([token + _INTENT])

    async def tidy(self) -> None:
        """Delete what was noted of launches that nobody makes any more."""
        names, now = await self._notes.names(), self._clock.now()
        await self._notes.forget(
            name
            for name, written in names.items()
            if not name.endswith(_INTENT) and now - written > STALE
        )
