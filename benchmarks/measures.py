"""What is measured. Each measure gives one sample of each of its figures for one peer."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import floor
from benchmarks.peers import Peer, open_peer, purge
from benchmarks.work import (
    BLOBS,
    PROCESSES,
    SLEEP,
    SLEEPS,
    blobs,
    echo,
    nap,
    nothing,
)

PEERS = ("floor", "pool", "dayfly")
#: Calls in a row whose latency is taken.
CALLS = 300
#: Interpreters started for one sample of the import time.
IMPORTS = 5

#: Name of a figure -> one sample.
Sample = Mapping[str, float]


async def warm_call(peer: Peer) -> Sample:
    """One call at a time."""
    taken = []
    for number in range(CALLS):
        began = time.perf_counter()
        await peer.call(nothing, number)
        taken.append((time.perf_counter() - began) * 1e3)
    cuts = statistics.quantiles(taken, n=100)
    return {"warm call, median (ms)": cuts[49], "warm call, p99 (ms)": cuts[98]}


def throughput(count: int) -> Callable[[Peer], Awaitable[Sample]]:
    """A map over ``count`` calls that do nothing."""

    async def measure(peer: Peer) -> Sample:
        items = range(count)
        began = time.perf_counter()
        results = await peer.map(nothing, items)
        taken = time.perf_counter() - began
        assert results == list(items)  # noqa: S101  # a wrong answer is no answer
        return {f"{count:,} no-op calls (calls/s)": count / taken}

    return measure


async def data(peer: Peer) -> Sample:
    """1,000 values of 100 kB there, and back."""
    items = blobs()
    began = time.perf_counter()
    results = await peer.map(echo, items)
    taken = time.perf_counter() - began
    assert results == items  # noqa: S101  # a wrong answer is no answer
    travelled = 2 * sum(map(len, items)) / 1e6
    return {f"{BLOBS:,} x 100 kB, there and back (MB/s)": travelled / taken}


async def efficiency(peer: Peer) -> Sample:
    """The ideal time over the actual one, for calls of 50 ms."""
    ideal = SLEEPS * SLEEP / PROCESSES
    began = time.perf_counter()
    await peer.map(nap, range(SLEEPS))
    return {f"{SLEEPS} x 50 ms (ideal/actual)": ideal / (time.perf_counter() - began)}


#: Measures of a peer that is open and warm, by the name that ``--only`` takes.
WARM: Mapping[str, Callable[[Peer], Awaitable[Sample]]] = {
    "warm_call": warm_call,
    "calls_1k": throughput(1_000),
    "calls_10k": throughput(10_000),
    "calls_100k": throughput(100_000),
    "data": data,
    "efficiency": efficiency,
}


def warm(name: str, folder: Path, wanted: Sequence[str]) -> Sample:
    """Open a peer, warm it by one small map, and take one sample of each measure."""

    async def measure(sockets: Sequence[str]) -> dict[str, float]:
        samples: dict[str, float] = {}
        async with open_peer(name, folder, sockets) as peer:
            await peer.map(nothing, range(100))
            for measure in wanted:
                samples |= await WARM[measure](peer)
        return samples

    with ExitStack() as stack:
        sockets: list[str] = []
        if name == "floor":
            sockets = stack.enter_context(floor.workers(folder, PROCESSES))
        return asyncio.run(measure(sockets))


def first_result(name: str) -> Sample:
    """A new client process to its first result: from nothing, and on a cluster that is up."""
    samples = {}
    with tempfile.TemporaryDirectory(prefix="dayfly-bench-") as folder, ExitStack() as stack:
        if name == "dayfly":
            stack.callback(purge, Path(folder))
        samples["first result from nothing (s)"] = _time_first(name, folder, "cold")
        if name == "floor":
            stack.enter_context(floor.workers(Path(folder), PROCESSES))
        if name != "pool":  # a pool ends with its client
            samples["first result, warm cluster (s)"] = _time_first(name, folder, "warm")
    return samples


def _time_first(name: str, folder: str, state: str) -> float:
    command = [sys.executable, "-m", "benchmarks.first", name, folder, state]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        for line in process.stdout:
            if line == "first\n":
                taken = time.perf_counter() - began
                process.communicate()
                return taken
    raise SystemExit(f"{' '.join(command)} ended without a result")


def import_time(name: str) -> Sample:
    """What an interpreter takes longer with the import than without."""
    statement = {
        "floor": "import asyncio",
        "pool": "import multiprocessing.pool",
        "dayfly": "from dayfly import FunctionExecutor",
    }[name]

    def run(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - began) * 1e3

    taken = [run(statement) - run("pass") for _ in range(IMPORTS)]
    return {"import, over bare python (ms)": statistics.median(taken)}


#: Measures that start processes of their own.
COLD: Mapping[str, Callable[[str], Sample]] = {
    "first_result": first_result,
    "import_time": import_time,
}
