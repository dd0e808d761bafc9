"""Where the time went until the first outcome: phases as rows, with the critical path.

The critical path is read backwards, from the outcome: before each phase comes the one whose end
it seems to have waited for.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from dayfly.phases import BOOT, CLIENT, DELIVERY, FIRST_CALL, MASTER, SERVICE, Phase

#: Seconds by which a phase may seem to begin before the one that it waited for has ended: what
#: comes from another machine is dated when it comes.
TOLERANCE = 0.03
#: Characters of the bars.
WIDTH = 20
CRITICAL, BESIDE = "█", "░"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Attributes:
        who: ``client``, ``master``, ``worker`` or ``4 workers``.
        start: Seconds; the median, where several did the same.
        seconds: Likewise.
        least: The shortest of several.
        most: The longest of them.
        critical: Whether the first outcome waited for it.
    """

    who: str
    what: str
    start: float
    seconds: float
    least: float
    most: float
    critical: bool


def critical_path(phases: Sequence[Phase]) -> list[Phase]:
    """The phases that the last one to end has waited for, and that one, in order."""
    called = [phase for phase in phases if phase.what == FIRST_CALL]
    first = min(called, key=lambda phase: phase.end).who if called else ""
    among = [phase for phase in phases if phase.who in (CLIENT, MASTER, first)]
    path: list[Phase] = []
    at = max(among, key=lambda phase: phase.end, default=None)
    while at is not None:
        path.insert(0, at)
        at = _before(at, among)
    return path


def _before(at: Phase, among: Sequence[Phase]) -> Phase | None:
    """What a phase seems to have waited for."""
    # No client or master waits for a worker, but for its outcome.
    whose = {CLIENT, MASTER} if at.who in (CLIENT, MASTER) and at.what != DELIVERY else None
    ended = [
        each
        for each in among
        if each.end <= at.start + TOLERANCE
        and each.start < at.start
        and (whose is None or each.who in whose)
    ]
    latest = max((each.end for each in ended), default=0.0)
    # Of those that end together the machine's own.
    last = [each for each in ended if each.end >= latest - TOLERANCE]
    return max(last, key=lambda each: (each.who == at.who, each.end), default=None)


def rows(phases: Sequence[Phase]) -> list[Row]:
    """The lines: those of the client, of the master, of all workers together."""
    path = set(critical_path(phases))
    workers = {phase.who for phase in phases} - {CLIENT, MASTER}
    name = "worker" if len(workers) == 1 else f"{len(workers)} workers"
    alike: dict[tuple[str, str, int], list[Phase]] = {}
    times: dict[tuple[str, str], int] = {}
    for phase in sorted(phases, key=lambda phase: phase.start):
        who = phase.who if phase.who in (CLIENT, MASTER) else name
        # What one machine does twice is told twice; what several do is one line.
        time = times[phase.who, phase.what] = times.get((phase.who, phase.what), 0) + 1
        alike.setdefault((who, phase.what, time), []).append(phase)
    order = {CLIENT: 0, MASTER: 1}
    found = [
        Row(
            who=who,
            what=what,
            start=statistics.median(phase.start for phase in same),
            seconds=statistics.median(phase.seconds for phase in same),
            least=min(phase.seconds for phase in same),
            most=max(phase.seconds for phase in same),
            critical=not path.isdisjoint(same),
        )
        for (who, what, _), same in alike.items()
    ]
    return sorted(found, key=lambda row: (order.get(row.who, 2), row.start))


def cells(row: Row, span: float) -> list[str]:
    """A line as text.

    Args:
        row: It.
        span: Seconds that the bars' width stands for.
    """
    spread = f" ({row.least:.2f}..{row.most:.2f})" if "workers" in row.who else ""
    return [
        row.who,
        row.what,
        f"{row.start:.2f}",
        f"{row.seconds:.2f}{spread}",
        bar(row, span),
    ]


def bar(row: Row, span: float) -> str:
    """When it was, and for how long: at least one character."""
    scale = WIDTH / span if span else 0.0
    begin = min(WIDTH - 1, int(row.start * scale))
    end = max(begin + 1, min(WIDTH, round((row.start + row.seconds) * scale)))
    return "·" * begin + (CRITICAL if row.critical else BESIDE) * (end - begin)


def notes(phases: Sequence[Phase]) -> list[str]:
    """What the table does not say: how much the path explains, and what was there already."""
    path = critical_path(phases)
    if not path:
        return []
    span, seen = path[-1].end, sum(phase.seconds for phase in path)
    text = f"{CRITICAL} are what the first outcome waited for, one after the other"
    said = [f"{text}: {seen:.2f} of {span:.2f} s"]
    have = {(phase.who in (CLIENT, MASTER), phase.who, phase.what) for phase in phases}
    whats = {what for ours, _, what in have if not ours}
    masters = {what for _, who, what in have if who == MASTER}
    if BOOT not in masters:
        said.append(
            "the master was up already"
            + ("" if SERVICE in masters else ", and nothing had to be installed on it")
        )
    if BOOT not in whats:
        said.append("the workers were up already, and nothing had to be installed for the agent")
    return said
