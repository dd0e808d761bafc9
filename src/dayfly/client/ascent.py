"""Bring a master up: from whatever state its VM is in to an open door.

The VM is launched, started or found; reached by SSH; its service installed unless it serves
already; and the door opened through a tunnel. In consume mode the VM is the user's own, and
is the worker too.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dayfly import errors, provision
from dayfly.client.access import ensure_access
from dayfly.client.cluster import Cluster
from dayfly.client.headstart import HeadStart
from dayfly.client.outfit import Outfitter
from dayfly.client.picking import Picker
from dayfly.client.tunnel import open_door
from dayfly.cloud.base import Cloud
from dayfly.config import Config
from dayfly.config.sections import Ec2Section
from dayfly.model import (
    UP,
    Access,
    ExecMode,
    Instance,
    InstanceState,
    JobSpec,
    JobState,
    MasterConfig,
    Registry,
    Tag,
    WorkerConfig,
)
from dayfly.parts import Parts
from dayfly.phases import BOOT, CLIENT, MASTER, PLAN, SSH
from dayfly.runtimes import Runtime
from dayfly.shell.base import Connection, Target
from dayfly.wire import messages as m
from dayfly.wire.client import MasterDoor

#: Seconds after which the VM's state is looked at again while SSH is awaited.
SLICE = 5.0
#: Times that an installation is tried: its service may be killed while it starts.
INSTALLATIONS = 3

Told = Callable[[str], None]


@dataclass
class Ascent:
    """A master that is up: close it to let go of the connection, not of the VM."""

    instance: Instance
    connection: Connection
    door: MasterDoor
    stack: AsyncExitStack

    async def aclose(self) -> None:
        """Close the door and the connection."""
        await self.stack.aclose()


def cluster_key(config: Config) -> str:
    """The name under which a cluster's keys lie in its owner's part of storage."""
    compute = config.compute
    return compute.instance_id if compute.exec_mode is ExecMode.CONSUME else "main"


class Ascender:
    """Knows the road up to one cluster's master."""

    def __init__(self, parts: Parts, access: Access, owner: str) -> None:
        self._parts = parts
        self.access = access
        self.outfitter = Outfitter(parts)
        self.picker = Picker(parts, self.outfitter)
        self.cluster = Cluster(parts, access, owner, self.picker.pick)
        self.ahead = HeadStart(parts, access, self.cluster, self.outfitter)
        self._consume = parts.config.compute.exec_mode is ExecMode.CONSUME
        #: Set once the master's VM exists and is up: where capacity is short it comes first.
        self.placed = asyncio.Event()
        #: Since when its VM boots, until it has answered.
        self._booting: float | None = None
        #: Whether the network is known to let this machine in.
        self._admitted = False
        #: Why it could not be brought up the last time.
        self._failure: errors.DayflyError | None = None

    @classmethod
    async def prepare(cls, parts: Parts) -> Ascender:
        """Find the cluster's keys, or make them."""
        with parts.timeline.during(CLIENT, "credentials"):
            owner = await parts.cloud.owner()
        key = cluster_key(parts.config)
        with parts.timeline.during(CLIENT, "keys of the cluster"):
            access = await ensure_access(parts.storage, key, owner, parts.entropy)
        return cls(parts, access, owner)

    async def find(self) -> Instance | None:
        """The VM that is, or is to be, the master; ``None`` when it must be launched."""
        if self._consume:
            return await self.cluster.look(self._parts.config.compute.instance_id or "")
        return await self.cluster.find_master()

    async def ascend(
        self, told: Told, *, launch: bool = True, asked: float | None = None
    ) -> Ascent:
        """Bring the master up; its VM must answer within ``start_timeout``.

        A VM that goes down under our feet (its timer fired just then) is started again.

        Args:
            told: Called with what is being waited for, whenever that changes.
            launch: Whether to launch a master where there is none: a new one knows no job.
            asked: When whoever waits for it asked, in seconds of the monotonic clock; others may
                have tried since, and for who has waited for long enough their failure counts.

        Raises:
            UnreachableError: It does not answer SSH.
            ProvisionError: Its service does not start.
            WireError: Its service does not answer.
            CloudError: The cloud refused.
        """
        now = self._parts.clock.monotonic()
        deadline = (now if asked is None else asked) + self._parts.config.compute.start_timeout
        if self._failure is not None and now + SLICE / 5 >= deadline:
            raise self._failure
        self._failure = None
        try:
            return await self._climb(told, deadline, launch=launch)
        except errors.DayflyError as error:
            self._failure = error
            raise

    async def _climb(self, told: Told, deadline: float, *, launch: bool) -> Ascent:
        clock = self._parts.clock
        installations = 0
        while True:
            instance = await self._up(told, deadline, launch=launch)
            try:
                ascent = await self._open(instance, told, deadline)
            except (errors.HostKeyError, errors.AccessDeniedError):
                raise
            except errors.ProvisionError:
                installations += 1
                if installations == INSTALLATIONS or clock.monotonic() + SLICE / 5 >= deadline:
                    raise
                await clock.sleep(0.1)
            except (errors.AuthenticationError, errors.VersionMismatchError):
                raise
            except (errors.ShellError, errors.WireError) as error:
                if clock.monotonic() + SLICE / 5 >= deadline:
                    raise await self._too_late(error, instance) from error
                if not self._admitted:
                    # Perhaps this machine has moved since the network was made.
                    self._admitted = True
                    await self._parts.cloud.admit()
                await clock.sleep(0.1)
            else:
                self._admitted = False  # it may move before the next time
                return ascent

    async def _up(self, told: Told, deadline: float, *, launch: bool) -> Instance:
        with self._parts.timeline.during(CLIENT, "master looked for"):
            instance = await self.find()
        if instance is None and not launch:
            raise errors.InstanceNotFoundError("the master is gone, and its jobs with it")
        if instance is None:
            told("the master to be launched")
            with self._parts.timeline.during(CLIENT, "master launched"):
                instance = await self.cluster.launches.master(self.cluster.find_master)
            self._booting = self._parts.clock.monotonic()
            self._admitted = True
        elif instance.state not in UP:
            told(f"the master ({instance.id}, {instance.state}) to be started")
            if instance.state is InstanceState.STOPPED:
                with self._parts.timeline.during(CLIENT, "master started"):
                    await self.cluster.start(instance)
                self._booting = self._parts.clock.monotonic()
                instance = await self.cluster.look(instance.id)
        self.placed.set()
        return await self.cluster.bring_up(instance, deadline)

    async def _open(self, instance: Instance, told: Told, deadline: float) -> Ascent:
        parts = self._parts
        told("the master to answer SSH")
        began = parts.clock.monotonic()
        until = min(deadline, began + SLICE)
        async with AsyncExitStack() as stack:
            target = await self.target(instance)
            try:
                connection = await provision.reach(
                    parts.shell,
                    target,
                    deadline=until,
                    clock=parts.clock,
                    entropy=parts.entropy,
                )
            except errors.HostKeyError as error:
                raise await self._unknown_yet(error, instance, target) from error
            stack.push_async_callback(connection.aclose)
            since, self._booting = self._booting, None
            parts.timeline.add(MASTER, BOOT if since else SSH, since or began)
            door = await self._door(connection, instance, told)
            await stack.enter_async_context(door)
            return Ascent(instance, connection, door, stack.pop_all())

    async def target(self, instance: Instance) -> Target:
        """How to reach the master's VM."""
        if not self._consume:
            username = self._parts.config.compute.ssh_username
            return provision.target_of(instance, self.access, username)
        compute = self._parts.config.compute
        return Target(
            name=f"{instance.name} ({instance.id})",
            address=instance.address,
            port=instance.ssh_port,
            username=compute.ssh_username,
            alias=instance.address,
            known_hosts=await self._known_hosts(instance),
            private_key=_read_key(compute.ssh_key_filename, instance),
        )

    async def _known_hosts(self, instance: Instance) -> str:
        """The keys that a user's own VM may show: the user's, and what its console printed."""
        printed = await self._printed_keys(instance)
        lines = [_read_known_hosts(), *(f"{instance.address} {line}" for line in printed)]
        return "\n".join(lines) + "\n"

    def adoption(self, instances: list[Instance], spec: JobSpec) -> m.Adopt:
        """Hands workers to the master, with all that it must know of them."""
        job = spec.id if spec.mode is ExecMode.CREATE else ""
        return m.Adopt(instances=instances, policy=spec.policy, job=job, registry=self.registry)

    @property
    def registry(self) -> Registry | None:
        """Where workers have container images from; ``None``: they need none."""
        compute = self._parts.config.compute
        return compute.registry if isinstance(compute, Ec2Section) else None

    @property
    def runtime(self) -> str:
        """What workers must be for: for others' credentials an image may be another one."""
        runtime = Runtime.parse(self._parts.config.compute.interpreter)
        if runtime.image and self.registry and self.registry.user:
            said, key = msgspec.json.encode(self.registry), self.access.client_secret
            login = hmac.new(key.encode(), said, "sha256").hexdigest()[:8]
            runtime = msgspec.structs.replace(runtime, login=login)
        return str(runtime)

    async def _printed_keys(self, instance: Instance) -> list[str]:
        """The host keys that cloud-init printed at the last boot; none while it has not."""
        console = await self._parts.cloud.console(instance.id)
        _, _, block = console.rpartition("-----BEGIN SSH HOST KEY KEYS-----")
        block, end, _ = block.partition("-----END SSH HOST KEY KEYS-----")
        return block.strip().splitlines() if end else []

    async def _unknown_yet(
        self, error: errors.HostKeyError, instance: Instance, target: Target
    ) -> errors.ShellError:
        """A user's own VM may answer before its console says by which key to know it."""
        said = self._consume and await self._printed_keys(instance)
        if not self._consume or (said and all(line in target.known_hosts for line in said)):
            return error
        return errors.UnreachableError(
            f"the host key of {instance.id} is not known",
            cause="it is not in ~/.ssh/known_hosts, and its console had not printed it yet",
            hint=f"ssh to {instance.address} once yourself, and compare its key",
        )

    async def _door(self, connection: Connection, instance: Instance, told: Told) -> MasterDoor:
        path = await connection.forward(instance.inner_address, instance.service_port)
        secret = self.access.client_secret
        ours = self._parts.package().digest
        try:
            door = await open_door(self._parts, connection, path, secret)
        except (errors.AuthenticationError, errors.VersionMismatchError):
            raise
        except errors.WireError:
            pass  # no service yet: it is installed below
        else:
            if door.package == ours:
                return door
            async with door:
                await self._refuse_while_busy(door, ours)
        told("dayfly to be installed on the master")
        await self._install(connection, instance)
        with self._parts.timeline.during(MASTER, "conversation opened"):
            return await open_door(self._parts, connection, path, secret)

    async def _refuse_while_busy(self, door: MasterDoor, ours: str) -> None:
        running = [row.id for row in await door.list_jobs() if row.state is JobState.RUNNING]
        if running:
            raise errors.VersionMismatchError(
                f"the master runs another dayfly ({door.package}, here {ours}) and is busy",
                cause=f"it was started by another installation; jobs: {', '.join(running)}",
                hint="wait for them, or dayfly job cancel JOB",
            )

    async def _install(self, connection: Connection, instance: Instance) -> None:
        parts, compute = self._parts, self._parts.config.compute
        package = parts.package()
        storage = await parts.storage.locate()
        policy = parts.config.policy
        with parts.timeline.during(CLIENT, PLAN):
            kit = await self.outfitter.order(instance.instance_type)
        workers_kit = await self.outfitter.ours(compute.worker_instance_types[0])
        config = MasterConfig(
            instance=instance,
            access=self.access,
            package=package.digest,
            host=instance.inner_address,
            port=instance.service_port,
            username=compute.ssh_username,
            runtime=compute.interpreter,
            storage=storage,
            policy=policy,
            start_timeout=compute.start_timeout,
            kit=workers_kit.key if workers_kit else "",
            interpreters=self.outfitter.interpreters,
            index=self.outfitter.index,
            ssh_password="" if self._consume else compute.ssh_password,
            log_level=parts.config.dayfly.log_level,
        )
        if self._consume:
            # First of the two: a master that serves is proof that both are installed.
            processes = await worker_processes(parts, instance.instance_type)
            worker = WorkerConfig(
                instance=instance.id,
                master_host=instance.inner_address,
                master_port=instance.service_port,
                secret=self.access.worker_secret,
                processes=processes,
                runtime=self.runtime,
                registry=self.registry or Registry(),
                storage=storage,
                policy=policy,
                kit=kit.key if kit else "",
                interpreters=self.outfitter.interpreters,
                log_level=parts.config.dayfly.log_level,
            )
            await provision.install_worker(
                connection, worker, package, timeline=parts.timeline, kit=kit, arm=policy
            )
        await provision.install_master(
            connection, config, package, timeline=parts.timeline, kit=kit
        )

    async def _too_late(self, error: errors.DayflyError, instance: Instance) -> errors.DayflyError:
        """The same error, as whoever waited that long needs it: with what the VM printed."""
        timeout = self._parts.config.compute.start_timeout
        over = f"start_timeout ({timeout:g} s) is over"
        cause = f"{error.cause}; {over}" if error.cause else over
        if said := await last_words(self._parts.cloud, instance.id):
            cause += f"\n    {said}"
        slow = "dayfly worker list; a master that starts slowly needs a larger start_timeout"
        return type(error)(error.what, cause=cause, hint=error.hint or slow)


