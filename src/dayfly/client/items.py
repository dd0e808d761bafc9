"""Reading a map's items: any iterable -> pickles in batches, never far ahead."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sized,
)
from typing import Any

from dayfly.clock import Clock
from dayfly.errors import JobCancelledError, UsageError

#: Most items in a batch after the first, and bytes from which a batch is full.
BATCH, BATCH_BYTES = 1000, 1 << 20
#: Items that may be read beyond those whose outcome is here.
AHEAD = 20_000
#: Seconds after the first item by which the first batch is taken as it is: whoever makes items
#: so slowly, or from the results of earlier ones, is not kept waiting for workers.
PATIENCE = 1.0
#: Seconds of reading after which the loop gets its turn.
SLICE = 0.01

#: Items that are pickled together at most, where those before them were small.
TOGETHER = 32

#: Items, and the index of the first -> their pickles.
Dump = Callable[[list[Any], int], list[bytes]]


def check(iterdata: object) -> None:
    """Refuse what cannot be, or can hardly be meant as, the items of a map.

    Raises:
        UsageError: It says which, and what to write in its place.
    """
    kind = type(iterdata).__name__
    if isinstance(iterdata, str | bytes | bytearray | Mapping):
        what = "its keys" if isinstance(iterdata, Mapping) else "its characters"
        raise UsageError(
            f"map() was given a {kind} as the whole of its items",
            cause=f"it would make one call for each of {what}",
            hint=f"map(fn, [item]) for one call with the {kind}; map(fn, list(items)) if meant",
        )
    if not isinstance(iterdata, Iterable | AsyncIterable):
        raise UsageError(
            f"map() was given a {kind} as its items, which cannot be iterated",
            hint="map(fn, [item]) for one call, or executor.submit(fn, item)",
        )


class Source:
    """The items of one job, pickled in order.

    It reads when it is asked to, and no further than ``AHEAD`` items beyond those that are
    done. Iterate over it for the batches; close it when the job has ended.

    Attributes:
        total: Items in all; ``None`` until the last one is read, unless the data has a length.
        read: Items read so far.
    """

    def __init__(
        self,
        iterdata: Iterable[Any] | AsyncIterable[Any],
        dump: Dump,
        *,
        first: int,
        clock: Clock,
        ahead: int = AHEAD,
    ) -> None:
        self.total: int | None = len(iterdata) if isinstance(iterdata, Sized) else None
        self.read = 0
        self._dump = dump
        self._first = first
        self._clock = clock
        self._ahead = max(ahead, first)
        self._done = 0
        self._room = asyncio.Event()
        self._peeked: list[bytes] | None = None
        self._exhausted = False
        self._closed = False
        self._reader: _Reader | None = None
        self._iterator: Iterator[Any] = iter(())
        if isinstance(iterdata, AsyncIterable):
            self._reader = _Reader(iterdata)
        else:
            self._iterator = iter(iterdata)

    def __aiter__(self) -> AsyncIterator[list[bytes]]:
        return self

    async def __anext__(self) -> list[bytes]:
        if self._closed:
            raise JobCancelledError("the job has ended: its items are not read any further")
        batch, self._peeked = self._peeked, None
        if batch is None:
            batch = await self._next()
        if not batch:
            raise StopAsyncIteration
        return batch

    async def peek(self) -> list[bytes]:
        """The first batch, without taking it; empty when there is no item at all."""
        if self._peeked is None:
            self._peeked = await self._next()
        return self._peeked

    def settle(self, done: int) -> None:
        """So many outcomes are here: there is room for as many more items."""
        self._done = done
        self._room.set()

    async def aclose(self) -> None:
        """Read nothing more."""
        self._closed = True
        if self._reader is not None:
            await self._reader.aclose()

    async def _next(self) -> list[bytes]:
        while self.read - self._done >= self._ahead:
            self._room.clear()
            await self._room.wait()
        batch: list[bytes] = []
        size = 0
        least = self._first if not self.read else 1
        most = max(least, BATCH)
        now = self._clock.monotonic()
        turn, latest = now + SLICE, math.inf
        while len(batch) < most and not self._exhausted:
            # Without any item there is nothing to go on with; one more is awaited only while
            # the batch is too small.
            patience = None if not batch else latest - now if len(batch) < least else 0.0
            items = await self._items(self._appetite(batch, size, most), patience, turn)
            pickles = self._dump(items, self.read)
            batch += pickles
            self.read += len(pickles)
            size += sum(map(len, pickles))
            if self._exhausted:
                self.total = self.read
            if not items:
                break
            now = self._clock.monotonic()
            if len(batch) == len(pickles):
                latest = now + PATIENCE
            if len(batch) >= least or now >= latest:
                if size >= BATCH_BYTES or now >= turn:
                    break
            elif now >= turn:
                await asyncio.sleep(0)
                turn = now + SLICE
        await asyncio.sleep(0)
        return batch

    def _appetite(self, batch: list[bytes], size: int, most: int) -> int:
        """How many items to read before the batch is weighed again: one more may be a large one."""
        likely = (BATCH_BYTES - size) * len(batch) // max(1, size)
        return max(1, min(TOGETHER, len(batch), likely, most - len(batch)))

    async def _items(self, most: int, patience: float | None, turn: float) -> list[Any]:
        """The next items; none at the end, or when none comes in time.

        Args:
            most: How many, at most.
            patience: Seconds to wait for one; ``None`` for as long as it takes.
            turn: When to stop, where they come without waiting.
        """
        if self._reader is not None:
            found, item = await self._reader.next(patience)
            self._exhausted = self._reader.exhausted
            return [item] if found else []
        items: list[Any] = []
        monotonic = self._clock.monotonic
        for item in self._iterator:
            items.append(item)
            if len(items) == most or monotonic() >= turn:
                return items
        self._exhausted = True
        return items


class Feed:
    """The items as the session reads them: what goes wrong there is the job's failure."""

    def __init__(self, source: Source, give_up: Callable[[BaseException], None]) -> None:
        self.source = source
        self._give_up = give_up

    def __aiter__(self) -> AsyncIterator[list[bytes]]:
        return self

    async def __anext__(self) -> list[bytes]:
        try:
            return await anext(self.source)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self._give_up(error)
            raise


