"""The three that are measured, behind one face."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.pool
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from benchmarks import floor
from benchmarks.work import PROCESSES

#: The most calls that the floor sends at once.
LARGEST_BATCH = 500

Fn = Callable[[Any], Any]


class Peer(Protocol):
    """Something that calls functions elsewhere, warm."""

    async def call(self, fn: Fn, item: object) -> object:
        """One call."""
        ...

    async def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        """Many, by the peer's own choice of batches."""
        ...


class Pool:
    """``multiprocessing.Pool``, which has no road to another machine."""

    def __init__(self, pool: multiprocessing.pool.Pool) -> None:
        self._pool = pool

    async def call(self, fn: Fn, item: object) -> object:
        """One call; blocks the loop, which has nothing else to do."""
        return self._pool.apply(fn, (item,))

    async def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        """Many."""
        return self._pool.map(fn, items)


class Floor:
    """Bare asyncio over Unix sockets."""

    def __init__(self, connections: floor.Connections) -> None:
        self._connections = connections

    async def call(self, fn: Fn, item: object) -> object:
        """One call."""
        (result,) = await floor.run(self._connections[:1], fn, [item], 1)
        return result

    async def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        """Many."""
        batch = min(LARGEST_BATCH, max(1, len(items) // (PROCESSES * 25)))
        return await floor.run(self._connections, fn, items, batch)


class Dayfly:
    """dayfly on the embedded cloud: two VMs of two processes, and a master."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    async def call(self, fn: Fn, item: object) -> object:
        """One call."""
        return await self._executor.submit(fn, item)

    async def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        """Many."""
        return list(await self._executor.map(fn, items))


def settings(folder: Path) -> dict[str, dict[str, Any]]:
    """A configuration whose cloud and storage are below ``folder``: 4 processes on 2 VMs."""
    return {
        "localhost": {
            "directory": str(folder / "cloud"),
            "storage_directory": str(folder / "storage"),
            "worker_instance_type": f"local.{PROCESSES // 2}",
            "max_workers": 2,
        }
    }


@asynccontextmanager
async def open_peer(name: str, folder: Path, sockets: Sequence[str]) -> AsyncIterator[Peer]:
    """Open a peer.

    Args:
        name: ``pool``, ``floor`` or ``dayfly``.
        folder: Where its files are.
        sockets: Of the floor's workers.
    """
    if name == "pool":
        pool = multiprocessing.get_context("fork").Pool(PROCESSES)
        try:
            yield Pool(pool)
        finally:
            pool.terminate()
            pool.join()
    elif name == "floor":
        connections = await floor.connect(sockets)
        yield Floor(connections)
        for _, writer in connections:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in connections))
    else:
        from dayfly import FunctionExecutor

        async with FunctionExecutor(config=settings(folder), progress=False) as executor:
            yield Dayfly(executor)


def purge(folder: Path) -> None:
    """Delete every VM that dayfly made below ``folder``."""

    async def delete_all() -> None:
        from dayfly.config import load
        from dayfly.parts import open_parts

        async with open_parts(load(settings(folder))) as parts:
            await parts.cloud.purge()

    asyncio.run(delete_all())
