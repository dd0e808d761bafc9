"""``python -m benchmarks``: measure dayfly and its peers side by side, and print one table."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import run as execute
from typing import Final

from benchmarks import environments, figures, runs
from benchmarks.environments import CannotInstallError
from benchmarks.measures import WARM
from benchmarks.peers import PEERS
from benchmarks.report import Report, markdown
from benchmarks.runs import COLD, FailedError, Runner

PARTS: Final = (*COLD, *WARM, "many")
#: Those that want a client to themselves: its memory, or its machines.
_ALONE: Final = ("stream", "storage", "many")


def main() -> None:
    """Measure what is asked for; peers take turns within each round, so noise is shared."""
    options = _options()
    # Whoever is told to end ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = Report(_heading(options), [], load_before=os.getloadavg()[0])
    runners = list(_installed(options.peers, report))
    report.peers = [runner.peer for runner in runners]
    for number in range(1, options.rounds + 1):
        for runner in runners:
            load = os.getloadavg()[0]
            told = f"round {number} of {options.rounds}: {runner.peer} (load {load:.1f})"
            print(told, file=sys.stderr, flush=True)
            parts = [part for part in PARTS if part in options.only]
            _measure(runner, [part for part in parts if figures.has(runner.peer, part)], report)
    report.load_after = os.getloadavg()[0]
    print(table := markdown(report))
    if options.table:
        options.table.write_text(table)
    if options.picture:
        _draw(report, options.picture)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="samples per figure (3)")
    only = parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    only.help = ", ".join(PARTS)
    peers = parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, metavar="PEER")
    peers.help = ", ".join(PEERS)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table to it")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="and the chart")
    return parser.parse_args()


def _heading(options: argparse.Namespace) -> str:
    """The day, what to type to have the same again, and the machine."""
    command = f"python -m benchmarks --rounds {options.rounds}"
    for name, given, default in (("only", options.only, PARTS), ("peers", options.peers, PEERS)):
        if given != default:
            command += f" --{name} {' '.join(given)}"
    day = dt.datetime.now(dt.UTC).date()
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"{day}, `{command}`, {os.cpu_count()} CPUs, {system}."


def _installed(wanted: Sequence[str], report: Report) -> list[Runner]:
    """How each peer is run, in the table's order; those that cannot be had are remarked upon."""
    found = []
    for peer in PEERS:
        if peer in wanted:
            try:
                found.append(runs.runner(peer))
            except CannotInstallError as error:
                report.remark(peer, f"cannot be installed: {error}")
    return found


def _measure(runner: Runner, parts: Sequence[str], report: Report) -> None:
    """One sample of each figure; what fails is remarked upon, and the rest goes on."""
    peer = runner.peer
    for part in parts:
        if part in COLD:
            try:
                report.add(peer, COLD[part](runner))
            except FailedError as error:
                report.remark(f"{peer}, {part}", str(error))
    together = [part for part in parts if part in WARM and part not in _ALONE]
    for process in (together, *([part] for part in parts if part in _ALONE)):
        if process:
            try:
                left_out = runs.warm(runner, process, lambda found: report.add(peer, found))
            except FailedError as error:
                report.remark(f"{peer}, {process[0]} ff.", str(error))
            else:
                for part, why in left_out.items():
                    report.remark(f"{peer}, no {part}", why)


def _draw(report: Report, picture: Path) -> None:
    """Have the chart drawn, by an interpreter that has matplotlib."""
    try:
        python = environments.interpreter("matplotlib")
    except CannotInstallError as error:
        print(f"no picture: matplotlib cannot be installed: {error}", file=sys.stderr)
        return
    load = f"Load {report.load_before:.1f} before, {report.load_after:.1f} after."
    colours = "Grey: floors; light: pools, for one machine; blue: engines, here on one machine."
    footnote = (
        f"{report.heading.replace('`', '')}\n{load} Points: medians; lines: least..most. {colours}"
    )
    given = {"footnote": footnote, "samples": report.samples, "peers": list(report.peers)}
    execute(
        [str(python), "-m", "benchmarks.picture", str(picture.absolute())],
        input=json.dumps(given),
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )


if __name__ == "__main__":
    main()
