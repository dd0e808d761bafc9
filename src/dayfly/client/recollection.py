"""A job that is over, read back from storage: no VM need be up for it.

What lies there and in which order it was written is told in :mod:`dayfly.master.archive`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from dayfly.client.channel import Event
from dayfly.errors import ObjectNotFoundError, StorageError
from dayfly.model import JobRecord
from dayfly.storage import keys
from dayfly.storage.base import Storage
from dayfly.wire import messages as m

_RECORD = msgspec.json.Decoder(JobRecord)


class Recollection:
    """What storage remembers of a job (:class:`dayfly.client.channel.JobChannel`)."""

    def __init__(self, storage: Storage, record: JobRecord) -> None:
        self._storage = storage
        self.record = record

    @property
    def last_word(self) -> m.JobEnded:
        """How the job ended."""
        record = self.record
        return m.JobEnded(
            job=record.id,
            state=record.state,
            after=record.after or 0,
            error=record.error,
            failure=record.failure,
            reason=record.reason,
            cost=record.cost,
            total=record.total,
        )

    async def deliveries(self) -> AsyncIterator[m.Delivery]:
        """What came of the job's calls, in the order in which it came.

        Raises:
            StorageError: Storage cannot be read, or not all of it is there any more.
        """
        for frame in self.record.outcomes:
            yield self._delivery(frame)
        for part in self.record.parts:
            frames = await self._storage.get_object(keys.outcomes(self.record.id, part))
            for frame in self._decoded(frames):
                yield self._delivery(frame)

    async def events(self) -> AsyncIterator[Event]:
        """See :meth:`dayfly.client.channel.JobChannel.events`."""
        async for delivery in self.deliveries():
            yield delivery
        yield self.last_word

    async def cancel(self, indices: list[int] | None = None) -> None:
        """Nothing is left to be stopped."""

    @property
    def entrusted(self) -> bool:
        """It is over."""
        return True

    async def handed_over(self) -> bool:
        """Nothing is left to be handed over."""
        return True

    def leave(self) -> bool:
        """It is over, and nothing here can change that."""
        return True

    def _decoded(self, frames: bytes) -> list[bytes]:
        try:
            return m.CHUNK.decode(frames)
        except msgspec.MsgspecError as error:
            raise self._unreadable(error) from error

    def _delivery(self, frame: bytes) -> m.Delivery:
        try:
            return m.DELIVERY.decode(frame)
        except msgspec.MsgspecError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StorageError:
        return StorageError(
            f"the outcomes of job {self.record.id} in storage are not what dayfly wrote there",
            cause=str(error),
        )


async def recollect(storage: Storage, job: str) -> Recollection | None:
    """What storage remembers of a job; ``None`` when it keeps no record of it.

    Raises:
        StorageError: Storage cannot be read, or holds something else.
    """
    try:
        data = await storage.get_object(keys.record(job))
    except ObjectNotFoundError:
        return None
    try:
        return Recollection(storage, _RECORD.decode(data))
    except msgspec.MsgspecError as error:
        raise StorageError(
            f"the object {keys.record(job)!r} is not what dayfly wrote there",
            cause=str(error),
            hint=f"dayfly storage delete {keys.record(job)}",
        ) from error
