"""The workers of a session's jobs: found, launched, handed to the master, replaced, given back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import msgspec

from dayfly import errors
from dayfly.client.ascent import Ascender, last_words, worker_processes
from dayfly.client.channel import Waiting
from dayfly.client.conversation import PAUSE, RESUMES, Channel, Conversation
from dayfly.client.estimate import estimate_note, note_if_known
from dayfly.client.lookout import Lookout
from dayfly.client.supply import Supplied, Supply, alike, kind_of, missing, wanted
from dayfly.model import ExecMode, Instance, InstanceState, JobSpec, WorkerRow
from dayfly.parts import Parts
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Consoles of silent VMs that are read for one job: what keeps one from answering keeps all.
CONSOLES = 3
#: Workers whose launch, beside the master's, a cloud takes at once: EC2 takes five calls, and
#: then two per second, of a hundred instances each.
CROWD = 300

Rows: TypeAlias = Callable[[], Awaitable[list[WorkerRow]]]


class Host(Protocol):
    """The session, as far as its workers go."""

    async def tell(
        self, channel: Channel, message: m.FromClient, *, remember: bool = False
    ) -> None:
        """See :meth:`dayfly.client.conversation.Conversation.tell`."""
        ...

    async def give_up(self, channel: Channel, error: Exception) -> None:
        """A job cannot go on."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Do something beside; it ends with the session."""
        ...


