"""Where the time of one job went: a session that looks on and notes when what happened."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from dayfly.client.channel import (
    ClosableSession,
    Event,
    Found,
    JobChannel,
    JobRequest,
    Phase,
)
from dayfly.clock import Clock
from dayfly.wire import messages as m

#: What goes on between the submission and the first word about it.
BEGINNING = "looking for the master"
CALLS = "the calls"


class Lap(msgspec.Struct, frozen=True):
    """One phase, in words, and its seconds."""

    what: str
    seconds: float


class Stopwatch:
    """A session that hands everything on to another one.

    Attributes:
        laps: The phases that have ended, in order.
    """

    def __init__(self, session: ClosableSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._what = ""
        self._since = clock.monotonic()
        self.laps: list[Lap] = []

    def lap(self, what: str) -> None:
        """Another phase begins; the same one again goes on."""
        if what == self._what:
            return
        now = self._clock.monotonic()
        if self._what:
            self.laps.append(Lap(self._what, now - self._since))
        self._what, self._since = what, now

    def start(self, request: JobRequest, items: AsyncIterator[list[bytes]]) -> JobChannel:
        """See :class:`dayfly.client.channel.Session`."""
        self.lap(BEGINNING)
        return _TimedChannel(self, self._session.start(request, items))

    async def attach(self, job: str) -> Found:
        """See :class:`dayfly.client.channel.Session`."""
        return await self._session.attach(job)

    async def aclose(self, *, hurried: bool = False) -> None:
        """Close the other one."""
        await self._session.aclose(hurried=hurried)


class _TimedChannel:
    def __init__(self, watch: Stopwatch, channel: JobChannel) -> None:
        self._watch = watch
        self._channel = channel

    async def events(self) -> AsyncIterator[Event]:
        async for event in self._channel.events():
            if what := phase_of(event):
                self._watch.lap(what)
            yield event

    async def cancel(self, indices: list[int] | None = None) -> None:
        await self._channel.cancel(indices)

    @property
    def entrusted(self) -> bool:
        return self._channel.entrusted

    async def handed_over(self) -> bool:
        return await self._channel.handed_over()

    def leave(self) -> bool:
        return self._channel.leave()


def phase_of(event: Event) -> str:
    """The phase that an event begins, in words; empty if it begins none."""
    match event:
        case Phase(waiting=waiting) | m.JobStatus(waiting=waiting) if waiting:
            return f"waiting for {waiting}"
        case m.JobStatus() | m.Delivery():
            return CALLS
        case _:
            return ""
