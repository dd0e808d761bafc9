"""Words for tests that look into machines: launch one by EC2's own call, and log in to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aioboto3

from dayfly import bootstrap
from dayfly.errors import UnreachableError
from dayfly.model import DismantlePolicy
from dayfly.shell.base import CommandResult, Target
from dayfly.shell.ssh import SshConnection, SshShell
from tests.aws.emulator import EmulatedAws
from tests.embedded import Pair
from tests.machines import images, root

#: Seconds within which a machine is up, on a machine that has other things to do.
UP = 30.0
#: A host key is good for this name only.
ALIAS = "worker"


@dataclass
class Guests:
    """Instances that a test launches itself, with user-data as dayfly writes it."""

    aws: EmulatedAws
    user: Pair = field(default_factory=Pair)
    authority: Pair = field(default_factory=Pair)
    shell: SshShell = field(default_factory=SshShell)

    def user_data(self, policy: DismantlePolicy | None = None) -> str:
        """dayfly's own, with a host key that the CA has signed."""
        host = Pair()
        certificate = self.authority.key.generate_host_certificate(
            host.key, "host", principals=[ALIAS]
        )
        return bootstrap.user_data(
            host=bootstrap.HostIdentity(
                private_key=host.private,
                public_key=host.public,
                certificate=certificate.export_certificate().decode(),
            ),
            authorized_keys=[self.user.public],
            policy=policy or DismantlePolicy(),
        )

    async def launch(
        self,
        count: int = 1,
        *,
        image: str = images.BOOKWORM,
        on_poweroff: str = "terminate",
        spot: bool = False,
        user_data: str = "",
    ) -> list[str]:
        """Launch instances; returns their ids."""
        more: dict[str, Any] = {}
        if spot:
            more["InstanceMarketOptions"] = {"MarketType": "spot"}
        told = await self.call(
            "run_instances",
            ImageId=image,
            InstanceType="t3.micro",
            MinCount=count,
            MaxCount=count,
            UserData=user_data or self.user_data(),
            InstanceInitiatedShutdownBehavior=on_poweroff,
            IamInstanceProfile={"Name": self.aws.role},
            **more,
        )
        return [each["InstanceId"] for each in told["Instances"]]

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call EC2."""
        async with aioboto3.Session(region_name=self.aws.region).client("ec2") as ec2:
            answer: dict[str, Any] = await getattr(ec2, operation)(**parameters)
            return answer

    def target(self, instance_id: str) -> Target:
        """How to reach an instance, and how to know it."""
        return Target(
            name=instance_id,
            address=self.aws.world.lives[instance_id].address,
            port=22,
            username=root.USERNAME,
            alias=ALIAS,
            known_hosts=f"@cert-authority * {self.authority.public}",
            private_key=self.user.private,
        )

    async def launch_own(self, home: Path, *, image: str, stopped: bool = False) -> str:
        """Launch an instance as a user does who knows nothing of dayfly; returns its id.

        The key that opens it is at ``home / "key"``.
        """
        path = home / "key"
        path.write_text(self.user.private)
        path.chmod(0o600)
        told = json.dumps({"ssh_authorized_keys": [self.user.public]})
        (mine,) = await self.launch(
            image=image, on_poweroff="stop", user_data=f"#cloud-config\n{told}\n"
        )
        if stopped:
            await self.until(mine, "running")
            await self.call("stop_instances", InstanceIds=[mine])
            await self.until(mine, "stopped")
        return mine

    @contextlib.asynccontextmanager
    async def connected(self, instance_id: str) -> AsyncIterator[SshConnection]:
        """A connection to a machine that may still be booting."""
        deadline = time.monotonic() + UP
        while True:
            try:
                connection = await self.shell.connect(self.target(instance_id))
                break
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
        try:
            yield connection
        finally:
            await connection.aclose()

    async def run(self, instance_id: str, command: str) -> CommandResult:
        """Run a command on a machine."""
        async with self.connected(instance_id) as connection:
            return await connection.run(command)

    async def until(self, instance_id: str, state: str, within: float = UP) -> float:
        """Wait for a state as EC2 tells it; returns the seconds that it took."""
        began = time.monotonic()
        while self.aws.state(instance_id) != state:
            assert time.monotonic() - began < within, self.aws.state(instance_id)
            await asyncio.sleep(0.02)
        return time.monotonic() - began
