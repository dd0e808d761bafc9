"""A client process from its first instruction to its first result: ``python -m benchmarks.first``.

It prints one line as soon as it holds the result; whoever started it has the clock.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks import floor
from benchmarks.peers import open_peer
from benchmarks.work import PROCESSES, nothing


def main(name: str, folder: Path, *, warm: bool) -> None:
    """Get one result.

    Args:
        name: The peer.
        folder: Where its files are.
        warm: Whether the floor's workers are there already, as dayfly's VMs are.
    """
    with ExitStack() as stack:
        sockets = [str(path) for path in sorted(folder.glob("floor-*"))]
        if name == "floor" and not warm:
            sockets = stack.enter_context(floor.workers(folder, PROCESSES))
        asyncio.run(first(name, folder, sockets))


async def first(name: str, folder: Path, sockets: list[str]) -> None:
    """Get it."""
    async with open_peer(name, folder, sockets) as peer:
        assert await peer.call(nothing, 1) == 1  # noqa: S101  # a wrong answer is no answer
        print("first", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), warm=sys.argv[3] == "warm")
