"""Many rounds, some at a time, and the table of what became of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tests.chaos.plan import PAIRS, draw
from tests.chaos.round import Result, play
from tests.chaos.verdicts import Blow

#: Rounds from which on no kind of blow may be missing.
ENOUGH = 50
#: Violations of one round that are printed.
MOST = 12


@dataclass
class Campaign:
    """The results of many rounds."""

    first: int
    at_once: int
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def blows(self) -> Counter[Blow]:
        """How often whom was struck how."""
        total: Counter[Blow] = Counter()
        for result in self.results:
            total += result.blows
        return total

    @property
    def violations(self) -> int:
        """How many there are."""
        return sum(len(result.violations) for result in self.results)

    @property
    def unseen(self) -> list[Blow]:
        """Kinds of blows that should have been there, and were not."""
        if len(self.results) < ENOUGH:
            return []
        return [pair for pair in PAIRS if not self.blows[pair]]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations and not self.unseen

    async def run(self, rounds: int, told: Callable[[Result], None]) -> None:
        """Run rounds, whose seeds are consecutive."""
        began = time.monotonic()
        seeds = iter(range(self.first, self.first + rounds))

        async def work() -> None:
            for seed in seeds:
                result = await play(draw(seed))
                self.results.append(result)
                self.seconds = time.monotonic() - began
                told(result)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.at_once):
                group.create_task(work())


def tell(console: Console, result: Result) -> None:
    """One line per round; of a bad one, its story."""
    plan = result.plan
    blows = ", ".join(
        f"{kind} {victim}" + (f" x{count}" if count > 1 else "")
        for (kind, victim), count in result.blows.items()
    )
    style = "red" if result.violations else "default"
    modes = "+".join(sorted(plan.modes))
    console.print(
        f"{plan.seed}  {result.seconds:5.1f} s  {modes}  {plan.ending}  [{blows}]"
        f"{'  VIOLATION' if result.violations else ''}",
        style=style,
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if not result.violations:
        return
    lines = [*result.trace, *(f"VIOLATION: {text}" for text in result.violations[:MOST])]
    if len(result.violations) > MOST:
        lines.append(f"and {len(result.violations) - MOST} violations more")
    for line in lines:
        console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"    its directory with all logs: {result.kept}\n"
        f"    its choices again (the moments will differ): {replay(plan.seed)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def replay(seed: int) -> str:
    """The command that repeats a round's choices."""
    return f"tox -e chaos -- --rounds 1 --seed {seed}"


def summary(campaign: Campaign) -> list[Table]:
    """What became of all rounds."""
    results = campaign.results
    figures = Table(title="chaos", show_header=False)
    for name, value in (
        ("rounds", f"{len(results)}"),
        ("seeds", f"{campaign.first} to {campaign.first + len(results) - 1}"),
        ("at a time", f"{campaign.at_once}"),
        ("jobs", f"{sum(r.jobs for r in results)}"),
        ("outcomes received", f"{sum(r.outcomes for r in results):,}"),
        ("calls run again", f"{sum(r.run_again for r in results):,}"),
        ("blows", f"{sum(campaign.blows.values())}, {sum(r.missed for r in results)} missed"),
        ("endings", ", ".join(f"{n} {e}" for e, n in sorted(_endings(results).items()))),
        ("slowest client", f"{max((r.longest for r in results), default=0.0):.1f} s"),
        ("time", f"{campaign.seconds:.0f} s"),
        ("violations", f"{campaign.violations}"),
    ):
        figures.add_row(name, value)
    blows = Table("who", *_KINDS, title="blows that hit")
    for victim in dict.fromkeys(victim for _, victim in PAIRS):
        cells = [
            str(campaign.blows[kind, victim]) if (kind, victim) in PAIRS else "" for kind in _KINDS
        ]
        blows.add_row(victim, *cells)
    return [blows, figures]


_KINDS = tuple(dict.fromkeys(kind for kind, _ in PAIRS))


def _endings(results: list[Result]) -> Counter[str]:
    return Counter(result.plan.ending for result in results)
