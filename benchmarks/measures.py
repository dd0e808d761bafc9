"""What is measured of a peer that is open and warm; each measure gives one sample."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks import figures
from benchmarks.peers import MANY, Dayfly, Peer, Streaming, open_dayfly
from benchmarks.work import (
    LARGE_BLOB,
    LARGE_BLOBS,
    PROCESSES,
    SLEEP,
    SLEEPS,
    blobs,
    doze,
    durations,
    echo,
    large_blobs,
    nap,
    nothing,
)

#: Calls in a row whose latency is taken; fewer once they have taken this many seconds.
CALLS: Final = 300
CALLS_SECONDS: Final = 20.0
#: Items of a generator, and of the one whose memory is compared.
STREAMED: Final = 1_000_000
STREAMED_BEFORE: Final = 10_000
#: Calls for 40 workers: 2 s each.
NAPS: Final = MANY * 40
#: Large objects in flight at once where the storage works alone.
_LANES: Final = 4

#: Name of a figure -> one sample.
Sample = Mapping[str, float]


class WrongAnswerError(Exception):
    """A peer did not give what the function returns; a wrong answer is no answer."""


def check(found: object, right: object) -> None:
    """Refuse a wrong answer."""
    if found != right:
        raise WrongAnswerError(f"got {found!r:.80} instead of {right!r:.80}")


async def warm_call(peer: Peer) -> Sample:
    """One call at a time."""
    taken: list[float] = []
    while len(taken) < CALLS and (len(taken) < 3 or sum(taken) < CALLS_SECONDS * 1e3):
        began = time.perf_counter()
        result = await peer.call(nothing, len(taken))
        elapsed = time.perf_counter() - began
        check(result, len(taken))
        taken.append(elapsed * 1e3)
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {figures.CALL: cuts[49], figures.CALL_P99: cuts[98]}


def throughput(count: int) -> Callable[[Peer], Awaitable[Sample]]:
    """A map over ``count`` calls that do nothing."""

    async def measure(peer: Peer) -> Sample:
        items = range(count)
        processor, began = time.process_time(), time.perf_counter()
        results = await peer.map(nothing, items)
        taken, busy = time.perf_counter() - began, time.process_time() - processor
        check(results == list(items), right=True)
        found = {figures.calls(count): count / taken}
        return found | {figures.CLIENT_CPU: busy} if count == 10_000 else found

    return measure


async def stream(peer: Streaming) -> Sample:
    """A generator whose results are added up as they come."""
    await _total(peer, STREAMED_BEFORE)
    before = peak_memory()
    began = time.perf_counter()
    await _total(peer, STREAMED)
    taken = time.perf_counter() - began
    return {figures.STREAM: STREAMED / taken, figures.STREAM_MEMORY: peak_memory() - before}


async def _total(peer: Streaming, count: int) -> None:
    check(await peer.total(nothing, (number for number in range(count)), count), sum(range(count)))


def peak_memory() -> float:
    """The most that this process has held in memory, in MB."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1e3


async def data(peer: Peer) -> Sample:
    """1,000 values of 100 kB there, and back."""
    items = blobs()
    began = time.perf_counter()
    results = await peer.map(echo, items)
    taken = time.perf_counter() - began
    check(results == items, right=True)
    return {figures.DATA: 2 * sum(map(len, items)) / 1e6 / taken}


async def efficiency(peer: Peer) -> Sample:
    """The ideal time over the actual one, for calls of 50 ms."""
    began = time.perf_counter()
    results = await peer.map(nap, range(SLEEPS))
    taken = time.perf_counter() - began
    check(results, list(range(SLEEPS)))
    return {figures.EFFICIENCY: SLEEPS * SLEEP / PROCESSES / taken}


async def mixed(peer: Peer) -> Sample:
    """The same, for calls that differ: one that is begun late, or behind another, is seen."""
    items = durations()
    began = time.perf_counter()
    results = await peer.map(doze, items)
    taken = time.perf_counter() - began
    check(results, items)
    return {figures.MIXED: sum(items) / PROCESSES / taken}


async def storage(peer: Peer) -> Sample:
    """100 values of 10 MB there and back, and the same puts and gets by the storage alone."""
    if not isinstance(peer, Dayfly):
        raise TypeError(peer)
    right = list(large_blobs())
    seen = 0
    began = time.perf_counter()
    async for index, result in peer.each(echo, right):
        check(result == right[index], right=True)
        seen += 1
    through = time.perf_counter() - began
    check(seen, LARGE_BLOBS)
    alone = await _alone(peer, right)
    travelled = 2 * LARGE_BLOBS * LARGE_BLOB / 1e6
    return {figures.STORAGE: travelled / through, figures.STORAGE_RATIO: alone / through}


async def _alone(peer: Dayfly, values: list[bytes]) -> float:
    """Seconds for items that are put and got, and then results; some of them at once."""
    keys = iter([f"bench/{way}/{number}" for way in "io" for number in range(len(values))])
    held = iter(values * 2)

    async def lane() -> None:
        for key in keys:
            value = next(held)
            await peer.storage.put_object(key, value)
            check(await peer.storage.get_object(key) == value, right=True)

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(_LANES)))
    taken = time.perf_counter() - began
    await peer.storage.delete_objects(
        [f"bench/{way}/{number}" for way in "io" for number in range(len(values))]
    )
    return taken


async def many(folder: Path) -> Sample:
    """40 workers of one process each: calls that sleep, 2 s of them for each."""
    async with open_dayfly(folder, many=True) as peer:
        began = time.perf_counter()
        results = await peer.map(nap, range(NAPS))
        taken = time.perf_counter() - began
    check(results, list(range(NAPS)))
    return {figures.MANY: NAPS * SLEEP / MANY / taken}


#: Measures of a peer that is open and warm, by the name that ``--only`` takes.
WARM: Mapping[str, Callable[[Peer], Awaitable[Sample]]] = {
    "warm_call": warm_call,
    "calls_1k": throughput(1_000),
    "calls_10k": throughput(10_000),
    "calls_100k": throughput(100_000),
    "data": data,
    "efficiency": efficiency,
    "mixed": mixed,
    "stream": stream,  # type: ignore[dict-item]  # only asked of peers that can
    "storage": storage,
}
