"""A cloud and a shell that cost nothing: instances are there when they are asked for."""

# Whoever plays a part is told what it is in the part's own docstring.
# ruff: noqa: ARG002, D102
from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from dayfly.clock import Clock
from dayfly.cloud.base import Finding, Resource
from dayfly.environment.lock import Platform
from dayfly.errors import UnreachableError
from dayfly.model import Instance, InstanceSpec, InstanceState, Launch, Price, Tag
from dayfly.shell.base import CommandResult, Target

#: US dollars per hour, so that there is a cost to be reckoned.
HOURLY = 0.05
MASTER = "i-master"


class ScaleCloud:
    """A cloud of which everything can be had (:class:`dayfly.cloud.base.Cloud`).

    Args:
        boot: Seconds for an instance to run.
        clock: Where time comes from.
    """

    name = "localhost"
    region = ""
    pace = 1.0
    imaging = None

    def __init__(self, boot: float, clock: Clock) -> None:
        self._boot = boot
        self._clock = clock
        self._numbers = itertools.count(1)
        self._instances: dict[str, Instance] = {}

    async def owner(self) -> str:
        return "scale"

    async def processes(self, instance_type: str) -> int:
        return 1

    async def platform(self, instance_type: str) -> Platform:
        return Platform()

    async def python(self, instance_type: str) -> str:
        return ""

    async def launch(
        self, spec: InstanceSpec, count: int, *, minimum: int = 1, token: str
    ) -> Launch:
        del minimum  # there is never less than was asked for
        launched = []
        for _ in range(count):
            name = MASTER if spec.role == "master" else f"i-{next(self._numbers):017x}"
            kind = spec.instance_types[0]
            instance = Instance(
                id=name,
                instance_type=kind,
                state=InstanceState.PENDING,
                tags=spec.tags | spec.type_tags.get(kind, {}) | {Tag.LAUNCH.value: token},
                launched_at=self._clock.now(),
                address="127.0.0.1",
                hourly=HOURLY,
            )
            self._instances[name] = instance
            launched.append(instance)
        return Launch(instances=launched)

    async def list(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        ids: Collection[str] | None = None,
        states: Collection[InstanceState] | None = None,
    ) -> list[Instance]:
        wanted = (tags or {}).items()
        found = (
            self._as_now(instance)
            for instance in self._instances.values()
            if (ids is None or instance.id in ids) and wanted <= instance.tags.items()
        )
        return [instance for instance in found if states is None or instance.state in states]

    def _as_now(self, instance: Instance) -> Instance:
        booted = self._clock.now() >= instance.launched_at + self._boot
        if instance.state is not InstanceState.PENDING or not booted:
            return instance
        return msgspec.structs.replace(instance, state=InstanceState.RUNNING)

    def up(self) -> bool:
        """Whether the master has booted."""
        master = self._instances.get(MASTER)
        return master is not None and self._as_now(master).state is InstanceState.RUNNING

    async def start(self, ids: Sequence[str]) -> None:
        pass

    async def stop(self, ids: Sequence[str]) -> None:
        pass

    async def terminate(self, ids: Sequence[str]) -> None:
        for name in ids:
            self._instances.pop(name, None)

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        for name in ids:
            instance = self._instances[name]
            self._instances[name] = msgspec.structs.replace(
                instance, tags=instance.tags | dict(tags)
            )

    async def console(self, instance_id: str) -> str:
        return ""

    async def admit(self) -> None:
        pass

    async def check_consumable(self, instance: Instance) -> None:
        pass

    async def prices(
        self,
        instance_types: Collection[str],
        *,
        spot: bool,
    ) -> dict[str, Price]:
        return dict.fromkeys(instance_types, Price(hourly=HOURLY, source="a benchmark"))

    async def examine(self, workers: int) -> Sequence[Finding]:
        return []

    async def aclose(self) -> None:
        pass

    async def inventory(self) -> Sequence[Resource]:
        return []

    async def purge(self) -> None:
        self._instances.clear()


class ScaleShell:
    """Reaches the master, whose service runs on this machine (:class:`dayfly.shell.base.Shell`).

    Args:
        socket: Where the master listens.
        up: Whether its VM has booted.
    """

    def __init__(self, socket: Path, up: Callable[[], bool]) -> None:
        self._socket = socket
        self._up = up

    async def connect(self, target: Target, *, timeout: float = 5.0) -> ScaleConnection:
        if not self._up():
            raise UnreachableError(f"{target.name} boots", cause=f"not within {timeout:g} s")
        return ScaleConnection(self._socket)


class ScaleConnection:
    """A connection that does nothing but lead to the master."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._closed = asyncio.Event()

    async def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        heard: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        return CommandResult(status=0, stdout="", stderr="")

    async def forward(self, host: str, port: int) -> Path:
        return self._socket

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def aclose(self) -> None:
        self._closed.set()
