"""The real services, put together as ``python -m dayfly.master`` and ``dayfly.worker`` do."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from dayfly.bootstrap import Package
from dayfly.clock import Entropy
from dayfly.master.app import converse
from dayfly.master.hub import Hub
from dayfly.master.installer import SshInstaller
from dayfly.master.journal import Journal
from dayfly.master.logbook import Logbook
from dayfly.master.service import serve
from dayfly.model import MasterConfig, StorageConfig, WorkerConfig
from dayfly.shell.base import Shell
from dayfly.storage.base import Storage
from dayfly.storage.scoped import ScopedStorage
from dayfly.worker.agent import Agent
from tests.simulation.machine import JOURNAL, Machine
from tests.simulation.network import Network
from tests.simulation.ownvm import SimNotices, SimVm
from tests.simulation.process import Process
from tests.simulation.runner import Work, Workshop

Crashed = Callable[[str, BaseException], None]


def scoped(storage: Storage, config: StorageConfig) -> Storage:
    """A VM's storage, as :func:`dayfly.parts.open_storage` makes it."""

    async def scope() -> str:
        return config.scope

    return ScopedStorage(storage, scope)


class Master:
    """The master's service on a simulated VM (:class:`tests.simulation.units.Program`).

    Attributes:
        hub: What it consists of, once it serves.
        journal: What it remembers.
    """

    def __init__(
        self,
        machine: Machine,
        process: Process,
        *,
        ready: Callable[[], None],
        storage: Storage,
        shell: Shell,
        network: Network,
        package: Package,
        entropy: Entropy,
        crashed: Crashed,
    ) -> None:
        self.hub: Hub | None = None
        self._machine = machine
        self._process = process
        self._ready = ready
        self._storage = storage
        self._shell = shell
        self._network = network
        self._package = package
        self._entropy = entropy
        self._crashed = crashed
        self._stop = asyncio.Event()
        self.config = msgspec.json.decode(machine.installed["master"].config, type=MasterConfig)
        self.journal = Journal(machine.disk / JOURNAL)
        self._logbook = Logbook(machine.disk / "logs")
        process.on_kill(self._forget)

    def main(self) -> Coroutine[Any, Any, None]:
        clock = self._process.clock
        return serve(
            self.config,
            storage=scoped(self._storage, self.config.storage),
            journal=self.journal,
            logbook=self._logbook,
            installer=SshInstaller(
                self._shell, self.config, lambda: self._package, clock=clock, entropy=self._entropy
            ),
            vm=SimVm(self._machine, self._process, self._ready),
            clock=clock,
            listen=self._listen,
            stop=self._stop,
        )

    def terminate(self) -> None:
        self._stop.set()

    def _forget(self) -> None:
        """It was killed: what it had not committed is lost, as its kernel would have it."""
        with contextlib.suppress(sqlite3.Error):  # it had just closed it
            self.journal._database.close()
        self._logbook.close()

    @contextlib.asynccontextmanager
    async def _listen(self, hub: Hub) -> AsyncIterator[None]:
        self.hub = hub
        listener = self._network.listen(
            self._process,
            self.config.port,
            partial(converse, hub),
            lambda error: self._crashed(f"a conversation of {self._machine.id}", error),
        )
        try:
            yield
        finally:
            await listener.aclose()


class Worker:
    """A worker's agent on a simulated VM (:class:`tests.simulation.units.Program`).

    Attributes:
        agent: The real one.
    """

    def __init__(
        self,
        machine: Machine,
        process: Process,
        *,
        ready: Callable[[], None],
        storage: Storage,
        network: Network,
        work: Work,
        entropy: Entropy,
        stream: random.Random,
    ) -> None:
        config = msgspec.json.decode(machine.installed["worker"].config, type=WorkerConfig)
        self._process = process
        self._serving: asyncio.Task[None] | None = None
        self.agent = Agent(
            config,
            scoped(storage, config.storage),
            clock=process.clock,
            entropy=entropy,
            vm=SimVm(machine, process, ready),
            dial=network.dial(process),
            runner=Workshop(work, process, machine.id, stream),
            modules=machine.disk / "modules",
            notices=SimNotices(machine, process, stream) if config.spot else None,
        )

    async def main(self) -> None:
        self._serving = asyncio.current_task()
        await self.agent.run()

    def terminate(self) -> None:
        assert self._serving is not None
        self._serving.cancel()
