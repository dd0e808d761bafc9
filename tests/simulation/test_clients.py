"""What befalls clients: they sleep in the middle of something, leave, or lose their master."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from typing import Any

import pytest

from dayfly.client.intents import Intents
from dayfly.client.launches import SAID_AGAIN
from dayfly.errors import HardTimeoutError, JobError
from dayfly.model import ALIVE, UP, InstanceState, Tag
from tests.simulation.cloud import SimCloud
from tests.simulation.machine import Machine
from tests.simulation.process import Process, current
from tests.simulation.services import Master
from tests.simulation.surroundings import NoFaults
from tests.simulation.test_found import attached
from tests.simulation.test_world import MINUS, executor, lengthy, negated, states, until
from tests.simulation.world import Calm, World

#: Seconds after which a launch that was written down is not made any more, and some.
LONG = 1000.0


def masters(world: World) -> list[str]:
    """The masters that still exist."""
    return [
        vm.id
        for vm in world.cloud.vms.values()
        if vm.born.get(Tag.ROLE) == "master" and vm.state in ALIVE
    ]


# -- asleep --


class Unanswered(NoFaults):
    """The first launch never arrives, and its client hears nothing for some seconds."""

    def __init__(self) -> None:
        self.struck = asyncio.Event()

    def strikes(self, kind: str) -> bool:
        strikes = kind == "launch lost before" and not self.struck.is_set()
        if strikes:
            self.struck.set()
        return strikes

    def amount(self, kind: str, low: float, high: float) -> float:
        return 5.0


async def overtaken(world: World, begun: asyncio.Event, *, sooner: float) -> None:
    """A laptop falls asleep as it launches the master, and wakes up when another has launched one.

    Args:
        world: Where.
        begun: When it falls asleep.
        sooner: Seconds for which it sleeps before the other client comes.
    """
    sleeper = world.client(lambda process: negated(world, process), laptop="laptop")
    await begun.wait()
    laptop = world.laptop("laptop")
    laptop.suspend()
    world.network.stir()
    await asyncio.sleep(sooner)
    assert await world.client(lambda p: negated(world, p), laptop="desk").ended == MINUS
    await asyncio.sleep(LONG)
    assert len(masters(world)) == 1
    laptop.resume()
    world.network.stir()
    assert await sleeper.ended == MINUS
    assert len(masters(world)) == 1


def first(method: Any, begun: asyncio.Event, here: Callable[..., bool]) -> Any:
    """A method whose first call by the laptop takes a second to begin."""

    async def slowly(self: Any, *args: Any, **more: Any) -> Any:
        process = current()
        on_laptop = process is not None and process.host.name == "laptop"
        if on_laptop and here(*args) and not begun.is_set():
            begun.set()
            await asyncio.sleep(1.0)
        return await method(self, *args, **more)

    return slowly


def of_a_master(spec: Any, *_: Any) -> bool:
    return bool(spec.role == "master")


def test_a_client_that_slept_until_its_unanswered_launch_was_old_launches_no_second_master() -> (
    None
):
    faults = Unanswered()
    with World(1, Calm(), faults=lambda chance, note: faults) as world:
        world.run(overtaken(world, faults.struck, sooner=LONG))
        assert len(states(world, "master")) == 1


def test_a_client_that_slept_since_it_looked_for_a_master_looks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()
    monkeypatch.setattr(Intents, "write", first(Intents.write, begun, of_a_master))
    with World(1, Calm()) as world:
        world.run(overtaken(world, begun, sooner=100.0))
        assert len(states(world, "master")) == 1


def test_a_client_that_slept_within_its_launch_ends_the_master_that_came_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()
    monkeypatch.setattr(SimCloud, "launch", first(SimCloud.launch, begun, of_a_master))
    with World(1, Calm()) as world:
        world.run(overtaken(world, begun, sooner=LONG))
        assert InstanceState.TERMINATED in states(world, "master")


# -- leaving --


class SlowBoots(NoFaults):
    """VMs boot as they should, until they do not."""

    def __init__(self) -> None:
        self.slow = False

    def strikes(self, kind: str) -> bool:
        return kind == "slow boot" and self.slow

    def amount(self, kind: str, low: float, high: float) -> float:
        return 900.0


async def left_without_master(
    world: World, process: Process, jobs: list[str], before: Callable[[], None]
) -> None:
    """A program that detaches a job just as the master goes by its soft timer, and leaves it."""
    async with executor(world, process, soft_dismantle_timeout=20) as running:
        await running.map(operator.neg, range(20))
        await until(world, lambda: states(world, "master") != [InstanceState.RUNNING])
        before()
        job = running.map(operator.neg, range(20), detach=True)
        jobs.append(job.id)


def test_a_detached_job_that_is_left_while_its_master_is_down_runs_to_its_end() -> None:
    async def story(world: World) -> None:
        jobs: list[str] = []
        program = world.client(lambda p: left_without_master(world, p, jobs, lambda: None))
        await program.ended
        await asyncio.sleep(100.0)
        assert await world.client(lambda p: attached(world, p, jobs[0])).ended == MINUS

    with World(1, Calm()) as world:
        world.run(story(world))


def test_a_detached_job_whose_master_does_not_come_up_is_named_when_it_is_left() -> None:
    async def story(world: World) -> None:
        jobs: list[str] = []

        def slowly() -> None:
            faults.slow = True

        program = world.client(lambda p: left_without_master(world, p, jobs, slowly))
        with pytest.raises(JobError, match="failed before it was handed over") as caught:
            await program.ended
        assert jobs[0] in str(caught.value)
        assert "still pending" in str(caught.value)

    faults = SlowBoots()
    with World(1, Calm(), faults=lambda chance, note: faults) as world:
        world.run(story(world))


class Unlaunched(NoFaults):
    """No launch arrives any more, once that has begun."""

    def __init__(self) -> None:
        self.begun = False
        self.struck = 0

    def strikes(self, kind: str) -> bool:
        strikes = kind == "launch lost before" and self.begun
        self.struck += strikes
        return strikes

    def amount(self, kind: str, low: float, high: float) -> float:
        return low


def test_a_detached_job_that_was_left_is_not_cancelled_when_no_worker_can_be_launched_for_it() -> (
    None
):
    """While another one is still being handed over, its program looks after both."""
    faults = Unlaunched()

    async def story(world: World) -> None:
        jobs: list[str] = []

        async def program(process: Process) -> None:
            async def items() -> Any:
                yield 1
                await asyncio.sleep(100.0)

            async with executor(world, process, exec_mode="create") as running:
                for source in (items(), range(20)):
                    job = running.map(operator.neg, source, detach=True)
                    jobs.append(job.id)
                    world.durations[job.id] = [60.0] * 20

        client = world.client(program)
        await until(world, lambda: len(world.executions) == 1 + 6)
        await asyncio.sleep(5.0)
        faults.begun = True
        lost = next(run.instance for run in world.executions if run.job == jobs[1])
        assert world.cloud.lose(lost)
        await client.ended
        faults.begun = False
        assert await world.client(lambda p: attached(world, p, jobs[1])).ended == MINUS

    with World(1, Calm(), faults=lambda chance, note: faults) as world:
        world.run(story(world))
        assert faults.struck == 1 + len(SAID_AGAIN), "nothing came of a launch"


# -- leaving a job with workers of its own --


def gone(world: World) -> bool:
    """Whether there were workers, and none is left."""
    there = states(world, "worker")
    return bool(there) and not UP.intersection(there)


def test_workers_that_come_as_their_job_is_left_and_its_master_goes_go_with_the_job() -> None:
    async def story(world: World) -> None:
        async def program(process: Process) -> None:
            async with executor(
                world, process, exec_mode="create", hard_dismantle_timeout=400
            ) as running:
                job = running.map(operator.neg, range(6))
                world.durations[job.id] = [1000.0] * 6
                with pytest.raises(HardTimeoutError):
                    await job
                running.map(operator.neg, range(6))
                await asyncio.sleep(0.3)

        await world.client(program).ended
        assert len(states(world, "worker")) == 6, "the second job's were launched"
        await asyncio.sleep(30.0)
        assert gone(world)

    with World(1, Calm(network=0.001)) as world:
        world.run(story(world))


def test_workers_of_a_job_that_is_left_while_its_master_is_down_go_with_the_job() -> None:
    async def story(world: World) -> None:
        async def program(process: Process) -> None:
            async with executor(world, process, exec_mode="create") as running:
                job = running.map(operator.neg, range(6))
                world.durations[job.id] = [1000.0] * 6
                await until(world, lambda: len(world.executions) == 6)
                faults.slow = True
                assert (master := world.master()) is not None
                assert world.cloud.crash(master.id)
                await asyncio.sleep(10.0)

        await world.client(program).ended
        await asyncio.sleep(30.0)
        assert gone(world)

    faults = SlowBoots()
    with World(1, Calm(), faults=lambda chance, note: faults) as world:
        world.run(story(world))


def served(machine: Machine) -> list[str]:
    """The VMs that a master counts, itself first; none while it does not serve."""
    service = machine.units["master"]._program if "master" in machine.units else None
    if not isinstance(service, Master) or service.hub is None:
        return []
    return [row.name for row in service.hub.standing.worker_rows()]


def test_a_master_waits_for_no_worker_of_a_job_that_was_cancelled_while_it_booted() -> None:
    async def story(world: World) -> None:
        async def program(process: Process) -> None:
            async with executor(world, process, exec_mode="create") as running:
                job = running.map(operator.neg, range(6))
                await until(world, lambda: len(states(world, "worker")) == 3)
                await asyncio.sleep(5.0)
                job.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await job
                await until(world, lambda: (m := world.master()) and served(m))
                await asyncio.sleep(10.0)
                assert gone(world)
                assert (master := world.master()) is not None
                assert served(master) == ["dayfly-master"], "workers that have ended"

        await world.client(program).ended

    with World(1, Calm()) as world:
        world.run(story(world))


# -- back after a while --


def boots(world: World) -> list[int]:
    """How often each VM of the cluster was started."""
    return [
        sum(moment.state is InstanceState.PENDING for moment in vm.history)
        for vm in world.cloud.vms.values()
    ]


def test_vms_that_are_started_after_a_night_are_not_swept_by_the_next_client() -> None:
    async def story(world: World) -> None:
        keeps = {"delete_on_dismantle": False, "request_spot_instances": False}

        def program(process: Process) -> Any:
            return lengthy(world, process, 20, 30.0, **keeps)

        assert await world.client(program).ended == MINUS
        await asyncio.sleep(8 * 3600.0)
        client = world.client(program)
        await until(world, lambda: len(world.executions) > 20)
        other = world.client(lambda p: negated(world, p, **keeps), laptop="desk")
        assert await other.ended == await client.ended == MINUS
        assert boots(world) == [2] * 4, "a master and three workers, up twice"

    with World(1, Calm()) as world:
        world.run(story(world))


# -- given up --


def test_a_detached_job_that_is_given_up_while_its_master_is_cut_off_is_stopped_by_leaving() -> (
    None
):
    async def story(world: World) -> None:
        jobs: list[str] = []

        async def program(process: Process) -> None:
            async def items() -> Any:
                for n in range(20):
                    yield n
                while not (master := world.master()) or not world.executions:
                    await asyncio.sleep(1.0)
                assert world.kill_service(master.id, "master")
                await asyncio.sleep(0.05)  # the conversation breaks
                raise OSError("the file ends here")

            async with executor(world, process) as running:
                job = running.map(operator.neg, items(), detach=True)
                jobs.append(job.id)
                world.durations[job.id] = [30.0] * 20
                with pytest.raises(OSError, match="ends here"):
                    await job
                await asyncio.sleep(5.0)

        await world.client(program).ended
        ran = len(world.executions)
        await asyncio.sleep(40.0)
        assert len(world.executions) == ran

    with World(1, Calm()) as world:
        world.run(story(world))


# -- changing its mind --


def test_a_job_that_is_cancelled_while_its_master_boots_ends_at_once() -> None:
    async def story(world: World) -> None:
        async def program(process: Process) -> float:
            async with executor(world, process) as running:
                job = running.map(operator.neg, range(20))
                await asyncio.sleep(20.0)
                assert not world.executions
                cancelled = asyncio.get_running_loop().time()
                job.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await job
                return asyncio.get_running_loop().time() - cancelled

        assert await world.client(program).ended < 1.0
        await asyncio.sleep(LONG)
        assert not world.executions

    with World(1, Calm()) as world:
        world.run(story(world))
