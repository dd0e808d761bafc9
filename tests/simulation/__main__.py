"""``python -m tests.simulation``: run seeds, or tell the story of one."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.simulation import campaign, story
from tests.simulation.knobs import CLASSES, draw
from tests.simulation.scenario import tell


def main() -> int:
    """Returns the exit status: 1 on any violation."""
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings must be iterated in one order, here and wherever a seed is replayed.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])  # noqa: S606
    if options.seed is not None:
        return _one(options)
    began = time.monotonic()
    found = campaign.run(
        options.first,
        options.seeds,
        vms=options.vms,
        jobs=options.jobs,
        budget=options.budget,
        until_violation=options.until_violation,
        told=_Ticker(options.seeds, began),
    )
    campaign.show(found, time.monotonic() - began)
    for report in found.failed[:20]:
        for violation in report.violations[:3]:
            print(f"violation: seed {report.seed}: {violation}")
        print(f"    again: python -m tests.simulation --seed {report.seed}{report.options}")
    unmet = found.unmet() if found.seeds >= campaign.MANY else []
    for name in unmet:
        print(f"never met: {name}")
    return 1 if found.failed or unmet or not found.seeds else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="tell the story of this one")
    parser.add_argument("--vms", type=int, choices=CLASSES, help="fleets of this size alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--budget", type=float, help="seconds after which no seed is begun")
    parser.add_argument("--until-violation", action="store_true", help="stop at the first one")
    parser.add_argument("--whole", action="store_true", help="do not shrink the story of --seed")
    return parser.parse_args()


def _one(options: argparse.Namespace) -> int:
    """Tell the story of one seed; a broken promise in the shortest form that is found."""
    knobs = draw(options.seed, vms=options.vms)
    report = tell(knobs, keep_trace=True)
    report.options = f" --vms {options.vms}" if options.vms else ""
    if report.violations and not options.whole:
        arguments = report.options
        knobs, report = story.shrink(knobs, report, lambda each: tell(each, keep_trace=True))
        report.options = arguments
    for line in story.told(knobs, report):
        print(line)
    return 1 if report.violations else 0


class _Ticker:
    """Tells at once of a seed with a violation, and from time to time how far it is."""

    def __init__(self, seeds: int, began: float) -> None:
        self._seeds = seeds
        self._began = began
        self._next = 10.0
        self._failed = 0

    def __call__(self, found: campaign.Campaign) -> None:
        for report in found.failed[self._failed :]:
            print(f"violation: seed {report.seed}", file=sys.stderr, flush=True)
        self._failed = len(found.failed)
        elapsed = time.monotonic() - self._began
        if elapsed < self._next:
            return
        self._next = elapsed + 10.0
        text = f"{found.seeds:,} of {self._seeds:,} seeds, {len(found.failed)} with a violation"
        print(f"{elapsed:6.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
