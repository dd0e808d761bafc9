"""How the master makes a VM a worker, and how it ends one: the seam, and its form over SSH."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from dayfly import provision
from dayfly.bootstrap import Package
from dayfly.clock import Clock, Entropy
from dayfly.environment.order import Order
from dayfly.errors import CommandError, ProvisionError, UnreachableError
from dayfly.master.logins import Logins
from dayfly.master.member import processes_of
from dayfly.model import DismantlePolicy, Instance, MasterConfig, Registry, Tag, WorkerConfig
from dayfly.phases import BOOT, PLAN, Timeline
from dayfly.shell.base import Shell
from dayfly.stock import Stock

#: Addresses to listen at that nobody can call.
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  # compared with, not bound


class Installer(Protocol):
    """Makes a VM a worker, and powers it off."""

    async def install(
        self,
        instance: Instance,
        policy: DismantlePolicy,
        *,
        reached: Callable[[], None],
        timeline: Timeline,
        deadline: float,
    ) -> None:
        """Reach a VM that may still boot, and start its agent; doing it twice does no harm.

        Args:
            instance: The VM.
            policy: Its own, until the master says otherwise.
            reached: Called when it has answered.
            timeline: Where it is told what took how long.
            deadline: When to give up reaching it, in ``clock.monotonic()`` seconds.

        Raises:
            ShellError: It could not be reached.
            ProvisionError: It was, but its agent does not start.
        """
        ...

    def entrust(self, instances: Iterable[Instance], registry: Registry) -> None:
        """Where these instances will have container images from; it is not written on a disk."""
        ...

    async def power_off(self, instance: Instance, *, deadline: float) -> None:
        """Power a VM off whose agent does not answer.

        Raises:
            ShellError: It could not be reached, or it refused.
        """
        ...


#: Seconds until an installation whose connection broke is taken up again.
AGAIN = 0.2


class SshInstaller:
    """The form over SSH.

    Args:
        shell: How VMs are reached.
        config: The master's own.
        package: Reads the dayfly that is installed on workers; called at the first need.
        clock: Where time comes from.
        entropy: For jitter between attempts.
        stock: What storage keeps of environments.
        logins: For container registries; by default they end with this process.
    """

    def __init__(
        self,
        shell: Shell,
        config: MasterConfig,
        package: Callable[[], Package],
        *,
        clock: Clock,
        entropy: Entropy,
        stock: Stock | None = None,
        logins: Logins | None = None,
    ) -> None:
        self._stock = stock
        self._shell = shell
        self._config = config
        self._package = package
        self._clock = clock
        self._entropy = entropy
        self._logins = logins or Logins()

    def entrust(self, instances: Iterable[Instance], registry: Registry) -> None:  # noqa: D102
        self._logins.keep((instance.id for instance in instances), registry)

    async def install(  # noqa: D102
        self,
        instance: Instance,
        policy: DismantlePolicy,
        *,
        reached: Callable[[], None],
        timeline: Timeline,
        deadline: float,
    ) -> None:
        began = self._clock.monotonic()
        target = provision.target_of(
            instance, self._config.access, self._config.username, inside=True
        )
        while True:
            connection = await provision.reach(
                self._shell, target, deadline=deadline, clock=self._clock, entropy=self._entropy
            )
            try:
                reached()
                timeline.add(instance.id, BOOT, began)
                with timeline.during(instance.id, PLAN):
                    package = await asyncio.to_thread(self._package)
                    config = self._worker_config(instance, policy)
                    kit = await self._kit()
                await provision.install_worker(
                    connection,
                    config,
                    package,
                    timeline=timeline,
                    kit=kit,
                    login=self._login(),
                )
            except UnreachableError:
                # The connection broke; what was begun is taken up again by the next one.
                if self._clock.monotonic() >= deadline:
                    raise
                await self._clock.sleep(AGAIN)
            else:
                return
            finally:
                await connection.aclose()

    async def power_off(self, instance: Instance, *, deadline: float) -> None:  # noqa: D102
        target = provision.target_of(
            instance, self._config.access, self._config.username, inside=True
        )
        connection = await provision.reach(
            self._shell, target, deadline=deadline, clock=self._clock, entropy=self._entropy
        )
        try:
            # The answer may well be that the VM is gone, which is what was asked for.
            with suppress(UnreachableError, CommandError):
                await connection.run("sudo poweroff", timeout=10.0)
        finally:
            await connection.aclose()

    async def _kit(self) -> Order | None:
        """How a worker comes by its interpreter: by URLs that the master's role signs."""
        if self._stock is None or not self._config.kit:
            return None
        lock = await self._stock.find(self._config.kit)
        if lock is None:
            raise ProvisionError(
                f"the environment {self._config.kit} is not in storage any more",
                cause="somebody has deleted it since the master was started",
                hint="run the program again: it stores it again",
            )
        return await self._stock.order(lock, name="dayfly", interpreters=self._config.interpreters)

    def _login(self) -> str:
        password = self._config.ssh_password
        return f"{self._config.username}:{password}" if password else ""

    def _worker_config(self, instance: Instance, policy: DismantlePolicy) -> WorkerConfig:
        config = self._config
        host = config.instance.inner_address if config.host in _WILDCARDS else config.host
        return WorkerConfig(
            instance=instance.id,
            master_host=host,
            master_port=config.port,
            secret=config.access.worker_secret,
            processes=processes_of(instance),
            runtime=instance.tags.get(Tag.RUNTIME, "") or config.runtime,
            storage=config.storage,
            policy=policy,
            spot=instance.spot,
            registry=self._logins.of(instance.id),
            kit=config.kit,
            interpreters=config.interpreters,
            log_level=config.log_level,
        )
