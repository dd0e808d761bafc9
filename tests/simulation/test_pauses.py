"""Simulated processes and hosts that stop for a while."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.simulation.loop import SeededLoop
from tests.simulation.scenes import Scene, run


def test_a_paused_process_goes_on_where_it_was_with_what_came_due() -> None:
    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)
        told: list[str] = []
        woken = loop.create_future()

        async def work() -> None:
            for number in range(10):
                loop.call_later(number, told.append, f"{number}")
            await woken
            told.append(f"woken at {loop.time():.0f}")

        scene.agent.spawn(work())
        await asyncio.sleep(2.5)
        scene.agent.pause()
        woken.set_result(None)
        await asyncio.sleep(4)
        assert told == ["0", "1", "2"]
        scene.agent.resume()
        await asyncio.sleep(0.1)
        assert [text for text in told if text.isdigit()] == ["0", "1", "2", "3", "4", "5", "6"]
        assert "woken at 6" in told
        await asyncio.sleep(10)
        assert [text for text in told if text.isdigit()] == [str(n) for n in range(10)]

    run(main)


def test_callbacks_of_a_paused_process_keep_their_order() -> None:
    async def main(loop: SeededLoop) -> None:
        for _ in range(50):
            scene = Scene(loop)
            told: list[int] = []
            context = scene.agent.context()
            scene.agent.pause()
            loop.call_soon(told.append, 0, context=context)
            await asyncio.sleep(0)
            loop.call_soon(told.append, 1, context=context)
            loop.call_soon(scene.agent.resume)
            loop.call_soon(told.append, 2, context=context)
            await asyncio.sleep(1)
            assert told == [0, 1, 2]

    run(main)


def test_a_laptop_asleep_holds_all_its_processes_and_new_ones() -> None:
    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)
        scene.laptop.pause()
        other = scene.laptop.start("other")

        async def work() -> None:
            scene.do("awake")

        scene.client.spawn(work())
        other.spawn(work())
        other.pause()
        await asyncio.sleep(3600)
        assert scene.done == []
        scene.laptop.resume()
        await asyncio.sleep(1)
        assert scene.done == ["client: awake"]
        other.resume()
        scene.client.kill()
        await asyncio.sleep(1)
        assert scene.done == ["client: awake", "other: awake"]

    run(main)


def test_a_laptop_that_slept_for_an_hour_has_its_timers_an_hour_later() -> None:
    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)
        rung: list[float] = []
        read = loop.create_future()

        async def work() -> None:
            for seconds in (5, 20):
                loop.call_later(seconds, lambda: rung.append(loop.time()))
            with suppress(TimeoutError):
                async with asyncio.timeout(20):
                    await asyncio.Event().wait()
            rung.append(scene.client.clock.monotonic())

        async def receive() -> None:
            await read
            rung.append(loop.time())

        scene.client.spawn(work())
        scene.client.spawn(receive())
        loop.call_later(100, read.set_result, None)
        began, wall = scene.client.clock.monotonic(), scene.client.clock.now()
        await asyncio.sleep(10)
        scene.laptop.suspend()
        await asyncio.sleep(3600)
        assert rung == [5]
        scene.laptop.resume()
        await asyncio.sleep(9)
        assert rung == [5, 3610]
        await asyncio.sleep(3)
        assert sorted(rung) == [5, began + 20, 3610, 3620]
        assert scene.client.clock.now() == wall + 3622
        assert scene.client.clock.monotonic() == began + 22

    run(main)


def test_a_process_killed_while_paused_never_goes_on() -> None:
    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)

        async def work() -> None:
            scene.do("awake")

        scene.agent.pause()
        scene.agent.spawn(work())
        await asyncio.sleep(1)
        scene.agent.resume()
        scene.agent.kill()
        await asyncio.sleep(1)
        assert scene.done == []

    assert run(main)[1].complaints == []
