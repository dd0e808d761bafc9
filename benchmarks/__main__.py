"""``python -m benchmarks``: measure, and print one table."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.measures import COLD, PEERS, WARM, warm
from benchmarks.peers import purge

#: Figure -> peer -> one sample per round.
Samples = dict[str, dict[str, list[float]]]


def main() -> None:
    """Measure what is asked for; peers take turns within each round, so noise is shared."""
    options = _options()
    wanted = options.only or [*COLD, *WARM]
    peers = [peer for peer in PEERS if peer in options.peers]
    print(f"{' '.join(['python -m benchmarks', *sys.argv[1:]])}   {_machine()}", flush=True)
    samples: Samples = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="dayfly-bench-") as folder:
        try:
            for number in range(1, options.rounds + 1):
                for peer in peers:
                    print(f"round {number} of {options.rounds}: {peer}", file=sys.stderr)
                    _measure(peer, wanted, Path(folder), samples)
        finally:
            if "dayfly" in peers:
                purge(Path(folder))
    _print(samples, peers)
    print(f"load at the end: {os.getloadavg()[0]:.1f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="samples per figure (3)")
    parser.add_argument(
        "--only", nargs="+", choices=[*COLD, *WARM], metavar="PART", help=", ".join([*COLD, *WARM])
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, metavar="PEER")
    return parser.parse_args()


def _measure(peer: str, wanted: list[str], folder: Path, samples: Samples) -> None:
    found: dict[str, float] = {}
    for part in wanted:
        if part in COLD:
            found |= COLD[part](peer)
    if parts := [part for part in wanted if part in WARM]:
        found |= warm(peer, folder, parts)
    for figure, value in found.items():
        samples[figure][peer].append(value)


def _machine() -> str:
    return (
        f"[{os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}]"
    )


def _print(samples: Samples, peers: list[str]) -> None:
    """Median of the rounds with the least and the most; and dayfly over the floor."""
    header = ["", *peers] + (["dayfly/floor"] if {"floor", "dayfly"} <= set(peers) else [])
    lines = [header]
    for figure, by_peer in samples.items():
        line = [figure, *(_cell(by_peer[peer]) for peer in peers)]
        if len(header) > len(peers) + 1:
            line.append(_ratio(by_peer["dayfly"], by_peer["floor"]))
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    middle = _number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({_number(min(values))}..{_number(max(values))})"


def _ratio(ours: list[float], floor: list[float]) -> str:
    if not ours or not floor:
        return "-"
    return f"{_number(statistics.median(ours) / statistics.median(floor))}x"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
