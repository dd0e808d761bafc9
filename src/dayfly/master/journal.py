"""What the master must still know after its service was killed: an SQLite file on its disk.

Writes gather in a transaction until :meth:`Journal.commit`; nobody is told of anything
before it is committed. A killed process loses nothing that is committed; a power cut may
lose what came after the last :meth:`Journal.sync` (``synchronous=NORMAL``): clients and workers say
it again, or the calls run again.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from dayfly import errors
from dayfly.master.suspects import Loss
from dayfly.model import DismantlePolicy, Instance, JobRow, OutcomeKind, Try
from dayfly.wire import messages as m

#: Ended jobs that are remembered by their row.
KEPT_ROWS = 1000
#: Bytes of items and deliveries after which the log is moved into the database, in a thread.
RIPE = 4 * 1024 * 1024
#: Bytes that the log's file keeps once it is written from its beginning again.
_LOG_KEPT = 64 * 1024 * 1024
#: Times that SQLite is asked to move the log while something keeps it from that; seconds between.
_TRIES, _BREATH = 100, 0.01

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    submit BLOB,
    total INTEGER,
    started REAL,
    finished REAL,
    row BLOB,
    ended BLOB,
    archived INTEGER NOT NULL DEFAULT 0,
    released INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS chunks (
    job TEXT NOT NULL, start INTEGER NOT NULL, count INTEGER NOT NULL, frame BLOB NOT NULL,
    PRIMARY KEY (job, start)
);
CREATE TABLE IF NOT EXISTS deliveries (
    job TEXT NOT NULL, number INTEGER NOT NULL, frame BLOB NOT NULL,
    PRIMARY KEY (job, number)
);
CREATE TABLE IF NOT EXISTS tries (
    job TEXT NOT NULL, call INTEGER NOT NULL, tried BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS losses (
    job TEXT NOT NULL, worker TEXT NOT NULL, incarnation TEXT NOT NULL, loss BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS orphans (job TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS deserted (job TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS instances (id TEXT PRIMARY KEY, kept BLOB NOT NULL);
"""


class KeptInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An adopted instance; times are wall-clock seconds.

    Attributes:
        policy: That of the job started last, or the one that it was adopted with.
        ready: Whether its agent has ever asked for work.
        started: When the job started last on it began.
        completed: When the job that ended last on it did; ``None`` while one is on it.
        engaged: The jobs that are on it.
        gone: It was given up or powered off; whoever hands it over again is told nothing new.
        ended: When that was.
    """

    instance: Instance
    policy: DismantlePolicy
    job: str = ""
    ready: bool = False
    started: float | None = None
    completed: float | None = None
    engaged: list[str] = []
    gone: bool = False
    ended: float | None = None


class KeptJob(msgspec.Struct, kw_only=True):
    """A job as the journal remembers it.

    Attributes:
        submit: ``None`` once the job was dropped; then only its row is left.
        last: Number of the last delivery.
        done: One byte per call that has come; not zero when it has an outcome. Only filled
            in for a running job, as is all that follows, and ``chunks``.
        tries: The failed tries of calls, the oldest first.
        losses: The unexplained losses of its workers, the oldest first.
        orphan: Whether every client had left it.
        deserted: Whether the one that handed in its items had left before these were all there.
    """

    id: str
    submit: m.Submit | None
    total: int | None
    started: float | None
    finished: float | None
    row: JobRow | None
    ended: m.JobEnded | None
    archived: bool
    released: bool
    last: int = 0
    chunks: list[m.Span] = []
    done: bytearray = msgspec.field(default_factory=bytearray)
    failed: int = 0
    tries: dict[int, list[Try]] = {}
    losses: list[Loss] = []
    orphan: bool = False
    deserted: bool = False


_KEPT = msgspec.msgpack.Decoder(KeptInstance)
_ROW = msgspec.msgpack.Decoder(JobRow)
_TRY = msgspec.msgpack.Decoder(Try)
_LOSS = msgspec.msgpack.Decoder(Loss)
_GOOD = (OutcomeKind.VALUE, OutcomeKind.STORED)


class Journal:
    """The journal in the file ``path``; close it with :meth:`close`.

    Every method may raise :class:`~dayfly.errors.StorageError`, as when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._commits = self._synced = self._unsynced = 0
        self._ripe = asyncio.Event()
        self._syncing = asyncio.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite gives its side files the mode of the file itself.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path)
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error) from error
        try:
            self._do("PRAGMA journal_mode=WAL")
            self._do("PRAGMA synchronous=NORMAL")
            self._do("PRAGMA wal_autocheckpoint=0")  # it would be the loop that waits for the disk
            self._do(f"PRAGMA journal_size_limit={_LOG_KEPT}")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._do(statement)
        except errors.StorageError:
            self._database.close()
            raise

    # -- writing --

    def submit(self, submit: m.Submit) -> None:
        """A new job."""
        self._do(
            "INSERT INTO jobs (id, submit) VALUES (?, ?)",
            (submit.spec.id, m.ENCODER.encode(submit)),
        )

    def items(self, items: m.Items) -> None:
        """The next chunk of a job's items."""
        frame = m.ENCODER.encode(items)
        self._unsynced += len(frame)
        self._do(
            "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)",
            (items.job, items.start, items.count, frame),
        )

    def items_end(self, job: str, total: int) -> None:
        """All items have come."""
        self._do("UPDATE jobs SET total = ? WHERE id = ?", (total, job))

    def started(self, job: str, at: float) -> None:
        """The first call was handed out."""
        self._do("UPDATE jobs SET started = ? WHERE id = ?", (at, job))

    def deliver(self, job: str, number: int, frame: bytes) -> None:
        """A delivery, as it goes to clients."""
        self._unsynced += len(frame)
        self._do("INSERT INTO deliveries VALUES (?, ?, ?)", (job, number, frame))

    def tried(self, job: str, call: int, tried: Try) -> None:
        """A call has failed, and is to be run again."""
        self._do("INSERT INTO tries VALUES (?, ?, ?)", (job, call, m.ENCODER.encode(tried)))

    def lost(self, job: str, loss: Loss) -> None:
        """A worker was lost for no known reason, with calls of the job in hand."""
        values = (job, loss.worker, loss.incarnation, m.ENCODER.encode(loss))
        self._do("INSERT INTO losses VALUES (?, ?, ?, ?)", values)

    def absolved(self, job: str, worker: str, incarnation: str) -> None:
        """A worker that was thought lost is back."""
        self._do(
            "DELETE FROM losses WHERE job = ? AND worker = ? AND incarnation = ?",
            (job, worker, incarnation),
        )

    def orphaned(self, job: str, *, orphan: bool) -> None:
        """Whether every client has left a job."""
        statement = "INSERT OR IGNORE INTO orphans VALUES (?)"
        self._do(statement if orphan else "DELETE FROM orphans WHERE job = ?", (job,))

    def deserted(self, job: str, *, deserted: bool) -> None:
        """Whether a job's submitter has left it before all of its items were there."""
        statement = "INSERT OR IGNORE INTO deserted VALUES (?)"
        self._do(statement if deserted else "DELETE FROM deserted WHERE job = ?", (job,))

    def ended(self, ended: m.JobEnded, row: JobRow, at: float) -> None:
        """A job is over; its items are not needed any more."""
        values = (m.ENCODER.encode(row), m.ENCODER.encode(ended), at, ended.job)
        self._do("UPDATE jobs SET row = ?, ended = ?, finished = ? WHERE id = ?", values)
        for statement in (
            "DELETE FROM chunks WHERE job = ?",
            "DELETE FROM tries WHERE job = ?",
            "DELETE FROM losses WHERE job = ?",
            "DELETE FROM orphans WHERE job = ?",
            "DELETE FROM deserted WHERE job = ?",
        ):
            self._do(statement, (ended.job,))

    def archived(self, job: str) -> None:
        """A job that is over is in storage."""
        self._do("UPDATE jobs SET archived = 1 WHERE id = ?", (job,))

    def released(self, job: str) -> None:
        """A client holds every outcome of the job."""
        self._do("UPDATE jobs SET released = 1 WHERE id = ?", (job,))

    def drop(self, job: str) -> None:
        """Keep only the row of a job that is over."""
        self._do("UPDATE jobs SET submit = NULL WHERE id = ?", (job,))
        self._do("DELETE FROM deliveries WHERE job = ?", (job,))

    def forget(self, job: str) -> None:
        """A job that was dropped was long ago."""
        self._do("DELETE FROM jobs WHERE id = ?", (job,))

    def keep_instance(self, kept: KeptInstance) -> None:
        """An instance was adopted, or what is known of it has changed."""
        self._do(
            "INSERT OR REPLACE INTO instances VALUES (?, ?)",
            (kept.instance.id, m.ENCODER.encode(kept)),
        )

    def drop_instance(self, instance: str) -> None:
        """An instance is no longer ours to care for."""
        self._do("DELETE FROM instances WHERE id = ?", (instance,))

    def commit(self) -> None:
        """Make everything that was written so far survive this process."""
        if self._database.in_transaction:
            try:
                self._database.commit()
            except sqlite3.Error as error:
                raise self._refused(error) from error
            self._commits += 1
            if self._unsynced > RIPE:
                self._ripe.set()

    async def sync(self) -> None:
        """Commit, and make all of it survive a power cut, too; the loop goes on meanwhile."""
        self.commit()
        wanted = self._commits
        async with self._syncing:
            if self._synced >= wanted:
                return  # by whoever was here before us
            wanted, self._unsynced = self._commits, 0
            for _ in range(_TRIES):
                if await asyncio.to_thread(self._move_log):
                    self._synced = wanted
                    return
                await asyncio.sleep(_BREATH)
            raise self._refused(sqlite3.OperationalError("its log is locked"))

    async def keep_synced(self) -> None:
        """Sync whenever much was written, until cancelled."""
        while True:
            await self._ripe.wait()
            self._ripe.clear()
            await self.sync()

    def _move_log(self) -> bool:
        """Have SQLite sync its log and move it into the database, by a connection of our own.

        Returns:
            Whether nothing kept it from that.
        """
        try:
            with closing(sqlite3.connect(self._path)) as database:
                busy, _, _ = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            raise self._refused(error) from error
        return not busy

    def close(self) -> None:
        """Commit, and let go of the file."""
        self.commit()
        self._database.close()

    # -- reading --

    def chunk(self, job: str, index: int) -> m.Items | None:
        """The chunk of items that holds a call; ``None`` when it has not come."""
        row = self._do(
            "SELECT frame FROM chunks WHERE job = ? AND start <= ? ORDER BY start DESC LIMIT 1",
            (job, index),
        ).fetchone()
        if row is None:
            return None
        items = m.ITEMS.decode(row[0])
        return items if index < items.start + items.count else None

    def deliveries(self, job: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to ``limit`` deliveries with a number above ``after``, in order."""
        return self._do(
            "SELECT number, frame FROM deliveries WHERE job = ? AND number > ?"
            " ORDER BY number LIMIT ?",
            (job, after, limit),
        ).fetchall()

    def rows(self) -> list[JobRow]:
        """The rows of the jobs that are over, oldest first."""
        found = self._do("SELECT row FROM jobs WHERE row IS NOT NULL ORDER BY seq").fetchall()
        return [_ROW.decode(row) for (row,) in found]

    def load(self) -> tuple[list[KeptJob], list[KeptInstance]]:
        """Everything, jobs from the oldest to the newest; the oldest rows are thrown away."""
        self._do(
            "DELETE FROM jobs WHERE row IS NOT NULL AND submit IS NULL AND seq <="
            " (SELECT max(seq) FROM jobs) - ?",
            (KEPT_ROWS,),
        )
        self.commit()
        jobs = [self._job(row) for row in self._do("SELECT * FROM jobs ORDER BY seq").fetchall()]
        kept = self._do("SELECT kept FROM instances ORDER BY rowid").fetchall()
        return jobs, [_KEPT.decode(blob) for (blob,) in kept]

    def _job(self, columns: Sequence[Any]) -> KeptJob:
        _, job_id, submit, total, started, finished, row, ended, archived, released = columns
        job = KeptJob(
            id=job_id,
            submit=msgspec.msgpack.decode(submit, type=m.Submit) if submit else None,
            total=total,
            started=started,
            finished=finished,
            row=_ROW.decode(row) if row else None,
            ended=msgspec.msgpack.decode(ended, type=m.JobEnded) if ended else None,
            archived=bool(archived),
            released=bool(released),
        )
        if job.ended is not None:
            job.last = job.ended.after
        else:
            self._fill(job)
        return job

    def _fill(self, job: KeptJob) -> None:
        chunks = self._do("SELECT start, count FROM chunks WHERE job = ? ORDER BY start", (job.id,))
        job.chunks = [m.Span(start, start + count) for start, count in chunks]
        job.done = bytearray(job.chunks[-1].stop if job.chunks else 0)
        tries = self._do("SELECT call, tried FROM tries WHERE job = ? ORDER BY rowid", (job.id,))
        job.tries = {}
        for call, tried in tries:
            job.tries.setdefault(call, []).append(_TRY.decode(tried))
        losses = self._do("SELECT loss FROM losses WHERE job = ? ORDER BY rowid", (job.id,))
        job.losses = [_LOSS.decode(loss) for (loss,) in losses]
        orphan = self._do("SELECT 1 FROM orphans WHERE job = ?", (job.id,)).fetchone()
        job.orphan = orphan is not None
        deserted = self._do("SELECT 1 FROM deserted WHERE job = ?", (job.id,)).fetchone()
        job.deserted = deserted is not None
        while page := self.deliveries(job.id, job.last, 100):
            for job.last, frame in page:
                delivery = m.DELIVERY.decode(frame)
                for outcome in delivery.outcomes:
                    job.done[outcome.index] = 1
                    job.failed += outcome.kind not in _GOOD

    def _do(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._database.execute(sql, values)
        except sqlite3.Error as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> errors.StorageError:
        return errors.StorageError(
            f"the master's journal {self._path} cannot be read or written",
            cause=str(error),
            hint="df -h on the master VM: its disk may be full",
        )
