"""What a job's handle promises, against a session in this process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dayfly import (
    CallCancelledError,
    FunctionExecutor,
    HardTimeoutError,
    Job,
    JobCancelledError,
    ObjectNotFoundError,
    UsageError,
    WireError,
)
from dayfly.client import arrived, course, items
from dayfly.client import fetching as fetching_module
from dayfly.client import job as handle
from dayfly.model import JobState
from dayfly.wire import messages as m
from tests.unit.inprocess import InProcess


@pytest.fixture
def session() -> InProcess:
    return InProcess()


@pytest.fixture
async def executor(session: InProcess) -> AsyncIterator[FunctionExecutor]:
    async with FunctionExecutor(session=session, progress=False) as executor:
        yield executor
    gc.collect()  # whatever would be complained of is complained of in its own test


def square(x: int) -> int:
    return x * x


def invert(x: int) -> float:
    return 1 / x


async def reached(job: Job[Any], done: int) -> None:
    """Wait until so many outcomes are here."""
    outcomes = job.as_completed()
    for _ in range(done):
        await anext(outcomes)


async def test_results_come_in_the_order_of_the_items(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0, 2}
    job = executor.map(square, range(4))
    await reached(job, 2)
    session.release()
    assert await job == [0, 1, 4, 9]


async def test_the_rest_of_a_program_goes_on_while_a_million_results_are_put_in_order(
    executor: FunctionExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "PIECE", 10)
    job = executor.map(square, range(1000))
    await job.over()
    results = asyncio.ensure_future(job)
    turns = 0
    while not results.done():
        await asyncio.sleep(0)
        turns += 1
    assert await results == [x * x for x in range(1000)]
    assert turns > 99


async def test_a_job_can_be_awaited_again(executor: FunctionExecutor) -> None:
    job = executor.map(square, [3])
    assert await job == await job == [9]
    assert job.done()


async def test_a_failed_call_raises_its_own_type_at_once_and_stops_the_rest(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {2}
    job = executor.map(invert, [1, 0, 2])
    with pytest.raises(ZeroDivisionError) as caught:
        await job
    assert "call 1" in "".join(caught.value.__notes__)
    assert session.told == [(job.id, None)]
    with pytest.raises(ZeroDivisionError):
        await job


async def test_it_raises_at_once_although_the_master_does_not_answer(
    executor: FunctionExecutor, session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dayfly.client.job.PARTING", 0.01)
    monkeypatch.setattr(course, "TELLING", 0.3)
    session.deaf, session.held = True, {0}
    job = executor.map(invert, [1, 0])
    with pytest.raises(ZeroDivisionError):
        await job
    assert not job.done()


async def test_with_return_exceptions_each_takes_its_place(executor: FunctionExecutor) -> None:
    one, two, three = await executor.map(invert, [1, 0, 2], return_exceptions=True)
    assert (one, three) == (1.0, 0.5)
    assert isinstance(two, ZeroDivisionError)


async def test_a_failure_that_nobody_awaits_stops_nothing(
    executor: FunctionExecutor, session: InProcess
) -> None:
    job = executor.map(invert, [0, 1])
    outcomes = {o.index: o async for o in job.as_completed()}
    assert not outcomes[0].ok
    assert outcomes[1].result() == 1.0
    assert not session.told
    with pytest.raises(ZeroDivisionError):
        await job


async def test_cancelling_the_await_tells_the_master_first(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0}
    job = executor.map(square, [1, 2])
    await reached(job, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await job
    assert session.told == [(job.id, None)]
    assert job.done()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_a_cancellation_waits_no_longer_than_its_bound(
    executor: FunctionExecutor, session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "TELLING", 0.05)
    session.held, session.deaf = {0}, True
    job = executor.map(square, [1, 2])
    await reached(job, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await job
    assert job.done()


async def test_a_job_that_ends_while_the_master_is_being_told_to_stop_it_leaves_nothing_behind(
    session: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FunctionExecutor(session=session, progress=False) as executor:
        session.deaf, session.held = True, {1}
        job = executor.map(square, [1, 2])
        await reached(job, 1)
        job.cancel()
        await asyncio.sleep(0)
        session.release()
        await asyncio.wait(job.futures)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5
    own = asyncio.current_task()
    assert [task for task in asyncio.all_tasks() if task is not own] == []
    assert "left at once" not in capsys.readouterr().err


async def test_of_several_awaits_only_the_last_takes_the_job_along(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0}
    job = executor.map(square, [5])
    first, second = asyncio.ensure_future(job), asyncio.ensure_future(job)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert not session.told
    session.release()
    assert await second == [25]


async def test_a_failing_task_group_stops_the_job(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0}
    job = executor.map(square, [1, 2])

    async def wait_for_it() -> None:
        await job

    async def fail() -> None:
        await reached(job, 1)
        raise LookupError("elsewhere")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_it())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup, match="unhandled"):
        await both()
    assert session.told == [(job.id, None)]


async def test_cancel_is_like_a_tasks(executor: FunctionExecutor, session: InProcess) -> None:
    session.held = {0}
    job = executor.map(square, [1, 2])
    await reached(job, 1)
    assert job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert not job.cancel()
    assert job.done()
    with pytest.raises(asyncio.CancelledError):
        _ = [outcome async for outcome in job.as_completed()]


async def test_a_job_cancelled_before_anything_began_launches_nothing(
    executor: FunctionExecutor, session: InProcess
) -> None:
    job = executor.map(square, [1])
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert not session.requests


async def test_leaving_as_completed_does_not_stop_the_job(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {1, 2}
    job = executor.map(square, [1, 2, 3])
    async for outcome in job.as_completed():
        assert outcome.value == 1
        break
    session.release()
    assert await job == [1, 4, 9]


async def test_outcomes_that_are_not_kept_take_no_room(executor: FunctionExecutor) -> None:
    count = 5 * arrived.PIECE
    job = executor.map(square, iter(range(count)))
    most = found = 0
    async for outcome in job.as_completed(keep=False):
        found += outcome.result()
        most = max(most, len(job._course.arrived._here))
    assert found == sum(x * x for x in range(count))
    assert job.progress.done == count
    assert len(job._course.arrived._here) <= arrived.PIECE
    assert most < count
    with pytest.raises(UsageError, match="its outcomes are not here any more"):
        await job
    with pytest.raises(UsageError, match="keep=False"):
        job.futures  # noqa: B018
    with pytest.raises(UsageError, match=job.id):
        await anext(job.as_completed())


async def test_items_are_read_only_as_far_as_outcomes_are_taken_that_are_not_kept(
    executor: FunctionExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "AHEAD", 100)
    monkeypatch.setattr(items, "BATCH", 10)
    read = 0

    def generate() -> Iterator[int]:
        nonlocal read
        for read in range(10_000):  # noqa: UP028  # it is counted
            yield read

    job = executor.map(square, generate())
    reader = job.as_completed(keep=False)
    for taken in range(1, 301):
        await anext(reader)
        assert read <= taken + 100 + 10
    await reached(job, 300 + 50)
    await asyncio.sleep(0.05)
    assert read <= 300 + 100 + 10
    async for _ in reader:
        pass
    assert read == 9_999


async def test_cancelling_the_reader_of_as_completed_stops_the_job(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0}
    job = executor.map(square, [1])
    while not session.channels:
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(job.as_completed()), 0.02)
    assert session.told == [(job.id, None)]


async def test_as_completed_reads_all_from_the_beginning_however_often(
    executor: FunctionExecutor,
) -> None:
    job = executor.map(square, range(3))
    await job
    for _ in range(2):
        assert sorted([o.value async for o in job.as_completed()]) == [0, 1, 4]


async def test_futures_work_with_asyncio_wait(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0}
    job = executor.map(square, [2, 3])
    done, pending = await asyncio.wait(job.futures, return_when=asyncio.FIRST_COMPLETED)
    assert [future.result() for future in done] == [9]
    assert pending == {job.futures[0]}
    session.release()
    assert await asyncio.gather(*job.futures) == [4, 9]


async def test_futures_can_be_asked_for_at_the_end(executor: FunctionExecutor) -> None:
    job = executor.map(invert, [1, 0], return_exceptions=True)
    await job
    fine, failed = job.futures
    assert fine.result() == 1.0
    assert isinstance(failed.exception(), ZeroDivisionError)


async def test_a_future_cancelled_alone_stops_that_call_only(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0, 1}
    job = executor.map(square, [1, 2, 3], return_exceptions=True)
    await reached(job, 1)
    assert job.futures[1].cancel()
    assert not job.futures[1].cancel()
    await reached(job, 2)
    session.release()
    one, two, three = await job
    assert (one, three) == (1, 9)
    assert isinstance(two, CallCancelledError)
    assert session.told == [(job.id, [1])]


async def test_futures_cancelled_together_are_told_together(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = set(range(10))
    job = executor.map(square, range(10))
    for future in job.futures:
        future.cancel()  # before the master has even heard of the job
    with pytest.raises(CallCancelledError):
        await job
    assert (job.id, list(range(10))) in session.told


async def test_futures_of_a_failed_job_tell_its_failure_without_warnings(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0}
    job = executor.map(square, [1])
    (future,) = job.futures
    session.failure = HardTimeoutError("cut by hard_dismantle_timeout")
    with pytest.raises(HardTimeoutError):
        await job
    assert isinstance(future.exception(), HardTimeoutError)


async def test_futures_of_a_cancelled_job_are_cancelled(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {0}
    job = executor.map(square, [1])
    (future,) = job.futures
    job.cancel()
    await job.settled()
    assert future.cancelled()


async def test_futures_of_a_generator_must_wait_for_its_end(executor: FunctionExecutor) -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)

    job = executor.map(square, numbers())
    with pytest.raises(UsageError, match="not known"):
        _ = job.futures
    await job
    assert [future.result() for future in job.futures] == [0, 1, 4]


async def test_a_failure_of_the_session_is_the_jobs(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.failure = WireError("the master hung up")
    job = executor.map(square, range(3))
    with pytest.raises(WireError, match="hung up"):
        await job
    assert job.progress.done == 3, "what came is kept"


@pytest.mark.parametrize(
    ("state", "error", "raised"),
    [
        (JobState.FAILED, "HardTimeoutError", HardTimeoutError),
        (JobState.CANCELLED, "", JobCancelledError),
        (JobState.COMPLETED, "", WireError),
    ],
)
async def test_the_masters_last_word_is_raised(
    executor: FunctionExecutor,
    session: InProcess,
    state: JobState,
    error: str,
    raised: type[Exception],
) -> None:
    session.held = {0}
    session.last_word = m.JobEnded(job="j", state=state, after=1, error=error, reason="so it is")
    job = executor.map(square, [1, 2])
    await reached(job, 1)
    session.channels[0].waiting.clear()
    session.release()
    with pytest.raises(raised, match=r"so it is|1 of 2"):
        await job
    with pytest.raises(raised):
        _ = [outcome async for outcome in job.as_completed()]


async def test_large_outcomes_are_fetched_from_storage(
    executor: FunctionExecutor, session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.stored = {index: f"dayfly/out/{index}" for index in range(40)}
    at_once: list[int] = []
    fetching = 0

    async def fetch(key: str) -> bytes:
        nonlocal fetching
        fetching += 1
        at_once.append(fetching)
        await asyncio.sleep(0.001)
        fetching -= 1
        if key.endswith("/7"):
            raise ObjectNotFoundError(f"no object {key}")
        return session.objects[key]

    job = executor.map(square, range(40), return_exceptions=True)
    monkeypatch.setattr(job._course._fetching, "_fetch", fetch)
    results = await job
    assert isinstance(results.pop(7), ObjectNotFoundError)
    assert results == [x * x for x in range(40) if x != 7]
    assert 1 < max(at_once) <= fetching_module.FETCHES


async def test_counts_follow_the_work(executor: FunctionExecutor, session: InProcess) -> None:
    session.held = {0}
    job = executor.map(invert, [1, 0, 2], return_exceptions=True)
    assert job.progress.waiting == "the first items"
    await reached(job, 2)
    counts = job.progress
    assert (counts.total, counts.done, counts.failed) == (3, 2, 1)
    assert (counts.workers_ready, counts.workers_coming) == (2, 1)
    assert "2/3" in repr(job)
    assert "2/3" in job._repr_html_()
    session.release()
    await job
    assert (job.progress.done, job.progress.running) == (3, 0)


async def test_lines_go_to_on_log_and_what_it_raises_does_not_hurt(session: InProcess) -> None:
    seen: list[str] = []
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    def listen(line: object) -> None:
        seen.append(line.text)  # type: ignore[attr-defined]
        raise LookupError("in the user's callback")

    session.held = {0}
    async with FunctionExecutor(session=session, progress=False, on_log=listen) as executor:
        job = executor.map(square, [2, 3])
        await reached(job, 1)
        session.channels[0].print(0, "hello")
        session.release()
        assert await job == [4, 9]
        assert seen == ["hello"]
    assert len(complaints) == 1
