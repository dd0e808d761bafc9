"""Functions and items on their way out: inline while they are small, else through storage."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from dayfly.storage import keys
from dayfly.storage.base import Storage
from dayfly.wire import messages as m

#: Bytes of items that a job may send inline; the master keeps them.
INLINE_BUDGET = 1 << 20
#: Bytes of items in one object of storage: large enough to be worth a request, small enough
#: to be shared out among workers.
CHUNK = 1 << 20
#: Chunks that are being stored at the same time; bounds what a generator holds in memory.
WINDOW = 8

Say = Callable[[m.FromClient], Awaitable[None]]


async def send_payload(storage: Storage, key: str, data: bytes) -> m.Payload:
    """A pickle as the wire carries it, stored under ``key`` when it is large."""
    if len(data) <= m.INLINE_LIMIT:
        return m.Payload(data=data)
    await storage.put_object(key, data)
    return m.Payload(key=key)


async def send_items(
    job: str,
    first: list[bytes],
    rest: AsyncIterator[list[bytes]],
    *,
    storage: Storage,
    say: Say,
) -> int:
    """Send a job's items in order, and their end.

    Args:
        job: The job.
        first: The items that were read already.
        rest: The others, some at a time.
        storage: For what is too large to travel inline.
        say: Sends one message.

    Returns:
        How many items there were.
    """
    total = 0
    budget = INLINE_BUDGET
    async with _Shelf(storage, say) as shelf:
        async for batch in _after(first, rest):
            for chunk in cut(batch, m.INLINE_LIMIT if budget > 0 else CHUNK):
                size = sum(map(len, chunk))
                items = m.Items(job=job, start=total, count=len(chunk), data=chunk)
                total += len(chunk)
                if size <= min(budget, m.INLINE_LIMIT):
                    budget -= size
                    await say(items)
                else:
                    # Items are said in order, so once one goes through storage all others do.
                    budget = 0
                    await shelf.put(items)
    await say(m.ItemsEnd(job=job, total=total))
    return total


class _Shelf:
    """Stores chunks, several at a time, and says each as soon as those before it are said."""

    def __init__(self, storage: Storage, say: Say) -> None:
        self._storage = storage
        self._say = say
        self._storing: deque[asyncio.Task[None]] = deque()

    async def __aenter__(self) -> _Shelf:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, traceback: object
    ) -> None:
        try:
            while self._storing and kind is None:
                await self._storing.popleft()
        finally:
            for task in self._storing:
                task.cancel()
            await asyncio.gather(*self._storing, return_exceptions=True)

    async def put(self, items: m.Items) -> None:
        """Begin to store a chunk; waits while too many are being stored.

        Raises:
            StorageError: An earlier one could not be stored.
        """
        while self._storing and (len(self._storing) >= WINDOW or self._storing[0].done()):
            await self._storing.popleft()
        before = self._storing[-1] if self._storing else None
        self._storing.append(asyncio.create_task(self._put(items, before)))

    async def _put(self, items: m.Items, before: asyncio.Task[None] | None) -> None:
        key = keys.items(items.job, items.start)
        await self._storage.put_object(key, m.ENCODER.encode(items.data))
        if before is not None:
            await asyncio.wait([before])
            if before.cancelled() or before.exception():
                return  # items are said without gaps; whoever waits for that one sees why
        await self._say(m.Items(job=items.job, start=items.start, count=items.count, key=key))


def cut(pickles: list[bytes], limit: int) -> Iterator[list[bytes]]:
    """Cut a batch into chunks of at most ``limit`` bytes, each of one pickle at least."""
    chunk: list[bytes] = []
    size = 0
    for pickle in pickles:
        if chunk and size + len(pickle) > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append(pickle)
        size += len(pickle)
    if chunk:
        yield chunk


async def _after(
    first: list[bytes], rest: AsyncIterator[list[bytes]]
) -> AsyncIterator[list[bytes]]:
    yield first
    async for batch in rest:
        yield batch
