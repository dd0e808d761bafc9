"""What a user hands to the executor, and what becomes of it."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly import ConfigError, FunctionExecutor, SerializationError, UsageError, errors
from dayfly.client import items
from dayfly.clock import SystemClock
from dayfly.serialize import dump_items
from tests.unit.inprocess import InProcess

ROOT = Path(__file__).parents[2]


@pytest.fixture
def session() -> InProcess:
    return InProcess()


@pytest.fixture
async def executor(session: InProcess) -> AsyncIterator[FunctionExecutor]:
    async with FunctionExecutor(session=session, progress=False) as executor:
        yield executor
    gc.collect()


def square(x: int) -> int:
    return x * x


def area(width: int, height: int = 2) -> int:
    return width * height


async def test_items_may_be_of_many_kinds(executor: FunctionExecutor) -> None:
    def generate() -> Iterator[int]:
        yield from range(5)

    async def stream() -> AsyncIterator[int]:
        for n in range(5):
            await asyncio.sleep(0)
            yield n

    squares = [0, 1, 4, 9, 16]
    assert await executor.map(square, range(5)) == squares
    assert await executor.map(square, generate()) == squares
    assert await executor.map(square, stream()) == squares
    assert sorted(await executor.map(square, {0, 1, 2, 3, 4})) == squares
    assert await executor.map(area, [(2, 3), {"width": 5}, 6]) == [6, 10, 12]
    assert await executor.map(area, [2, 3], extra_args=(10,)) == [20, 30]


@pytest.mark.parametrize("data", ["text", b"bytes", {"a": 1}])
async def test_a_text_or_a_dict_as_the_whole_is_refused(
    executor: FunctionExecutor, data: Any
) -> None:
    with pytest.raises(UsageError, match=type(data).__name__):
        executor.map(square, data)


async def test_what_cannot_be_iterated_is_refused(executor: FunctionExecutor) -> None:
    with pytest.raises(UsageError, match="int"):
        executor.map(square, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keys",
    [
        {"extra_env": {"A": 1}},
        {"chunksize": -1},
        {"chunksize": 1.5},
        {"timeout": 0},
        {"timeout": "1"},
        {"retries": -1},
        {"retries": True},
        {"include_modules": "numpy"},
    ],
)
async def test_a_keyword_that_makes_no_sense_is_refused(
    executor: FunctionExecutor, session: InProcess, keys: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        executor.map(square, [1], **keys)
    assert not session.requests


async def test_no_items_give_an_empty_list_and_launch_nothing(
    executor: FunctionExecutor, session: InProcess
) -> None:
    async def nothing() -> AsyncIterator[int]:
        for n in range(0):
            yield n

    assert await executor.map(square, []) == []
    assert await executor.map(square, nothing()) == []
    assert not session.requests


async def test_a_function_that_cannot_be_pickled_is_refused_at_once(
    executor: FunctionExecutor, session: InProcess
) -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="lock"):
        executor.map(lambda x: (lock, x), [1])
    assert not session.requests


async def test_an_item_that_cannot_be_pickled_is_named_before_anything_is_launched(
    executor: FunctionExecutor, session: InProcess
) -> None:
    with pytest.raises(SerializationError, match="item 3"):
        await executor.map(square, [0, 1, 2, threading.Lock()])
    assert not session.requests


async def test_a_later_item_that_cannot_be_pickled_cancels_the_rest(session: InProcess) -> None:
    def generate() -> Iterator[Any]:
        yield from range(5000)
        yield threading.Lock()

    session.held = {0}
    async with FunctionExecutor(
        session=session, progress=False, max_workers=1, worker_processes=2
    ) as executor:
        job = executor.map(square, generate())
        with pytest.raises(SerializationError, match="item 5000"):
            await job
        assert session.told == [(job.id, None)]


async def test_what_the_users_generator_raises_is_raised(executor: FunctionExecutor) -> None:
    def generate() -> Iterator[int]:
        yield 1
        raise LookupError("no more rows")

    async def stream() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more rows")

    for data in (generate(), stream()):
        with pytest.raises(LookupError, match="no more rows"):
            await executor.map(square, data)


async def test_submit_gives_the_one_value(executor: FunctionExecutor) -> None:
    assert await executor.submit(area, 3, height=4) == 12


async def test_map_reduce_reduces_on_a_worker(
    executor: FunctionExecutor, session: InProcess
) -> None:
    job = executor.map_reduce(square, range(4), sum)
    assert await job == 14
    assert [request.spec.function for request in session.requests] == ["square", "sum"]


async def test_map_reduce_fails_as_the_map_fails(
    executor: FunctionExecutor, session: InProcess
) -> None:
    with pytest.raises(TypeError):
        await executor.map_reduce(square, ["a"], sum)
    assert len(session.requests) == 1


async def test_cancelling_map_reduce_cancels_the_map(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0}
    reduction = executor.map_reduce(square, [1], sum)
    awaiting = asyncio.ensure_future(reduction._result())
    async with asyncio.timeout(10):
        while not session.requests:
            await asyncio.sleep(0)
    awaiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await awaiting
    assert session.told == [(session.requests[0].spec.id, None)]


async def test_the_master_learns_what_it_must(session: InProcess) -> None:
    async with FunctionExecutor(
        session=session, progress=False, max_workers=3, worker_processes=2, exec_mode="create"
    ) as executor:
        await executor.map(square, [1], timeout=5, chunksize=7, extra_env={"A": "b"})
    (request,) = session.requests
    spec = request.spec
    assert re.fullmatch(r"j-\d{8}-\d{6}-[0-9a-f]{6}", spec.id)
    assert (spec.function, spec.mode, spec.wanted, spec.processes) == ("square", "create", 3, 2)
    assert (spec.timeout, spec.chunksize, spec.environment) == (5, 7, {"A": "b"})
    assert str(os.getpid()) in spec.client


async def test_the_first_batch_tells_how_many_workers_are_needed(session: InProcess) -> None:
    async with FunctionExecutor(
        session=session, progress=False, max_workers=100, worker_processes=30
    ) as executor:
        await executor.map(square, iter(range(5000)))
    assert session.batches[0] == 3000
    assert sum(session.batches) == 5000


async def test_a_generator_is_not_read_far_ahead(session: InProcess) -> None:
    read = 0
    far = asyncio.Event()

    def generate() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            if read == items.AHEAD:
                far.set()
            yield read

    session.held = set(range(10**5))
    async with FunctionExecutor(
        session=session, progress=False, max_workers=1, worker_processes=1
    ) as executor:
        job = executor.map(square, generate())
        await far.wait()
        await asyncio.sleep(0.05)
        assert read < items.AHEAD + items.BATCH
        assert not job.done()


async def test_reading_many_items_lets_the_loop_breathe() -> None:
    source = items.Source(range(300_000), dump_items, first=300_000, clock=SystemClock())
    breaths = 0

    async def breathe() -> None:
        nonlocal breaths
        while True:
            await asyncio.sleep(0)
            breaths += 1

    breather = asyncio.create_task(breathe())
    assert len(await source.peek()) > 0
    breather.cancel()
    assert breaths > 3, "300,000 pickles take a multiple of the 20 ms between breaths"


async def test_a_slow_stream_is_sent_as_it_comes(session: InProcess) -> None:
    more = asyncio.Event()

    async def stream() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    async with FunctionExecutor(
        session=session, progress=False, max_workers=1, worker_processes=1
    ) as executor:
        job = executor.map(square, stream())
        outcomes = job.as_completed()
        assert (await anext(outcomes)).value == 1, "though the second item is not there yet"
        more.set()
        assert await job == [1, 4]


async def test_a_stream_may_wait_for_the_results_of_its_earlier_items(
    session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "PATIENCE", 0.02)
    answers: asyncio.Queue[int] = asyncio.Queue()

    async def doubling() -> AsyncIterator[int]:
        yield 2
        while (answer := await answers.get()) < 1000:
            yield answer

    async with FunctionExecutor(session=session, progress=False, max_workers=100) as executor:
        job = executor.map(square, doubling())
        async for outcome in job.as_completed():
            answers.put_nowait(outcome.value)
        assert await job == [4, 16, 256, 65536]


async def test_a_stream_is_closed_when_its_job_is_cancelled(executor: FunctionExecutor) -> None:
    closed = False

    async def stream() -> AsyncIterator[int]:
        nonlocal closed
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed = True

    job = executor.map(square, stream())
    await asyncio.sleep(0.01)
    job.cancel()
    await job.settled()
    assert closed


async def test_leaving_cancels_what_still_runs(session: InProcess) -> None:
    session.held = {0}
    executor = FunctionExecutor(session=session, progress=False)
    job = executor.map(square, [1, 2])
    await anext(job.as_completed())
    with pytest.raises(LookupError):
        async with executor:
            raise LookupError("in the user's program")
    assert session.told == [(job.id, None)]
    assert job.done()
    assert session.closed
    with pytest.raises(UsageError, match="closed"):
        executor.map(square, [1])


async def test_storage_is_for_the_users_own_objects_too(
    executor: FunctionExecutor, own_home: Path
) -> None:
    await executor.storage.put_object("mine/a", b"data")
    assert await executor.storage.get_object("mine/a") == b"data"
    assert (own_home / ".dayfly" / "storage").is_dir()


async def test_nothing_is_left_on_the_loop(session: InProcess) -> None:
    async with FunctionExecutor(session=session, progress=False) as executor:
        await executor.map(square, range(10))
        executor.map(square, [1])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_the_executor_opened_is_closed_even_if_its_session_cannot_be(
    session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    async def refuse(*, hurried: bool) -> None:
        raise errors.WireError("the connection broke")

    async def close() -> None:
        closed.append("parts")

    monkeypatch.setattr(session, "aclose", refuse)
    executor = FunctionExecutor(session=session, progress=False)
    monkeypatch.setattr(executor, "_parts", SimpleNamespace(aclose=close))
    with pytest.raises(errors.WireError):
        await executor.aclose()
    assert closed == ["parts"]


def test_without_a_running_loop_the_error_says_how_to_get_one(session: InProcess) -> None:
    executor = FunctionExecutor(session=session)
    with pytest.raises(UsageError, match=r"asyncio\.run"):
        executor.map(square, [1])


def test_an_executor_belongs_to_one_loop(session: InProcess) -> None:
    executor = FunctionExecutor(session=session, progress=False)

    async def once() -> list[int]:
        return await executor.map(square, [1])

    assert asyncio.run(once()) == [1]
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(once())


def test_a_bad_configuration_is_refused_in_the_constructor() -> None:
    with pytest.raises(ConfigError, match="max_workers"):
        FunctionExecutor(max_worker=3)


SCRIPT = """
import asyncio, os, sys
from dayfly import FunctionExecutor
from tests.unit.inprocess import InProcess

async def main():
    session = InProcess()
    session.held, session.deaf = {0}, "deaf" in sys.argv
    async with FunctionExecutor(session=session) as executor:
        job = executor.map(abs, [1, 2])
        async for _ in job.as_completed():
            break
        print("running", flush=True)
        try:
            await job
        finally:
            print("told", session.told, flush=True)

asyncio.run(main())
"""


def interrupted(*argv: str, times: int) -> tuple[list[str], str]:
    """Run the script, press Ctrl-C so many times, and return what it said."""
    import signal

    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        out, err = process.communicate(timeout=20)
    assert process.returncode != 0
    return out.splitlines(), err


def test_ctrl_c_once_tells_the_master_and_shows_it() -> None:
    out, err = interrupted(times=1)
    assert out[0].startswith("told [('j-")
    assert "cancelling" in err
    assert "never retrieved" not in err
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_twice_leaves_at_once_and_says_what_remains() -> None:
    began = time.monotonic()
    _, err = interrupted("deaf", times=2)
    assert time.monotonic() - began < 5
    lines = [line for line in err.splitlines() if "dayfly clean" in line]
    assert len(lines) == 1
    assert "hard_dismantle_timeout" in lines[0]
    assert "never retrieved" not in err
