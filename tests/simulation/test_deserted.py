"""Workers of ``create`` mode whose client was killed: whose they are, and who ends them."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from dayfly.client.cluster import Cluster
from dayfly.model import UP, ExecMode, Tag
from tests.simulation import knobs
from tests.simulation.evidence import Evidence
from tests.simulation.faults import Faults
from tests.simulation.invariants import Judge
from tests.simulation.process import Process
from tests.simulation.surroundings import NoFaults
from tests.simulation.test_world import executor, negated, until
from tests.simulation.world import Calm, DiedError, World

CALLS = 6
JOB = knobs.JobKnobs(after=0.0, durations=(1.0,) * CALLS)


class LateComer(NoFaults):
    """The VM that boots last takes minutes for it."""

    def __init__(self) -> None:
        self.boots = 0

    def strikes(self, kind: str) -> bool:
        self.boots += kind == "slow boot"
        return kind == "slow boot" and self.boots == 4

    def amount(self, kind: str, low: float, high: float) -> float:
        return 250.0


@contextmanager
def judged(*, auto: bool) -> Iterator[tuple[World, Judge]]:
    with World(1, Calm(), faults=lambda chance, note: LateComer()) as world:
        evidence = Evidence(world.loop.time, world.note)
        drawn = replace(knobs.draw(1), mode=ExecMode.CREATE, auto=auto, faults={})
        faults = Faults({}, world.chance, world.note)
        with evidence.listening():
            yield world, Judge(world, drawn, evidence, faults)


def workers_up(world: World) -> list[str]:
    vms = world.cloud.vms.values()
    return [vm.id for vm in vms if vm.born.get(Tag.ROLE) == "worker" and vm.state in UP]


async def killed_once(
    there: Callable[[], object], world: World, judge: Judge, each: float = 1.0
) -> None:
    """A program begins a job with workers of its own, and is killed."""

    async def program(process: Process) -> None:
        judge.clients.append(process)
        process.on_kill(lambda: judge.gone(process))
        auto = judge.knobs.auto
        async with executor(world, process, exec_mode="create", auto_dismantle=auto) as running:
            job = running.map(operator.neg, range(CALLS))
            judge.begin(job.id, JOB, process)
            world.durations[job.id] = [each] * CALLS
            await job

    client = world.client(program)
    await until(world, there)
    client.process.kill()
    with pytest.raises(DiedError):
        await client.ended


async def next_client(world: World, judge: Judge) -> None:
    auto = judge.knobs.auto
    await world.client(
        lambda process: negated(world, process, exec_mode="create", auto_dismantle=auto)
    ).ended


def test_without_timers_a_worker_that_boots_for_minutes_stays_with_the_master_that_was_told() -> (
    None
):
    async def story(world: World, judge: Judge) -> None:
        await killed_once(lambda: judge.evidence.started, world, judge)
        await until(world, lambda: judge.evidence.over)
        assert len(workers_up(world)) == 3
        assert len([name for name in workers_up(world) if judge.evidence.connected[name]]) == 2
        assert not judge.remains.deserted(), "nothing that a next client should end"
        master = world.master()
        assert master is not None
        assert world.cloud.crash(master.id)
        told = judge.remains.deserted()
        assert not told, "what is on the disk of a master that is down is known too"

    with judged(auto=False) as (world, judge):
        world.run(story(world, judge))


@pytest.mark.parametrize("auto", [True, False])
def test_workers_of_which_a_killed_client_told_no_master_are_ended_by_the_next(auto: bool) -> None:
    async def story(world: World, judge: Judge) -> None:
        await killed_once(lambda: len(workers_up(world)) == 3, world, judge)
        deserted = judge.remains.deserted()
        assert list(deserted) == workers_up(world)
        await asyncio.sleep(30.0)
        since = judge.now
        await next_client(world, judge)
        judge.remains.swept(list(deserted), since, "what a killed client has launched")
        assert not judge.violations

    with judged(auto=auto) as (world, judge):
        world.run(story(world, judge))


@pytest.mark.parametrize("auto", [True, False])
def test_a_next_client_that_does_not_end_them_is_found_out(
    auto: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: Cluster) -> None:
        pass

    async def story(world: World, judge: Judge) -> None:
        await killed_once(lambda: len(workers_up(world)) == 3, world, judge)
        deserted, since = judge.remains.deserted(), judge.now
        await next_client(world, judge)
        judge.remains.swept(list(deserted), since, "what a killed client has launched")
        (violation,) = judge.violations
        assert "a later client ends what a killed client has launched" in str(violation)

    monkeypatch.setattr(Cluster, "sweep_intents", nothing)
    with judged(auto=auto) as (world, judge):
        world.run(story(world, judge))


def test_workers_that_were_told_to_a_master_just_as_it_went_down_are_ended_by_the_next() -> None:
    """What is said to a VM that has lost its power is sent, and heard by nobody."""

    async def story(world: World, judge: Judge) -> None:
        def replaced() -> bool:
            return len(world.cloud.vms) == 5  # the master, three workers, and one for that lost

        def lose_one() -> bool:
            return world.cloud.lose(workers_up(world)[0])

        def master_goes(name: str, old: object, new: object) -> None:
            if replaced() and (master := world.master()) is not None:
                world.cloud.crash(master.id)

        async def misfortune() -> None:
            await until(world, lambda: len(judge.evidence.connected) >= 2)
            assert lose_one()

        world.cloud.on_change(master_goes)
        lost = asyncio.create_task(misfortune())
        told: list[float] = []

        def some_seconds_later() -> bool:
            told.extend([judge.now] * replaced())
            return bool(told) and judge.now > told[0] + 4.0

        await killed_once(some_seconds_later, world, judge, each=120.0)
        await lost
        late = list(world.cloud.vms)[4]
        assert late in workers_up(world)
        await asyncio.sleep(30.0)
        since = judge.now
        await next_client(world, judge)
        judge.remains.swept([late], since, "what a killed client has launched")
        assert not judge.violations

    with judged(auto=False) as (world, judge):
        world.run(story(world, judge))
