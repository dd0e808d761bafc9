"""``python -m tests.chaos``: kill real processes for many rounds, and see what is left."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

from rich.console import Console

from tests.chaos.campaign import ENOUGH, Campaign, replay, summary, tell
from tests.chaos.strike import can_cut


def main() -> int:
    """Run a campaign; 0 if nothing is wrong."""
    options = _options()
    console = Console()
    if not can_cut():
        console.print("connections of other processes cannot be cut here: kernel.yama.ptrace_scope")
        return 2
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    campaign = Campaign(first=seed, at_once=options.jobs)
    console.print(f"{options.rounds} rounds from seed {seed}; real processes are not deterministic")
    try:
        asyncio.run(campaign.run(options.rounds, lambda result: tell(console, result)))
    except KeyboardInterrupt:
        console.print("interrupted")
    for table in summary(campaign):
        console.print(table)
    for kind, victim in campaign.unseen:
        console.print(f"never happened in {ENOUGH} rounds or more: {kind} {victim}")
    for result in campaign.results:
        if result.violations:
            console.print(f"{len(result.violations)} violations: {replay(result.plan.seed)}")
    return 0 if campaign.good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, help="of the first; the others follow it")
    parser.add_argument("--jobs", type=int, default=4, help="rounds at a time (4)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
