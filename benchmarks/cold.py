"""``python -m benchmarks.cold``: from a bare machine image to the first result, as root on Linux.

The rounds (:mod:`benchmarks.cold_rounds`) run in an EC2 in a box, see docs/machines.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.cold_rounds import BOOT, INSTALL, RESULTS, ROUND
from tests.machines import host, lane, network, root


def main() -> None:
    """Run the rounds, each in an account of its own, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="samples per figure (3)")
    rounds = parser.parse_args().rounds
    if why := host.refusal():
        raise SystemExit(f"machines cannot run here: {why}")
    root.ensure(root.Recipe(), root.cache_folder())
    load = os.getloadavg()[0]
    print(f"{' '.join(sys.argv)}   [{os.cpu_count()} CPUs, {platform.machine()}, load {load:.1f}]")
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="dayfly-bench-") as folder:
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            for figure, seconds in _round(Path(folder, f"{number}.json")).items():
                samples.setdefault(figure, []).append(seconds)
    _print(samples)
    print(f"load at the end: {os.getloadavg()[0]:.1f}")


def _round(results: Path) -> dict[str, float]:
    reached = f"{network.NETWORK},{network.METADATA}/32,{network.INDEX}/32"
    options = ["-q", "-p", "no:cacheprovider", "--numprocesses=0", "-m", "machines"]
    command = [*lane.PYTHON, "-m", "pytest", *options, f"--allow-hosts=127.0.0.0/8,::1,{reached}"]
    environment = {**os.environ, RESULTS: str(results)}
    done = subprocess.run(
        [*command, ROUND], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the round failed:\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(results.read_text())
    return found


def _print(samples: dict[str, list[float]]) -> None:
    """Median of the rounds with the least and the most; and over each of the floors."""
    floors = {name: statistics.median(samples[name]) for name in (BOOT, INSTALL)}
    width = max(map(len, samples))
    print("seconds".ljust(width), "median (least..most)".rjust(22), "/boot", "/install", sep="  ")
    for figure, values in samples.items():
        middle = statistics.median(values)
        cell = f"{middle:.1f} ({min(values):.1f}..{max(values):.1f})"
        ratios = (f"{middle / floors[BOOT]:4.1f}x", f"{middle / floors[INSTALL]:7.1f}x")
        print(figure.ljust(width), cell.rjust(22), *ratios, sep="  ")


if __name__ == "__main__":
    main()
