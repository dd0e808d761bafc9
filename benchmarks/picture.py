"""Draws the chart: ``python -m benchmarks.picture FILE.png < samples``.

It is run by an interpreter that has matplotlib, and nothing of dayfly.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from benchmarks import figures

#: Title, figure, and which way is good.
PANELS = (
    ("one warm call, ms", figures.CALL, "less"),
    ("no-op calls/s, map of 10,000", figures.calls(10_000), "more"),
    ("client's CPU s, 10,000 calls", figures.CLIENT_CPU, "less"),
    ("1,000 x 100 kB both ways, MB/s", figures.DATA, "more"),
    ("first result from nothing, s", figures.FIRST, "less"),
    ("400 calls of 5-500 ms, ideal/actual", figures.MIXED, "more"),
)
LABELS = {
    "floor": "bare asyncio",
    "tunnel": "asyncio + SSH",
    "executor": "ProcessPoolExecutor",
    "pool": "multiprocessing.Pool",
    "joblib": "joblib",
    "mpire": "mpire",
    "ray": "Ray",
    "dask": "Dask",
    "parsl": "Parsl",
    "lithops": "Lithops localhost",
    "dayfly": "dayfly",
}
#: Those that are no engines, those that cannot leave the machine, those that can, and ours.
COLOURS = {
    **dict.fromkeys(("floor", "tunnel"), "#9e9e9e"),
    **dict.fromkeys(("executor", "pool", "joblib", "mpire"), "#b7c9dd"),
    **dict.fromkeys(("ray", "dask", "parsl", "lithops"), "#5b84b1"),
    "dayfly": "#d9662b",
}


def main(target: str) -> None:
    mpl.use("agg")
    given = json.load(sys.stdin)
    panels = [panel for panel in PANELS if panel[1] in given["samples"]]
    rows = -(-len(panels) // 2) or 1
    figure, axes = plt.subplots(rows, 2, figsize=(11, 3.1 * rows), squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (title, name, good) in zip(axes.flat, panels, strict=False):
        panel(ax, f"{title} ({good} is better)", given["samples"][name], given["peers"])
    figure.suptitle(
        "dayfly (master and two VMs, through SSH) beside its peers on the same machine, "
        "4 processes each; logarithmic but for ideal/actual",
        fontsize=11,
    )
    figure.text(0.01, 0.005, given["footnote"], fontsize=7, va="bottom", family="monospace")
    figure.tight_layout(rect=(0, 0.045, 1, 0.98))
    figure.savefig(target, dpi=130)


def panel(ax: Any, title: str, samples: dict[str, list[float]], peers: list[str]) -> None:
    shown = [peer for peer in peers if samples.get(peer)]
    middles = [statistics.median(samples[peer]) for peer in shown]
    ratio = title.startswith("400")
    # Points and not bars: on a logarithmic axis the length of a bar means nothing.
    for row, (peer, middle) in enumerate(zip(shown, middles, strict=True)):
        ax.hlines(row, min(samples[peer]), max(samples[peer]), color=COLOURS[peer], lw=2)
        ax.plot([middle], [row], "o", color=COLOURS[peer], ms=8)
    ax.set_yticks(range(len(shown)), [LABELS[peer] for peer in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.grid(axis="both", color="#e4e4e4", lw=0.7)
    ax.set_axisbelow(True)
    ax.set_title(title, fontsize=9, loc="left")
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    if ratio:
        ax.set_xlim(0, 1.15)
    else:
        ax.set_xscale("log")
        ax.set_xlim(min(middles) / 3, max(middles) * 8)
        ax.xaxis.set_minor_formatter(NullFormatter())
    for row, (peer, middle) in enumerate(zip(shown, middles, strict=True)):
        bold = "bold" if peer == "dayfly" else "normal"
        most = max(samples[peer])
        ax.annotate(
            text(middle),
            (most, row),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight=bold,
        )


def text(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    if value >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


if __name__ == "__main__":
    main(sys.argv[1])
