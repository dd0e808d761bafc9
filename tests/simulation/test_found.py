"""What stories of drawn misfortune have found, each told for itself."""

from __future__ import annotations

import asyncio
import operator
from typing import Any

import pytest

from dayfly.client.executor import FunctionExecutor
from dayfly.errors import WireError
from tests.simulation.machine import TORN
from tests.simulation.network import Network
from tests.simulation.process import Process
from tests.simulation.services import Master
from tests.simulation.surroundings import NoFaults
from tests.simulation.test_world import (
    MINUS,
    S,
    config,
    executor,
    lengthy,
    negated,
    states,
    told,
    until,
    workers,
)
from tests.simulation.world import Calm, DiedError, World


class Unsynced(NoFaults):
    """Each power cut takes all that SQLite has not synced."""

    def strikes(self, kind: str) -> bool:
        return kind == TORN

    def amount(self, kind: str, low: float, high: float) -> float:
        return high


def power_cut(world: World) -> None:
    """The master's VM loses its host: it is stopped, and its disk is what was synced."""
    master = world.master()
    assert master is not None
    assert world.cloud.crash(master.id)


async def checkpoint(world: World) -> None:
    """The journal makes one by itself, every so many bytes."""
    machine = world.master()
    assert machine is not None
    service = machine.units["master"]._program
    assert isinstance(service, Master)
    await service.journal.sync()


async def some_are_done(world: World) -> None:
    await until(world, lambda: sum(run.ended is not None for run in world.executions) >= 8)


async def attached(world: World, process: Process, job: str) -> list[int]:
    parts = world.open_parts(process, config())
    found = await FunctionExecutor.attach(
        job, config(), parts=parts, progress=False, clock=parts.clock
    )
    try:
        results: list[int] = await found
        return results
    finally:
        await found.aclose()


def test_a_detached_job_that_was_left_is_known_after_a_power_cut_of_its_master() -> None:
    async def story(world: World) -> None:
        async def program(process: Process) -> str:
            async with executor(world, process) as running:
                job = running.map(operator.neg, range(20), detach=True)
                world.durations[job.id] = [30.0] * 20
                return job.id

        job = await world.client(program).ended
        power_cut(world)
        assert await world.client(lambda process: attached(world, process, job)).ended == MINUS

    with World(1, Calm(), faults=lambda chance, note: Unsynced()) as world:
        world.run(story(world))


def test_a_job_that_is_over_stays_over_after_a_power_cut_of_its_master() -> None:
    async def story(world: World) -> None:
        jobs: list[str] = []

        async def program(process: Process) -> Any:
            async with executor(world, process) as running:
                job = running.map(operator.neg, range(20))
                jobs.append(job.id)
                world.durations[job.id] = [10.0] * 20
                return await job

        client = world.client(program)
        await some_are_done(world)
        await checkpoint(world)
        assert await client.ended == MINUS
        await asyncio.sleep(5.0)  # it is in storage by now
        power_cut(world)
        assert await world.client(lambda process: negated(world, process)).ended == MINUS
        await asyncio.sleep(90.0)  # longer than a job lives without any client
        (job,) = jobs
        assert await world.client(lambda process: attached(world, process, job)).ended == MINUS

    with World(1, Calm(), faults=lambda chance, note: Unsynced()) as world:
        world.run(story(world))
        assert len(world.executions) == 2 * 20  # none of its calls has run again, for nobody


def test_a_power_cut_in_mid_job_costs_no_outcome_and_brings_none_twice() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda process: lengthy(world, process, 20, 10.0))
        await some_are_done(world)
        power_cut(world)
        assert await client.ended == MINUS

    with World(1, Calm(), faults=lambda chance, note: Unsynced()) as world:
        world.run(story(world))
        assert world.torn
        assert len(world.executions) > 20  # whose outcomes were lost ran again


