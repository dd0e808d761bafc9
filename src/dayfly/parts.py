"""From a configuration to the parts of the house; heavy adapters are imported when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dayfly.clock import Clock, Entropy, SystemClock, SystemEntropy
from dayfly.cloud.base import Cloud
from dayfly.model import StorageConfig
from dayfly.phases import Timeline
from dayfly.processes import Process, ThisProcess
from dayfly.shell.base import Shell
from dayfly.storage.base import Storage
from dayfly.storage.notes import StorageNotes
from dayfly.storage.scoped import ScopedStorage

if TYPE_CHECKING:
    # Not on the VMs, which have no YAML.
    from dayfly.aws.session import Aws
    from dayfly.bootstrap import Package
    from dayfly.config import Config
    from dayfly.wire.link import Dial


def _dial() -> Dial:
    from dayfly.wire.link import dial

    return dial


def _package() -> Package:
    from dayfly.bootstrap import read_package

    return read_package()


@dataclass(frozen=True)
class Parts:
    """All that the client side works with; whoever opened it closes it.

    Attributes:
        dial: How a conversation with the master is opened.
        package: Reads the dayfly that VMs are to run.
        process: Who is asking.
        aws: The account that cloud and storage share, if either is AWS's.
        timeline: Where it is told what took how long.
    """

    config: Config
    cloud: Cloud
    storage: Storage
    shell: Shell
    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)
    dial: Dial = field(default_factory=_dial)
    package: Callable[[], Package] = _package
    process: Process = field(default_factory=ThisProcess)
    aws: Aws | None = None
    timeline: Timeline = field(default_factory=lambda: Timeline(SystemClock()))

    async def __aenter__(self) -> Parts:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of connections."""
        await self.storage.aclose()
        await self.cloud.aclose()
        if self.aws is not None:
            await self.aws.aclose()


def open_parts(config: Config, timeline: Timeline | None = None) -> Parts:
    """Make the parts that a configuration names; nothing is connected yet."""
    aws = _open_aws(config)

    async def scope() -> str:
        return await scope_of(cloud)

    storage = ScopedStorage(_open_storage(config.storage_config, aws), scope)
    cloud = _open_cloud(config, storage, aws)
    return Parts(
        config=config,
        cloud=cloud,
        storage=storage,
        shell=open_shell(),
        aws=aws,
        timeline=timeline or Timeline(SystemClock()),
    )


async def scope_of(cloud: Cloud) -> str:
    """Whose part of a storage this is: one owner's, in one cloud and region."""
    names = (cloud.name, cloud.region, await cloud.owner())
    return "-".join(name.replace("/", "-") for name in names if name)


def open_storage(config: StorageConfig) -> Storage:
    """Open a storage on a VM, which was told whose part of it is meant."""

    async def scope() -> str:
        return config.scope

    return ScopedStorage(_open_storage(config, None), scope)


def _open_storage(config: StorageConfig, aws: Aws | None) -> Storage:
    """Open the whole of a storage; a VM has no account at hand, and opens one by its role."""
    if config.kind == "localhost":
        from dayfly.storage.directory import DirectoryStorage

        return DirectoryStorage(Path(config.location))
    from dayfly.aws.session import Aws
    from dayfly.storage.s3 import S3Storage

    return S3Storage(
        aws or Aws(config.region),
        config.location,
        account=config.account,
        region=config.region,
        owns=aws is None,
        clock=SystemClock(),
        entropy=SystemEntropy(),
    )


def _open_aws(config: Config) -> Aws | None:
    if config.dayfly.backend != "aws_ec2" and config.dayfly.storage != "aws_s3":
        return None
    from dayfly.aws.session import Aws, Credentials

    keys = config.aws
    return Aws(
        config.aws_ec2.region or config.aws_s3.region,
        Credentials(
            access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key,
            session_token=keys.session_token,
        ),
        account_id=keys.account_id,
    )


def _open_cloud(config: Config, storage: Storage, aws: Aws | None) -> Cloud:
    clock, entropy, process = SystemClock(), SystemEntropy(), ThisProcess()
    if aws is not None and config.dayfly.backend == "aws_ec2":
        from dayfly.cloud.ec2 import Ec2Cloud

        return Ec2Cloud(
            config.aws_ec2,
            aws,
            StorageNotes(storage),
            clock=clock,
            entropy=entropy,
            caller=f"{process.user}@{process.host}",
        )
    from dayfly.cloud.localhost import LocalhostCloud

    section = config.localhost
    return LocalhostCloud(
        Path(section.directory).expanduser(),
        boot_time=section.boot_time,
        clock=clock,
        entropy=entropy,
    )


def open_shell() -> Shell:
    """Make the shell."""
    from dayfly.shell.ssh import SshShell

    return SshShell()
