"""Bring jobs to the master: read their items, launch the workers that they lack, submit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec

from dayfly import errors
from dayfly.client.ascent import Ascender, worker_processes
from dayfly.client.channel import JobRequest, Phase
from dayfly.client.conversation import Channel, Conversation
from dayfly.client.outgoing import send_items, send_payload
from dayfly.client.supply import Supplied, Supply, missing, wanted
from dayfly.model import ExecMode, Instance, InstanceState, JobState, WorkerRow
from dayfly.parts import Parts
from dayfly.storage import keys
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Seconds that closing waits for launches that are under way, so that none is forgotten.
CLOSING = 30.0
#: Seconds for which an archive of modules that was stored is taken to be there: another
#: terminal may clean meanwhile.
TRUSTED = 60.0

Rows: TypeAlias = Callable[[], Awaitable[list[WorkerRow]]]


class MasterSession:
    """Brings jobs to one cluster's master (:class:`dayfly.client.channel.Session`)."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._channels: dict[str, Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._launches: set[asyncio.Task[None]] = set()
        self._road: asyncio.Task[_Road] | None = None
        self._stored: dict[str, float] = {}

    def start(self, request: JobRequest, items: AsyncIterator[list[bytes]]) -> Channel:
        """See :meth:`dayfly.client.channel.Session.start`."""
        channel = Channel(self, request)
        self._channels[channel.id] = channel
        channel.task = self._spawn(self._drive(channel, items), f"dayfly job {channel.id}")
        return channel

    async def tell(
        self, channel: Channel, message: m.FromClient, *, remember: bool = False
    ) -> None:
        """See :meth:`dayfly.client.conversation.Conversation.tell`."""
        road = await self._open_road()
        await road.conversation.tell(channel, message, remember=remember)

    async def aclose(self) -> None:
        """Let go of the master; jobs that still run are cut off here, not cancelled."""
        if self._launches:
            # A launch that is under way is finished and handed over: no VM is forgotten.
            await asyncio.wait(self._launches, timeout=CLOSING)
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
            supply = await self._size(road, channel, len(first))
            rows = await self._inquire(road, supply)
            self._launch(road, channel, self._staff(road, channel, supply, rows))
            await self._submit(channel)
            await send_items(
                channel.id,
                first,
                items,
                storage=self._parts.storage,
                say=lambda message: self.tell(channel, message, remember=True),
            )
        except Exception as error:  # noqa: BLE001  # the user's own iterable may raise anything
            await self._give_up(channel, error)

    async def _give_up(self, channel: Channel, error: Exception) -> None:
        if channel.said:
            with suppress(errors.DayflyError):  # else the master ends it, its client being gone
                await self.tell(channel, m.Cancel(job=channel.id))
        channel.fail(error)
        self._channels.pop(channel.id, None)

    def _finish(self, channel: Channel, ended: m.JobEnded) -> None:
        channel.end(ended)
        self._channels.pop(channel.id, None)

    async def _size(self, road: _Road, channel: Channel, calls: int) -> Supply:
        """Fill in what only the session knows: workers, processes and interpreter."""
        compute, spec = self._parts.config.compute, channel.request.spec
        instance_type, most = spec.instance_type, compute.max_workers
        if spec.mode is ExecMode.CONSUME:
            vm = await road.ascender.cluster.look(compute.instance_id)
            instance_type, most = vm.instance_type, 1
        processes = await worker_processes(self._parts, instance_type)
        spec = msgspec.structs.replace(
            spec,
            instance_type=instance_type,
            processes=processes,
            runtime=compute.interpreter,
            wanted=wanted(calls, processes, most),
        )
        channel.request = msgspec.structs.replace(channel.request, spec=spec)
        channel.supply = Supply(road.ascender.cluster, spec)
        return channel.supply

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

    # -- its workers --

    def _launch(self, road: _Road, channel: Channel, work: Coroutine[Any, Any, Supplied]) -> None:
        """Launch apart from the job: whatever becomes of it, a launch is never cut in two."""
        task = self._spawn(self._adopt(road, channel, work), f"dayfly workers {channel.id}")
        self._launches.add(task)
        task.add_done_callback(self._launches.discard)

    async def _adopt(
        self, road: _Road, channel: Channel, work: Coroutine[Any, Any, Supplied]
    ) -> None:
        """Hand the master what was launched."""
        channel.launching = True
        try:
            supplied = await work
            if supplied.notice:
                channel.emit(m.Notice(level="warning", text=supplied.notice, job=channel.id))
            if supplied.instances:
                await self._hand_over(road, channel, supplied.instances)
        except errors.DayflyError as error:
            await self._give_up(channel, error)
            return
        finally:
            channel.launching = False
        if channel.owed > len(supplied.instances) and not channel.ended:
            owed, channel.owed = channel.owed - len(supplied.instances), 0
            await self._replace(channel, owed, "fewer workers came than are needed")

    async def _hand_over(self, road: _Road, channel: Channel, instances: list[Instance]) -> None:
        spec = channel.request.spec
        if channel.ended and spec.mode is ExecMode.CREATE:
            await self._dismiss(channel)
            return
        job = spec.id if spec.mode is ExecMode.CREATE else ""
        adopt = m.Adopt(instances=instances, policy=spec.policy, job=job)
        await self.tell(channel, adopt, remember=True)
        if spec.mode is not ExecMode.CONSUME:  # a user's own VM is not re-tagged
            await road.ascender.cluster.keep([instance.id for instance in instances])

    async def _inquire(self, road: _Road, supply: Supply) -> Rows | None:
        """Ask a master that is up for its workers, before it hears of the job.

        Returns:
            What waits for the answer; ``None`` when the master is down, so that its workers
            are idle, and when the VM is the master itself.
        """
        if supply.spec.mode is ExecMode.CONSUME:
            return None
        if not road.conversation.open:
            master = await road.ascender.find()
            if master is None or master.state is not InstanceState.RUNNING:
                return None
        return await (await road.conversation.ascent()).door.ask_workers()

    async def _staff(
        self,
        road: _Road,
        channel: Channel,
        supply: Supply,
        rows: Rows | None,
    ) -> Supplied:
        """A new job's workers: launched beside the master while that is down too."""
        spec, most = supply.spec, self._parts.config.compute.max_workers
        if spec.mode is ExecMode.CONSUME:
            ascent = await road.conversation.ascent()
            return Supplied(instances=[supply.itself(ascent.instance)])
        if rows is not None:
            count = missing(spec, await rows(), most)
            supplied = await supply.launch(count, others=count < spec.wanted)
            ascent = await road.conversation.ascent()
            await road.ascender.cluster.keep([ascent.instance.id])
            return supplied
        up: list[Instance] = []
        if spec.mode is ExecMode.REUSE:
            up = (await supply.adoptable())[: spec.wanted]
        count = spec.wanted - len(up)
        if count:
            workers = "1 worker" if count == 1 else f"{count} workers"
            channel.emit(Phase(waiting=f"the master and {workers} to be launched"))
            await self._master_placed(road)
        supplied = await supply.launch(count, others=bool(up))
        return msgspec.structs.replace(supplied, instances=up + supplied.instances)

    async def _master_placed(self, road: _Road) -> None:
        """Wait for the master's launch to be answered (its boot goes on beside the workers')."""
        ascent = self._spawn(self._ascend(road), "dayfly ascent")
        placed = asyncio.create_task(road.ascender.placed.wait(), name="dayfly placed")
        try:
            await asyncio.wait([ascent, placed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            placed.cancel()

    async def _ascend(self, road: _Road) -> None:
        with suppress(errors.DayflyError):  # whoever submits meets the same error, and tells
            await road.conversation.ascent()

    async def _dismiss(self, channel: Channel) -> None:
        """The workers of ``create`` mode go with their job."""
        supply = channel.supply
        if supply is None or supply.spec.mode is not ExecMode.CREATE or not supply.launched:
            return
        if not supply.spec.policy.auto:
            return  # the user's own switch: nothing is stopped automatically
        try:
            await self._parts.cloud.terminate(supply.launched)
        except errors.CloudError as error:
            log.warning("the workers of %s are left to their timers: %s", channel.id, error)

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
            case m.Delivery(number=number):
                if number == channel.last + 1:
                    channel.last = number
                    channel.emit(message)
            case m.JobEnded(after=after):
                await self._ended(channel, message, complete=channel.last >= after)
            case m.WorkersNeeded(count=count, reason=reason):
                await self._replace(channel, count, reason)
            case m.Refused(code=code, reason=reason):
                channel.fail(getattr(errors, code, errors.WireError)(reason))
                self._channels.pop(channel.id, None)
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
        self._spawn(self._dismiss(channel), f"dayfly end of {channel.id}")

    async def _replace(self, channel: Channel, count: int, reason: str) -> None:
        if channel.supply is None:
            return
        if channel.launching:
            channel.owed = count  # what is on its way already may be enough
            return
        channel.emit(m.Notice(level="warning", text=reason, job=channel.id))
        road = await self._open_road()
        self._launch(road, channel, channel.supply.launch(count, others=True))

    # -- the road to the master, made once --

    async def _open_road(self) -> _Road:
        if self._road is None or (self._road.done() and self._road.exception()):
            self._road = asyncio.create_task(self._make_road(), name="dayfly road")
        return await asyncio.shield(self._road)

    async def _make_road(self) -> _Road:
        ascender = await Ascender.prepare(self._parts)
        self._spawn(self._sweep(ascender), "dayfly sweep")
        return _Road(ascender, Conversation(ascender, self._channels, self._heard))

    async def _sweep(self, ascender: Ascender) -> None:
        try:
            await ascender.cluster.sweep()
        except errors.CloudError as error:
            log.warning("expired instances could not be swept: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Road(msgspec.Struct, frozen=True):
    """The way to the cluster's master, and the conversation with it."""

    ascender: Ascender
    conversation: Conversation


def open_session(parts: Parts) -> MasterSession:
    """Make the session of an executor."""
    return MasterSession(parts)