@pytest.mark.parametrize("lost", ["that it was on the job", "its calls"])
def test_a_power_cut_of_its_master_takes_no_worker_from_a_job_by_the_timer_of_an_earlier_one(
    lost: str,
) -> None:
    """What the cut has taken is said again, by the worker and by the client."""

    async def story(world: World) -> None:
        async def program(process: Process) -> Any:
            async def items() -> Any:
                for n in range(6):
                    if n == 2 and lost == "its calls":
                        await until(world, lambda: len(world.executions) == 20 + 2)
                        await asyncio.sleep(2.0)
                        await checkpoint(world)
                    yield n

            async with executor(world, process, soft_dismantle_timeout=60) as running:
                await running.map(operator.neg, range(20))
                if lost == "that it was on the job":
                    assert world.kill_service(workers(world)[-1].id, "worker")
                job = running.map(operator.neg, items())
                world.durations[job.id] = [150.0] * 6
                return await job

        client = world.client(program)
        if lost == "that it was on the job":
            await until(world, lambda: len(world.executions) == 20 + 4)
            await checkpoint(world)
        await until(world, lambda: len(world.executions) == 20 + 6)
        await asyncio.sleep(80.0)
        power_cut(world)
        assert await client.ended == [-n for n in range(6)]
        assert states(world, "worker") == [S.RUNNING] * 3, "none was launched beside them"

    with World(1, Calm(), faults=lambda chance, note: Unsynced()) as world:
        world.run(story(world))


def lose_master(world: World) -> None:
    """The master's VM is gone for good, and its disk with it."""
    master = world.master()
    assert master is not None
    assert world.cloud.lose(master.id)


def test_workers_that_served_before_serve_on_when_their_master_is_lost_with_its_disk() -> None:
    """The client whose job runs had not launched them itself."""

    async def story(world: World) -> None:
        assert await world.client(lambda p: negated(world, p)).ended == MINUS
        client = world.client(lambda p: lengthy(world, p, 20, 30.0), laptop="desk")
        await until(world, lambda: len(world.executions) >= 20 + 6)
        lose_master(world)
        assert await client.ended == MINUS
        assert states(world, "worker") == [S.RUNNING] * 3, "none was launched beside them"
        await asyncio.sleep(400.0)
        assert states(world, "worker") == [S.TERMINATED] * 3, "they went by their soft timers"

    told(story)


def test_a_new_master_that_was_never_told_of_the_workers_is_told_by_the_next_job() -> None:
    async def story(world: World) -> None:
        assert await world.client(lambda p: negated(world, p)).ended == MINUS
        lose_master(world)
        killed = world.client(lambda p: negated(world, p))
        await until(world, lambda: S.RUNNING in states(world, "master"))
        killed.process.kill()
        with pytest.raises(DiedError):
            await killed.ended
        assert await world.client(lambda p: negated(world, p)).ended == MINUS
        assert states(world, "worker") == [S.RUNNING] * 3, "none was launched beside them"
        assert len(workers(world)) == 3

    told(story, boot=5.0)


def test_more_workers_than_a_small_job_wants_are_not_left_to_idle_when_their_master_is_lost() -> (
    None
):
    async def story(world: World) -> None:
        client = world.client(lambda p: lengthy(world, p, 6, 2000.0))
        await until(world, lambda: len(world.executions) >= 6)
        lose_master(world)
        client.process.kill()
        with pytest.raises(DiedError):
            await client.ended
        await asyncio.sleep(30.0)
        assert await world.client(lambda p: negated(world, p, 2)).ended == [0, -1]
        await asyncio.sleep(400.0)
        assert states(world, "worker") == [S.TERMINATED] * 3, "long before the hard timer"

    told(story)


def test_a_master_that_serves_but_does_not_answer_within_start_timeout_is_told_with_that_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Network, "enter", silent)

    async def story(world: World) -> None:
        began = world.loop.time()
        client = world.client(lambda process: negated(world, process, start_timeout=120.0))
        with pytest.raises(WireError) as caught:
            await client.ended
        assert 119.0 <= world.loop.time() - began < 180.0
        assert "start_timeout (120 s) is over" in caught.value.cause
        assert "a larger start_timeout" in caught.value.hint

    told(story, seed=2)  # its master boots within that time
