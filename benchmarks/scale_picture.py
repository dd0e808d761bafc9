"""Draws what the scale benchmark measured, with the matplotlib of an environment of its own.

It is a program for that environment's Python, which has nothing of dayfly: the figures come as
JSON on standard input.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

SIDES = ("master", "client")


def main(picture: str) -> None:
    """Time, processors' time and memory against calls; and the fleet's cost against instances."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    told = json.load(sys.stdin)
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 9))
    _time(axes[0][0], told["cells"])
    _processors(axes[0][1], told["cells"])
    _memory(axes[0][2], told["cells"])
    _brought_up(axes[1][0], told["fleets"])
    _idle(axes[1][1], told["fleets"])
    _blocked(axes[1][2], told["cells"])
    for axis in axes.flat:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.grid(visible=True, which="major", alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(told["title"])
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


def _time(axis: Any, cells: list[dict[str, Any]]) -> None:
    for instances, of in _by_instances(cells):
        axis.plot(_calls(of), [c["seconds"] for c in of], marker="o", label=_workers(instances))
    axis.set(title="from submission to the last outcome", xlabel="calls", ylabel="s")


def _processors(axis: Any, cells: list[dict[str, Any]]) -> None:
    _per_side(axis, cells, "cpu")
    axis.set(title="processors: master -, client --", xlabel="calls", ylabel="CPU s")


def _memory(axis: Any, cells: list[dict[str, Any]]) -> None:
    _per_side(axis, cells, "peak")
    axis.set(title="memory at most: master -, client --", xlabel="calls", ylabel="MB")


def _blocked(axis: Any, cells: list[dict[str, Any]]) -> None:
    _per_side(axis, cells, "own")
    axis.axhline(50, color="red", linewidth=1, label="50 ms")
    axis.set(title="longest turn of the loop: master -, client --", xlabel="calls", ylabel="ms")


def _per_side(axis: Any, cells: list[dict[str, Any]], figure: str) -> None:
    for side, style in zip(SIDES, ("-", "--"), strict=True):
        axis.set_prop_cycle(None)
        for instances, of in _by_instances(cells):
            label = _workers(instances) if side == SIDES[0] else None
            axis.plot(_calls(of), [c[side][figure] for c in of], style, marker="o", label=label)


def _brought_up(axis: Any, fleets: list[dict[str, Any]]) -> None:
    counts = [fleet["instances"] for fleet in fleets]
    axis.plot(
        counts, [fleet["seconds"] for fleet in fleets], marker="o", label="s, until all serve"
    )
    for side in SIDES:
        axis.plot(
            counts, [f[side]["cpu"] for f in fleets], marker="o", label=f"CPU s of the {side}"
        )
    axis.set(title="workers brought up, from nothing", xlabel="workers", ylabel="s")


def _idle(axis: Any, fleets: list[dict[str, Any]]) -> None:
    counts = [fleet["instances"] for fleet in fleets]
    idle = [100 * f["idle"]["cpu"] / f["idle"]["seconds"] for f in fleets]
    axis.plot(counts, idle, marker="o", label="% of a processor")
    grown = [max(f["idle"]["rss"] - f["empty"], 0.01) for f in fleets]
    axis.plot(counts, grown, marker="o", label="MB over none")
    axis.set(title="the master, with idle workers", xlabel="workers", ylabel="")


def _by_instances(cells: list[dict[str, Any]]) -> list[tuple[int, list[dict[str, Any]]]]:
    counts = sorted({cell["instances"] for cell in cells})
    return [(count, [c for c in cells if c["instances"] == count]) for count in counts]


def _calls(cells: list[dict[str, Any]]) -> list[int]:
    return [cell["calls"] for cell in cells]


def _workers(instances: int) -> str:
    return f"{instances:,} worker{'s' if instances > 1 else ''}"


if __name__ == "__main__":
    main(sys.argv[1])
