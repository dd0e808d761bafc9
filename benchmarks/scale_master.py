"""The master of the scale benchmark: the real service, whose installer only calls for agents."""

# Whoever plays a part is told what it is in the part's own docstring.
# ruff: noqa: ARG002, D102
from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.scale_gauge import Gauge, obey
from dayfly.clock import SystemClock
from dayfly.errors import UnreachableError
from dayfly.master.__main__ import never_pause, read_config
from dayfly.master.app import serving
from dayfly.master.hub import Hub
from dayfly.master.journal import Journal
from dayfly.master.logbook import Logbook
from dayfly.master.service import serve
from dayfly.model import DismantlePolicy, Instance, Registry
from dayfly.parts import open_storage
from dayfly.phases import Timeline


class Caller:
    """Has agents called into being (:class:`dayfly.master.installer.Installer`).

    Args:
        sockets: Where these listen.
        boot: Seconds from a VM's launch until it can be reached.
    """

    def __init__(self, sockets: list[Path], boot: float) -> None:
        self._sockets = sockets
        self._boot = boot
        self._turns = itertools.count()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        """Connect."""
        for socket in self._sockets:
            _, writer = await asyncio.open_unix_connection(socket)
            self._writers.append(writer)

    async def install(
        self,
        instance: Instance,
        policy: DismantlePolicy,
        *,
        reached: Callable[[], None],
        timeline: Timeline,
        deadline: float,
    ) -> None:
        await asyncio.sleep(max(0.0, instance.launched_at + self._boot - time.time()))
        reached()
        writer = self._writers[next(self._turns) % len(self._writers)]
        writer.write(f"{instance.id}\n".encode())

    def entrust(self, instances: Iterable[Instance], registry: Registry) -> None:
        """Nothing is run from a registry."""

    async def power_off(self, instance: Instance, *, deadline: float) -> None:
        """Nobody is there to be powered off."""
        raise UnreachableError(f"{instance.id} is played")


class NoVm:
    """The VM under the master: none that could be powered off (:class:`dayfly.guest.Vm`)."""

    def set_deadline(self, seconds: float | None) -> None:
        pass

    async def power_off(self) -> None:
        pass

    def ready(self) -> None:
        pass

    def armed(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


async def main(folder: Path, boot: float, players: list[str]) -> None:
    """Serve until nobody asks any more; the first answer is the port that workers call."""
    logging.basicConfig(level=logging.WARNING)
    never_pause()
    config, stop = read_config(folder / "master.json"), asyncio.Event()
    caller = Caller(list(map(Path, players)), boot)

    @asynccontextmanager
    async def listen(hub: Hub) -> AsyncIterator[None]:
        async with serving(hub, host="127.0.0.1", unix_socket=folder / "master") as ports:
            asked = asyncio.create_task(obey(Gauge(), {"open": caller.open}, ports[0]))
            asked.add_done_callback(lambda _: stop.set())
            yield
            await asked

    await serve(
        config,
        storage=open_storage(config.storage),
        journal=Journal(folder / "journal.sqlite"),
        logbook=Logbook(folder / "logs"),
        installer=caller,
        vm=NoVm(),
        clock=SystemClock(),
        listen=listen,
        stop=stop,
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *json.loads(sys.argv[2])))
