"""What a simulated run does not survive: waiting for ever, running for ever, anything real."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from tests.simulation.chance import Chance
from tests.simulation.loop import Busy, Deadlock, Endless, Refused, SeededLoop
from tests.simulation.process import Host, current
from tests.simulation.scenes import Scene, run

# What ends a run


def test_a_deadlock_is_told_with_who_waits_and_where() -> None:
    async def wait_for_godot() -> None:
        await asyncio.Event().wait()

    async def main(loop: SeededLoop) -> None:
        scene = Scene(loop)
        dead = scene.client.spawn(wait_for_godot(), "the dead one")
        scene.client.kill()
        await asyncio.sleep(1)
        task = scene.agent.spawn(wait_for_godot(), "the waiting one")
        await asyncio.wait([task, dead])

    with pytest.raises(Deadlock) as caught:
        run(main)
    told = str(caught.value)
    assert "at 1.000 s" in told
    assert "the waiting one of <Process agent on vm, alive>: Event.wait (asyncio/locks.py" in told
    assert "wait_for_godot (simulation/test_endings.py:" in told
    assert "the dead one" not in told


def test_a_busy_step_is_caught_and_named() -> None:
    async def spin() -> None:
        while True:
            pass

    async def main(loop: SeededLoop) -> None:
        task = Host(loop, "vm").start("agent").spawn(spin(), "the busy one")
        await asyncio.wait([task])

    with pytest.raises(Busy, match=r"(?s)the busy one has not ended.*in spin"):
        run(main, patience=0.05)


def test_tasks_that_hand_each_other_the_turn_for_ever_are_caught_and_named() -> None:
    async def poll() -> None:
        while True:
            await asyncio.sleep(0)

    async def main(loop: SeededLoop) -> None:
        await loop.create_task(poll(), name="the polling one")

    with pytest.raises(Endless, match=r"time stood still.*the polling one"):
        run(main, max_steps_at_once=10_000)


def test_a_run_has_a_limit() -> None:
    async def main(loop: SeededLoop) -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(Endless, match="too many steps in all"):
        run(main, max_steps=10_000)


def test_what_is_looked_at_after_each_step_can_end_the_run() -> None:
    async def main(loop: SeededLoop) -> None:
        def look() -> None:
            assert current() is None
            if loop.time() > 5:
                raise AssertionError("the invariant")

        loop.after_step = look
        process = Host(loop, "vm").start("agent")
        # Nobody can keep it from ending.
        with suppress(BaseException):
            await process.spawn(asyncio.sleep(10))

    with pytest.raises(AssertionError, match="the invariant"):
        run(main)


def test_what_the_world_itself_left_undone_is_closed_quietly() -> None:
    async def main(loop: SeededLoop) -> None:
        async def watch() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(1)

        tasks = [loop.create_task(watch()) for _ in range(3)]
        await asyncio.sleep(1)
        loop.fail(ValueError("over"))
        await asyncio.wait(tasks)

    loop = SeededLoop(Chance(1))
    with pytest.raises(ValueError, match="over"):
        loop.run_until_complete(main(loop))
    loop.bury()
    loop.close()
    gc.collect()
    assert loop.complaints == []
    assert str(loop.failure) == "over"


def test_a_lost_exception_is_a_complaint() -> None:
    async def main(loop: SeededLoop) -> None:
        async def fail() -> None:
            raise ValueError("lost")

        loop.create_task(fail(), name="the failing one")
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    complaints = sorted(run(main)[1].complaints)
    assert len(complaints) == 2
    assert "the failing one" in complaints[0] + complaints[1]
    assert "ZeroDivisionError" in complaints[0] + complaints[1]


# Nothing real


@pytest.mark.parametrize(
    "ask",
    [
        lambda loop: asyncio.open_connection("127.0.0.1", 1),
        lambda loop: asyncio.open_unix_connection("/nowhere"),
        lambda loop: loop.create_server(asyncio.Protocol, "127.0.0.1", 0),
        lambda loop: loop.getaddrinfo("localhost", 80),
        lambda loop: loop.sock_connect(None, ("127.0.0.1", 1)),
        lambda loop: asyncio.create_subprocess_exec("true"),
        lambda loop: loop.add_signal_handler(15, print),
    ],
)
def test_sockets_subprocesses_and_signals_are_refused(
    ask: Callable[[SeededLoop], Coroutine[Any, Any, object]],
) -> None:
    async def main(loop: SeededLoop) -> None:
        with pytest.raises(Refused):
            await ask(loop)
        # Whoever catches it: the run is over.
        await asyncio.sleep(1)

    with pytest.raises(Refused):
        run(main)


def test_a_real_thread_is_refused() -> None:
    async def main(loop: SeededLoop) -> None:
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(print,), daemon=True)
        before, threading.excepthook = threading.excepthook, lambda _: None
        thread.start()
        thread.join()
        threading.excepthook = before
        await asyncio.sleep(1)

    with pytest.raises(Refused, match="thread"):
        run(main)


def test_what_runs_in_a_thread_has_no_loop() -> None:
    async def main(loop: SeededLoop) -> None:
        await asyncio.to_thread(asyncio.get_running_loop)

    with pytest.raises(RuntimeError, match="no running event loop"):
        run(main)
