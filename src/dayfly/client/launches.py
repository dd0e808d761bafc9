"""The launches of one cluster: written down, made, said again, taken over, given up."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

import msgspec

from dayfly.bootstrap import user_data
from dayfly.client.access import host_identity
from dayfly.client.intents import Intent, Intents
from dayfly.client.picking import Pick
from dayfly.clock import Clock
from dayfly.errors import ApiError, CapacityError, CloudError, InstanceNotFoundError
from dayfly.model import (
    ALIVE,
    UP,
    Access,
    DismantlePolicy,
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
from dayfly.phases import CLIENT

log = logging.getLogger(__name__)

#: Seconds that an instance may outlive its hard timer before the sweep of a later client
#: takes it: what the VM's own layers need at the most.
EXPIRY_SLACK = 900.0
#: Seconds before a launch that was not answered is said again, each time. EC2's own form has
#: repeated it for minutes by then.
SAID_AGAIN = (1.0, 4.0)


class Find(Protocol):
    """Looks for the master among the cluster's instances."""

    async def __call__(self, *, but: str = "") -> Instance | None:
        """The one to be used, but for one that is not to count; ``None`` if there is none."""
        ...


class Choose(Protocol):
    """Chooses what instances are launched from."""

    async def __call__(self, instance_type: str, packages: str | None = None) -> Pick:
        """See :meth:`dayfly.client.picking.Picker.pick`."""
        ...