class Staffing:
    """Finds workers for jobs.

    Args:
        parts: Which cloud.
        ascender: Knows the cluster.
        conversation: With the master.
        host: The session.

    Attributes:
        under_way: Launches and dismissals, which must not be cut in two.
    """

    def __init__(
        self, parts: Parts, ascender: Ascender, conversation: Conversation, host: Host
    ) -> None:
        self._parts = parts
        self._ascender = ascender
        self._cluster = ascender.cluster
        self._conversation = conversation
        self._host = host
        self._lookout = Lookout(self._cluster, parts.clock, parts.cloud.pace)
        self.under_way: set[asyncio.Task[None]] = set()

    async def size(self, channel: Channel, calls: int) -> Supply:
        """Fill in what only the session knows: workers, processes and interpreter.

        Raises:
            ConfigError: There is no such type, the VM must not be consumed, or ``max_cost``
                does not even pay for the launch.
        """
        compute, spec = self._parts.config.compute, channel.request.spec
        instance_types, most = spec.instance_types, compute.max_workers
        if spec.mode is ExecMode.CONSUME:
            vm = await self._cluster.look(compute.instance_id)
            await self._parts.cloud.check_consumable(vm)
            instance_types, most = [vm.instance_type], 1
        processes = {name: await worker_processes(self._parts, name) for name in instance_types}
        preferred = next(iter(processes.values()))
        spec = msgspec.structs.replace(
            spec,
            instance_types=instance_types,
            processes=preferred,
            kind=kind_of(processes),
            runtime=self._ascender.runtime,
            wanted=wanted(calls, preferred, most),
        )
        packages, told = await self._ascender.outfitter.admit(
            instance_types[0], channel.request.imports
        )
        for text in told:
            channel.emit(m.Notice(level="warning", text=text, job=channel.id))
        spec = msgspec.structs.replace(spec, packages=packages)
        if spec.max_cost is not None:
            await estimate_note(self._parts, spec, launch=spec.wanted)
        channel.request = msgspec.structs.replace(channel.request, spec=spec)
        channel.supply = Supply(self._cluster, spec, processes)
        return channel.supply

    async def join(self, channel: Channel) -> None:
        """Be ready to replace workers of a job that another client began.

        They are of the kind that the job asks for, by this client's configuration.

        Raises:
            ConfigError: There is no such type.
        """
        spec = channel.request.spec
        kinds = {name: await worker_processes(self._parts, name) for name in spec.instance_types}
        series = f"{self._parts.entropy.hex(8)}-"
        channel.supply = Supply(self._cluster, spec, kinds, series=series)

    async def inquire(self, supply: Supply) -> Rows | None:
        """Ask a master that is up for its workers, before it hears of the job.

        Returns:
            What waits for the answer; ``None`` when the master is down, so that its workers
            are idle, and when the VM is the master itself.
        """
        if supply.spec.mode is ExecMode.CONSUME:
            return None
        if not self._conversation.open:
            master = await self._ascender.find()
            if master is None or master.state is not InstanceState.RUNNING:
                return None
        ascent = await self._conversation.ascent()
        try:
            answer = await ascent.door.ask_workers()
        except errors.WireError:
            return self._rows

        async def rows() -> list[WorkerRow]:
            with suppress(errors.WireError):
                return await answer()
            return await self._rows()

        return rows

    async def _rows(self) -> list[WorkerRow]:
        """The master's workers; a conversation that breaks meanwhile is taken up again."""
        for _ in range(RESUMES):
            ascent = await self._conversation.ascent()
            with suppress(errors.WireError):
                return await ascent.door.list_workers()
            await self._parts.clock.sleep(PAUSE)
        raise errors.WireError(
            "the master does not say which workers it has: it hung up time and again",
            hint="its log is /tmp/dayfly/master-service.log on its VM: dayfly attach",
        )

    def begin(self, channel: Channel, supply: Supply, rows: Rows | None, *, fresh: bool) -> None:
        """Find the workers of a new job, beside its submission.

        Args:
            channel: The job.
            supply: Its workers.
            rows: Waits for the master's answer; ``None`` when it is down.
            fresh: Whether others may have launched what this client does not know of.
        """
        self._launch(channel, self._staff(channel, supply, rows, fresh=fresh))

    async def replace(self, channel: Channel, count: int, reason: str, *, spared: int = 0) -> None:
        """The master wants more workers for a job."""
        if channel.supply is None:
            return
        channel.supply.spared += spared
        if channel.launching:
            channel.owed = count  # what is on its way may be enough, or just what was lost
            return
        channel.emit(m.Notice(level="warning", text=reason, job=channel.id))
        if channel.supply.spec.mode is ExecMode.CONSUME:
            return  # nothing is launched beside the user's own VM; its agent comes back by itself
        if not channel.supply.fits:
            channel.emit(m.Notice(level="warning", text=_unfit(channel.supply), job=channel.id))
            return
        self._launch(channel, channel.supply.launch(count, others=True))

    def offer(self, channels: Iterable[Channel]) -> None:
        """Hand the workers that are up to a master that may not know of them.

        It has another's place, whose disk is gone with all that was known of its workers; or it
        lost its last moments in a power cut. What nobody hands over idles until its own deadline.
        """
        self._keep(self._offer(list(channels)), "dayfly workers that are up")

    async def _offer(self, channels: list[Channel]) -> None:
        offered: set[tuple[str, str]] = set()
        for channel in channels:
            supply = channel.supply
            if channel.ended or supply is None or supply.spec.mode is not ExecMode.REUSE:
                continue  # the workers of one job alone are told of with it
            kind = supply.spec.runtime, supply.spec.kind
            if kind in offered:
                continue
            offered.add(kind)
            try:
                listed = await self._offer_strays(channel, supply, await self._rows())
                ascent = await self._conversation.ascent()
                await self._cluster.keep([ascent.instance], alike(supply.spec, listed))
            except errors.DayflyError as error:
                log.warning("the workers that are up are left to their own deadlines: %s", error)

    async def _offer_strays(
        self, channel: Channel, supply: Supply, listed: list[WorkerRow]
    ) -> list[WorkerRow]:
        """Hand the master the workers that are up and that it does not tell of.

        Those that it has given up are nothing new to it.

        Returns:
            What it tells of its workers then.
        """
        known = {row.instance for row in listed}
        strays = [each for each in await supply.adoptable() if each.id not in known]
        if not strays or channel.ended:
            return listed
        log.info("the master is handed %d workers that it does not know", len(strays))
        adopt = self._ascender.adoption(strays, supply.spec)
        await self._host.tell(channel, adopt, remember=True)
        return await self._rows()

    def dismiss(self, channel: Channel) -> None:
        """The workers of ``create`` mode go with their job."""
        self._keep(self._dismiss(channel), f"dayfly end of {channel.id}")

    async def _dismiss(self, channel: Channel) -> None:
        supply = channel.supply
        if supply is None or supply.spec.mode is not ExecMode.CREATE:
            return
        if not supply.spec.policy.auto:
            return  # the user's own switch: nothing is stopped automatically
        try:
            ended = await self._cluster.end_workers_of(channel.id, supply.launched)
        except errors.CloudError as error:
            log.warning("the workers of %s are left to their timers: %s", channel.id, error)
        else:
            await self._tell_ended(ended)

    async def _tell_ended(self, workers: Iterable[str]) -> None:
        """Tell a master that is up of workers that this client has ended: it waits for none."""
        if not self._conversation.open:
            return
        with suppress(errors.DayflyError):  # the master will find out by itself
            ascent = await self._conversation.ascent()
            for worker in workers:
                reason = "its client has ended it (Client.UserInitiatedShutdown)"
                await ascent.door.send(m.Ended(instance=worker, reason=reason))

    async def bury(self, channel: Channel, lost: m.Notice) -> None:
        """Tell what a worker that never answered has printed, and end it: it costs money."""
        try:
            tail = ""
            if lost.silent and channel.consoles < CONSOLES:
                channel.consoles += 1
                tail = await last_words(self._parts.cloud, lost.lost)
            await self._cluster.give_back([lost.lost])
        except errors.CloudError as error:
            log.warning("the lost worker %s is left to its own deadline: %s", lost.lost, error)
            return
        await self._tell_ended([lost.lost])
        if tail:
            text = f"{lost.lost} never answered; {tail}"
            channel.emit(m.Notice(level="warning", text=text, job=channel.id))

    # -- a launch --

    def _launch(self, channel: Channel, work: Coroutine[Any, Any, Supplied]) -> None:
        """Launch apart from the job: whatever becomes of it, a launch is never cut in two."""
        self._keep(self._adopt(channel, work), f"dayfly workers {channel.id}")

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._host.spawn(work, name)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _adopt(self, channel: Channel, work: Coroutine[Any, Any, Supplied]) -> None:
        """Hand the master what was launched."""
        channel.launching = True
        try:
            supplied = await work
            if supplied.notice:
                channel.emit(m.Notice(level="warning", text=supplied.notice, job=channel.id))
            if supplied.instances:
                await self._hand_over(channel, supplied)
            if supplied.warm:
                await self._cluster.keep([], supplied.warm)
        except Exception as error:  # noqa: BLE001  # a fault of ours too must end what waits for it
            await self._host.give_up(channel, error)
            return
        finally:
            channel.launching = False
        if channel.owed and not channel.ended:
            # Of what has come the master knows whether it was counted, or is what was lost.
            channel.owed = 0
            with suppress(errors.DayflyError):  # a conversation that is taken up asks anyway
                await self._host.tell(channel, m.AskAgain(job=channel.id))

    async def _hand_over(self, channel: Channel, supplied: Supplied) -> None:
        spec, instances = channel.request.spec, supplied.instances
        if spec.mode is ExecMode.CREATE:
            if not channel.ended:
                await self._conversation.ascent()  # it may end before the master is up
            if channel.ended:
                await self._dismiss(channel)
                return
        adopt = self._ascender.adoption(instances, spec)
        try:
            await self._host.tell(channel, adopt, remember=True)
        except errors.DayflyError:
            await self._give_back(channel, instances)
            raise
        if spec.mode is ExecMode.CONSUME:
            return  # a user's own VM is not re-tagged
        if self._lookout.watch(channel, instances):
            self._host.spawn(self._look_out(), "dayfly lookout")
        if supplied.tokens and not await self._heard(channel):
            return  # the job has ended here, and its launches are for whoever comes next
        for token in supplied.tokens:
            await self._cluster.launches.settled(token)
        await self._cluster.keep(instances)

    async def _heard(self, channel: Channel) -> bool:
        """Wait until the master has heard of the workers, for as long as their job is open.

        What is sent to a VM that has just gone down is said again in time, if we live as long.
        """
        while True:
            with suppress(errors.DayflyError):  # whoever mends the conversation ends the job
                ascent = await self._conversation.ascent()
                with suppress(errors.JobError):  # not submitted yet: an answer as well
                    await ascent.door.describe(channel.id)
                return True
            if channel.ended:
                return False
            await self._parts.clock.sleep(PAUSE)

    async def _give_back(self, channel: Channel, instances: list[Instance]) -> None:
        """End what was just launched for a job, and no master is there to look after."""
        if channel.supply is None or self._conversation.has_others(channel):
            return  # another job may count on it by now
        try:
            await self._cluster.give_back(channel.supply.unclaimed(instances))
        except errors.CloudError as error:
            log.warning("the workers of %s are left to their timers: %s", channel.id, error)

    async def _look_out(self) -> None:
        """Tell the master of workers that ended before they had begun, so that it need not wait."""
        async for channel, instance in self._lookout.ended():
            why = instance.state_reason or "the cloud gives no reason"
            reason = f"{instance.name} ({instance.id}) is {instance.state}: {why}"
            if not channel.ended:
                with suppress(errors.DayflyError):  # the master will find out by itself
                    await self._host.tell(channel, m.Ended(instance=instance.id, reason=reason))

    # -- a new job's workers --

    async def _staff(
        self, channel: Channel, supply: Supply, rows: Rows | None, *, fresh: bool
    ) -> Supplied:
        """Those that are there, and those that are missing, launched beside a master that is."""
        spec, most = supply.spec, self._parts.config.compute.max_workers
        if spec.mode is ExecMode.CONSUME:
            ascent = await self._conversation.ascent()
            return Supplied(instances=[supply.itself(ascent.instance)])
        found, warm = list[Instance](), list[str]()
        if rows is not None:
            listed = await rows()
            if spec.mode is ExecMode.REUSE and missing(spec, listed, most):
                listed = await self._offer_strays(channel, supply, listed)
            warm = [row.instance for row in listed if row.role == "master"] + alike(spec, listed)
            lacking = missing(spec, listed, most)
        else:
            if spec.mode is ExecMode.REUSE:
                found = await supply.adoptable()
            lacking = max(0, spec.wanted - len(found))
        taken = await supply.take_over(lacking) if fresh else Supplied()
        known = {instance.id for instance in found}
        new = [instance for instance in taken.instances if instance.id not in known]
        if not self._parts.config.compute.delete_on_dismantle and spec.mode is ExecMode.REUSE:
            new += await self._cluster.wake(spec, lacking - len(new))
        lacking -= len(new)
        if lacking > 0:
            await self._announce(channel, spec, lacking, master_up=rows is not None)
        if rows is None and lacking > 0:
            workers = "1 worker" if lacking == 1 else f"{lacking} workers"
            channel.emit(Waiting(waiting=f"the master and {workers} to be launched"))
            await self._master_placed(lacking)
        supplied = await supply.launch(lacking, others=lacking < spec.wanted)
        if rows is None and supplied.instances:
            self._host.spawn(self._ascender.ahead.give(spec, supplied.instances), "dayfly ahead")
        # Whoever knows of a launch tells of it at once: its job may be over, and the master down.
        return msgspec.structs.replace(
            supplied,
            instances=[*found, *new, *supplied.instances],
            tokens=[*taken.tokens, *supplied.tokens],
            warm=warm,
        )

    async def _announce(
        self, channel: Channel, spec: JobSpec, launch: int, *, master_up: bool
    ) -> None:
        """Tell from which image VMs are launched, and what they will cost, where that is known."""
        pick = await self._ascender.picker.pick(spec.instance_types[0], spec.packages)
        note = await note_if_known(
            self._parts, spec, launch=launch, warm=spec.wanted - launch, master_up=master_up
        )
        for text in filter(None, [pick.why, note]):
            channel.emit(m.Notice(level="info", text=text, job=channel.id))

    async def _master_placed(self, lacking: int) -> None:
        """Begin to bring the master up, and wait for its launch where workers could take its place.

        Its boot goes on beside the workers'. Spot instances have capacity and quotas of their own,
        but a crowd of them would have the master wait in the queue of launches.
        """
        ascent = self._host.spawn(self._ascend(), "dayfly ascent")
        if self._parts.config.compute.request_spot_instances and lacking <= CROWD:
            return
        placed = asyncio.create_task(self._ascender.placed.wait(), name="dayfly placed")
        try:
            await asyncio.wait([ascent, placed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            placed.cancel()

    async def _ascend(self) -> None:
        with suppress(errors.DayflyError):  # whoever submits meets the same error, and tells
            await self._conversation.ascent()


def _unfit(supply: Supply) -> str:
    spec = supply.spec
    return (
        f"job {spec.id} waits for workers of the kind {spec.kind}, and this configuration would"
        f" launch {kind_of(supply.processes)}: attach with worker_processes={spec.processes}"
    )
