"""One peer in a process of its own: ``python -m benchmarks.peerside PEER FOLDER PART...``.

Run by the interpreter of the peer's environment, which need have nothing but the peer. It prints
one JSON object per figure, ``{"figure": ..., "value": ...}``, and per part that is left out,
``{"part": ..., "left_out": ...}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from benchmarks import figures
from benchmarks.measures import WARM, many
from benchmarks.peers import Peer, open_peer, started
from benchmarks.work import nothing


def main(peer: str, folder: Path, parts: Sequence[str]) -> None:
    """Measure, and print."""
    # Libraries print too: what they say goes where errors go.
    with os.fdopen(os.dup(1), "w") as told:
        os.dup2(2, 1)
        if "many" in parts:
            _tell(told, asyncio.run(many(folder)))
        if warm := [part for part in parts if part in WARM]:
            with started(peer, folder) as sockets:
                asyncio.run(_measure(peer, folder, sockets, warm, told))


async def _measure(
    name: str, folder: Path, sockets: Sequence[str], parts: Sequence[str], told: TextIO
) -> None:
    async with open_peer(name, folder, sockets) as peer:
        await peer.call(nothing, 0)
        speed, known = 0.0, False
        if name != "tunnel":
            speed = await _speed(peer, 100)
        for part in parts:
            if part in figures.LEAST_SPEED:
                if part != "calls_1k" and not known and not figures.too_slow("calls_1k", speed):
                    speed, known = await _speed(peer, 1_000), True
                if why := figures.too_slow(part, speed):
                    print(json.dumps({"part": part, "left_out": why}), file=told, flush=True)
                    continue
            found = await WARM[part](peer)
            if part == "calls_1k":
                speed, known = found[figures.calls(1_000)], True
            _tell(told, found)


async def _speed(peer: Peer, count: int) -> float:
    began = time.perf_counter()
    await peer.map(nothing, range(count))
    return count / (time.perf_counter() - began)


def _tell(told: TextIO, found: Mapping[str, float]) -> None:
    for figure, value in found.items():
        print(json.dumps({"figure": figure, "value": value}), file=told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
