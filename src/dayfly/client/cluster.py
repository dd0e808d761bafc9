"""The instances of one cluster: found by their tags, launched, started, swept.

Only the client holds the right to launch. What exists is asked of the cloud, never
remembered for longer than the cloud's own pace.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import msgspec

from dayfly.client.intents import Intents
from dayfly.client.launches import Choose, Launches, expiry
from dayfly.clock import Clock
from dayfly.errors import CloudError, InstanceNotFoundError
from dayfly.model import (
    ALIVE,
    UP,
    Access,
    Instance,
    InstanceState,
    JobSpec,
    Tag,
)
from dayfly.parts import Parts
from dayfly.storage.notes import StorageNotes

log = logging.getLogger(__name__)

#: Seconds for which an instance's expiry need not be put off again; far below the slack.
KEEP = 60.0


class Cluster:
    """One owner's cluster in one cloud."""

    def __init__(self, parts: Parts, access: Access, owner: str, choose: Choose) -> None:
        self._parts = parts
        self._access = access
        self._owner = owner
        #: When which instance may be swept, as it was last listed or tagged.
        self._expiries: dict[str, float] = {}
        self._intents = Intents(
            StorageNotes(parts.storage), access.cluster, process=parts.process, clock=parts.clock
        )
        self.launches = Launches(parts, access, owner, self._intents, self._forget_listing, choose)
        #: The last listing: when it was asked for, by which tags, and what was found.
        self._listing: tuple[float, dict[str, str], list[Instance]] | None = None
        self._looked = False

    @property
    def _clock(self) -> Clock:
        return self._parts.clock

    def _forget_listing(self) -> None:
        self._listing = None

    async def instances(self) -> list[Instance]:
        """The instances of this cluster that exist, oldest first."""
        return [i for i in await self._owned() if i.tags.get(Tag.CLUSTER) == self._access.cluster]

    async def _owned(self) -> list[Instance]:
        """The instances of this owner that exist."""
        return await self._list({Tag.MANAGED: "true", Tag.OWNER: self._owner})

    async def _list(self, tags: dict[str, str]) -> list[Instance]:
        """The instances with some tags that exist, by a listing that is hardly old."""
        asked = self._clock.monotonic()
        if self._listing is not None:
            at, about, found = self._listing
            if asked - at < self._parts.cloud.pace and about.items() <= tags.items():
                return [i for i in found if tags.items() <= i.tags.items()]
        found = await self._parts.cloud.list(tags=tags, states=ALIVE)
        found = sorted(found, key=lambda instance: (instance.launched_at, instance.id))
        self._listing = (asked, tags, found)
        self._expiries |= {i.id: expires_at(i) for i in found}
        self._looked = True
        return found

    async def find_master(self, *, but: str = "") -> Instance | None:
        """The master, up or stopped, unless it is that one; ``None`` if there is none."""
        if self._looked:
            # Not at the workers again, who may be a thousand: ten pages.
            own: dict[str, str] = {Tag.MANAGED: "true", Tag.OWNER: self._owner}
            found = await self._list(own | {Tag.CLUSTER: self._access.cluster, Tag.ROLE: "master"})
        else:
            found = await self.instances()  # as the sweep asks
        masters = [i for i in found if i.tags.get(Tag.ROLE) == "master" and i.id != but]
        return next((i for i in masters if i.state in UP), masters[0] if masters else None)

    async def idle_workers(self, spec: JobSpec) -> list[Instance]:
        """The workers that are up and could serve a job, when no master can tell better."""
        return [i for i in await self.instances() if i.state in UP and serves(i, spec)]

    async def wake(self, spec: JobSpec, count: int) -> list[Instance]:
        """Start workers that were stopped with their disks, up to ``count``; returns these."""
        stopped = [
            instance
            for instance in await self.instances()
            if instance.state is InstanceState.STOPPED and serves(instance, spec)
        ][: max(0, count)]
        if not stopped:
            return []
        ids = [instance.id for instance in stopped]
        try:
            await self.keep(stopped)  # they are up before a master knows of them
            await self._parts.cloud.start(ids)
        except CloudError as error:
            log.warning("stopped workers are not started, others are launched: %s", error)
            return []
        finally:
            self._listing = None
        # A master that saw them go takes them back if they were started since.
        now = self._clock.now()
        woken = await self._parts.cloud.list(ids=ids)
        return [msgspec.structs.replace(instance, launched_at=now) for instance in woken]

    async def bring_up(self, instance: Instance, deadline: float) -> Instance:
        """Start an instance unless it is up; returns it pending or running, with its address.

        Args:
            instance: As it was last seen.
            deadline: When to give up, in seconds of the monotonic clock.

        Raises:
            CloudError: It has ended, or is not up by the deadline.
        """
        while True:
            if instance.state in UP and instance.address:
                return instance
            if instance.state is InstanceState.STOPPED:
                await self.start(instance)
            elif instance.state not in ALIVE:
                raise CloudError(
                    f"{instance.name} ({instance.id}) is {instance.state}",
                    cause=instance.state_reason,
                )
            if self._clock.monotonic() >= deadline:
                raise CloudError(
                    f"{instance.name} ({instance.id}) is still {instance.state}",
                    cause=instance.state_reason or "the cloud is slow, or it hangs",
                    hint="dayfly worker list",
                )
            await self._clock.sleep(self._parts.cloud.pace)
            instance = await self.look(instance.id)

    async def start(self, instance: Instance) -> None:
        """Start an instance that is stopped, perhaps for longer than it was to be kept."""
        if Tag.MANAGED in instance.tags:  # a user's own VM is not re-tagged
            await self.keep([instance])
        await self._parts.cloud.start([instance.id])
        self._listing = None

    async def see(
        self,
        ids: Collection[str],
        states: Collection[InstanceState],
        *,
        launch: str = "",
    ) -> list[Instance]:
        """Look at instances that were just launched, all by one question.

        Args:
            ids: Which ones. They are not asked for by id, which may not be known yet.
            states: Those to be told of.
            launch: That made them all, if it was one; a cluster can have many more that
                ended within the hour.
        """
        tags: dict[str, str] = {Tag.MANAGED: "true", Tag.CLUSTER: self._access.cluster}
        if launch:
            tags[Tag.LAUNCH] = launch
        found = await self._parts.cloud.list(tags=tags, states=states)
        return [instance for instance in found if instance.id in ids]

    async def give_back(self, ids: Sequence[str]) -> None:
        """End workers that are of no use any more."""
        if not ids:
            return
        self._listing = None
        if self._parts.config.compute.delete_on_dismantle:
            await self._parts.cloud.terminate(ids)
        else:
            await self._parts.cloud.stop(ids)

    async def end_workers_of(self, job: str, known: Collection[str]) -> list[str]:
        """End the workers that were made for one job, by whichever client.

        Args:
            job: The job.
            known: Those that this client launched, of which no listing may tell yet.

        Returns:
            Which these were.
        """
        tags: dict[str, str] = {Tag.MANAGED: "true", Tag.JOB: job}
        found = await self._parts.cloud.list(tags=tags, states=ALIVE)
        ids = list(dict.fromkeys([*known, *(instance.id for instance in found)]))
        if ids:
            self._listing = None
            await self._parts.cloud.terminate(ids)
        return ids

    async def look(self, instance_id: str) -> Instance:
        """One instance as it is now.

        Raises:
            CloudError: There is no such instance.
        """
        found = await self._parts.cloud.list(ids=[instance_id])
        if not found:
            raise CloudError(
                f"there is no instance {instance_id} in {self._parts.cloud.name}",
                hint="dayfly worker list",
            )
        return found[0]

    async def keep(self, instances: Sequence[Instance], others: Collection[str] = ()) -> None:
        """Put off the day on which a later client may sweep these instances.

        Args:
            instances: As the cloud told of them.
            others: Ids of others, as the master told of them; some may be gone by now.
        """
        until_text = expiry(self._parts)
        until = float(until_text)
        known = {i.id: expires_at(i) for i in instances} | self._expiries

        def fresh(instance_id: str) -> bool:
            at = known.get(instance_id)
            return at == until or (at is not None and until > 0 and at > until - KEEP)

        due = [each for each in [*(i.id for i in instances), *others] if not fresh(each)]
        if not due:
            return
        try:
            await self._parts.cloud.tag(due, {Tag.EXPIRES_AT: until_text})
        except InstanceNotFoundError:
            if not others:
                raise
            # One that is gone keeps all others of the call.
            due = [i.id for i in await self._parts.cloud.list(ids=due, states=ALIVE)]
            if due:
                await self._parts.cloud.tag(due, {Tag.EXPIRES_AT: until_text})
        now = self._clock.now()
        # What was to be kept until before now is told anew, whether it is known or not.
        lasting = {name: at for name, at in self._expiries.items() if not 0 < at < now}
        self._expiries = lasting | dict.fromkeys(due, until)

    async def sweep(self) -> list[Instance]:
        """End what is up past its expiry: workers are terminated, masters stopped.

        What is stopped is left alone, since its disk was kept on purpose, but for the builder
        of an image; and a worker whose disk is to be kept is stopped too.
        """
        now = self._clock.now()
        late = [i for i in await self._owned() if self._is_late(i, now)]
        stays = [i.id for i in late if self._stays(i)]
        goes = [i.id for i in late if i.tags.get(Tag.ROLE) != "master" and i.id not in stays]
        if goes:
            log.warning("sweeping VMs past their expiry: %s", ", ".join(goes))
            await self._parts.cloud.terminate(goes)
        if stays:
            log.warning("stopping VMs past their expiry: %s", ", ".join(stays))
            await self._parts.cloud.stop(stays)
        if late:
            self._listing = None
        return late

    def _is_late(self, instance: Instance, now: float) -> bool:
        """Whether its time is over; that of a builder is also when its client is gone."""
        if instance.tags.get(Tag.ROLE) == "builder":
            place, _, pid = instance.tags.get(Tag.CLIENT, "").rpartition(" ")
            alive = not pid.isdecimal() or self._parts.process.alive(place, int(pid))
            return not alive or 0 < expires_at(instance) < now
        return instance.state in UP and 0 < expires_at(instance) < now

    def _stays(self, instance: Instance) -> bool:
        """Whether an instance is stopped, and not deleted, when its time has come."""
        if instance.tags.get(Tag.ROLE) == "worker":
            # A spot instance, of another configuration, cannot be stopped.
            return not (self._parts.config.compute.delete_on_dismantle or instance.spot)
        return instance.tags.get(Tag.ROLE) == "master"

    async def sweep_intents(self) -> None:
        """End what came of launches whose one job is gone with its client."""
        now = self._clock.now()
        for intent in await self._intents.open():
            if intent.spec.role == "master":
                continue  # its token is spent only as long as it is known
            if intent.orphaned(now, self._parts.process):
                found = await self._parts.cloud.list(
                    tags={Tag.MANAGED: "true", Tag.LAUNCH: intent.token}, states=ALIVE
                )
                ids = [instance.id for instance in found]
                if ids:
                    log.warning("ending workers whose client is gone: %s", ", ".join(ids))
                    await self._parts.cloud.terminate(ids)
            # One that the cloud does not tell of yet is looked for again, while it is young.
            if intent.old(now):
                await self._intents.close(intent.token)
        await self._intents.tidy()


def expires_at(instance: Instance) -> float:
    """When a later client may sweep it, in seconds since the epoch; 0 for never."""
    try:
        return float(instance.tags.get(Tag.EXPIRES_AT) or 0)
    except ValueError:
        return 0.0  # somebody else's hand


def serves(instance: Instance, spec: JobSpec) -> bool:
    """Whether a worker may serve a job: same mode, runtime and kind."""
    tags = instance.tags
    return (
        tags.get(Tag.ROLE) == "worker"
        and tags.get(Tag.MODE) == spec.mode.value
        and tags.get(Tag.RUNTIME) == spec.runtime
        and tags.get(Tag.KIND) == spec.kind
        and tags.get(Tag.JOB, spec.id) == spec.id
    )
