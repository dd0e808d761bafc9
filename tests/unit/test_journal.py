"""What survives the death of the master's service."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from dayfly.errors import StorageError
from dayfly.master.journal import RIPE, Journal, KeptInstance
from dayfly.master.logbook import Logbook
from dayfly.master.suspects import Loss
from dayfly.model import CallOutcome, JobRow, JobState, LogLine, OutcomeKind, Try
from dayfly.wire import messages as m
from tests.unit.master_support import POLICY, instance, outcome, spec


def write_job(journal: Journal, job: str = "j") -> None:
    journal.submit(m.Submit(spec=spec(job), function=m.Payload(data=b"f"), modules="k"))
    journal.items(m.Items(job=job, start=0, count=2, data=[b"a", b"b"]))
    journal.items(m.Items(job=job, start=2, count=3, key="dayfly/in/j/items/2"))


def deliver(journal: Journal, number: int, outcomes: list[CallOutcome], job: str = "j") -> None:
    frame = m.ENCODER.encode(m.Delivery(job=job, number=number, outcomes=outcomes))
    journal.deliver(job, number, frame)


def row(state: JobState, job: str = "j") -> JobRow:
    return JobRow(
        id=job,
        function="double",
        submitted_at=1.0,
        workers=1,
        done=2,
        failed=1,
        total=5,
        state=state,
    )


def test_a_job_that_runs_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    write_job(journal)
    journal.items_end("j", 5)
    journal.started("j", 12.5)
    deliver(journal, 1, [outcome(3)])
    deliver(journal, 2, [msgspec.structs.replace(outcome(0), kind=OutcomeKind.RAISED)])
    journal.close()

    journal = Journal(path)
    (job,), _ = journal.load()
    assert job.submit is not None
    assert (job.submit.spec, job.submit.function.data) == (spec(), b"f")
    assert (job.total, job.started, job.last, job.failed) == (5, 12.5, 2, 1)
    assert job.chunks == [m.Span(0, 2), m.Span(2, 5)]
    assert list(job.done) == [1, 0, 0, 1, 0]
    assert (job.row, job.ended) == (None, None)
    chunk = journal.chunk("j", 1)
    assert chunk is not None
    assert chunk.data == [b"a", b"b"]
    stored = journal.chunk("j", 4)
    assert stored is not None
    assert stored.key == "dayfly/in/j/items/2"
    assert journal.chunk("j", 5) is None
    journal.close()


def test_what_was_not_committed_is_lost_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    write_job(journal)
    journal.commit()
    deliver(journal, 1, [outcome(0)])
    journal._database.rollback()  # as a killed process leaves it
    journal._database.close()
    journal = Journal(path)
    (job,), _ = journal.load()
    assert (job.last, sum(job.done)) == (0, 0)
    journal.close()


def test_the_pasts_of_calls_come_back_until_their_job_is_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    write_job(journal)
    tries = [Try(f"w{n}", n, n + 0.5, OutcomeKind.RAISED, "raised ValueError") for n in range(3)]
    for tried in tries[:2]:
        journal.tried("j", 4, tried)
    journal.tried("j", 1, tries[2])
    losses = [Loss(name, "a", "gone", [m.Span(0, 2), m.Span(4, 5)]) for name in ("w1", "w2")]
    for loss in losses:
        journal.lost("j", loss)
    journal.absolved("j", "w1", "b")
    journal.absolved("j", "w2", "a")
    journal.close()

    journal = Journal(path)
    (job,), _ = journal.load()
    assert job.tries == {4: tries[:2], 1: [tries[2]]}
    assert job.losses == losses[:1]
    journal.ended(
        m.JobEnded(job="j", state=JobState.COMPLETED, after=0), row(JobState.COMPLETED), 1.0
    )
    write_job(journal, "k")
    jobs, _ = journal.load()
    assert [(job.tries, job.losses) for job in jobs] == [({}, []), ({}, [])]
    journal.close()


def test_deliveries_are_read_from_any_number(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    write_job(journal)
    for number in range(1, 6):
        deliver(journal, number, [outcome(number)])
    assert [number for number, _ in journal.deliveries("j", 2, 2)] == [3, 4]
    assert journal.deliveries("j", 5, 2) == []
    journal.close()


def test_a_job_that_was_dropped_leaves_its_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    write_job(journal)
    deliver(journal, 1, [outcome(0)])
    ended = m.JobEnded(job="j", state=JobState.COMPLETED, after=1)
    journal.ended(ended, row(JobState.COMPLETED), 20.0)
    (job,), _ = journal.load()
    assert (job.ended, job.last, job.finished) == (ended, 1, 20.0)
    assert journal.chunk("j", 0) is None
    journal.archived("j")
    journal.released("j")
    journal.drop("j")
    (job,), _ = journal.load()
    assert job.submit is None
    assert job.row == row(JobState.COMPLETED)
    assert journal.deliveries("j", 0, 9) == []
    journal.close()


def test_instances_come_back_with_their_timers_facts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    kept = KeptInstance(
        instance=instance("w1"), policy=POLICY, job="", ready=True, started=5.0, engaged=["j"]
    )
    journal.keep_instance(kept)
    journal.keep_instance(KeptInstance(instance=instance("w2"), policy=POLICY, gone=True))
    journal.drop_instance("w2")
    assert journal.load()[1] == [kept]
    journal.close()


def test_only_its_owner_can_read_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "lib" / "journal.sqlite"
    old = os.umask(0)
    try:
        journal = Journal(path)
        write_job(journal)
        journal.commit()
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        journal.close()
    finally:
        os.umask(old)


def test_a_journal_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match=r"journal\.sqlite cannot be read"):
        Journal(path)


def line(text: str) -> LogLine:
    return LogLine("j", 0, "stdout", 1.0, text)


def test_logs_are_read_from_any_place_and_a_torn_end_is_cut_off(tmp_path: Path) -> None:
    logbook = Logbook(tmp_path / "logs")
    assert list(logbook.frames("j", 0)) == []
    logbook.append("j", [line("one"), line("two")])
    place = logbook.size("j")
    logbook.append("j", [line("three")])
    ((end, frame),) = logbook.frames("j", place)
    assert end == logbook.size("j")
    assert msgspec.msgpack.decode(frame, type=m.Logs).lines == [line("three")]
    logbook.close()
    (file,) = (tmp_path / "logs").iterdir()
    with file.open("ab") as torn:
        torn.write(b"\0\0\0\x20half")

    logbook = Logbook(tmp_path / "logs")
    assert [one.text for one in logbook.lines("j")] == ["one", "two", "three"]
    logbook.append("j", [line("four")])
    assert [one.text for one in logbook.lines("j")] == ["one", "two", "three", "four"]
    logbook.close()


def test_no_job_name_leads_out_of_the_logs_folder(tmp_path: Path) -> None:
    logbook = Logbook(tmp_path / "logs")
    logbook.append("../../evil", [line("x")])
    assert [path.parent for path in (tmp_path / "logs").iterdir()] == [tmp_path / "logs"]
    logbook.close()


async def test_what_is_synced_lies_in_the_database_itself(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    write_job(journal)
    await asyncio.gather(journal.sync(), journal.sync())
    alone = tmp_path / "elsewhere.sqlite"  # as a power cut leaves it, that takes all of the log
    alone.write_bytes(path.read_bytes())
    journal.close()
    after = Journal(alone)
    (job,), _ = after.load()
    assert job.chunks == [m.Span(0, 2), m.Span(2, 5)]
    after.close()


async def test_a_log_that_is_locked_for_a_moment_is_synced_a_moment_later(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    write_job(journal)
    journal.commit()
    reading = sqlite3.connect(path)
    reading.execute("BEGIN")
    reading.execute("SELECT * FROM jobs").fetchall()
    journal.items_end("j", 5)
    journal.commit()

    def hold() -> None:
        """Another checkpoint waits for that reader, with the lock that ours needs."""
        with closing(sqlite3.connect(path, timeout=0.3)) as other:
            other.execute("PRAGMA wal_checkpoint(RESTART)")

    holding = asyncio.create_task(asyncio.to_thread(hold))
    await asyncio.sleep(0.1)
    await journal.sync()
    await holding
    reading.close()
    journal.close()


async def test_much_that_was_written_is_synced_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    synced = asyncio.Event()
    move = journal._move_log
    loop = asyncio.get_running_loop()

    def moved() -> bool:
        done = move()
        loop.call_soon_threadsafe(synced.set)
        return done

    monkeypatch.setattr(journal, "_move_log", moved)
    keeping = asyncio.create_task(journal.keep_synced())
    journal.items(m.Items(job="j", start=0, count=1, data=[bytes(RIPE // 2)]))
    journal.commit()
    await asyncio.sleep(0)
    assert not journal._ripe.is_set()
    journal.items(m.Items(job="j", start=1, count=1, data=[bytes(RIPE)]))
    journal.commit()
    await synced.wait()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    journal.close()