async def last_words(cloud: Cloud, instance_id: str) -> str:
    """The end of what a VM printed while booting, in words; empty if it printed nothing.

    Raises:
        CloudError: The cloud could not be asked.
    """
    tail = (await cloud.console(instance_id)).strip().splitlines()[-8:]
    return "\n    ".join(["its console ends:", *tail]) if tail else ""


async def worker_processes(parts: Parts, instance_type: str) -> int:
    """Parallel processes per worker: as configured, or the vCPUs of the type."""
    configured = parts.config.compute.worker_processes
    if configured == "AUTO":
        return await parts.cloud.processes(instance_type)
    return int(configured)


def _read_key(filename: str, instance: Instance) -> str:
    path = Path(filename).expanduser()
    try:
        return path.read_text()
    except OSError as error:
        raise errors.ConfigError(
            f"the key for {instance.id} cannot be read: {path}: {error.strerror}",
            hint="name the VM's private key in ssh_key_filename",
        ) from error


def _read_known_hosts() -> str:
    own = Path("~/.ssh/known_hosts").expanduser()
    return own.read_text() if own.is_file() else ""


def consumed(instance: Instance, runtime: str, processes: int) -> Instance:
    """The user's VM as the master is to see it: the worker of its own jobs."""
    tags = {
        Tag.ROLE.value: "worker",
        Tag.MODE.value: ExecMode.CONSUME.value,
        Tag.RUNTIME.value: runtime,
        Tag.PROCESSES.value: str(processes),
    }
    return msgspec.structs.replace(instance, tags=instance.tags | tags)
