"""The processes of the scale benchmark, and what they are told: a master, agents and a client."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.scale_cloud import MASTER
from benchmarks.scale_gauge import Reading
from dayfly.bootstrap import read_package
from dayfly.client.access import ensure_access
from dayfly.clock import SystemEntropy
from dayfly.config import load
from dayfly.model import Access, Instance, InstanceState, MasterConfig, StorageConfig
from dayfly.parts import open_storage

#: Processes that play the agents.
PLAYERS = 2
#: Seconds for a process to end that is not asked anything more.
ENDING = 60.0


def located(folder: Path) -> StorageConfig:
    """The cluster's storage, below ``folder``."""
    return StorageConfig(kind="localhost", location=str(folder / "storage"), scope="scale")


def settings(folder: Path, instances: int) -> dict[str, dict[str, Any]]:
    """A configuration of so many workers of one process, which no timer ends."""
    return {
        "localhost": {
            "directory": str(folder),
            "max_workers": instances,
            "worker_processes": 1,
            "start_timeout": 600,
            "soft_dismantle_timeout": 36000,
            "hard_dismantle_timeout": 36000,
        }
    }


class Side:
    """A process that answers questions."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self.answer()

    def say(self, *question: object) -> None:
        """Ask something, to be answered meanwhile."""
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to what was asked last."""
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        if not (line := self._process.stdout.readline()):
            raise SystemExit(f"benchmarks.{self._name} has ended")
        return json.loads(line)

    def ask(self, *question: object) -> Any:
        """Ask something, and wait for the answer."""
        self.say(*question)
        return self.answer()

    def read(self) -> Reading:
        """What it has used since this was asked last."""
        return msgspec.convert(self.ask("read"), Reading)

    def end(self) -> None:
        """Ask nothing more."""
        with self._process as process:
            assert process.stdin is not None  # noqa: S101  # it is a pipe
            process.stdin.close()
            try:
                process.wait(ENDING)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True)
class Stage:
    """The processes of one cell."""

    master: Side
    players: list[Side]
    client: Side

    def bring_up(self, instances: int) -> float:
        """Have workers launched for as many calls; returns the seconds until all of them serve."""
        began = time.perf_counter()
        self.client.say("map", instances)
        for turn, player in enumerate(self.players):
            player.say("ready", (instances + len(self.players) - 1 - turn) // len(self.players))
        for player in self.players:
            player.answer()
        taken = time.perf_counter() - began
        self.client.answer()
        return taken

    def idle(self, seconds: float) -> Reading:
        """What the master uses while nothing is to be done."""
        self.master.ask("pause")
        self.master.read()
        time.sleep(seconds)
        found = self.master.read()
        self.master.ask("pause")
        return found

    def read(self) -> tuple[Reading, Reading, Reading]:
        """What master, client and players have used; of these the sum of the processors' time."""
        players = [player.read() for player in self.players]
        both = msgspec.structs.replace(players[0], cpu=sum(player.cpu for player in players))
        return self.master.read(), self.client.read(), both


@contextmanager
def stage(folder: Path, instances: int, boot: float) -> Iterator[Stage]:
    """Start the processes, with a master that is up and knows nobody.

    Args:
        folder: For all files; there must be nothing of another stage in it.
        instances: Workers that the client may have.
        boot: Seconds that a VM takes until it can be reached.
    """
    config = asyncio.run(_configuration(folder))
    (folder / "master.json").write_bytes(msgspec.json.encode(config))
    sockets = [folder / f"agents-{number}" for number in range(PLAYERS)]
    with ExitStack() as ends:

        def start(module: str, *arguments: object) -> Side:
            side = Side(module, str(folder), json.dumps(arguments))
            ends.callback(side.end)
            return side

        master = start("scale_master", boot, [str(socket) for socket in sockets])
        told = master.ready, config.access.worker_secret
        players = [start("scale_agents", socket.name, *told) for socket in sockets]
        master.ask("open")
        client = start("scale_client", instances, boot)
        yield Stage(master, players, client)


async def _configuration(folder: Path) -> MasterConfig:
    """What the master's service reads, with the keys of a cluster that is made here."""
    storage = open_storage(located(folder))
    try:
        access: Access = await ensure_access(storage, "main", "scale", SystemEntropy())
    finally:
        await storage.aclose()
    config = load(settings(folder, 1))
    return MasterConfig(
        instance=Instance(
            id=MASTER,
            instance_type="local.1",
            state=InstanceState.RUNNING,
            tags={},
            launched_at=time.time(),
            address="127.0.0.1",
        ),
        access=access,
        package=read_package().digest,
        host="127.0.0.1",
        port=0,
        username="nobody",
        runtime=config.compute.interpreter,
        storage=located(folder),
        policy=config.policy,
        start_timeout=config.compute.start_timeout,
    )
