"""What the campaign calls a broken promise, where no fault strikes, and what it does not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import pytest

from dayfly.errors import DayflyError, UnreachableError, WireError
from tests.simulation import knobs
from tests.simulation.evidence import Evidence
from tests.simulation.expectations import Expectations
from tests.simulation.faults import Faults
from tests.simulation.invariants import OWN_DEADLINE, Judge
from tests.simulation.process import Process
from tests.simulation.program import LEAVING, Program, Script
from tests.simulation.world import Calm, World


@contextmanager
def judge(
    *jobs: knobs.JobKnobs, auto: bool = True, start_timeout: float = 300.0
) -> Iterator[Judge]:
    """A story without faults, of one client whose jobs begin together."""
    together = knobs.ClientKnobs(laptop="laptop", after=0.0, jobs=jobs, together=True)
    drawn = replace(knobs.draw(1), auto=auto, faults={}, clients=(together,))
    drawn = replace(drawn, start_timeout=start_timeout)
    with World(1, Calm()) as world:
        evidence = Evidence(world.loop.time, world.note)
        yield Judge(world, drawn, evidence, Faults({}, world.chance, world.note))


def may_take(*jobs: knobs.JobKnobs) -> float:
    """Seconds that a job without timers may take which begins with these others."""
    with judge(*jobs, auto=False) as judged:
        return judged.bound(0.0, cast("Process", None))


def test_without_timers_a_short_job_may_wait_for_a_long_one_and_no_longer() -> None:
    short = knobs.JobKnobs(after=0.0, durations=(10.0,) * 10)
    long = knobs.JobKnobs(after=0.0, durations=(50.0,) * 10, retries=1)
    assert may_take(short, long) == pytest.approx(may_take(short) + 2 * long.work * 2)


@pytest.mark.parametrize(
    ("leaving", "served", "needed"),
    [([], [10.0], False), ([90.0], [10.0], True), ([90.0], [10.0, 95.0], False)],
    ids=["its master lives", "its master has gone", "its master is back"],
)
def test_a_worker_needs_its_own_deadline_only_once_its_master_has_gone(
    leaving: list[float], served: list[float], needed: bool
) -> None:
    async def goes(world: World) -> None:
        await asyncio.sleep(100.0)
        world.note(f"i-2 {OWN_DEADLINE} is reached")

    with judge() as judged:
        judged.evidence.connected["i-2"].append(20.0)
        judged.evidence.parted["i-2"] = 99.5  # it has only just heard
        judged.evidence.served += served
        judged.evidence.leaving += leaving
        judged.world.run(goes(judged.world))
        judged.at_the_end()
        assert bool(judged.violations) is not needed


LATE = WireError("the master does not answer", cause="start_timeout (60 s) is over")


@pytest.mark.parametrize(
    ("error", "after", "reason"),
    [
        (LATE, 66.0, True),
        (LATE, 30.0, False),
        (WireError("the master does not answer"), 66.0, False),
        (UnreachableError("no answer"), 66.0, True),
    ],
    ids=["says why", "too early", "says nothing", "a slow boot"],
)
def test_a_master_that_does_not_answer_is_a_reason_once_start_timeout_is_over_and_told(
    error: DayflyError, after: float, reason: bool
) -> None:
    job = knobs.JobKnobs(after=0.0, durations=(1.0,))
    with judge(job, start_timeout=60.0) as judged:
        judged.begun["j-1"] = 0.0
        judged.world.run(asyncio.sleep(after))
        assert Expectations(judged)._job_may_fail("j-1", job, error) is reason


def test_leaving_may_take_until_the_cloud_takes_calls_again_and_is_bounded_from_then_on() -> None:
    detached = knobs.JobKnobs(after=0.0, durations=(1.0,), detach=True)
    with judge(detached, start_timeout=60.0) as judged:
        judged.knobs = replace(judged.knobs, faults={"throttled": 0.1}, heal=70.0)
        client = judged.knobs.clients[0]
        process = judged.world.laptop().start("client")
        left = Program(judged, Script(client, [detached]), process, Counter())
        assert left._left_by(10.0) == 70.0 + 2 * 60.0 + LEAVING
        judged.world.cloud.throttled_until = 260.0
        assert left._left_by(10.0) == 260.0 + 2 * 60.0 + LEAVING
