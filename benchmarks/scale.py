"""``python -m benchmarks.scale``: time, processors and memory of the orchestrator against N."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.scale_gauge import Reading, raise_limit
from benchmarks.scale_stage import Stage, stage

INSTANCES = (1, 10, 100, 1_000)
CALLS = (100, 1_000, 10_000, 100_000, 1_000_000)
#: Seconds for which the idle cost is taken: one heartbeat of every connection.
IDLE = 10.0


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What workers cost that have nothing to do yet.

    Attributes:
        seconds: From the client's map to the last worker that serves.
        master: Used by the master meanwhile.
        client: Likewise.
        idle: Used by the master while there is nothing to do.
        empty: MB of the master before.
    """

    instances: int
    seconds: float
    master: Reading
    client: Reading
    idle: Reading
    empty: float


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What a map costs, over workers that are up.

    Attributes:
        seconds: From submission to the last outcome.
        players: Processors' seconds of the agents, in all.
    """

    instances: int
    calls: int
    seconds: float
    master: Reading
    client: Reading
    players: float


def main() -> None:
    """Measure cell by cell, each with processes of its own, and print as it goes."""
    options = _options()
    if (most := raise_limit()) < max(options.instances) + 100:
        print(f"only {most} files may be open: fewer workers than asked for", file=sys.stderr)
    print(f"{' '.join(['python -m benchmarks.scale', *sys.argv[1:]])}   {_machine()}", flush=True)
    fleets: list[Fleet] = []
    cells: list[Cell] = []
    for instances in options.instances:
        for number, calls in enumerate(options.calls):
            largest = (instances, calls) == (max(options.instances), max(options.calls))
            with (
                tempfile.TemporaryDirectory(prefix="dayfly-scale-") as folder,
                stage(Path(folder), instances, options.boot) as played,
            ):
                looks = options.looks if largest else []
                fleet = _fleet(played, instances, 0 if number else options.idle, looks)
                if not number:
                    fleets.append(fleet)
                    _print_fleet(fleet, first=len(fleets) == 1)
                cells.append(_cell(played, instances, calls, looks))
                _print_cell(cells[-1], first=number == 0)
    print(f"load at the end: {os.getloadavg()[0]:.1f}")
    title = f"python -m benchmarks.scale, {time.strftime('%Y-%m-%d')}, {_machine()}"
    figures = msgspec.json.encode({"title": title, "fleets": fleets, "cells": cells})
    if options.json:
        options.json.write_bytes(figures)
    if options.picture:
        _draw(options.picture, figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    add = parser.add_argument
    add("--instances", nargs="+", type=int, default=INSTANCES, help="1 10 100 1000")
    add("--calls", nargs="+", type=int, default=CALLS, help="100 1000 10000 100000 1000000")
    add("--boot", type=float, default=0.0, metavar="S", help="seconds that a VM takes to boot (0)")
    add("--idle", type=float, default=IDLE, metavar="S", help=f"seconds of rest ({IDLE:g})")
    for name, what in (("profile", "where the time goes"), ("watch", "what blocks the loops")):
        text = f"tell {what}, in the largest cell"
        add(f"--{name}", dest="looks", action="append_const", const=name, default=[], help=text)
    add("--picture", type=Path, metavar="FILE.png", help="draw it")
    add("--json", type=Path, metavar="FILE.json", help="write the figures")
    return parser.parse_args()


def _fleet(played: Stage, instances: int, idle: float, looks: Sequence[str]) -> Fleet:
    empty, *_ = played.read()
    _look(played, looks)
    seconds = played.bring_up(instances)
    _look(played, looks, f"{instances:,} workers are brought up")
    master, client, _ = played.read()
    return Fleet(
        instances=instances,
        seconds=seconds,
        master=master,
        client=client,
        idle=played.idle(idle),
        empty=empty.rss,
    )


def _cell(played: Stage, instances: int, calls: int, looks: Sequence[str]) -> Cell:
    _look(played, looks)
    played.read()
    seconds = played.client.ask("map", calls)
    master, client, players = played.read()
    _look(played, looks, f"{calls:,} calls on {instances:,} workers")
    return Cell(
        instances=instances,
        calls=calls,
        seconds=seconds,
        master=master,
        client=client,
        players=players.cpu,
    )


def _look(played: Stage, looks: Sequence[str], ended: str = "") -> None:
    """Begin to look closely at master and client, or end it and print what was seen."""
    for look in looks:
        for name, side in (("master", played.master), ("client", played.client)):
            told = side.ask(look)
            if ended:
                print(f"\n--- {look} of the {name}, as {ended} ---\n{told}")


def _machine() -> str:
    return (
        f"[{os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}]"
    )


def _print_fleet(fleet: Fleet, *, first: bool) -> None:
    if first:
        print("blocked: ms in all, of them computing, of them the longest garbage collection")
    count, master, idle = fleet.instances, fleet.master, fleet.idle
    print(
        f"\n{count:,} workers: up in {fleet.seconds:.2f} s;"
        f" master {master.cpu * 1e3 / count:.2f} ms each, blocked {_blocked(master)};"
        f" client {fleet.client.cpu * 1e3 / count:.2f} ms each, blocked {_blocked(fleet.client)};"
        f" idle {100 * idle.cpu / max(idle.seconds, 1e-9) / count:.4f} % and"
        f" {(idle.rss - fleet.empty) / count:.3f} MB each",
        flush=True,
    )


_COLUMNS = (
    ("calls", 9),
    ("s", 8),
    ("calls/s", 8),
    ("master s", 8),
    ("us/call", 8),
    ("MB", 6),
    ("blocked", 13),
    ("client s", 8),
    ("us/call", 8),
    ("MB", 6),
    ("blocked", 13),
    ("agents s", 8),
)


def _print_cell(cell: Cell, *, first: bool) -> None:
    if first:
        print("  ".join(name.rjust(width) for name, width in _COLUMNS))
    values = [f"{cell.calls:,}", f"{cell.seconds:.3f}", f"{cell.calls / cell.seconds:,.0f}"]
    for side in (cell.master, cell.client):
        per_call = side.cpu * 1e6 / cell.calls
        values += [f"{side.cpu:.3f}", f"{per_call:.2f}", f"{side.peak:.0f}", _blocked(side)]
    values.append(f"{cell.players:.3f}")
    widths = [width for _, width in _COLUMNS]
    print("  ".join(v.rjust(w) for v, w in zip(values, widths, strict=True)), flush=True)


def _blocked(side: Reading) -> str:
    return f"{side.gap:.0f}/{side.own:.0f}/{side.collection:.0f}"


def _draw(picture: Path, figures: bytes) -> None:
    """Draw, or say why not: it takes a matplotlib that nothing else here needs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    python = cache / "dayfly" / "benchmarks" / "matplotlib" / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    program = Path(__file__).with_name("scale_picture.py")
    try:
        if not python.exists():
            subprocess.run([*uv, "venv", "-q", str(python.parents[1])], check=True)
        install = [*uv, "pip", "install", "-q", "--python", str(python), "matplotlib"]
        subprocess.run(install, check=True)
        subprocess.run([str(python), str(program), str(picture)], input=figures, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no picture: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
