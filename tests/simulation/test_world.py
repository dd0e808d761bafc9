"""The product lives in the simulated world as it does in the real one."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dayfly.client import session
from dayfly.client.executor import FunctionExecutor
from dayfly.errors import CallCrashedError, StorageError, UnreachableError
from dayfly.model import InstanceState, Tag
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.world import Calm, DiedError, World

S = InstanceState


def config(**compute: Any) -> dict[str, dict[str, Any]]:
    return {
        "dayfly": {"backend": "aws_ec2", "storage": "aws_s3"},
        "aws": {"region": "us-east-1", "account_id": "123456789012"},
        "aws_ec2": {
            "instance_role": "dayfly",
            "environment": "image",
            "worker_instance_type": "t3.medium",
            "worker_processes": 2,
            "max_workers": 3,
            **compute,
        },
    }


def executor(world: World, process: Process, **compute: Any) -> FunctionExecutor:
    settings = config(**compute)
    parts = world.open_parts(process, settings)
    return FunctionExecutor(settings, parts=parts, progress=False)


async def negated(world: World, process: Process, count: int = 20, **compute: Any) -> list[int]:
    async with executor(world, process, **compute) as running:
        results: list[int] = await running.map(operator.neg, range(count))
        return results


async def lengthy(world: World, process: Process, count: int, each: float, **more: Any) -> Any:
    """A job whose calls take some seconds each."""
    async with executor(world, process, **more) as running:
        job = running.map(operator.neg, range(count))
        world.durations[job.id] = [each] * count
        return await job


def states(world: World, role: str) -> list[InstanceState]:
    return [vm.state for vm in world.cloud.vms.values() if vm.born.get(Tag.ROLE, "") == role]


def workers(world: World) -> list[Machine]:
    """The machines on which an agent runs."""
    return [m for m in world.machines.values() if m.service("worker") is not None]


async def until(world: World, there: Callable[[], object], timeout: float = 600.0) -> None:
    async with asyncio.timeout(timeout):
        while not there():
            await asyncio.sleep(0.1)


def told(story: Callable[[World], Coroutine[Any, Any, None]], seed: int = 1, **knobs: Any) -> World:
    """A world after its story; nothing in it went wrong but what the story wanted."""
    with World(seed, Calm(**knobs)) as world:
        world.run(story(world))
        assert not world.crashes
        assert not world.loop.complaints
    return world


MINUS = [-n for n in range(20)]


def test_twenty_items_over_three_workers_and_all_vms_go_by_their_soft_timers() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda process: negated(world, process))
        assert await client.ended == MINUS
        assert states(world, "worker") == [S.RUNNING] * 3
        await asyncio.sleep(400.0)
        assert states(world, "worker") == [S.TERMINATED] * 3
        assert states(world, "master") == [S.STOPPED]

    world = told(story)
    assert sorted(run.index for run in world.executions) == list(range(20))
    assert {run.how for run in world.executions} == {"value"}


def test_a_stopped_master_is_started_again_and_its_journal_is_still_there() -> None:
    async def story(world: World) -> None:
        assert await world.client(lambda p: negated(world, p)).ended == MINUS
        await until(world, lambda: states(world, "master") == [S.STOPPED])
        assert await world.client(lambda p: negated(world, p)).ended == MINUS
        assert states(world, "master") == [S.RUNNING]

        async def rows(process: Process) -> int:
            from dayfly.client.visit import visit

            async with visit(world.open_parts(process, config())) as door:
                assert door is not None
                return len(await door.list_jobs())

        assert await world.client(rows).ended == 2

    told(story)


def test_create_mode_takes_workers_of_its_own_and_ends_them_with_the_job() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: negated(world, p, exec_mode="create"))
        assert await client.ended == MINUS
        await asyncio.sleep(60.0)
        assert states(world, "worker") == [S.TERMINATED] * 3
        assert states(world, "master") == [S.RUNNING]

    told(story)


def test_consume_mode_runs_everything_in_the_users_own_vm() -> None:
    async def story(world: World) -> None:
        mine = world.add_users_vm()
        consume: dict[str, Any] = {
            "exec_mode": "consume",
            "instance_id": mine,
            "ssh_key_filename": world.users_key_file,
        }
        client = world.client(lambda p: negated(world, p, **consume))
        assert await client.ended == MINUS
        assert {run.instance for run in world.executions} == {mine}
        await asyncio.sleep(400.0)
        assert world.cloud.vms[mine].state is S.STOPPED
        assert list(world.cloud.vms) == [mine]

    told(story)


def test_a_second_client_shares_the_master_and_its_idle_workers() -> None:
    async def story(world: World) -> None:
        first = world.client(lambda p: negated(world, p))
        assert await first.ended == MINUS
        second = world.client(lambda p: negated(world, p), laptop="desk")
        assert await second.ended == MINUS
        assert len(states(world, "master")) == 1
        assert len(states(world, "worker")) == 3

    told(story)


def test_two_clients_at_once_get_one_master() -> None:
    async def story(world: World) -> None:
        clients = [world.client(lambda p: negated(world, p), laptop=name) for name in "ab"]
        for client in clients:
            assert await client.ended == MINUS
        assert len(states(world, "master")) == 1

    told(story)


def test_a_large_value_goes_through_storage_and_a_call_that_raises_raises_here() -> None:
    async def story(world: World) -> None:
        async def program(process: Process) -> None:
            async with executor(world, process) as running:
                assert await running.map(bytes, [100_000, 3]) == [bytes(100_000), bytes(3)]
                with pytest.raises(ZeroDivisionError):
                    await running.map(operator.truediv, [(1, 0)])

        await world.client(program).ended

    told(story)


def test_the_same_seed_tells_the_same_story() -> None:
    async def story(world: World) -> None:
        await world.client(lambda p: negated(world, p)).ended

    once, again, other = told(story, 5), told(story, 5), told(story, 6)
    assert once.trace == again.trace
    assert once.loop.digest() == again.loop.digest() != other.loop.digest()


def test_a_killed_masters_service_is_back_and_nothing_is_lost_or_run_twice() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: lengthy(world, p, 20, 8.0))
        await until(world, lambda: len(world.executions) >= 6)
        master = world.master()
        assert master is not None
        assert world.kill_service(master.id, "master")
        assert await client.ended == MINUS

    world = told(story)
    assert len(world.executions) == 20


def test_a_killed_agent_takes_its_runners_along_and_its_calls_run_again() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: lengthy(world, p, 20, 8.0))
        await until(world, lambda: len(world.executions) >= 6)
        assert world.kill_service(workers(world)[0].id, "worker")
        assert await client.ended == MINUS

    world = told(story)
    assert sum(run.how == "killed" for run in world.executions) == 2
    assert len(world.executions) == 22


def test_a_vm_that_is_lost_without_a_word_is_replaced() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: lengthy(world, p, 20, 30.0))
        await until(world, lambda: len(world.executions) >= 6)
        lost = workers(world)[0].id
        assert world.cloud.lose(lost)
        assert await client.ended == MINUS
        assert states(world, "worker").count(S.RUNNING) == 3

    told(story)


def test_when_the_master_dies_for_good_every_worker_goes_by_its_own_deadline() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: negated(world, p, soft_dismantle_timeout=60.0))
        assert await client.ended == MINUS
        await asyncio.sleep(5.0)  # the workers are told a little after the client
        master = world.master()
        assert master is not None
        assert world.cloud.lose(master.id)
        gone = world.loop.time() + 60.0 + 8.0
        await asyncio.sleep(120.0)
        for vm in world.cloud.vms.values():
            if vm.id != master.id:
                off = next(moment.at for moment in vm.history if moment.state is S.SHUTTING_DOWN)
                assert off < gone + 5.0
        assert all(m.deadline is None or not m.up for m in world.machines.values())

    told(story)


def test_a_vm_whose_agent_is_stopped_is_off_at_once_when_it_powers_off() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: negated(world, p))
        assert await client.ended == MINUS
        machine = workers(world)[0]
        agent = machine.service("worker")
        assert agent is not None
        agent.pause()
        machine.power_off()
        await asyncio.sleep(10.0)
        assert world.cloud.vms[machine.id].state is S.TERMINATED

    told(story)


def test_a_worker_that_a_dead_client_left_alone_goes_by_its_cap() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: negated(world, p, hard_dismantle_timeout=500.0))
        await until(world, lambda: S.RUNNING in states(world, "worker"))
        client.process.kill()
        with pytest.raises(DiedError):
            await client.ended
        await asyncio.sleep(700.0)
        assert not [vm for vm in world.cloud.vms.values() if vm.state is S.RUNNING]

    told(story, boot=5.0)


def test_a_laptop_that_sleeps_for_an_hour_finds_its_results() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: lengthy(world, p, 20, 8.0))
        await until(world, lambda: len(world.executions) >= 6)
        world.laptop().pause()
        await asyncio.sleep(3600.0)
        world.laptop().resume()
        await client.ended

    told(story)


def test_a_partition_between_master_and_worker_heals_and_costs_no_call() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: lengthy(world, p, 20, 8.0))
        await until(world, lambda: len(world.executions) >= 6)
        master, worker = world.master(), workers(world)[0]
        assert master is not None
        assert master.host is not None
        assert worker.host is not None
        heal = world.network.partition([master.host], [worker.host])
        await asyncio.sleep(4.0)
        heal()
        assert await client.ended == MINUS

    world = told(story)
    assert len(world.executions) == 20


def test_a_long_partition_has_the_workers_calls_run_elsewhere() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: lengthy(world, p, 20, 8.0))
        await until(world, lambda: len(world.executions) >= 6)
        master, worker = world.master(), workers(world)[0]
        assert master is not None
        assert master.host is not None
        assert worker.host is not None
        heal = world.network.partition([master.host], [worker.host])
        await asyncio.sleep(60.0)
        heal()
        assert await client.ended == MINUS

    world = told(story)
    assert len(world.executions) > 20


def test_a_runner_that_crashes_is_named_and_the_others_finish() -> None:
    class Once:
        """The first call crashes its runner."""

        left = 1

        def strikes(self, kind: str) -> bool:
            if kind != "runner crash" or not self.left:
                return False
            self.left -= 1
            return True

        def amount(self, kind: str, low: float, high: float) -> float:
            return low

    async def story(world: World) -> None:
        async def program(process: Process) -> list[Any]:
            async with executor(world, process) as running:
                job = running.map(operator.neg, range(20), return_exceptions=True)
                results: list[Any] = await job
                return results

        results = await world.client(program).ended
        crashed = [each for each in results if isinstance(each, CallCrashedError)]
        assert len(crashed) == 1
        assert "SIGSEGV" in str(crashed[0])
        assert sorted(-each for each in results if isinstance(each, int)) != list(range(20))

    with World(1, faults=lambda chance, noted: Once()) as world:
        world.run(story(world))
        assert not world.crashes


def test_a_vm_of_another_cluster_is_not_trusted() -> None:
    async def story(world: World) -> None:
        from dayfly.errors import HostKeyError
        from dayfly.shell.base import Target

        await world.client(lambda p: negated(world, p)).ended
        worker = workers(world)[0]
        process = world.laptop().start("intruder")
        shell = world.parts(process, world.open_parts(process, config()).config).shell

        async def knock(known: str) -> None:
            target = Target(
                name="it",
                address=world.cloud.vms[worker.id].instance.address,
                port=22,
                username="ubuntu",
                alias="worker",
                known_hosts=known,
                private_key="private 0",
            )
            await shell.connect(target)

        with pytest.raises(HostKeyError):
            await process.spawn(knock("@cert-authority * public 1"))
        process.kill()

    told(story)


def test_nobody_answers_where_there_is_nothing() -> None:
    async def story(world: World) -> None:
        from dayfly.shell.base import Target

        process = world.laptop().start("client")
        shell = world.open_parts(process, config()).shell
        target = Target(
            name="it",
            address="192.0.2.1",
            port=22,
            username="",
            alias="",
            known_hosts="",
            private_key="",
        )
        with pytest.raises(UnreachableError, match="no answer within"):
            await process.spawn(shell.connect(target))
        assert world.loop.time() == pytest.approx(5.0)

    told(story)


def test_a_spot_vm_that_is_taken_back_with_notice_costs_no_result() -> None:
    async def story(world: World) -> None:
        client = world.client(lambda p: lengthy(world, p, 20, 30.0))
        await until(world, lambda: len(world.executions) >= 6)
        taken = workers(world)[0].id
        assert world.cloud.interrupt(taken)
        assert await client.ended == MINUS
        assert world.cloud.vms[taken].state is S.TERMINATED

    told(story)


def test_a_poisonous_call_takes_its_workers_along_and_is_failed_by_name() -> None:
    async def story(world: World) -> None:
        async def program(process: Process) -> list[Any]:
            async with executor(world, process) as running:
                job = running.map(operator.neg, range(20), return_exceptions=True)
                world.poisons[job.id] = [7]
                results: list[Any] = await job
                return results

        results = await world.client(program).ended
        assert [each for each in results if isinstance(each, int)] == [n for n in MINUS if n != -7]
        assert isinstance(results[7], CallCrashedError)

    world = told(story)
    assert sum(run.index == 7 for run in world.executions) == 3


def test_workers_of_a_job_that_never_reached_a_master_do_not_stay_for_the_hard_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object) -> None:
        raise StorageError("storage refused the function")

    monkeypatch.setattr(session, "send_payload", refuse)

    async def story(world: World) -> None:
        client = world.client(lambda p: negated(world, p))
        with pytest.raises(StorageError):
            await client.ended
        assert states(world, "master") == []
        await asyncio.sleep(400.0)
        assert states(world, "worker") == [S.TERMINATED] * 3

    told(story)
