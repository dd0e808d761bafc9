"""Samples become a table: medians with their spread, and what they say about the aims."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import figures
from benchmarks.figures import Aim

#: Peers of which every figure has its ratio in the table.
_BESIDE = ("floor", "ray")

#: Figure -> peer -> one sample per round.
Samples = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass
class Report:
    """All that one run has found."""

    #: The command, the day and the machine, in one line.
    heading: str
    peers: Sequence[str]
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    #: What is missing, and why.
    remarks: dict[str, str] = field(default_factory=dict)
    load_before: float = 0.0
    load_after: float = 0.0

    def add(self, peer: str, found: Mapping[str, float]) -> None:
        """Keep one sample of each figure."""
        for figure, value in found.items():
            self.samples.setdefault(figure, {}).setdefault(peer, []).append(value)

    def remark(self, what: str, why: str) -> None:
        """Keep the first reason why something is missing."""
        self.remarks.setdefault(what, why)

    def medians(self) -> dict[str, dict[str, float]]:
        """Figure -> peer -> median, in the table's order."""
        return {
            figure: {
                peer: statistics.median(self.samples[figure][peer])
                for peer in self.peers
                if self.samples[figure].get(peer)
            }
            for figure in figures.ORDER
            if figure in self.samples
        }


def markdown(report: Report) -> str:
    """The whole report."""
    others = [peer for peer in _BESIDE if {peer, "dayfly"} <= set(report.peers)]
    head = ["", *report.peers, *(f"dayfly/{peer}" for peer in others)]
    lines = []
    for figure, middle in report.medians().items():
        line = [figure, *(cell(report.samples[figure].get(peer, ())) for peer in report.peers)]
        compared = {} if figure in figures.NO_RATIO else {figure: middle}
        ratios = [reached(Aim(figure, peer=peer), compared) for peer in others]
        lines.append(line + [f"{number(ratio)}x" if ratio else "-" for ratio in ratios])
    load = f"Load {report.load_before:.1f} before and {report.load_after:.1f} after."
    blocks = [
        f"{report.heading} {load} Medians (least..most); `-`: not measured.",
        _grid(head, lines),
    ]
    if judged := list(aims(report.medians())):
        blocks.append(_grid(["dayfly's", "is", "aim", ""], judged))
    if report.remarks:
        blocks.append("\n".join(f"* {what}: {why}" for what, why in report.remarks.items()))
    return "\n\n".join(blocks) + "\n"


def aims(medians: Mapping[str, Mapping[str, float]]) -> Iterable[list[str]]:
    """One line for each aim whose figures are there: what, how much, the aim, whether it is met."""
    for aim in figures.AIMS:
        value = reached(aim, medians)
        if value is not None:
            unit = "x" if aim.peer else ""
            met = "yes" if aim.met(value) else "no"
            yield [aim.name, f"{number(value)}{unit}", aim.wanted, met]


def reached(aim: Aim, medians: Mapping[str, Mapping[str, float]]) -> float | None:
    """A figure of dayfly's, or its ratio to the other one; ``None`` when one of them is missing."""
    ours = medians.get(aim.figure, {}).get("dayfly")
    if ours is None or not aim.peer:
        return ours
    theirs = medians.get(aim.over or aim.figure, {}).get(aim.peer)
    return ours / theirs if theirs else None


def cell(values: Sequence[float]) -> str:
    """The median, and how far the rounds lie apart."""
    if not values:
        return "-"
    middle, least, most = map(number, (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}..{most})"


def number(value: float) -> str:
    """As many digits as say something."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (unit == "M" and abs(value) >= size):
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _grid(head: list[str], lines: list[list[str]]) -> str:
    """A table that reads well in Markdown and in a terminal."""
    rule = ["---", *("---:" for _ in head[1:])]
    columns = list(zip(head, rule, *lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    shown = []
    for line in (head, rule, *lines):
        cells = [line[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)
