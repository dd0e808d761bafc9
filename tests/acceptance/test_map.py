"""What a user writes, and what comes back, through a master and workers."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import dayfly
from dayfly import FunctionExecutor
from tests.acceptance.conftest import Launcher, eventually

pytestmark = pytest.mark.timeout(60)


def square(x: int) -> int:
    return x * x


async def test_outcomes_come_back_in_item_order(executor: Launcher) -> None:
    async with executor() as ex:
        assert await ex.map(square, range(100)) == [x * x for x in range(100)]


async def test_a_second_program_finds_the_machines_of_the_first(executor: Launcher) -> None:
    def where(_: int) -> str:
        time.sleep(0.05)
        return os.environ["DAYFLY_INSTANCE"]

    async with executor() as first:
        before = set(await first.map(where, range(8)))
    async with executor() as second:
        after = set(await second.map(where, range(8)))
    assert before == after
    assert len(before) == 2, "both workers served"


async def test_tuples_are_positional_and_dicts_are_keywords(executor: Launcher) -> None:
    def area(width: int, height: int = 2) -> int:
        return width * height

    async with executor() as ex:
        assert await ex.map(area, [(2, 3), (4,), {"width": 5}, 6]) == [6, 8, 10, 12]


async def test_generators_and_async_iterators_are_items(executor: Launcher) -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)

    async def later() -> AsyncIterator[int]:
        for n in range(5):
            await asyncio.sleep(0)
            yield n

    async with executor() as ex:
        assert await ex.map(square, numbers()) == [0, 1, 4, 9, 16]
        assert await ex.map(square, later()) == [0, 1, 4, 9, 16]
        assert await ex.map(square, []) == []


async def test_functions_of_every_kind(executor: Launcher) -> None:
    offset = 10

    class Adder:
        def __init__(self, more: int) -> None:
            self.more = more

        def __call__(self, x: int) -> int:
            return x + self.more

    async def coroutine(x: int) -> int:
        await asyncio.sleep(0)
        return x + 3

    async with executor() as ex:
        assert await ex.map(lambda x: x + offset, [1, 2]) == [11, 12]
        assert await ex.map(functools.partial(pow, 2), [3, 4]) == [8, 16]
        assert await ex.map(Adder(5), [1]) == [6]
        assert await ex.map(coroutine, [1]) == [4]  # type: ignore[comparison-overlap]
        assert await ex.submit(divmod, 7, 2) == (3, 1)
        assert await ex.map_reduce(square, range(10), sum) == 285


async def test_a_function_of_a_module_that_the_vm_does_not_have(
    executor: Launcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("import mine_too\ndef f(x):\n    return mine_too.g(x) + 1\n")
    (tmp_path / "mine_too.py").write_text("def g(x):\n    return x * 100\n")
    monkeypatch.syspath_prepend(tmp_path)
    import mine  # type: ignore[import-not-found]

    async with executor() as ex:
        assert await ex.map(mine.f, [1, 2]) == [101, 201]


async def test_extra_arguments_and_environment_reach_each_call(executor: Launcher) -> None:
    def read(item: str, suffix: str) -> str:
        return os.environ["GREETING"] + item + suffix

    async with executor() as ex:
        job = ex.map(read, ["a", "b"], extra_args=("!",), extra_env={"GREETING": "hello "})
        assert await job == ["hello a!", "hello b!"]
        assert await ex.submit(os.environ.get, "GREETING") is None, "it went with its job"


async def test_large_items_and_outcomes_go_through_storage(executor: Launcher) -> None:
    data = [os.urandom(300_000) for _ in range(12)]

    async with executor() as ex:
        assert await ex.map(lambda blob: blob[::-1], data) == [blob[::-1] for blob in data]


async def test_functions_read_and_write_the_users_objects(executor: Launcher) -> None:
    def copy(key: str, storage: Any, id: int) -> int:
        storage.put_object(f"copies/{id}", storage.get_object(key))
        return id

    async with executor() as ex:
        await ex.storage.put_object("originals/a", b"one")
        await ex.storage.put_object("originals/b", b"two")
        keys = [key async for key in ex.storage.list_keys("originals/")]
        assert await ex.map(copy, keys) == [0, 1]
        assert await ex.storage.get_object("copies/1") == b"two"


async def test_outcomes_are_seen_as_they_come(executor: Launcher) -> None:
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async with executor() as ex:
        await ex.map(nap, [0.0] * 8)  # every runner has loaded the function
        job = ex.map(nap, [4.0, 0.0, 0.5])
        order = [outcome.value async for outcome in job.as_completed()]
        assert order == [0.0, 0.5, 4.0]
        assert job.progress.done == 3


async def test_each_call_has_a_future_for_asyncio_wait(executor: Launcher) -> None:
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async with executor() as ex:
        job = ex.map(nap, [0.0, 30.0], return_exceptions=True)
        done, pending = await asyncio.wait(job.futures, return_when=asyncio.FIRST_COMPLETED)
        assert [future.result() for future in done] == [0.0]
        for future in pending:
            future.cancel()
        first, second = await job
        assert first == 0.0
        assert isinstance(second, dayfly.CallCancelledError)


async def test_a_call_that_raises_is_raised_here_with_its_item_and_traceback(
    executor: Launcher,
) -> None:
    def invert(x: int) -> float:
        return 1 / x

    async with executor() as ex:
        with pytest.raises(ZeroDivisionError) as caught:
            await ex.map(invert, [1, 0, 2])
    assert any("call 1" in note for note in caught.value.__notes__)
    assert "return 1 / x" in str(caught.value.__cause__)


async def test_with_return_exceptions_the_others_finish(executor: Launcher) -> None:
    def invert(x: int) -> float:
        return 1 / x

    async with executor() as ex:
        one, failed, half = await ex.map(invert, [1, 0, 2], return_exceptions=True)
    assert (one, half) == (1.0, 0.5)
    assert isinstance(failed, ZeroDivisionError)


def segfault() -> None:
    ctypes.string_at(0)


def killed_for_memory() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        (functools.partial(os._exit, 3), "exit status 3"),
        (segfault, "SIGSEGV"),
        (killed_for_memory, "SIGKILL"),
    ],
    ids=["os._exit", "segfault", "killed"],
)
async def test_a_call_whose_process_dies_is_named_and_the_others_finish(
    executor: Launcher, fate: Any, words: str
) -> None:
    def run(item: int) -> int:
        if item == 5:
            fate()
        return item

    async with executor() as ex:
        outcomes = await ex.map(run, range(10), return_exceptions=True)
    crash = outcomes.pop(5)
    assert outcomes == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert isinstance(crash, dayfly.CallCrashedError)
    assert "call 5" in str(crash)
    assert words in str(crash)


async def test_a_call_over_its_timeout_is_killed_and_named(executor: Launcher) -> None:
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async with executor() as ex:
        quick, slow = await ex.map(nap, [0.0, 60.0], timeout=0.5, return_exceptions=True)
    assert quick == 0.0
    assert isinstance(slow, dayfly.CallTimeoutError)
    assert isinstance(slow, TimeoutError)
    assert "call 1" in str(slow)


async def test_what_cannot_be_pickled_is_named(executor: Launcher) -> None:
    import threading

    lock = threading.Lock()

    async with executor() as ex:
        with pytest.raises(dayfly.SerializationError, match="lock"):
            await ex.map(lambda x: lock, [1])
        with pytest.raises(dayfly.SerializationError, match="item 1"):
            await ex.map(square, [1, threading.Lock()])
        good, bad = await ex.map(
            lambda x: x if x else threading.Lock(), [1, 0], return_exceptions=True
        )
        assert good == 1
        assert isinstance(bad, dayfly.SerializationError)
        assert "call 1" in str(bad)


async def test_prints_and_logs_stream_here_with_their_call(
    cluster: dict[str, dict[str, Any]],
) -> None:
    def talk(x: int) -> int:
        print(f"printed {x}")
        logging.getLogger("mine").warning("logged %d", x)
        return x

    lines: list[tuple[int, str, str]] = []
    async with FunctionExecutor(
        config=cluster,
        progress=False,
        on_log=lambda line: lines.append((line.index, line.stream, line.text)),
    ) as ex:
        await ex.map(talk, range(3))
        await eventually(lambda: len(lines) == 6)
    assert sorted(lines) == sorted(
        [(n, "stdout", f"printed {n}") for n in range(3)]
        + [(n, "stderr", f"WARNING mine: logged {n}") for n in range(3)]
    )


async def test_logs_come_while_the_call_still_runs(cluster: dict[str, dict[str, Any]]) -> None:
    def talk(gate: str) -> None:
        print("begun")
        while not Path(gate).exists():
            time.sleep(0.01)

    gate = Path("gate").absolute()
    begun = asyncio.Event()
    async with FunctionExecutor(
        config=cluster, progress=False, on_log=lambda line: begun.set()
    ) as ex:
        job = ex.map(talk, [str(gate)])
        async with asyncio.timeout(20):
            await begun.wait()
        assert not job.done()
        gate.touch()
        await job


def beat(path: str) -> None:
    """Touch a file for a minute: it is fresh for as long as the call lives."""
    for _ in range(1200):
        Path(path).write_text(str(time.time()))
        time.sleep(0.05)


def stopped(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > 0.5


async def test_cancelling_the_await_stops_the_remote_calls(executor: Launcher) -> None:
    path = Path("beats").absolute()
    async with executor() as ex:
        waiter = asyncio.ensure_future(ex.map(beat, [str(path)]))
        await eventually(path.exists)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await eventually(lambda: stopped(path))
        assert await ex.map(square, [3]) == [9], "the machines are given back"


async def test_a_timeout_around_the_await_stops_them_too(executor: Launcher) -> None:
    path = Path("beats").absolute()
    async with executor() as ex:
        job = ex.map(beat, [str(path)])
        await eventually(path.exists)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await job
        await eventually(lambda: stopped(path))


async def test_leaving_the_block_leaves_nothing_running(executor: Launcher) -> None:
    path = Path("beats").absolute()
    async with executor() as ex:
        ex.map(beat, [str(path)])
        await eventually(path.exists)
    await eventually(lambda: stopped(path))


async def test_two_clients_on_one_cluster_each_get_their_own(executor: Launcher) -> None:
    async with executor() as one, executor() as other:
        squares, cubes = await asyncio.gather(
            one.map(square, range(200)), other.map(lambda x: x**3, range(200))
        )
    assert squares == [x * x for x in range(200)]
    assert cubes == [x**3 for x in range(200)]


async def test_many_jobs_at_once_on_one_executor(executor: Launcher) -> None:
    async with executor() as ex:
        jobs = [ex.map(square, range(n)) for n in range(1, 9)]
        results = await asyncio.gather(*jobs)
    assert results == [[x * x for x in range(n)] for n in range(1, 9)]
