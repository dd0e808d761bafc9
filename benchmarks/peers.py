"""All that are measured, behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks import floor, libraries, tunnel
from benchmarks.work import PROCESSES, nap

#: The most calls that the floor sends at once.
LARGEST_BATCH = 500
#: Workers of one process, where there are many of them.
MANY = 40

Fn = Callable[[Any], Any]

#: What a user of each peer imports. ``tunnel`` is a floor for one call and has no map.
IMPORTS: Final[Mapping[str, str]] = {
    "floor": "import asyncio",
    "tunnel": "import asyncio, asyncssh",
    "executor": "from concurrent.futures import ProcessPoolExecutor",
    "pool": "import multiprocessing.pool",
    "joblib": "import joblib",
    "mpire": "from mpire import WorkerPool",
    "ray": "import ray",
    "dask": "from distributed import Client, LocalCluster",
    "parsl": "import parsl; from parsl.executors import HighThroughputExecutor",
    "lithops": "from lithops import FunctionExecutor",
    "dayfly": "from dayfly import FunctionExecutor",
}
PEERS: Final = tuple(IMPORTS)


class Peer(Protocol):
    """Something that calls functions elsewhere, warm."""

    async def call(self, fn: Fn, item: object) -> object:
        """One call."""
        ...

    async def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        """Many, by the peer's own choice of batches."""
        ...


class Streaming(Peer, Protocol):
    """A peer that also hands out results before it has read all of the items."""

    async def total(self, fn: Fn, items: Iterable[Any], count: int) -> int:
        """The sum of what the calls return, added up as they come."""
        ...


class Blocking:
    """A library that blocks the loop, which has nothing else to do."""

    def __init__(self, library: libraries.Library) -> None:
        self._library = library

    async def call(self, fn: Fn, item: object) -> object:
        """One call."""
        return self._library.call(fn, item)

    async def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        """Many."""
        return self._library.map(fn, items)


class BlockingStream(Blocking):
    """One of those that can read items as they are needed."""

    def __init__(self, library: libraries.Streaming) -> None:
        super().__init__(library)
        self._streaming = library

    async def total(self, fn: Fn, items: Iterable[Any], count: int) -> int:
        """The sum of the results."""
        return self._streaming.total(fn, items, count)


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

    async def total(self, fn: Fn, items: Iterable[Any], count: int) -> int:  # noqa: ARG002
        """The sum of the results."""
        return await floor.total(self._connections, fn, items, LARGEST_BATCH)


class Dayfly:
    """dayfly on the embedded cloud: two VMs of two processes, and a master."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    @property
    def storage(self) -> Any:
        """Where large values go."""
        return self._executor.storage

    async def call(self, fn: Fn, item: object) -> object:
        """One call."""
        return await self._executor.submit(fn, item)

    async def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        """Many."""
        return list(await self._executor.map(fn, items))

    async def each(self, fn: Fn, items: Iterable[Any]) -> AsyncIterator[tuple[int, Any]]:
        """Index and result, as they come."""
        async for outcome in self._executor.map(fn, items).as_completed(keep=False):
            yield outcome.index, outcome.result()

    async def total(self, fn: Fn, items: Iterable[Any], count: int) -> int:  # noqa: ARG002
        """The sum of the results."""
        found = 0
        async for outcome in self._executor.map(fn, items).as_completed(keep=False):
            found += outcome.result()
        return found


def settings(folder: Path, *, many: bool = False) -> dict[str, dict[str, Any]]:
    """A configuration whose cloud and storage are below ``folder``.

    Args:
        folder: Where they are.
        many: 40 VMs of one process instead of two of two.
    """
    processes, workers = (1, MANY) if many else (PROCESSES // 2, 2)
    return {
        "localhost": {
            "directory": str(folder / "cloud"),
            "storage_directory": str(folder / "storage"),
            "worker_instance_type": f"local.{processes}",
            "max_workers": workers,
        }
    }


@contextmanager
def started(name: str, folder: Path) -> Iterator[list[str]]:
    """What the floors need before there is a client: their processes; gives their sockets."""
    with ExitStack() as stack:
        sockets: list[str] = []
        if name == "floor":
            sockets = stack.enter_context(floor.workers(folder, PROCESSES))
        elif name == "tunnel":
            worker = stack.enter_context(floor.workers(folder, 1))
            sockets = stack.enter_context(tunnel.servers(folder, worker[0]))
        yield sockets


@asynccontextmanager
async def open_peer(name: str, folder: Path, sockets: Sequence[str]) -> AsyncIterator[Peer]:
    """Open a peer.

    Args:
        name: One of :data:`PEERS`.
        folder: Where its files are.
        sockets: Of what was :func:`started`.
    """
    if name in libraries.OPEN:
        with libraries.OPEN[name](folder) as library:
            streams = hasattr(library, "total")
            yield BlockingStream(library) if streams else Blocking(library)  # type: ignore[arg-type]
    elif name == "floor":
        connections = await floor.connect(sockets)
        yield Floor(connections)
        for _, writer in connections:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in connections))
    elif name == "tunnel":
        async with tunnel.connect(folder, *sockets) as connection:
            yield Floor([connection])
    else:
        async with open_dayfly(folder) as dayfly:
            yield dayfly


@asynccontextmanager
async def open_dayfly(folder: Path, *, many: bool = False) -> AsyncIterator[Dayfly]:
    """Open dayfly, and have all of its machines up."""
    from dayfly import FunctionExecutor

    async with FunctionExecutor(config=settings(folder, many=many), progress=False) as executor:
        if many:
            await executor.map(nap, range(MANY * 10))
        yield Dayfly(executor)


def purge(folder: Path) -> None:
    """Delete every VM that dayfly made below ``folder``."""

    async def delete_all() -> None:
        from dayfly.config import load
        from dayfly.parts import open_parts

        async with open_parts(load(settings(folder))) as parts:
            await parts.cloud.purge()

    asyncio.run(delete_all())
