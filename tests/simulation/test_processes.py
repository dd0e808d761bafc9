"""Simulated processes: what is theirs, how they die, and what clocks they have."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.simulation.loop import SeededLoop
from tests.simulation.process import EPOCH, Host, Killed, current, outside
from tests.simulation.scenes import Scene, run


def test_what_a_process_starts_belongs_to_it() -> None:
    async def main(loop: SeededLoop) -> list[str]:
        scene = Scene(loop)

        async def child() -> None:
            scene.do("task in a group")

        async def work() -> None:
            loop.call_soon(scene.do, "soon")
            loop.call_later(1, scene.do, "later")
            loop.call_later(1, scene.do, "on the wire", context=outside())
            future = loop.create_future()
            future.add_done_callback(lambda _: scene.do("future"))
            woken = loop.create_future()
            loop.call_later(3, woken.set_result, None, context=outside())
            loop.call_later(2, future.set_result, None, context=outside())
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
            await asyncio.to_thread(scene.do, "thread")
            await woken
            scene.do("woken by another")

        await scene.client.spawn(work())
        await asyncio.sleep(9)
        scene.do("main")
        return sorted(scene.done)

    assert run(main)[0] == [
        "client: future",
        "client: later",
        "client: soon",
        "client: task in a group",
        "client: thread",
        "client: woken by another",
        "nobody: main",
        "nobody: on the wire",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_process_does_nothing_more(seed: int) -> None:
    finally_run: list[str] = []

    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)
        gift = loop.create_future()

        async def child() -> None:
            try:
                await asyncio.sleep(1)
                scene.do("child")
            finally:
                finally_run.append("child")

        async def give() -> None:
            await asyncio.sleep(10)
            gift.set_result("never")

        async def work() -> None:
            loop.call_later(10, scene.do, "timer")
            await asyncio.sleep(10)
            loop.call_soon(scene.do, "soon")
            scene.do("work")
            try:
                async with asyncio.timeout(100), asyncio.TaskGroup() as group:
                    group.create_task(child())
                    await asyncio.to_thread(scene.do, "thread")
            finally:
                finally_run.append("work")
                await asyncio.sleep(1)
                scene.do("clearing up")

        task = scene.agent.spawn(work())
        scene.agent.spawn(give())
        scene.client.spawn(give())
        loop.call_at(10, scene.agent.kill)
        gone: list[str] = []
        scene.agent.on_kill(lambda: gone.append(f"{current()}"))
        await asyncio.sleep(5)
        scene.client.kill()
        await asyncio.sleep(10)
        done = list(scene.done)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000):
                await gift
        task.cancel()
        await asyncio.sleep(1000)
        gc.collect()
        assert scene.done == done
        assert gone == ["None"]
        assert finally_run == []
        with pytest.raises(Killed):
            scene.agent.check()
        with pytest.raises(Killed):
            scene.agent.spawn(child())
        assert scene.vm.processes == []

    _, loop = run(main, seed)
    assert loop.complaints == []


def test_the_dead_leave_no_warnings_and_act_on_nobody(
    capfd: pytest.CaptureFixture[str],
) -> None:
    acted: list[str] = []

    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)

        @asynccontextmanager
        async def connection() -> AsyncIterator[None]:
            try:
                yield
            finally:
                await asyncio.sleep(1)
                acted.append("said goodbye")

        async def numbers() -> AsyncIterator[int]:
            try:
                while True:
                    yield 1
            finally:
                await asyncio.sleep(1)
                acted.append("generator closed")

        async def act() -> None:
            acted.append("acted")

        async def work() -> None:
            later = [act(), act()]
            try:
                async with connection(), asyncio.TaskGroup() as group:
                    group.create_task(connected())
                    async for _ in numbers():
                        await asyncio.sleep(1000)
            finally:
                # What a real finally may do: more tasks, a deadline, a thread, a complaint.
                tasks = [loop.create_task(act()) for _ in range(3)]
                loop.call_soon(acted.append, "called")
                scene.agent.check()
                await asyncio.wait_for(later[0], 5)
                await later[1]
                await asyncio.gather(*tasks)

        async def connected() -> None:
            async with connection():
                while True:
                    try:
                        await asyncio.Event().wait()
                    finally:
                        await asyncio.to_thread(acted.append, "thread")

        async def failed() -> None:
            lost = loop.create_future()
            lost.set_exception(ValueError("nobody asks the dead"))
            await asyncio.sleep(1000)
            del lost

        scene.agent.spawn(work())
        scene.agent.spawn(failed())
        await asyncio.sleep(10)
        scene.agent.spawn(act())  # never begun
        scene.agent.kill()
        await asyncio.sleep(10)

    _, loop = run(main)
    gc.collect()
    assert acted == []
    assert loop.complaints == []
    assert capfd.readouterr() == ("", "")


def test_nothing_is_kept_of_a_scenario_that_is_over() -> None:
    class Body:
        pass

    traces: list[weakref.ref[Body]] = []

    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)

        async def work() -> None:
            body = Body()
            traces.append(weakref.ref(body))
            await asyncio.Event().wait()

        for _ in range(10):
            scene.agent.spawn(work())
        await asyncio.sleep(1)
        scene.agent.kill()

    run(main)
    gc.collect()
    assert [trace() for trace in traces] == [None] * 10


def test_a_process_can_die_at_one_of_its_own_awaits() -> None:
    after: list[str] = []

    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)

        async def work() -> None:
            try:
                await scene.agent.perish()
            finally:
                after.append("finally")

        scene.agent.spawn(work())
        await asyncio.sleep(10)
        assert not scene.agent.alive
        assert after == []

    assert run(main)[1].complaints == []


def test_what_a_seam_refuses_to_the_dead_is_no_complaint() -> None:
    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)

        async def work() -> None:
            scene.agent.kill()
            scene.agent.check()

        task = scene.agent.spawn(work())
        await asyncio.sleep(10)
        assert isinstance(task.exception(), Killed)
        del task

    assert run(main)[1].complaints == []


def test_a_host_that_is_cut_off_can_start_again() -> None:
    async def main(loop: SeededLoop) -> list[str]:
        scene = Scene(loop)

        async def work() -> None:
            while True:
                await asyncio.sleep(1)
                scene.do("tick")

        scene.agent.spawn(work())
        await asyncio.sleep(2.5)
        scene.vm.kill()
        await asyncio.sleep(10)
        again = scene.vm.start("agent again")
        again.spawn(work())
        await asyncio.sleep(1.5)
        assert again.pid != scene.agent.pid
        return scene.done

    assert run(main)[0] == ["agent: tick", "agent: tick", "agent again: tick"]


def test_a_host_has_a_clock_of_its_own() -> None:
    async def main(loop: SeededLoop) -> None:
        host = Host(loop, "vm", skew=-30.0, uptime=50.0)
        clock = host.start("agent").clock
        assert clock.now() == EPOCH - 30
        await clock.sleep(10)
        host.step(7200)
        assert clock.now() == EPOCH + 7180
        assert clock.monotonic() == 60

    run(main)


def test_context_variables_of_the_world_do_not_leak_into_a_process() -> None:
    mood: contextvars.ContextVar[str] = contextvars.ContextVar("mood", default="none")

    async def main(loop: SeededLoop) -> None:
        mood.set("test")

        async def look() -> str:
            return mood.get()

        assert await Host(loop, "vm").start("agent").spawn(look()) == "none"

    run(main)
