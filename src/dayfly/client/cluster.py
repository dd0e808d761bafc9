"""The instances of one cluster: found by their tags, launched, started, swept.

Only the client holds the right to launch. What exists is asked of the cloud each time, never
remembered.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from dayfly.bootstrap import user_data
from dayfly.client.access import host_identity
from dayfly.clock import Clock
from dayfly.config import Config
from dayfly.errors import CloudError
from dayfly.model import (
    ALIVE,
    UP,
    Access,
    ExecMode,
    Instance,
    InstanceSpec,
    InstanceState,
    JobSpec,
    Launch,
    Role,
    Tag,
)
from dayfly.parts import Parts

log = logging.getLogger(__name__)

#: Seconds that an instance may outlive its hard timer before the sweep of a later client
#: takes it: what the VM's own layers need at the most.
EXPIRY_SLACK = 900.0
#: Seconds for which an instance's expiry need not be put off again; far below the slack.
KEEP = 60.0
#: Seconds between looks at an instance whose state is about to change.
LOOK = 0.1


def first_type(config: Config) -> str:
    """The worker type that is preferred."""
    types = config.compute.worker_instance_type
    return types if isinstance(types, str) else types[0]


class Cluster:
    """One owner's cluster in one cloud."""

    def __init__(self, parts: Parts, access: Access, owner: str) -> None:
        self._parts = parts
        self._access = access
        self._owner = owner
        self._kept: dict[str, float] = {}

    @property
    def _clock(self) -> Clock:
        return self._parts.clock

    async def instances(self) -> list[Instance]:
        """The instances of this cluster that exist, oldest first."""
        found = await self._parts.cloud.list(
            tags={Tag.MANAGED: "true", Tag.CLUSTER: self._access.cluster}, states=ALIVE
        )
        return sorted(found, key=lambda instance: (instance.launched_at, instance.id))

    async def find_master(self) -> Instance | None:
        """The master, up or stopped; ``None`` if there is none."""
        masters = [i for i in await self.instances() if i.tags.get(Tag.ROLE) == "master"]
        return next((i for i in masters if i.state in UP), masters[0] if masters else None)

    async def idle_workers(self, spec: JobSpec) -> list[Instance]:
        """The workers that are up and could serve a job, when no master can tell better."""
        return [i for i in await self.instances() if i.state in UP and serves(i, spec)]

    async def launch_master(self) -> Instance:
        """Launch the master, once: two clients that launch at the same time get the same one."""
        # A token whose instance has ended is spent: the next attempt has the next one.
        for attempt in range(100):
            launch = await self._parts.cloud.launch(
                self._spec("master", self._parts.config.compute.master_instance_type),
                1,
                token=self._token("master", attempt),
            )
            if launch.instances and launch.instances[0].state in ALIVE:
                return launch.instances[0]
        raise CloudError(
            "the master could not be launched: a hundred of them have ended before",
            hint="dayfly clean --all",
        )

    async def launch_workers(self, spec: JobSpec, count: int, round_: int) -> Launch:
        """Launch up to ``count`` workers for a job.

        Args:
            spec: The job.
            count: How many are missing.
            round_: Which launch for this job it is, from 0; a replay of the same round
                launches nothing new.

        Raises:
            CapacityError: None could be had.
        """
        own = {Tag.JOB: spec.id} if spec.mode is ExecMode.CREATE else {}
        tags = {
            Tag.MODE: spec.mode.value,
            Tag.RUNTIME: spec.runtime,
            Tag.PROCESSES: str(spec.processes),
            Tag.NAME: f"dayfly-worker-{spec.id[-6:]}",
        } | own
        return await self._parts.cloud.launch(
            self._spec("worker", spec.instance_type, tags),
            count,
            token=self._token(spec.id, round_),
        )

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
                await self._parts.cloud.start([instance.id])
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
            await self._clock.sleep(LOOK)
            instance = await self.look(instance.id)

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

    async def keep(self, ids: Sequence[str]) -> None:
        """Put off the day on which a later client may sweep these instances."""
        now = self._clock.monotonic()
        due = [i for i in ids if now - self._kept.get(i, float("-inf")) > KEEP]
        if due:
            await self._parts.cloud.tag(due, {Tag.EXPIRES_AT: self._expiry()})
            self._kept |= dict.fromkeys(due, now)

    async def sweep(self) -> list[Instance]:
        """End what is past its expiry: workers are terminated, masters stopped."""
        found = await self._parts.cloud.list(
            tags={Tag.MANAGED: "true", Tag.OWNER: self._owner}, states=ALIVE
        )
        now = self._clock.now()
        late = [i for i in found if 0 < float(i.tags.get(Tag.EXPIRES_AT) or 0) < now]
        workers = [i.id for i in late if i.tags.get(Tag.ROLE) == "worker"]
        masters = [i.id for i in late if i.tags.get(Tag.ROLE) == "master" and i.state in UP]
        if workers:
            log.warning("sweeping workers past their expiry: %s", ", ".join(workers))
            await self._parts.cloud.terminate(workers)
        if masters:
            log.warning("stopping masters past their expiry: %s", ", ".join(masters))
            await self._parts.cloud.stop(masters)
        return late

    def _spec(
        self, role: Role, instance_type: str, tags: dict[Tag, str] | None = None
    ) -> InstanceSpec:
        compute = self._parts.config.compute
        ours = {
            Tag.NAME: f"dayfly-{role}",
            Tag.MANAGED: "true",
            Tag.CLUSTER: self._access.cluster,
            Tag.ROLE: role,
            Tag.OWNER: self._owner,
            Tag.EXPIRES_AT: self._expiry(),
        } | (tags or {})
        stays = role == "master" or not compute.delete_on_dismantle
        return InstanceSpec(
            role=role,
            instance_type=instance_type,
            on_poweroff="stop" if stays else "terminate",
            user_data=user_data(
                host=host_identity(self._access, role),
                authorized_keys=[self._access.user_public_key.strip()],
                policy=self._parts.config.policy,
            ),
            tags=dict(compute.tags) | {key.value: value for key, value in ours.items()},
            spot=role == "worker" and compute.request_spot_instances,
        )

    def _expiry(self) -> str:
        policy = self._parts.config.policy
        if not policy.auto:
            return "0"
        return str(round(self._clock.now() + policy.hard + EXPIRY_SLACK))

    def _token(self, *parts: object) -> str:
        text = "\0".join([self._access.serial, *map(str, parts)])
        return hashlib.sha256(text.encode()).hexdigest()


def serves(instance: Instance, spec: JobSpec) -> bool:
    """Whether a worker may serve a job: same mode, runtime, type and processes."""
    tags = instance.tags
    return (
        tags.get(Tag.ROLE) == "worker"
        and tags.get(Tag.MODE) == spec.mode.value
        and tags.get(Tag.RUNTIME) == spec.runtime
        and tags.get(Tag.PROCESSES) == str(spec.processes)
        and instance.instance_type == spec.instance_type
        and tags.get(Tag.JOB, spec.id) == spec.id
    )
