"""A few rounds of killing; ``python -m tests.chaos`` does as many as one likes."""

from __future__ import annotations

import sys

import pytest

from tests.chaos import strike
from tests.chaos.campaign import Campaign
from tests.chaos.plan import PAIRS, draw
from tests.chaos.round import Result


def test_a_seed_names_its_choices() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


@pytest.mark.parametrize("first", [0, 17, 1000, 123_456])
def test_any_fifty_rounds_plan_every_kind_of_blow(first: int) -> None:
    planned = {(blow.kind, blow.victim) for n in range(50) for blow in draw(first + n).strikes}
    assert planned == set(PAIRS)


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_six_rounds_of_killing_lose_nothing_and_leave_nothing() -> None:
    if not strike.can_cut():
        pytest.skip("connections of other processes cannot be cut: kernel.yama.ptrace_scope")
    campaign = Campaign(first=1, at_once=3)
    told: list[Result] = []
    await campaign.run(6, told.append)
    assert len(told) == 6
    assert campaign.blows
    stories = [
        "\n".join([f"seed {r.plan.seed}, kept in {r.kept}", *r.trace, *r.violations])
        for r in told
        if r.violations
    ]
    assert not stories, "\n\n".join(stories)
