"""``python -m tests.simulation.planted``: can the simulation see?

Each fault of :mod:`.plants` is planted alone in a copy of the package, and seeds are run on that
copy until an invariant breaks that holds for the same seed without the fault. A fault that no seed
shows, or that fits nowhere in the code any more, fails the command.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.simulation.plants import PLANTS, Plant

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
#: Characters of a cell of the summary.
WIDEST = 100
VIOLATION = re.compile(r"^violation: seed (\d+): (.*)$", re.MULTILINE)


class Result(msgspec.Struct, frozen=True):
    """What became of one fault.

    Attributes:
        seed: The first that showed it; empty if none did.
        shown: By which invariant, or why it could not be planted.
        seconds: Of searching.
    """

    plant: Plant
    seed: str
    shown: str
    seconds: float


def planted(plant: Plant, source: Path) -> str:
    """Plant a fault in a copy of the package below ``source``; returns why it cannot be, if so."""
    shutil.copytree(
        SOURCE / "dayfly", source / "dayfly", ignore=shutil.ignore_patterns("__pycache__")
    )
    for edit in plant.edits:
        path = source / "dayfly" / edit.module
        text = path.read_text()
        if (count := text.count(edit.good)) != 1:
            return f"{edit.module} holds the text {count} times: the code has moved on"
        path.write_text(text.replace(edit.good, edit.bad))
    return ""


def search(plant: Plant, *, first: int, seeds: int, jobs: int) -> Result:
    """Plant a fault and run seeds until one shows it: one that is flawless without the fault."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dayfly-planted-") as folder:
        if refusal := planted(plant, Path(folder)):
            return Result(plant, "", refusal, 0.0)
        end = first + seeds
        while first < end:
            ran = run(Path(folder), first=first, seeds=end - first, jobs=jobs)
            found = VIOLATION.search(ran.stdout)
            if found is None:
                break
            if VIOLATION.search(run(SOURCE, first=int(found[1]), seeds=1, jobs=1).stdout) is None:
                return Result(plant, found[1], found[2], time.monotonic() - began)
            # A fault of the code itself is no sight of the planted one.
            print(f"without {plant.name!r}, too: seed {found[1]}: {found[2]}", file=sys.stderr)
            first = int(found[1]) + 1
    tail = " | ".join((ran.stdout + ran.stderr).strip().splitlines()[-2:])
    shown = f"not seen in {seeds} seeds (status {ran.returncode}): {tail}"
    return Result(plant, "", shown, time.monotonic() - began)


def run(source: Path, *, first: int, seeds: int, jobs: int) -> subprocess.CompletedProcess[str]:
    """Run seeds on the package in a folder, until one breaks a promise."""
    command = [sys.executable, "-m", "tests.simulation", "--until-violation"]
    command += ["--first", str(first), "--seeds", str(seeds), "--jobs", str(jobs)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def show(results: Sequence[Result]) -> None:
    """Print one line for each fault: a log file wraps no lines."""
    names = max((len(result.plant.name) for result in results), default=0)
    print(f"\n{len(results)} planted faults")
    print(f"{'seen at':>8}  {'seconds':>7}  {'planted':<{names}}  by")
    for result in results:
        seen = result.seed or "never"
        print(f"{seen:>8}  {result.seconds:7.1f}  {result.plant.name:<{names}}  {brief(result)}")


def brief(result: Result) -> str:
    """The promise that was seen broken, without its evidence; or why nothing was seen."""
    text = result.shown.partition(": ")[0] if result.seed else result.shown
    return textwrap.shorten(text, WIDEST, placeholder=" ...")


def main() -> int:
    """Plant and search; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed of each fault")
    parser.add_argument("--seeds", type=int, default=1000, help="the most that are run per fault")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds run at a time")
    parser.add_argument("--only", default="", help="only the faults whose name holds this")
    options = parser.parse_args()
    chosen = [plant for plant in PLANTS if options.only in plant.name]
    results = []
    for plant in chosen:
        result = search(plant, first=options.first, seeds=options.seeds, jobs=options.jobs)
        print(f"{result.plant.name}: {result.seed or 'never'}: {result.shown}", flush=True)
        results.append(result)
    show(results)
    missed = [result for result in results if not result.seed]
    return 1 if missed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
