"""Large outcomes, fetched from storage: those that lie in one object by one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dayfly import errors, serialize
from dayfly.model import CallOutcome
from dayfly.serialize import Outcome
from dayfly.storage import keys

#: Objects that are fetched at the same time.
FETCHES = 16

Fetch = Callable[[str], Awaitable[bytes]]


class Fetching:
    """Fetches the outcomes of one job.

    Args:
        job: Its id.
        fetch: Reads an object of storage.
        record: Told each outcome.
        announce: Called after the last one of an object.
    """

    def __init__(
        self,
        job: str,
        fetch: Fetch,
        record: Callable[[Outcome], None],
        announce: Callable[[], None],
    ) -> None:
        self._job = job
        self._fetch = fetch
        self._record = record
        self._announce = announce
        self._slots = asyncio.Semaphore(FETCHES)

    async def begin(self, outcomes: list[CallOutcome], errands: asyncio.TaskGroup) -> None:
        """Begin to fetch; waits while too much is being fetched."""
        by_key: dict[str, list[CallOutcome]] = {}
        for outcome in outcomes:
            key, _ = keys.place(outcome.payload.decode())
            by_key.setdefault(key, []).append(outcome)
        for key, its in by_key.items():
            await self._slots.acquire()
            errands.create_task(self._fetch_object(key, its))

    async def _fetch_object(self, key: str, outcomes: list[CallOutcome]) -> None:
        try:
            stored = memoryview(await self._fetch(key))
        except errors.StorageError as error:
            for outcome in outcomes:  # their values are lost; the others are not
                self._record(Outcome(index=outcome.index, error=error, worker=outcome.worker))
        else:
            for outcome in outcomes:
                _, part = keys.place(outcome.payload.decode())
                self._record(serialize.decode(outcome, self._job, stored[part]))
        finally:
            self._slots.release()
        self._announce()
