"""A small stage for tests of the simulated cloud and storage: virtual time, faults by script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from dayfly.model import Instance, InstanceSpec, InstanceState, Tag
from tests.simulation.chance import Chance
from tests.simulation.cloud import CloudState, SimCloud
from tests.simulation.loop import SeededLoop
from tests.simulation.process import Host, Process
from tests.simulation.storage import SimStorage, StorageState


class Script:
    """Faults that strike when they are told to.

    Attributes:
        next: By kind, the amounts of the strikes to come; ``None`` stands for a time that it
            does not strike. A strike that is asked for more amounts gives the same again.
    """

    def __init__(self, **faults: Sequence[float | None]) -> None:
        self.next = {kind.replace("_", " "): list(amounts) for kind, amounts in faults.items()}
        self._amounts: dict[str, float] = {}

    def strikes(self, kind: str) -> bool:
        coming = self.next.get(kind)
        amount = coming.pop(0) if coming else None
        if amount is not None:
            self._amounts[kind] = amount
        return amount is not None

    def amount(self, kind: str, low: float, high: float) -> float:
        return self._amounts[kind]


class Stage:
    """One cloud and one storage, and machines whose processes use them."""

    def __init__(
        self,
        loop: SeededLoop,
        chance: Chance,
        faults: Script,
        limits: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.loop = loop
        self.faults = faults
        more: dict[str, Any] = {} if limits is None else {"limits": limits}
        self.state = CloudState(loop, chance.stream("cloud"), faults, **more)
        self.objects = StorageState(loop, chance.stream("storage"), faults)
        self.host = Host(loop, "laptop")

    def process(self, name: str = "client") -> Process:
        return Process(self.host, name)

    def cloud(self, process: Process | None = None) -> SimCloud:
        return SimCloud(self.state, process)

    def storage(self, process: Process | None = None) -> SimStorage:
        return SimStorage(self.objects, process)


Story = Callable[[Stage], Coroutine[Any, Any, None]]


def play(story: Story, *, seed: int = 0, limits: Mapping[str, tuple[float, float]] | None = None,
         **faults: Sequence[float | None]) -> str:  # fmt: skip
    """Play a story on virtual time; returns a digest of all that ran.

    Args:
        story: What happens.
        seed: Of how long things take.
        limits: Requests that the cloud takes.
        **faults: By kind, with underscores for spaces; see :class:`Script`.
    """
    chance = Chance(seed)
    loop = SeededLoop(chance)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        stage = Stage(loop, chance, Script(**faults), limits)
        runner.run(story(stage))
        loop.bury()
    assert not loop.complaints
    return loop.digest()


def spec(
    *types: str, spot: bool = False, fallback: bool = False, stays: bool = False, **tags: str
) -> InstanceSpec:
    return InstanceSpec(
        role="worker",
        instance_types=list(types) or ["t3.medium"],
        on_poweroff="stop" if stays else "terminate",
        user_data="#cloud-config\n{}\n",
        tags={"Name": "w", Tag.MANAGED.value: "true", **tags},
        spot=spot,
        fallback=fallback,
    )


async def until(state: CloudState, instance: Instance, *wanted: InstanceState) -> float:
    """Wait until it truly is in one of these states; returns the seconds that it took."""
    begun = state.now
    async with asyncio.timeout(3600.0):
        while state.vms[instance.id].state not in wanted:
            await asyncio.sleep(0.1)
    return state.now - begun


async def up(
    stage: Stage, *types: str, count: int = 1, spot: bool = False, stays: bool = False
) -> list[Instance]:
    wanted = spec(*types, spot=spot, stays=stays)
    launch = await stage.cloud().launch(wanted, count, token="up")
    for instance in launch.instances:
        await until(stage.state, instance, InstanceState.RUNNING)
    return [stage.state.vms[instance.id].instance for instance in launch.instances]
