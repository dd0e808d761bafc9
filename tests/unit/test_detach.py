"""Jobs that are left, taken up again and read back: the client's side and the master's."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from dayfly import FunctionExecutor
from dayfly.cli import results
from dayfly.client import course
from dayfly.client import progress as reading
from dayfly.client.recollection import recollect
from dayfly.errors import (
    CallError,
    JobError,
    SerializationError,
    StorageError,
    UnreachableError,
    UsageError,
)
from dayfly.master import archive
from dayfly.model import JobRecord, JobState
from dayfly.serialize import Outcome
from dayfly.storage import keys
from dayfly.storage.directory import DirectoryStorage
from dayfly.wire import messages as m
from tests.unit.inprocess import InProcess, InProcessChannel
from tests.unit.master_support import POLICY, follow, instance, master, spec, submit, until


@pytest.fixture
def session() -> InProcess:
    return InProcess()


# -- leaving --


async def test_leaving_a_detached_job_waits_for_its_items_and_stops_nothing(
    session: InProcess,
) -> None:
    session.held = {0, 1, 2}
    async with FunctionExecutor(session=session, progress=False) as executor:
        job = executor.map(abs, iter([1, 2, 3]), detach=True)
    assert session.batches == [3]
    assert session.told == []
    assert job.done()
    assert "running" in repr(job)
    with pytest.raises(UsageError, match=rf"attach\('{job.id}'\)"):
        await job


class Endless:
    """Items that never come to an end."""

    async def __aiter__(self) -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()


async def test_a_detached_job_that_cannot_be_handed_over_is_cancelled_and_the_user_is_told(
    session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "HANDOVER", 0.05)
    executor = FunctionExecutor(session=session, progress=False)
    job = executor.map(abs, Endless(), detach=True)
    with pytest.raises(JobError, match=rf"{job.id} is cancelled(.|\n)*run it again"):
        await executor.aclose()
    assert session.closed
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_a_detached_job_that_its_master_may_have_is_not_cancelled_and_the_user_is_told(
    session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "HANDOVER", 0.05)
    session.held, session.mute = {0}, True
    executor = FunctionExecutor(session=session, progress=False)
    job = executor.map(abs, [1], detach=True)
    with pytest.raises(JobError, match=rf"{job.id} was left(.|\n)*dayfly job result {job.id}"):
        await executor.aclose()
    assert session.told == []
    assert session.closed
    with pytest.raises(JobError, match="has not said that it has all of it"):
        await job


async def test_leaving_tells_why_a_detached_job_failed_while_it_was_handed_over(
    session: InProcess,
) -> None:
    session.held, session.mute = {0}, True
    executor = FunctionExecutor(session=session, progress=False)
    job = executor.map(abs, [1], detach=True)
    leaving = asyncio.create_task(executor.aclose())
    while not session.batches:
        await asyncio.sleep(0)
    session.failure = UnreachableError("the master does not answer SSH")
    session.failure.add_note("it may still run")
    session.channels[0].look_again()
    with pytest.raises(JobError, match=rf"{job.id} failed(.|\n)*answer SSH; it may") as caught:
        await leaving
    assert caught.value.__cause__ is session.failure


async def test_what_a_detached_job_fails_of_just_as_its_leaving_begins_is_no_secret(
    session: InProcess,
) -> None:
    session.held = {0}
    executor = FunctionExecutor(session=session, progress=False)
    job = executor.map(abs, [1], detach=True)
    while not session.batches:
        await asyncio.sleep(0)
    session.failure = UnreachableError("the master does not answer SSH")
    leaving = job.leave()  # gathered with others, it begins some turns of the loop later
    session.channels[0].look_again()
    await job.over()
    with pytest.raises(JobError, match=rf"{job.id} failed(.|\n)*answer SSH") as caught:
        await leaving
    assert caught.value.__cause__ is session.failure
    await job.leave()  # nor is it news
    await executor.aclose()


async def test_what_a_detached_job_fails_of_just_as_it_was_handed_over_is_no_secret(
    session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(self: InProcessChannel) -> bool:
        session.failure = UnreachableError("no worker could be launched")
        self.look_again()
        return False

    monkeypatch.setattr(InProcessChannel, "leave", leave)
    session.held = {0}
    executor = FunctionExecutor(session=session, progress=False)
    job = executor.map(abs, [1], detach=True)
    with pytest.raises(JobError, match=rf"{job.id} failed(.|\n)*no worker could be launched"):
        await executor.aclose()


async def test_items_that_fail_while_a_detached_job_is_left_are_no_secret(
    session: InProcess,
) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0.02)
        raise OSError("the file ends here")

    executor = FunctionExecutor(session=session, progress=False)
    job = executor.map(abs, items(), detach=True)
    with pytest.raises(JobError, match=rf"{job.id} failed(.|\n)*the file ends here"):
        await executor.aclose()


async def test_a_block_that_fails_fails_by_its_own_error_and_tells_of_the_job_too(
    session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "HANDOVER", 0.05)
    session.held, session.mute = {0}, True

    async def program() -> None:
        async with FunctionExecutor(session=session, progress=False) as executor:
            executor.map(abs, [1], detach=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await program()
    (request,) = session.requests
    assert [request.spec.id in note for note in caught.value.__notes__] == [True]


async def test_jobs_that_could_not_be_handed_over_are_all_named(
    session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "HANDOVER", 0.05)
    session.held, session.mute = {0}, True
    executor = FunctionExecutor(session=session, progress=False)
    first, second = (executor.map(abs, [1], detach=True) for _ in range(2))
    with pytest.raises(JobError, match=first.id) as caught:
        await executor.aclose()
    assert [second.id in note for note in caught.value.__notes__] == [True]


async def test_a_detached_job_that_is_over_when_it_is_left_is_not_said_to_go_on(
    session: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        async def get_object(self, key: str) -> bytes:
            await asyncio.sleep(0.05)
            return session.objects[key]

    monkeypatch.setattr(FunctionExecutor, "storage", Slow())
    session.stored = {0: "dayfly/out/large"}
    async with FunctionExecutor(session=session, progress=False) as executor:
        job = executor.map(abs, [-1], detach=True)
    assert await job == [1]
    assert "completed" in repr(job)


async def test_other_jobs_of_the_same_executor_are_cancelled_as_ever(session: InProcess) -> None:
    session.held = {0}
    async with FunctionExecutor(session=session, progress=False) as executor:
        stays = executor.map(abs, [1], detach=True)
        goes = executor.map(abs, [1])
        while len(session.channels) < 2:
            await asyncio.sleep(0)
    assert session.told == [(goes.id, None)]
    assert stays.done()


async def test_cancelling_the_await_of_a_detached_job_cancels_it(session: InProcess) -> None:
    session.held = {0}
    async with FunctionExecutor(session=session, progress=False) as executor:
        job = executor.map(abs, [1], detach=True)
        while not session.channels:
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(job, 0.02)
    assert session.told == [(job.id, None)]


async def test_waiting_until_it_is_over_takes_nothing_along(session: InProcess) -> None:
    session.held = {0}
    async with FunctionExecutor(session=session, progress=False) as executor:
        job = executor.map(abs, [-1])
        while not session.channels:
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(job.over(), 0.02)
        assert session.told == []
        session.release()
        assert await job == [1]


def test_a_loop_that_is_closed_around_a_detached_job_stops_nothing(session: InProcess) -> None:
    session.held = {0}

    async def main() -> None:
        executor = FunctionExecutor(session=session, progress=False)
        executor.map(abs, [1], detach=True)
        while not session.channels:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert session.told == []


def test_what_was_left_says_how_to_come_by_its_results() -> None:
    view = reading.View(
        job="j-1",
        function="square",
        counts=reading.Progress(total=4, done=1),
        started=0.0,
        ended=2.0,
    )
    assert reading.last_line(view, 2.0) == (
        "square j-1: left running after 2.0 s, 1/4 done; dayfly job result j-1"
    )
    assert "left running" in reading.html(view, 2.0)


# -- the master's side --


async def test_a_detached_job_goes_on_and_is_archived_while_nobody_is_there(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service:
        async with service.client() as door:
            await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
            worker = await service.worker()
            worker.hold = True
            await worker.ready()
            await submit(door, msgspec.structs.replace(spec(), detach=True), 2)
            await until(lambda: len(worker.ran) == 2)
            described = await door.describe("j")
            assert (described.spec.detach, described.total) == (True, 2)
        await until(lambda: not service.hub.peers.clients)
        await service.clock.advance(300)
        await worker.answer("j", [0, 1])
        # Nobody need come for its outcomes: they lie in storage, and the journal is rid of them.
        await until(lambda: service.hub.books.dossier("j") is None)
        async with service.client("late") as late:
            with pytest.raises(JobError, match="may be in storage"):
                await late.describe("j")
        memory = await recollect(service.storage, "j")
        assert memory is not None
        came = [o.index async for each in memory.deliveries() for o in each.outcomes]
        assert sorted(came) == [0, 1]
        assert memory.last_word.state is JobState.COMPLETED
        await worker.leave()


async def test_a_client_that_was_gone_before_a_restart_is_not_waited_for_anew(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service:
        async with service.client() as door:
            await submit(door, spec(), 4)
        await until(lambda: not service.hub.peers.clients)
        clock = service.clock
    async with master(tmp_path, clock=clock) as service:
        await clock.advance(61)
        assert service.hub.open_jobs == []


async def test_two_clients_get_everything_each(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        worker.hold_after = 10
        await submit(door, spec(), 20)
        async with service.client("late") as late:
            await late.send(m.Follow(job="j"))
            await until(lambda: worker.hold)
            worker.hold = False
            worker.hold_after = 1 << 30
            await worker.answer("j", worker.held.pop("j"))
            both = await asyncio.gather(follow(door), follow(late))
            assert [sorted(each.indices) for each in both] == [list(range(20))] * 2
        await worker.leave()


# -- reading it back --


@pytest.mark.parametrize("few", [0, 1 << 20], ids=["in parts", "in the record"])
async def test_storage_tells_all_that_came_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(archive, "FEW", few)
    monkeypatch.setattr(archive, "PART", 1)
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await submit(door, msgspec.structs.replace(spec(), return_exceptions=True), 100)
        await follow(door)
        dossier = service.hub.books.dossier("j")
        assert dossier is not None
        await until(lambda: dossier.archived)
        memory = await recollect(service.storage, "j")
        assert memory is not None
        deliveries = [each async for each in memory.deliveries()]
        assert sorted(o.index for d in deliveries for o in d.outcomes) == list(range(100))
        assert memory.last_word.after == len(deliveries)
        assert memory.last_word.total == 100
        assert memory.record.return_exceptions
        await worker.leave()


async def test_outcomes_that_were_cleaned_away_are_an_error_and_not_an_early_end(
    tmp_path: Path,
) -> None:
    storage = DirectoryStorage(tmp_path)
    record = JobRecord(
        id="j", function="f", submitted_at=0, workers=1, done=3, failed=0, total=3,
        state=JobState.COMPLETED, after=2, parts=["gone"],
    )  # fmt: skip
    await storage.put_object(keys.record("j"), msgspec.json.encode(record))
    memory = await recollect(storage, "j")
    assert memory is not None
    with pytest.raises(StorageError):
        _ = [each async for each in memory.deliveries()]


async def test_a_record_that_is_something_else_is_named(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    assert await recollect(storage, "j") is None
    await storage.put_object(keys.record("j"), b"{}")
    with pytest.raises(StorageError, match="dayfly/jobs/j/record"):
        await recollect(storage, "j")


# -- a file of results --


def test_a_call_without_an_outcome_holds_the_reason() -> None:
    outcomes = [Outcome(index=2, value="c"), Outcome(index=0, error=ValueError("odd"))]
    listed = results.in_order(outcomes, 3, "HardTimeoutError: cut")
    assert isinstance(listed[0], ValueError)
    assert isinstance(listed[1], CallError)
    assert "HardTimeoutError: cut" in str(listed[1])
    assert listed[2] == "c"


def test_results_as_json_are_one_line_each_and_name_what_json_does_not_have() -> None:
    text = results.in_json([1, {"a": "é"}, ValueError("odd")])
    assert json.loads(text) == [1, {"a": "é"}, {"error": "ValueError", "message": "odd"}]
    assert text.count(b"\n") == 5
    assert results.in_json([]) == b"[]\n"
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for bad in ({1, 2}, float("nan"), deep):
        with pytest.raises(SerializationError, match="call 1"):
            results.in_json([0, bad])


def test_a_file_is_written_whole_or_not_at_all_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "j.pickle"
    results.save(path, b"data")
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for place in (tmp_path, tmp_path / "nowhere" / "j.pickle"):
        with pytest.raises(StorageError, match="could not be written"):
            results.save(place, b"data")
    assert [each.name for each in tmp_path.iterdir()] == ["j.pickle"]
