"""How long users wait for what does not come: a master, or storage."""

from __future__ import annotations

import asyncio
import operator

import pytest

from dayfly.errors import DayflyError
from dayfly.model import Tag
from tests.simulation.process import Process
from tests.simulation.surroundings import NoFaults
from tests.simulation.test_clients import SlowBoots
from tests.simulation.test_found import attached
from tests.simulation.test_world import executor, states, until
from tests.simulation.world import Calm, World


def test_jobs_whose_master_does_not_answer_are_told_within_start_timeout_each_by_itself() -> None:
    """None of them waits until others have found that out for themselves, one after the other."""

    async def story(world: World) -> None:
        took: dict[int, float] = {}

        async def program(process: Process) -> None:
            async with executor(world, process, start_timeout=120.0) as running:

                async def awaited(after: float) -> None:
                    await asyncio.sleep(after)
                    began = world.loop.time()
                    with pytest.raises(DayflyError):
                        await running.map(operator.neg, range(20))
                    took[int(after)] = world.loop.time() - began

                await asyncio.gather(*map(awaited, (0.0, 1.0, 60.0, 125.0)))

        await world.client(program).ended
        assert len(took) == 4
        assert all(100.0 < seconds < 130.0 for seconds in took.values()), took

    faults = SlowBoots()
    faults.slow = True
    with World(1, Calm(), faults=lambda chance, note: faults) as world:
        world.run(story(world))


class SlowStorage(NoFaults):
    """Storage takes a minute for each thing, once that has begun."""

    def __init__(self) -> None:
        self.slow = False

    def strikes(self, kind: str) -> bool:
        return kind == "slow storage" and self.slow

    def amount(self, kind: str, low: float, high: float) -> float:
        return high


def test_cancelling_an_attached_job_as_its_lost_workers_are_replaced_does_not_wait_for_ever() -> (
    None
):
    faults = SlowStorage()

    async def story(world: World) -> None:
        async def leaves(process: Process) -> str:
            async with executor(world, process) as running:
                job = running.map(operator.neg, range(20), detach=True)
                world.durations[job.id] = [300.0] * 20
                return job.id

        job = await world.client(leaves).ended
        await until(world, lambda: world.executions)

        async def follows(process: Process) -> float:
            reading = asyncio.create_task(attached(world, process, job))
            await asyncio.sleep(20.0)
            for vm in list(world.cloud.vms.values()):
                if vm.born.get(Tag.ROLE) == "worker":
                    assert world.cloud.crash(vm.id)
            await until(world, lambda: states(world, "worker")[3:])
            faults.slow = True  # so that its launch cannot be noted as handed over
            began = world.loop.time()
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()
            return world.loop.time() - began

        assert 25.0 < await world.client(follows).ended < 60.0
        faults.slow = False

    with World(1, Calm(), faults=lambda chance, note: faults) as world:
        world.run(story(world))
