"""The floor: a client and four processes over Unix sockets, and nothing else.

No provisioning, no SSH, no leases, no journal, no retries, no logs, no deadlines: what is left
is what any asyncio map must pay that wants to name the one item that fails, and so pickles
each item and each result by itself. ``python -m benchmarks.floor SOCKET`` is one worker.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import pickle
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HEAD = struct.Struct("!I")

dumps = functools.partial(pickle.dumps, protocol=5)
loads = pickle.loads

Connections = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


def serve(path: str) -> None:
    """One worker: a batch of calls in, a list of results out."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    while True:
        with server.accept()[0] as peer, peer.makefile("rb") as stream:
            while head := stream.read(HEAD.size):
                fn, items = loads(stream.read(HEAD.unpack(head)[0]))
                reply = dumps([dumps(fn(loads(item))) for item in items])
                peer.sendall(HEAD.pack(len(reply)) + reply)


@contextmanager
def workers(folder: Path, count: int) -> Iterator[list[str]]:
    """Start the workers, and end them; gives their sockets."""
    paths = [str(folder / f"floor-{number}") for number in range(count)]
    started = [subprocess.Popen([sys.executable, "-m", "benchmarks.floor", p]) for p in paths]
    try:
        while not all(Path(path).exists() for path in paths):
            time.sleep(0.001)
        yield paths
    finally:
        for process in started:
            process.kill()
            process.wait()
        for path in paths:
            Path(path).unlink(missing_ok=True)


async def connect(paths: Sequence[str]) -> Connections:
    """Connect to the workers; a socket that is bound but not yet listening is tried again."""
    found: Connections = []
    for path in paths:
        while True:
            try:
                found.append(await asyncio.open_unix_connection(path))
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.001)
    return found


async def run(
    connections: Connections, fn: Callable[[Any], Any], items: Sequence[Any], batch: int
) -> list[Any]:
    """Map over the workers: each takes the next batch when it is done with the last."""
    waiting = deque(range(0, len(items), batch))
    results: list[Any] = [None] * len(items)

    async def feed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while waiting:
            start = waiting.popleft()
            data = dumps((fn, [dumps(item) for item in items[start : start + batch]]))
            writer.write(HEAD.pack(len(data)) + data)
            (size,) = HEAD.unpack(await reader.readexactly(HEAD.size))
            reply = loads(await reader.readexactly(size))
            results[start : start + batch] = [loads(result) for result in reply]

    await asyncio.gather(*(feed(*connection) for connection in connections))
    return results


async def total(
    connections: Connections, fn: Callable[[Any], Any], items: Iterable[Any], batch: int
) -> int:
    """The sum of what the calls return; items are read as they are needed, results not kept."""
    waiting = iter(items)
    found = 0

    async def feed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal found
        while taken := list(itertools.islice(waiting, batch)):
            data = dumps((fn, [dumps(item) for item in taken]))
            writer.write(HEAD.pack(len(data)) + data)
            (size,) = HEAD.unpack(await reader.readexactly(HEAD.size))
            found += sum(map(loads, loads(await reader.readexactly(size))))

    await asyncio.gather(*(feed(*connection) for connection in connections))
    return found


if __name__ == "__main__":
    serve(sys.argv[1])
