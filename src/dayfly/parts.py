"""From a configuration to the parts of the house; heavy adapters are imported when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dayfly.clock import Clock, Entropy, SystemClock, SystemEntropy
from dayfly.cloud.base import Cloud
from dayfly.config import Config
from dayfly.errors import ConfigError
from dayfly.model import StorageConfig
from dayfly.shell.base import Shell
from dayfly.storage.base import Storage


@dataclass(frozen=True)
class Parts:
    """All that the client side works with; whoever opened it closes it."""

    config: Config
    cloud: Cloud
    storage: Storage
    shell: Shell
    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)

    async def __aenter__(self) -> Parts:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of connections."""
        await self.storage.aclose()


def open_parts(config: Config) -> Parts:
    """Make the parts that a configuration names.

    Raises:
        ConfigError: This version has no adapter for it.
    """
    return Parts(
        config=config,
        cloud=open_cloud(config),
        storage=open_storage(config.storage_config),
        shell=open_shell(),
    )


def open_cloud(config: Config) -> Cloud:
    """Make the backend.

    Raises:
        ConfigError: This version has no adapter for it.
    """
    if config.dayfly.backend == "localhost":
        from dayfly.cloud.localhost import LocalhostCloud

        section = config.localhost
        return LocalhostCloud(
            Path(section.directory).expanduser(),
            boot_time=section.boot_time,
            clock=SystemClock(),
            entropy=SystemEntropy(),
        )
    raise ConfigError(
        f"the backend {config.dayfly.backend!r} is not in this version",
        cause="only the embedded cloud is: backend: localhost",
        hint="dayfly hello -b localhost",
    )


def open_storage(config: StorageConfig) -> Storage:
    """Open a storage, on the client or on a VM.

    Raises:
        ConfigError: This version has no adapter for it.
    """
    if config.kind == "localhost":
        from dayfly.storage.directory import DirectoryStorage

        return DirectoryStorage(Path(config.location))
    raise ConfigError(
        f"the storage {config.kind!r} is not in this version",
        cause="only directories are: storage: localhost",
        hint="dayfly hello -s localhost",
    )


def open_shell() -> Shell:
    """Make the shell."""
    from dayfly.shell.ssh import SshShell

    return SshShell()
