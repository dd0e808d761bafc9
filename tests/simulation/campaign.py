"""Many seeds over all processors, and the table of what they met."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tests.simulation.evidence import TIMERS
from tests.simulation.knobs import OF_PROGRAMS, RATES, draw
from tests.simulation.report import Report, Violation
from tests.simulation.scenario import tell

#: Every so many seeds one is run twice, in two processes, and must give the same digest.
TWICE = 50
#: Seeds from which on every fault and every timer must have been met.
MANY = 1000


@dataclass(frozen=True)
class Task:
    """One seed for one process; ``vms`` fixes the size of the fleet."""

    seed: int
    vms: int | None = None
    again: bool = False


@dataclass
class Campaign:
    """What has come of the seeds so far."""

    seeds: int = 0
    vms: Counter[int] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    timers: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    promises: Counter[str] = field(default_factory=Counter)
    failed: list[Report] = field(default_factory=list)
    twice: int = 0
    hours: float = 0.0
    steps: int = 0
    _digests: dict[int, str] = field(default_factory=dict)

    def add(self, task: Task, report: Report) -> None:
        """Take in a story."""
        if task.seed % TWICE == 0 and not self._same(report):
            report.violations.append(
                Violation("one seed is one story", "run twice, its digests differ", report.seconds)
            )
        if task.again:
            if report.violations and report.violations[-1].promise == "one seed is one story":
                self._fail(report)
            return
        self.seeds += 1
        self.sizes += report.sizes
        self.faults += report.faults
        self.timers += report.timers
        self.ends += report.ends
        self.hours += report.seconds / 3600.0
        self.steps += report.steps
        self.vms[report.sizes["max_workers"]] += 1
        if report.violations:
            self._fail(report)

    def _fail(self, report: Report) -> None:
        self.failed.append(report)
        for promise in {violation.promise for violation in report.violations}:
            self.promises[promise] += 1

    def _same(self, report: Report) -> bool:
        other = self._digests.setdefault(report.seed, report.digest)
        self.twice += other is not report.digest
        return other == report.digest

    def unmet(self) -> list[str]:
        """The faults and timers that no seed has met."""
        kinds = [f"fault {kind}" for kind in (*RATES, *OF_PROGRAMS) if not self.faults[kind]]
        return kinds + [f"timer {timer}" for timer in TIMERS if not self.timers[timer]]


def run_task(task: Task) -> tuple[Task, Report]:
    """Tell one story, in whichever process this is."""
    report = tell(draw(task.seed, vms=task.vms))
    report.options = f" --vms {task.vms}" if task.vms else ""
    return task, report


def tasks(first: int, count: int, vms: int | None) -> Iterator[Task]:
    """The seeds, each 50th twice."""
    for seed in range(first, first + count):
        yield Task(seed, vms)
        if seed % TWICE == 0:
            yield Task(seed, vms, again=True)


def run(
    first: int,
    count: int,
    *,
    vms: int | None,
    jobs: int,
    budget: float | None,
    until_violation: bool,
    told: Callable[[Campaign], None],
) -> Campaign:
    """Run seeds over ``jobs`` processes, for at most ``budget`` seconds.

    Args:
        first: The first seed.
        count: How many.
        vms: Fixes the size of the fleets.
        jobs: Processes.
        budget: Seconds after which no further seed is begun.
        until_violation: Stop at the first seed that breaks a promise.
        told: Called after each seed.
    """
    campaign = Campaign()
    until = None if budget is None else time.monotonic() + budget
    context = multiprocessing.get_context("spawn")
    waiting = tasks(first, count, vms)
    with context.Pool(jobs, maxtasksperchild=200) as pool:
        running = [pool.apply_async(run_task, (task,)) for task in itertools.islice(waiting, jobs)]
        while running:
            done = next((result for result in running if result.ready()), None)
            if done is None:
                running[0].wait(0.02)
                continue
            running.remove(done)
            campaign.add(*done.get())
            told(campaign)
            if until_violation and campaign.failed:
                break
            if until is None or time.monotonic() < until:
                running += [pool.apply_async(run_task, (t,)) for t in itertools.islice(waiting, 1)]
        pool.terminate()
    return campaign


def show(campaign: Campaign, seconds: float) -> None:
    """Print the tables."""
    console = Console(width=110)
    sizes = campaign.sizes
    summary = Table(title="simulation", show_header=False)
    for name, value in (
        ("seeds", f"{campaign.seeds:,}"),
        ("of these with 10 / 100 VMs", f"{campaign.vms[10]:,} / {campaign.vms[100]:,}"),
        ("run twice, digests compared", f"{campaign.twice:,}"),
        ("VMs", f"{sizes['vms']:,}"),
        ("jobs", f"{sizes['jobs']:,}"),
        ("calls", f"{sizes['calls']:,}"),
        ("calls run", f"{sizes['executions']:,}"),
        ("outcomes delivered", f"{sizes['delivered']:,}"),
        ("journals replayed", f"{sizes['replays']:,}"),
        ("virtual hours", f"{campaign.hours:,.0f}"),
        ("steps of the loop", f"{campaign.steps:,}"),
        ("seconds", f"{seconds:,.0f}"),
        ("seeds with a violation", f"{len(campaign.failed):,}"),
    ):
        summary.add_row(name, value)
    console.print(summary)
    _counts(console, "faults that struck", [*RATES, *OF_PROGRAMS], campaign.faults)
    _counts(console, "timers and bounds that fired", TIMERS, campaign.timers)
    _counts(console, "how awaits of jobs ended", sorted(campaign.ends), campaign.ends)
    if campaign.promises:
        names = [name for name, _ in campaign.promises.most_common()]
        _counts(console, "promises broken, in so many seeds", names, campaign.promises)


def _counts(console: Console, title: str, names: Sequence[str], counts: Counter[str]) -> None:
    table = Table(title=title, show_header=False)
    half = -(-len(names) // 2)
    for place in range(half):
        row = []
        for name in (names[place], *names[place + half : place + half + 1]):
            row += [name, f"{counts[name]:,}" if counts[name] else "[red]0[/red]"]
        table.add_row(*row)
    console.print(table)