class Once:
    """One item that is had by waiting for something else."""

    def __init__(self, awaited: Awaitable[Any]) -> None:
        self._awaited = awaited

    def __len__(self) -> int:
        return 1

    async def __aiter__(self) -> AsyncIterator[Any]:
        yield await self._awaited


class Elsewhere:
    """The items of a job that another program reads; its total is told as soon as it is known."""

    def __init__(self, total: int | None) -> None:
        self.total = total

    def settle(self, done: int) -> None:
        """Nothing is read here."""

    async def aclose(self) -> None:
        """Nothing is read here."""


class _Reader:
    """Reads an async iterable in one task of its own, a few items ahead.

    One task from the first item to the last: what the iterable holds across its yields (a
    timeout, a task group) is entered and left by the same task.
    """

    ahead = 100

    def __init__(self, items: AsyncIterable[Any]) -> None:
        self.exhausted = False
        self._items = aiter(items)
        self._waiting: deque[Any] = deque()
        self._stirred = asyncio.Event()
        self._room = asyncio.Semaphore(self.ahead)
        self._task: asyncio.Task[None] | None = None

    async def next(self, patience: float | None) -> tuple[bool, Any]:
        if self._task is None:
            self._task = asyncio.create_task(self._read(), name="dayfly items")
            self._task.add_done_callback(lambda _: self._stirred.set())
        if not self._waiting and not self._task.done():
            try:
                async with asyncio.timeout(patience):
                    self._stirred.clear()
                    await self._stirred.wait()
            except TimeoutError:
                return False, None
        if self._waiting:
            self._room.release()
            return True, self._waiting.popleft()
        self.exhausted = True
        self._task.result()  # raises what the iterable raised
        return False, None

    async def aclose(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _read(self) -> None:
        try:
            async for item in self._items:
                await self._room.acquire()
                self._waiting.append(item)
                self._stirred.set()
        finally:
            if isinstance(self._items, AsyncGenerator):
                await self._items.aclose()
