"""VMs of the embedded cloud for tests: launch, reach, look at, and leave none behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncssh

from dayfly.clock import SystemClock, SystemEntropy
from dayfly.cloud.base import Cloud
from dayfly.cloud.localhost import LocalhostCloud
from dayfly.errors import UnreachableError
from dayfly.model import Instance, InstanceSpec, InstanceState, Tag
from dayfly.shell.base import CommandResult, Target
from dayfly.shell.ssh import SshConnection, SshShell
from tests.conftest import processes_of

#: Seconds for anything that a VM should do at once.
SOON = 10.0
_tokens = itertools.count()


class Pair:
    """A key and what OpenSSH makes of it."""

    def __init__(self) -> None:
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.private = self.key.export_private_key().decode()
        self.public = self.key.export_public_key().decode()


@dataclass
class Embedded:
    """An embedded cloud, its keys, and the words of the tests."""

    cloud: LocalhostCloud
    user: Pair = field(default_factory=Pair)
    authority: Pair = field(default_factory=Pair)
    shell: SshShell = field(default_factory=SshShell)

    def user_data(self, **more: Any) -> str:
        """A document like the one that dayfly writes, with a host key that the CA signed."""
        host = Pair()
        certificate = self.authority.key.generate_host_certificate(
            host.key, "host", principals=["worker"]
        )
        document = {
            "ssh_keys": {
                "ed25519_private": host.private,
                "ed25519_public": host.public,
                "ed25519_certificate": certificate.export_certificate().decode(),
            },
            "ssh_authorized_keys": [self.user.public],
            **more,
        }
        return "#cloud-config\n" + json.dumps(document)

    async def launch(
        self,
        count: int = 1,
        *,
        on_poweroff: Literal["stop", "terminate"] = "terminate",
        spot: bool = False,
        **more: Any,
    ) -> list[Instance]:
        """Launch VMs; keyword arguments go into their user-data."""
        spec = InstanceSpec(
            role="worker",
            instance_types=["local.1"],
            on_poweroff=on_poweroff,
            user_data=self.user_data(**more),
            tags={"Name": "guest"},
            spot=spot,
        )
        launch = await self.cloud.launch(spec, count, token=f"test-{next(_tokens)}")
        return launch.instances

    def target(self, instance: Instance) -> Target:
        """How to reach a VM."""
        return Target(
            name=instance.name,
            address=instance.address,
            port=instance.ssh_port,
            username="anyone",
            alias="worker",
            known_hosts=f"@cert-authority * {self.authority.public}",
            private_key=self.user.private,
        )

    async def connect(self, instance: Instance) -> SshConnection:
        """Connect to a VM that may still be booting."""
        deadline = time.monotonic() + SOON
        while True:
            try:
                return await self.shell.connect(self.target(instance))
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def connected(self, instance: Instance) -> AsyncIterator[SshConnection]:
        """A connection for the length of a ``with``."""
        connection = await self.connect(instance)
        try:
            yield connection
        finally:
            await connection.aclose()

    @contextlib.asynccontextmanager
    async def vm(self, **more: Any) -> AsyncIterator[tuple[Instance, SshConnection]]:
        """One VM and a connection to it."""
        (instance,) = await self.launch(**more)
        async with self.connected(instance) as connection:
            yield instance, connection

    async def run(self, instance: Instance, command: str) -> CommandResult:
        """Run one command on a VM."""
        async with self.connected(instance) as connection:
            return await connection.run(command)

    async def look(self, instance: Instance) -> Instance:
        """The instance as the cloud tells of it now."""
        (now,) = await self.cloud.list(ids=[instance.id])
        return now

    async def until(self, instance: Instance, state: InstanceState) -> Instance:
        """Wait for a state."""

        async def there() -> bool:
            return (await self.look(instance)).state is state

        await eventually(there, f"{instance.id} to be {state}")
        return await self.look(instance)

    def folder(self, instance: Instance) -> Path:
        """A VM's folder."""
        return self.cloud.directory / "instances" / instance.id

    def processes(self, instance: Instance, word: str = "") -> dict[int, str]:
        """The processes of a VM whose command line has a word: pid -> command line."""
        found = processes_of(self.folder(instance)) | {
            pid: command
            for pid, command in processes_of(self.cloud.directory).items()
            if instance.id in command
        }
        return {pid: command for pid, command in found.items() if word in command}

    async def nothing_runs(self, instance: Instance) -> None:
        """Wait for a VM's last process, which has just written its final state."""
        await eventually(lambda: not self.processes(instance), "its processes to be gone", 1.0)

    async def power_off(self, connection: SshConnection, command: str = "poweroff") -> None:
        """Power a VM off from within; it may be gone before it says that it does."""
        with contextlib.suppress(UnreachableError):
            assert (await connection.run(command)).status == 0

    def supervisor(self, instance: Instance) -> int:
        """The process id of a VM's supervisor."""
        (pid,) = self.processes(instance, "localhost.vm ")
        return pid

    def init(self, instance: Instance) -> int:
        """The process id of a VM's init."""
        (pid,) = self.processes(instance, "localhost.init ")
        return pid


async def eventually(
    there: Callable[[], bool | Awaitable[bool]], what: str, timeout: float = SOON
) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + timeout
    while True:
        answer = there()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        await asyncio.sleep(0.01)


async def raze(cloud: Cloud) -> None:
    """Delete every VM, the user's own ones too, and all files."""
    await cloud.tag([i.id for i in await cloud.list()], {Tag.MANAGED: "true"})
    await cloud.purge()


@contextlib.asynccontextmanager
async def embedded_cloud(directory: Path, boot_time: float = 0.0) -> AsyncIterator[Embedded]:
    """An embedded cloud of which nothing is left afterwards, or the test fails."""
    cloud = LocalhostCloud(
        directory, boot_time=boot_time, clock=SystemClock(), entropy=SystemEntropy()
    )
    try:
        yield Embedded(cloud)
    finally:
        await raze(cloud)
        assert not processes_of(directory), "processes were left behind"
        assert not list(directory.glob("*")), "files were left behind"
