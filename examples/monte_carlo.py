"""Estimate pi by throwing points, and see the estimate grow better while the calls run.

Each call draws from a seed of its own, so that the answer can be checked against the same
calls made here, without dayfly.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

from dayfly import FunctionExecutor


def throw(seed: int, points: int) -> int:
    """How many of ``points`` random points of the unit square lie in the quarter circle."""
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 <= 1 for _ in range(points))


async def estimate(calls: int, points: int, workers: int) -> int:
    """Throw all points on workers; shows the partial answer as calls end."""
    hits = done = 0
    async with FunctionExecutor(max_workers=workers) as executor:
        job = executor.map(throw, [(seed, points) for seed in range(calls)])
        async for outcome in job.as_completed():
            hits += outcome.result()
            done += 1
            show(4 * hits / (done * points), done, calls)
    return hits


def show(pi: float, done: int, calls: int) -> None:
    """One line that is written over in a terminal; elsewhere a line at each quarter."""
    line = f"pi is about {pi:.5f} after {done} of {calls} calls"
    if sys.stdout.isatty():
        print(f"\r{line}", end="" if done < calls else "\n", flush=True)
    elif done * 4 // calls > (done - 1) * 4 // calls:
        print(line, flush=True)


def main() -> None:
    """Estimate, print and check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--points", type=int, default=50_000, help="per call (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="VMs (%(default)s)")
    options = parser.parse_args()

    began = time.perf_counter()
    hits = asyncio.run(estimate(options.calls, options.points, options.workers))
    taken = time.perf_counter() - began
    thrown = options.calls * options.points
    print(f"pi is about {4 * hits / thrown:.6f} from {thrown:,} points, {taken:.1f} s")

    if hits != sum(throw(seed, options.points) for seed in range(options.calls)):
        raise SystemExit("wrong: not the same as without dayfly")
    print("checked: same as without dayfly")


if __name__ == "__main__":
    main()