class Launches:
    """Launches instances.

    Args:
        parts: The cloud, and how its instances are configured.
        access: The cluster's keys.
        owner: Whose they are.
        intents: Where launches are written down.
        changed: Called when the cloud's listing may have changed.
        choose: Chooses the machine image.
    """

    def __init__(
        self,
        parts: Parts,
        access: Access,
        owner: str,
        intents: Intents,
        changed: Callable[[], None],
        choose: Choose,
    ) -> None:
        self._choose = choose
        self._parts = parts
        self._access = access
        self._owner = owner
        self._intents = intents
        self._changed = changed

    @property
    def _clock(self) -> Clock:
        return self._parts.clock

    async def master(self, find: Find) -> Instance:
        """Launch the master, once: clients that launch at the same time get the same one.

        Whoever launches has looked before, and found none. But it may have slept since, at any
        point of this, while another one launched: it looks again where that could matter.

        Args:
            find: Looks for the master among the cluster's instances.
        """
        instance_type = self._parts.config.compute.master_instance_type
        pick = await self._choose(instance_type)
        spec = self._spec("master", [instance_type], image=pick.image)
        # A token whose instance has ended is spent: the next attempt has the next one.
        for attempt in range(100):
            intent = await self._intents.write(spec, 1, self._token("master", attempt))
            if self._is_old(intent):
                continue
            if attempt and (there := await self._look(find)) is not None:
                return there
            launch = await self._make(intent)
            if launch.instances and launch.instances[0].state in ALIVE:
                return await self._only(launch.instances[0], intent, find)
        raise CloudError(
            "the master could not be launched: a hundred of them have ended before",
            hint="dayfly clean --all",
        )

    async def _look(self, find: Find, *, but: str = "") -> Instance | None:
        self._changed()  # what was listed before a sleep is not what there is now
        return await find(but=but)

    async def _only(self, launched: Instance, intent: Intent, find: Find) -> Instance:
        """The one master, after a launch that may have come too late to be the only one."""
        if not self._is_old(intent):
            return launched  # whoever launches now says the same
        there = await self._look(find, but=launched.id)
        if there is None or launched.state is not InstanceState.PENDING:
            return launched  # jobs may be in its journal by now
        log.warning("a second master is ended: %s", launched.id)
        await self._parts.cloud.terminate([launched.id])
        self._changed()
        return there

    def _is_old(self, intent: Intent) -> bool:
        return intent.old(self._clock.now())

    async def workers(
        self, spec: JobSpec, processes: Mapping[str, int], count: int, round_: str
    ) -> tuple[str, Launch]:
        """Launch up to ``count`` workers for a job.

        Args:
            spec: The job.
            processes: Parallel processes, by instance type in order of preference.
            count: How many are missing.
            round_: Which launch for this job it is; a replay of the same round launches
                nothing new.

        Returns:
            The launch's token, to be :meth:`settled` once the workers are in the master's
            hands; and what came.

        Raises:
            CapacityError: None could be had.
        """
        own = {Tag.JOB: spec.id} if spec.mode is ExecMode.CREATE else {}
        tags = {
            Tag.MODE: spec.mode.value,
            Tag.RUNTIME: spec.runtime,
            Tag.KIND: spec.kind,
            Tag.NAME: f"dayfly-worker-{spec.id[-6:]}",
        } | own
        by_type = {name: {Tag.PROCESSES.value: str(n)} for name, n in processes.items()}
        pick = await self._choose(next(iter(processes)), spec.packages)
        meant = self._spec("worker", list(processes), tags, by_type, image=pick.image)
        intent = await self._intents.write(meant, count, self._token(spec.id, round_))
        try:
            with self._parts.timeline.during(CLIENT, "workers launched"):
                return intent.token, await self._make(intent)
        except CapacityError:
            await self._intents.close(intent.token)
            raise

    async def builder(self, instance_type: str, name: str, policy: DismantlePolicy) -> Instance:
        """Launch a VM that is to become a machine image, from what the configuration names.

        It is on-demand, and its own deadline terminates it.

        Args:
            instance_type: Of what type.
            name: Of the image.
            policy: The VM's own.

        Raises:
            CapacityError: It cannot be had.
        """
        process = self._parts.process
        tags = {
            Tag.NAME: f"dayfly-builder-{name}",
            # Until it is in our hands, whoever finds its launch ends it if we are gone.
            Tag.MODE: ExecMode.CREATE.value,
            Tag.CLIENT: f"{process.place} {process.pid}",
        }
        meant = self._spec("builder", [instance_type], tags, policy=policy)
        token = self._token("builder", self._parts.entropy.hex(16))
        intent = await self._intents.write(meant, 1, token)
        try:
            launch = await self._make(intent)
        finally:
            await self._intents.close(token)
        return launch.instances[0]

    async def take_over(self, spec: JobSpec, most: int) -> dict[str, Launch]:
        """Make the launches of clients that were killed at it, for a job in ``reuse`` mode.

        A launch that is under way elsewhere is the same launch, made twice at no harm: either
        client has its workers adopted.

        Args:
            spec: The job.
            most: Workers that it lacks; a larger launch is not made for it.

        Returns:
            What came, by the launch's token.
        """
        made: dict[str, Launch] = {}
        now = self._clock.now()
        for intent in await self._intents.open():
            if intent.old(now) or not intent.serves(spec) or intent.count > most:
                continue
            launch = await self._make(intent)
            here = [instance for instance in launch.instances if instance.state in UP]
            most -= len(here)
            made[intent.token] = msgspec.structs.replace(launch, instances=here)
        return made

    async def settled(self, token: str) -> None:
        """The workers of a launch are in the master's hands."""
        await self._intents.close(token)

    async def _make(self, intent: Intent) -> Launch:
        """Make a launch. One that is not answered is said again, which launches nothing twice."""
        pauses = iter(SAID_AGAIN)
        self._changed()
        while True:
            try:
                return await self._parts.cloud.launch(intent.spec, intent.count, token=intent.token)
            except CloudError as error:
                pause = next(pauses, None) if _unanswered(error) else None
                if pause is None:
                    if _unanswered(error) and intent.spec.role != "master":
                        await self._abandon(intent)
                    raise
                log.warning("a launch is said again: %s", error)
            finally:
                self._changed()
            await self._clock.sleep(pause)
            if intent.spec.role == "master" and self._is_old(intent):
                return Launch(instances=[])  # we slept: others take its token for spent

    async def _abandon(self, intent: Intent) -> None:
        """End what may have come of a launch that is given up without an answer."""
        tags: dict[str, str] = {Tag.MANAGED: "true", Tag.LAUNCH: intent.token}
        with suppress(CloudError):  # then each goes by its own deadline, or in the next sweep
            found = await self._parts.cloud.list(tags=tags, states=ALIVE)
            if found:
                await self._parts.cloud.terminate([instance.id for instance in found])

    def _spec(
        self,
        role: Role,
        instance_types: list[str],
        tags: Mapping[Tag, str] | None = None,
        type_tags: dict[str, dict[str, str]] | None = None,
        *,
        image: str = "",
        policy: DismantlePolicy | None = None,
    ) -> InstanceSpec:
        compute = self._parts.config.compute
        policy = policy or self._parts.config.policy
        ours = {
            Tag.NAME: f"dayfly-{role}",
            Tag.MANAGED: "true",
            Tag.CLUSTER: self._access.cluster,
            Tag.ROLE: role,
            Tag.OWNER: self._owner,
            Tag.EXPIRES_AT: expiry(self._parts, policy),
        } | dict(tags or {})
        stays = role == "master" or (role == "worker" and not compute.delete_on_dismantle)
        return InstanceSpec(
            role=role,
            instance_types=instance_types,
            on_poweroff="stop" if stays else "terminate",
            user_data=user_data(
                host=host_identity(self._access, role),
                authorized_keys=[self._access.user_public_key.strip()],
                policy=policy,
            ),
            tags=dict(compute.tags) | {key.value: value for key, value in ours.items()},
            type_tags=type_tags or {},
            spot=role == "worker" and compute.request_spot_instances,
            fallback=compute.on_demand_fallback,
            image=image,
        )

    def _token(self, *parts: object) -> str:
        text = "\0".join([self._access.serial, *map(str, parts)])
        return hashlib.sha256(text.encode()).hexdigest()


def expiry(parts: Parts, policy: DismantlePolicy | None = None) -> str:
    """When what is launched now may be swept by a later client, as the tag says it."""
    policy = policy or parts.config.policy
    if not policy.auto:
        return "0"
    return str(round(parts.clock.now() + policy.hard + EXPIRY_SLACK))


def _unanswered(error: CloudError) -> bool:
    """Whether what was asked may have happened all the same."""
    if isinstance(error, ApiError):
        return error.status >= 500
    return not isinstance(error, CapacityError | InstanceNotFoundError)
