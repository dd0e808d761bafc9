"""When a VM goes, and that it goes once."""

from __future__ import annotations

import asyncio

from dayfly.dismantle import Due, deadline, obey
from dayfly.model import DismantlePolicy
from tests.unit.master_support import FakeClock

POLICY = DismantlePolicy(soft=300.0, hard=3600.0)


def due(
    *,
    policy: DismantlePolicy = POLICY,
    launched: float = 0.0,
    started: float | None = None,
    completed: float | None = None,
    busy: bool = False,
) -> Due | None:
    return deadline(policy, launched=launched, started=started, completed=completed, busy=busy)


def test_a_vm_that_never_gets_a_job_is_bounded_by_the_hard_timer_from_its_launch() -> None:
    assert due(launched=10.0) == Due(3610.0, "hard")


def test_soft_counts_from_the_completion_of_the_last_job() -> None:
    assert due(started=50.0, completed=100.0) == Due(400.0, "soft")


def test_a_new_job_cancels_soft_and_hard_counts_from_its_start() -> None:
    assert due(started=150.0, completed=100.0, busy=True) == Due(3750.0, "hard")


def test_hard_bounds_soft() -> None:
    policy = DismantlePolicy(soft=7200.0, hard=3600.0)
    assert due(policy=policy, started=50.0, completed=100.0) == Due(3650.0, "hard")


def test_without_auto_dismantle_there_is_no_timer() -> None:
    policy = DismantlePolicy(auto=False)
    assert due(policy=policy, started=50.0, completed=100.0) is None


class Vm:
    """Facts that change, and what was done."""

    def __init__(self) -> None:
        self.due: Due | None = None
        self.changed = asyncio.Event()
        self.done: list[tuple[float, str]] = []
        self.clock = FakeClock(now=900_000.0)

    def set(self, due: Due | None) -> None:
        self.due = due
        self.changed.set()

    async def act(self, why: str) -> None:
        self.done.append((self.clock.monotonic(), why))

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(obey(lambda: self.due, self.changed, self.act, self.clock))


async def test_the_deadline_is_obeyed_wherever_it_moves_to_and_once() -> None:
    vm = Vm()
    task = vm.start()
    await vm.clock.advance(5000)
    vm.set(Due(5300.0, "soft"))
    await vm.clock.advance(299)
    vm.set(Due(8600.0, "hard"))  # a job has come, just in time
    await vm.clock.advance(1000)
    assert vm.done == []
    vm.set(Due(6400.0, "soft"))
    await vm.clock.advance(10_000)
    assert vm.done == [(6400.0, "soft")]
    await task


async def test_a_deadline_that_moves_later_with_each_job_costs_no_timer_each_time() -> None:
    """A thousand workers' deadlines move twice with every job."""
    vm = Vm()
    slept: list[float] = []
    sleep = vm.clock.sleep

    async def counted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    vm.clock.sleep = counted  # type: ignore[method-assign]
    vm.due = Due(300.0, "soft")
    task = vm.start()
    for job in range(100):
        await vm.clock.advance(1)
        vm.set(Due(301.0 + job, "soft"))
    assert slept == [300.0]
    await vm.clock.advance(299)
    assert vm.done == []
    await vm.clock.advance(1)
    assert vm.done == [(400.0, "soft")]
    assert len(slept) == 2
    await task


async def test_a_deadline_that_is_past_is_obeyed_at_once() -> None:
    vm = Vm()
    vm.due = Due(-1.0, "hard")
    await vm.start()
    assert vm.done == [(0.0, "hard")]


async def test_a_timer_that_is_cancelled_leaves_nothing_behind() -> None:
    vm = Vm()
    vm.due = Due(10.0, "hard")
    task = vm.start()
    await vm.clock.advance(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await vm.clock.advance(100)
    assert vm.done == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
