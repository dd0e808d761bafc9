"""Bring jobs to the master: read their items, launch the workers that they lack, submit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from dayfly import errors
from dayfly.client.access import find_access
from dayfly.client.ascent import Ascender, cluster_key
from dayfly.client.channel import Found, JobRequest
from dayfly.client.conversation import RESUMES, Channel, Conversation
from dayfly.client.leaving import may_go_on
from dayfly.client.outgoing import send_items, send_payload
from dayfly.client.recollection import recollect
from dayfly.client.staffing import Staffing
from dayfly.model import InstanceState, JobSpec, JobState
from dayfly.parts import Parts
from dayfly.phases import CLIENT
from dayfly.storage import keys
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Seconds that closing waits for launches and dismissals, so that no VM is forgotten.
CLOSING = 30.0
#: Seconds that closing takes to tell a master that is up to stop what was given up meanwhile.
STOPPING = 10.0
#: Seconds between two attempts to hear from a master whose conversation broke.
PAUSE = 0.2
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
        self._closed = False

    def start(self, request: JobRequest, items: AsyncIterator[list[bytes]]) -> Channel:
        """See :meth:`dayfly.client.channel.Session.start`."""
        channel = Channel(self, request)
        self._channels[channel.id] = channel
        channel.task = self.spawn(self._drive(channel, items), f"dayfly job {channel.id}")
        channel.task.add_done_callback(partial(self._forget_unsaid, channel))
        return channel

    def _forget_unsaid(self, channel: Channel, _: object) -> None:
        if channel.cancelled and not channel.submitted:
            self._channels.pop(channel.id, None)
            if self._made:
                self._made.staffing.dismiss(channel)

    async def tell(
        self, channel: Channel, message: m.FromClient, *, remember: bool = False
    ) -> None:
        """See :meth:`dayfly.client.conversation.Conversation.tell`."""
        road = await self._open_road()
        await road.conversation.tell(channel, message, remember=remember)

    async def attach(self, job: str) -> Found:
        """See :meth:`dayfly.client.channel.Session.attach`."""
        self._refuse_twice(job)
        if (found := await self._remembered(job)) is not None:
            return found
        spec, total = await self._describe(job)
        if spec is None:
            # It may have been over, and fetched by another client, just then.
            if (found := await self._remembered(job)) is not None:
                return found
            raise self._unknown(job, "the master does not know it")
        return await self._join(spec, total)

    async def confirm(self, channel: Channel) -> bool:
        """See :meth:`dayfly.client.conversation.Teller.confirm`."""
        road = await self._open_road()
        if under_way := road.staffing.under_way:
            await asyncio.wait(under_way)
        while not channel.ended:
            # Messages are handled in order, so this answer comes after all that was said. Whoever
            # takes a broken conversation up again knows for how long, and ends the job: whatever
            # fails here is no reason to.
            with suppress(errors.DayflyError):
                ascent = await road.conversation.ascent()
                if (await ascent.door.describe(channel.id)).total is not None:
                    return True
            await self._parts.clock.sleep(PAUSE)
        return False

    async def aclose(self, *, hurried: bool = False) -> None:
        """Let go of the master; jobs that still run are cut off here, not cancelled.

        Args:
            hurried: Whether its user has left at once, and was told what may go on.
        """
        try:
            if not hurried:
                await self._give_up_unheard()
            await self._launched()
            await self._stop_withdrawn()
        finally:
            self._closed = True
            if self._made:
                # Before the tasks: what the master says begins new ones.
                await self._made.conversation.aclose()
            tasks = [*self._tasks, *([self._road] if self._road else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for channel in self._channels.values():
                channel.fail(errors.WireError(f"job {channel.id}: the executor was closed"))

    async def _give_up_unheard(self) -> None:
        """Jobs of which the master has not said that they are cancelled: it may be down."""
        for channel in list(self._channels.values()):
            if channel.cancelled and not channel.ended:
                error = errors.WireError(f"job {channel.id}: the executor was closed")
                await self.give_up(channel, error)

    async def _launched(self) -> None:
        """Wait until what is launched is handed over, and dismissed what is done with."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                while self._made and (under_way := self._made.staffing.under_way):
                    await asyncio.wait(under_way)

    async def _stop_withdrawn(self) -> None:
        """Stop what was given up while the master could not be told, unless its VM is down."""
        if self._made is None or not self._made.conversation.withdrawing:
            return
        # Whoever was told that the job has failed was told that it may still run.
        with suppress(TimeoutError, errors.DayflyError):
            async with asyncio.timeout(STOPPING):
                if not self._made.conversation.open:
                    master = await self._made.ascender.find()
                    if master is None or master.state is not InstanceState.RUNNING:
                        return
                await self._made.conversation.tell_withdrawn()

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
        if channel.attached or channel.left:
            # It is not ours to end; the master fails it in time, unless others can help.
            channel.emit(m.Notice(level="warning", text=str(error), job=channel.id))
            return
        goes_on = channel.ended and channel.entrusted  # as the user was told
        if self._made and channel.said and not goes_on:
            told = await self._made.conversation.withdraw(channel.id)
            if not told:
                error.add_note(may_go_on(channel.id))
        channel.fail(error)
        self._channels.pop(channel.id, None)
        if self._made:
            self._made.staffing.dismiss(channel)

    def _finish(self, channel: Channel, ended: m.JobEnded) -> None:
        channel.end(ended)
        self._channels.pop(channel.id, None)

    async def _submit(self, channel: Channel) -> None:
        storage, request = self._parts.storage, channel.request
        with self._parts.timeline.during(CLIENT, "function stored"):
            key = await self._store_modules(request) if request.modules else ""
            function = await send_payload(storage, keys.function(channel.id), request.function)
        submit = m.Submit(spec=request.spec, function=function, modules=key)
        await self.tell(channel, submit, remember=True)
        if channel.withdrawn:
            await channel.cancel(channel.withdrawn)

    async def _store_modules(self, request: JobRequest) -> str:
        key, now = keys.modules(request.modules_digest), self._parts.clock.monotonic()
        if now - self._stored.get(key, float("-inf")) > TRUSTED:
            await self._parts.storage.put_object(key, request.modules)
            fresh = {k: at for k, at in self._stored.items() if now - at <= TRUSTED}
            self._stored = fresh | {key: now}
        return key

    # -- what the master says --

    async def _heard(self, message: m.ToClient) -> None:
        if isinstance(message, m.Logs):
            for line in message.lines:
                if channel := self._channels.get(line.job):
                    channel.emit(m.Logs(lines=[line]))
            return
        if isinstance(message, m.Phases):
            self._parts.timeline.hear(message.phases)
            return
        job = getattr(message, "job", "")
        channel = self._channels.get(job)
        if channel is None:
            if isinstance(message, m.JobEnded | m.Refused) and self._made:
                await self._made.conversation.stopped(job)
            return
        match message:
            case m.Delivery():
                channel.deliver(message)
            case m.JobEnded(after=after):
                await self._ended(channel, message, complete=channel.last >= after)
            case m.WorkersNeeded(count=count, reason=reason, spared=spared):
                road = await self._open_road()
                await road.staffing.replace(channel, count, reason, spared=spared)
            case m.Refused(code=code, reason=reason):
                if not await self._recall(channel):
                    channel.fail(errors.named(code, errors.WireError)(reason))
                    self._channels.pop(channel.id, None)
            case m.Notice(lost=lost) if lost:
                channel.emit(message)
                road = await self._open_road()
                self.spawn(road.staffing.bury(channel, message), f"dayfly end of {lost}")
            case m.JobStatus(ready=ready, coming=coming):
                channel.staffed = ready > 0 and not coming
                channel.emit(message)
            case m.Notice():
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
        road.staffing.dismiss(channel)

    # -- jobs that were begun elsewhere, or were over before we heard of it --

    async def _remembered(self, job: str) -> Found | None:
        """A job that is over, from storage."""
        memory = await recollect(self._parts.storage, job)
        if memory is None:
            return None
        return Found(
            function=memory.record.function,
            single=memory.record.single,
            return_exceptions=memory.record.return_exceptions,
            total=memory.record.total,
            channel=memory,
        )

    async def _recall(self, channel: Channel) -> bool:
        """End a job by what storage remembers of it; ``False`` when that is nothing."""
        try:
            memory = await recollect(self._parts.storage, channel.id)
            if memory is None:
                return False
            deliveries = [delivery async for delivery in memory.deliveries()]
        except errors.StorageError as error:
            log.warning("storage does not tell what became of job %s: %s", channel.id, error)
            return False
        # All at once: a master that is up again may be numbering deliveries of its own.
        channel.talks_to("")
        for delivery in deliveries:
            channel.deliver(delivery)
        if channel.task is not None:
            channel.task.cancel()
        self._finish(channel, memory.last_word)
        road = await self._open_road()
        if not road.conversation.open:
            # It may have been told to a second master, which would run it again.
            await road.conversation.withdraw(channel.id)
        road.staffing.dismiss(channel)
        return True

    async def _describe(self, job: str) -> tuple[JobSpec | None, int | None]:
        """What the master tells of a job, started for it if need be; ``None`` if it knows none."""
        parts = self._parts
        if await find_access(parts.storage, cluster_key(parts.config)) is None:
            raise self._unknown(job, "there is no cluster of yours")
        road = await self._open_road()
        if await road.ascender.find() is None:
            raise self._unknown(job, "there is no master")
        for attempt in range(1, RESUMES + 1):
            try:
                ascent = await road.conversation.ascent()
                described = await ascent.door.describe(job)
            except errors.InstanceNotFoundError:
                raise self._unknown(job, "the master is gone") from None
            except errors.JobError:
                return None, None
            except errors.WireError:
                if attempt == RESUMES:
                    raise
                await parts.clock.sleep(PAUSE)
            else:
                return described.spec, described.total
        raise AssertionError  # the last attempt returns or raises

    async def _join(self, spec: JobSpec, total: int | None) -> Found:
        """Follow a job from its first outcome."""
        channel = Channel(self, JobRequest(spec=spec, function=b""), attached=True)
        road = await self._open_road()
        await road.staffing.join(channel)
        self._refuse_twice(channel.id)  # it may have been attached to meanwhile
        self._channels[channel.id] = channel
        try:
            await self.tell(channel, m.FollowLogs(job=channel.id), remember=True)
            await self.tell(channel, m.Follow(job=channel.id))
        except BaseException:
            self._channels.pop(channel.id, None)
            raise
        return Found(
            function=spec.function,
            single=spec.single,
            return_exceptions=spec.return_exceptions,
            total=total,
            channel=channel,
        )

    def _refuse_twice(self, job: str) -> None:
        if job in self._channels:
            raise errors.UsageError(f"job {job} is this executor's already")

    def _unknown(self, job: str, master: str) -> errors.JobError:
        cloud = self._parts.cloud
        where = f"{cloud.name}{f' in {cloud.region}' if cloud.region else ''}"
        return errors.JobError(
            f"there is no job {job!r}",
            cause=f"storage keeps no record of it, and {master} ({where}, the owner"
            " and the configuration that are in use here); its results may have been cleaned",
            hint="dayfly job list",
        )

    # -- the road to the master, made once --

    async def _open_road(self) -> _Road:
        if self._closed:
            raise errors.WireError("the executor was closed")
        if self._road is None or (self._road.done() and self._road.exception()):
            self._road = asyncio.create_task(self._make_road(), name="dayfly road")
        road = self._road
        if not road.done():
            await asyncio.wait([road])
        if road.cancelled():  # by closing: nobody cancelled who waits here
            raise errors.WireError("the executor was closed")
        return road.result()

    async def _make_road(self) -> _Road:
        ascender = await Ascender.prepare(self._parts)
        self.spawn(self._sweep(ascender), "dayfly sweep")
        conversation = Conversation(
            ascender,
            self._channels,
            self._heard,
            recall=self._recall,
            renewed=self._renewed,
            given_up=self._unreachable,
            patience=self._parts.config.compute.start_timeout,
            clock=self._parts.clock,
        )
        staffing = Staffing(self._parts, ascender, conversation, self)
        self._made = _Road(ascender, conversation, staffing)
        return self._made

    def _renewed(self) -> None:
        """The master may not know of the workers that are up."""
        if self._made:
            self._made.staffing.offer(self._channels.values())

    def _unreachable(self, channel: Channel) -> None:
        """A job has ended here because its master cannot be had."""
        if self._made and not channel.lasting:
            self._made.staffing.dismiss(channel)

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
