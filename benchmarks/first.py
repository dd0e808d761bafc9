"""A client process from its first instruction to its first result.

``python -m benchmarks.first PEER FOLDER cold|warm`` prints one line as soon as it holds the result;
whoever started it has the clock.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import libraries
from benchmarks.work import nothing


def main(name: str, folder: Path, *, warm: bool) -> None:
    """Get one result.

    Args:
        name: The peer.
        folder: Where its files are.
        warm: Whether the floor's workers are there already, as dayfly's VMs are.
    """
    if name in libraries.OPEN:
        with libraries.OPEN[name](folder) as library:
            _told(library.call(nothing, 1))
        return
    # Only now: a library that blocks does without asyncio.
    import asyncio

    from benchmarks.peers import open_peer, started

    async def first(sockets: list[str]) -> None:
        async with open_peer(name, folder, sockets) as peer:
            _told(await peer.call(nothing, 1))

    if warm:
        asyncio.run(first([str(path) for path in sorted(folder.glob("floor-*"))]))
        return
    with started(name, folder) as sockets:
        asyncio.run(first(sockets))


def _told(result: object) -> None:
    if result != 1:
        raise SystemExit(f"a wrong answer is no answer: {result!r}")
    sys.__stdout__.write("first\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), warm=sys.argv[3] == "warm")
