"""Bring jobs to the master: read their items, launch the workers that they lack, submit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from dayfly import errors
from dayfly.client.ascent import Ascender
from dayfly.client.channel import JobRequest
from dayfly.client.conversation import Channel, Conversation
from dayfly.client.outgoing import send_items, send_payload
from dayfly.client.staffing import Staffing
from dayfly.model import JobState
from dayfly.parts import Parts
from dayfly.storage import keys
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Seconds that closing waits for launches that are under way, so that none is forgotten.
CLOSING = 30.0
#: Seconds for which an archive of modules that was stored is taken to be there: another
#: terminal may clean meanwhile.
TRUSTED = 60.0


class MasterSession:
    """Brings jobs to one cluster's master (:class:`dayfly.client.channel.Session`)."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._channels: dict[str, Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._road: asyncio.Task[_Road] | None = None
        self._made: _Road | None = None
        self._stored: dict[str, float] = {}

    def start(self, request: JobRequest, items: AsyncIterator[list[bytes]]) -> Channel:
        """See :meth:`dayfly.client.channel.Session.start`."""
        channel = Channel(self, request)
        self._channels[channel.id] = channel
        channel.task = self.spawn(self._drive(channel, items), f"dayfly job {channel.id}")
        return channel

    async def tell(
        self, channel: Channel, message: m.FromClient, *, remember: bool = False
    ) -> None:
        """See :meth:`dayfly.client.conversation.Conversation.tell`."""
        road = await self._open_road()
        await road.conversation.tell(channel, message, remember=remember)

    async def aclose(self) -> None:
        """Let go of the master; jobs that still run are cut off here, not cancelled."""
        if self._made and (launches := self._made.staffing.launches):
            # A launch that is under way is finished and handed over: no VM is forgotten.
            await asyncio.wait(launches, timeout=CLOSING)
        tasks = [*self._tasks, *([self._road] if self._road else [])]
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, _Road):
                await end.conversation.aclose()
        for channel in self._channels.values():
            channel.fail(errors.WireError(f"job {channel.id}: the executor was closed"))

    # -- one job --

    async def _drive(self, channel: Channel, items: AsyncIterator[list[bytes]]) -> None:
        try:
            first = await anext(items, None)
            if not first:
                self._finish(channel, m.JobEnded(job=channel.id, state=JobState.COMPLETED, after=0))
                return
            road = await self._open_road()
            supply = await road.staffing.size(channel, len(first))
            fresh = not road.conversation.open
            rows = await road.staffing.inquire(supply)
            road.staffing.begin(channel, supply, rows, fresh=fresh)
            await self._submit(channel)
            await send_items(
                channel.id,
                first,
                items,
                storage=self._parts.storage,
                say=lambda message: self.tell(channel, message, remember=True),
            )
        except Exception as error:  # noqa: BLE001  # the user's own iterable may raise anything
            await self.give_up(channel, error)

    async def give_up(self, channel: Channel, error: Exception) -> None:
        """See :meth:`dayfly.client.staffing.Host.give_up`."""
        if channel.said:
            with suppress(errors.DayflyError):  # else the master ends it, its client being gone
                await self.tell(channel, m.Cancel(job=channel.id))
        channel.fail(error)
        self._channels.pop(channel.id, None)

    def _finish(self, channel: Channel, ended: m.JobEnded) -> None:
        channel.end(ended)
        self._channels.pop(channel.id, None)

    async def _submit(self, channel: Channel) -> None:
        storage, request = self._parts.storage, channel.request
        key = await self._store_modules(request) if request.modules else ""
        function = await send_payload(storage, keys.function(channel.id), request.function)
        submit = m.Submit(spec=request.spec, function=function, modules=key)
        await self.tell(channel, submit, remember=True)

    async def _store_modules(self, request: JobRequest) -> str:
        key, now = keys.modules(request.modules_digest), self._parts.clock.monotonic()
        if now - self._stored.get(key, float("-inf")) > TRUSTED:
            await self._parts.storage.put_object(key, request.modules)
            self._stored[key] = now
        return key

    # -- what the master says --

    async def _heard(self, message: m.ToClient) -> None:
        if isinstance(message, m.Logs):
            for line in message.lines:
                if channel := self._channels.get(line.job):
                    channel.emit(m.Logs(lines=[line]))
            return
        channel = self._channels.get(getattr(message, "job", ""))
        if channel is None:
            return
        match message:
            case m.Delivery():
                channel.deliver(message)
            case m.JobEnded(after=after):
                await self._ended(channel, message, complete=channel.last >= after)
            case m.WorkersNeeded(count=count, reason=reason):
                road = await self._open_road()
                await road.staffing.replace(channel, count, reason)
            case m.Refused(code=code, reason=reason):
                channel.fail(getattr(errors, code, errors.WireError)(reason))
                self._channels.pop(channel.id, None)
            case m.Notice(lost=lost) if lost:
                channel.emit(message)
                road = await self._open_road()
                self.spawn(road.staffing.bury(channel, message), f"dayfly end of {lost}")
            case m.JobStatus() | m.Notice():
                channel.emit(message)
            case _:
                log.warning("the master said %s out of turn", type(message).__name__)

    async def _ended(self, channel: Channel, message: m.JobEnded, *, complete: bool) -> None:
        if not complete:
            await self.tell(channel, m.Follow(job=channel.id, after=channel.last))
            return
        if channel.task is not None:
            channel.task.cancel()
        self._finish(channel, message)
        await self.tell(channel, m.Release(job=channel.id))
        road = await self._open_road()
        self.spawn(road.staffing.dismiss(channel), f"dayfly end of {channel.id}")

    # -- the road to the master, made once --

    async def _open_road(self) -> _Road:
        if self._road is None or (self._road.done() and self._road.exception()):
            self._road = asyncio.create_task(self._make_road(), name="dayfly road")
        return await asyncio.shield(self._road)

    async def _make_road(self) -> _Road:
        ascender = await Ascender.prepare(self._parts)
        self.spawn(self._sweep(ascender), "dayfly sweep")
        conversation = Conversation(ascender, self._channels, self._heard)
        staffing = Staffing(self._parts, ascender, conversation, self)
        self._made = _Road(ascender, conversation, staffing)
        return self._made

    async def _sweep(self, ascender: Ascender) -> None:
        try:
            await ascender.cluster.sweep()
            await ascender.cluster.sweep_intents()
        except (errors.CloudError, errors.StorageError) as error:
            log.warning("expired instances could not be swept: %s", error)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """See :meth:`dayfly.client.staffing.Host.spawn`."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Road(msgspec.Struct, frozen=True):
    """The way to the cluster's master, the conversation with it, and its workers."""

    ascender: Ascender
    conversation: Conversation
    staffing: Staffing


def open_session(parts: Parts) -> MasterSession:
    """Make the session of an executor."""
    return MasterSession(parts)
