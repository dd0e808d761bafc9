"""A job that is over, in storage: it can be read after every VM is gone.

The record is written last, so whoever finds it finds the rest:

* ``keys.record``: the :class:`~dayfly.model.JobRecord` as JSON, with the outcomes if they are few;
* ``keys.outcomes``: else parts, each a MessagePack array of encoded
  :class:`~dayfly.wire.messages.Delivery`;
* ``keys.logs``: a MessagePack array of :class:`~dayfly.model.LogLine`.

A job may be told to a second master, if the first is lost just as it has ended. What was completed
stays so: only a job that is completed takes the place of a record that is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from itertools import chain, repeat

import msgspec

from dayfly.errors import DayflyError, ObjectExistsError
from dayfly.master.journal import Journal
from dayfly.master.logbook import Logbook
from dayfly.model import JobRecord, JobRow, JobState
from dayfly.storage import keys
from dayfly.storage.base import Storage
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Seconds, at most, after its end in which a job is not written: whoever awaits it hears of it
#: first, and those that end in the meantime cost one sync of the journal together.
PAUSE = 0.25
#: Jobs that are written at once: those that run come first.
WRITERS = 2
#: Seconds before a job that storage refused is written again, each time; then as the last.
AGAIN = (1.0, 5.0, 20.0, 60.0)
#: Bytes of outcomes that the record itself may hold: one object per job is enough for most.
FEW = 16 * 1024
#: Bytes of outcomes per part, about.
PART = 8 * 1024 * 1024


async def archive(record: JobRecord, journal: Journal, logbook: Logbook, storage: Storage) -> None:
    """Write a job that is over to storage.

    Args:
        record: The job, but for its outcomes; the journal's word that it is over is synced.
        journal: Where these are.
        logbook: Where its logs are.
        storage: Where to.

    Raises:
        StorageError: Storage refused; nothing is lost here, and it can be said again.
    """
    job, size, after = record.id, 0, 0
    frames: list[bytes] = []
    parts: list[str] = []
    while page := journal.deliveries(job, after, 64):
        after = page[-1][0]
        frames += [frame for _, frame in page]
        size += sum(len(frame) for _, frame in page)
        if size >= PART:
            parts.append(await _put_part(job, frames, storage))
            size, frames = 0, []
    if frames and (parts or size > FEW):
        parts.append(await _put_part(job, frames, storage))
        frames = []
    record = msgspec.structs.replace(record, outcomes=frames, parts=parts)
    ends = [(keys.record(job), msgspec.json.encode(record))]
    if logbook.size(job):
        ends.insert(0, (keys.logs(job), m.ENCODER.encode(logbook.lines(job))))
    for key, data in ends:
        try:
            await storage.put_object(key, data, if_absent=record.state is not JobState.COMPLETED)
        except ObjectExistsError:
            log.info("%s is there, as an earlier master or attempt has written it", key)


async def _put_part(job: str, frames: list[bytes], storage: Storage) -> str:
    data = m.ENCODER.encode(frames)
    part = hashlib.sha256(data).hexdigest()
    await storage.put_object(keys.outcomes(job, part), data)
    return part


class Archivist:
    """Writes jobs that are over, each in a task of its own.

    Args:
        journal: Where the outcomes are.
        logbook: Where the logs are.
        storage: Where to.
        done: Called when one is there, and when the first attempt has failed, with its words.

    Attributes:
        idle: Set while nothing is being written.
    """

    def __init__(
        self,
        journal: Journal,
        logbook: Logbook,
        storage: Storage,
        done: Callable[[JobRow, str], None],
    ) -> None:
        self._journal = journal
        self._logbook = logbook
        self._storage = storage
        self._done = done
        self._tasks: set[asyncio.Task[None]] = set()
        #: The sync that has not begun yet, for all that waits for one.
        self._next_sync: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(WRITERS)
        self.idle = asyncio.Event()
        self.idle.set()

    def begin(self, record: JobRecord) -> None:
        """Begin to write a job."""
        self.idle.clear()
        task = asyncio.create_task(self._write(record), name=f"dayfly archive {record.id}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """Stop; what is not written is begun again after a restart."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, record: JobRecord) -> None:
        for attempt, pause in enumerate(chain(AGAIN, repeat(AGAIN[-1]))):
            try:
                await self._synced()
                async with self._slots:
                    await archive(record, self._journal, self._logbook, self._storage)
            except DayflyError as error:
                failure = f"job {record.id} could not be written to storage yet: {error}"
                log.warning("%s", failure)
                if not attempt:
                    self._done(record, failure)
            else:
                self._done(record, "")
                return
            await asyncio.sleep(pause)

    async def _synced(self) -> None:
        """A power cut must not bring a job back to life whose record is in storage."""
        if self._next_sync is None:
            self._next_sync = asyncio.create_task(self._sync_soon(), name="dayfly journal sync")
            self._tasks.add(self._next_sync)
            self._next_sync.add_done_callback(self._ended)
        await asyncio.wait([sync := self._next_sync])
        await sync

    async def _sync_soon(self) -> None:
        await asyncio.sleep(PAUSE)
        self._next_sync = None  # whoever comes from now on is late for this one
        await self._journal.sync()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self.idle.set()
