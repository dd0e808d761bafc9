"""The simulated loop: its time, its order, its chance."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.simulation.chance import Chance, SimEntropy
from tests.simulation.loop import SeededLoop
from tests.simulation.process import Host, Process, current
from tests.simulation.scenes import run

# Time


def test_an_hour_of_timers_takes_no_time() -> None:
    async def main(loop: SeededLoop) -> list[str]:
        told: list[str] = []
        loop.call_later(1800, told.append, "half")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        told.append(f"{loop.time():.0f}")
        return told

    began = time.perf_counter()
    told, _ = run(main)
    assert told == ["half", "3600"]
    assert time.perf_counter() - began < 1.0


def test_what_asyncio_offers_works_as_it_does_elsewhere() -> None:
    async def after(seconds: float, value: int) -> int:
        await asyncio.sleep(seconds)
        return value

    async def main(loop: SeededLoop) -> None:
        assert list(await asyncio.gather(after(3, 1), after(1, 2))) == [1, 2]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(after(n, n)) for n in range(5)]
        assert [task.result() for task in tasks] == [0, 1, 2, 3, 4]
        done, pending = await asyncio.wait(
            [asyncio.ensure_future(after(n, n)) for n in (9, 1)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [task.result() for task in done] == [1]
        assert [await task for task in pending] == [9]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(after(5, 1), 4)
        slow = asyncio.ensure_future(after(5, 7))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(slow), 1)
        assert await slow == 7
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        loop.call_later(2, queue.put_nowait, 3)
        assert await queue.get() == 3
        assert await asyncio.to_thread(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        numbers = [await one for one in asyncio.as_completed([after(2, 2), after(1, 1)])]
        assert numbers == [1, 2]
        event, condition, lock = asyncio.Event(), asyncio.Condition(), asyncio.Lock()
        loop.call_soon(event.set)
        await event.wait()
        async with lock, condition:
            pass

    _, loop = run(main)
    assert loop.complaints == []


def test_a_failing_task_group_cancels_its_tasks() -> None:
    async def main(loop: SeededLoop) -> list[str]:
        ended: list[str] = []

        async def wait_long() -> None:
            try:
                await asyncio.sleep(1e9)
            finally:
                ended.append("cancelled")

        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError

        async def all_together() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(wait_long())
                group.create_task(fail())

        with pytest.raises(ExceptionGroup):
            await all_together()
        assert loop.time() == 1
        return ended

    assert run(main)[0] == ["cancelled"] * 3


def test_an_async_generator_that_is_let_go_of_is_closed_by_its_own_process() -> None:
    closed: list[Process | None] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(1)
        finally:
            await asyncio.sleep(1)
            closed.append(current())

    async def look(kept: list[AsyncIterator[int]]) -> None:
        kept.append(numbers())
        async for _ in kept[0]:
            break

    async def main(loop: SeededLoop) -> Process:
        process = Host(loop, "laptop").start("client")
        kept: list[AsyncIterator[int]] = []
        await process.spawn(look(kept))
        kept.clear()  # the last who knows it is not the process that began it
        await asyncio.sleep(5)
        return process

    process, _ = run(main)
    assert closed == [process]


# Order


async def _many(loop: SeededLoop) -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(one(number))
    await asyncio.sleep(1)
    return order


def test_one_seed_has_one_order_and_another_seed_another() -> None:
    orders = [tuple(run(_many, seed)[0]) for seed in (1, 1, 2, 3, 4)]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 4


def test_a_seed_says_the_same_in_another_process_whatever_its_hashes() -> None:
    def digest(seed: int, hashes: str) -> str:
        code = (
            "import tests.simulation.test_loop as here;"
            f"print(here.run(here._eventful, {seed})[1].digest())"
        )
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    here = run(_eventful, 7)[1].digest()
    assert digest(7, "1") == digest(7, "2") == here
    assert run(_eventful, 8)[1].digest() != here


async def _eventful(loop: SeededLoop) -> None:
    """Sets of tasks, failures, cancellations, deaths, pauses, generators."""
    chance = Chance(0).stream("faults")
    hosts = [Host(loop, f"vm{n}") for n in range(5)]
    loop.lateness = lambda _: chance.random() * 5 if chance.random() < 0.1 else 0.0

    async def one(seconds: float) -> float:
        await asyncio.sleep(seconds)
        if chance.random() < 0.1:
            raise ValueError(seconds)
        return seconds

    async def group() -> None:
        while True:
            jobs = {asyncio.ensure_future(one(chance.random())) for _ in range(8)}
            done, pending = await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
            for job in pending:
                job.cancel()
            for job in done:
                job.exception()
            await asyncio.to_thread(chance.random)

    for host in hosts:
        host.start("agent").spawn(group(), "group")
    await asyncio.sleep(5)
    hosts[0].kill()
    hosts[1].pause()
    await asyncio.sleep(5)
    hosts[1].resume()
    await asyncio.sleep(5)
    for host in hosts:
        host.kill()


def test_plain_callbacks_keep_their_order_among_the_steps_of_tasks() -> None:
    async def main(loop: SeededLoop) -> None:
        for _ in range(50):
            told: list[int] = []
            tasks = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(5)]
            for number in range(10):
                loop.call_soon(told.append, number)
            await asyncio.gather(*tasks)
            await asyncio.sleep(1)
            assert told == list(range(10))

    run(main)


def test_steps_of_tasks_come_before_and_after_callbacks() -> None:
    async def main(loop: SeededLoop) -> set[str]:
        orders = set()
        for _ in range(50):
            told: list[str] = []

            async def step(told: list[str] = told) -> None:
                told.append("step")

            task = asyncio.ensure_future(step())
            loop.call_soon(told.append, "callback")
            await task
            await asyncio.sleep(1)
            orders.add(" ".join(told))
        return orders

    assert run(main)[0] == {"step callback", "callback step"}


def test_sets_of_tasks_are_in_the_order_of_their_making() -> None:
    async def main(loop: SeededLoop) -> None:
        tasks = {loop.create_task(asyncio.sleep(1), name=str(n)) for n in range(50)}
        numbers = [int(task.get_name()) for task in tasks]
        later = {loop.create_task(asyncio.sleep(1), name=str(n)) for n in range(50)}
        assert sorted(numbers) == list(range(50))
        assert len({hash(task) for task in tasks | later}) == 100
        assert len({hash(loop.create_future()) for _ in range(10)}) == 10
        await asyncio.wait(tasks | later)

    run(main)


def test_timers_that_ring_late_keep_their_order() -> None:
    rung: list[tuple[float, float]] = []

    async def main(loop: SeededLoop) -> None:
        chance = Chance(1).stream("late")
        loop.lateness = lambda _: chance.paretovariate(1.2) if chance.random() < 0.3 else 0.0
        process = Host(loop, "vm").start("agent")

        def ring(when: float) -> None:
            rung.append((when, loop.time()))

        def begin() -> None:
            for number in reversed(range(200)):
                when = number / 3
                loop.call_at(when, ring, when)

        process.run(begin)
        await asyncio.sleep(10_000)
        assert loop.time() == 10_000  # the world's own timers are never late

    run(main)
    assert [when for when, _ in rung] == sorted(when for when, _ in rung)
    assert len(rung) == 200
    assert all(at >= when for when, at in rung)
    assert any(at > when + 1 for when, at in rung)


def test_a_stream_is_drawn_by_nobody_else() -> None:
    chance, other = Chance(5), Chance(5)
    other.stream("other faults").random()
    drawn = [chance.stream("faults").random() for _ in range(3)]
    assert drawn == [other.stream("faults").random() for _ in range(3)]
    assert drawn != [Chance(6).stream("faults").random() for _ in range(3)]
    entropy = SimEntropy(chance.stream("secrets"))
    assert len(entropy.hex(7)) == 7
    assert int(entropy.hex(7), 16) >= 0
    assert 0 <= entropy.fraction() < 1


@pytest.fixture(autouse=True)
def _all_is_as_it_was() -> Iterator[None]:
    yield
    assert gc.isenabled()
    # Some hundreds are the interpreter's own.
    assert gc.get_freeze_count() < 1000
