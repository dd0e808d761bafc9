"""Seeds of the simulation: a handful in each run of the tests, a minute of them where thorough."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import knobs, story
from tests.simulation.report import Report, Violation
from tests.simulation.scenario import tell

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_dies_no_vm_outlives_its_timer_and_no_result_is_lost(seed: int) -> None:
    drawn = knobs.draw(seed)
    report = tell(drawn)
    assert not report.violations, "\n".join(story.told(drawn, report))


def test_a_seed_is_the_same_story_each_time() -> None:
    once, again = (tell(knobs.draw(3)) for _ in range(2))
    assert once.digest == again.digest
    assert once.seconds == again.seconds


def test_a_fleet_of_a_hundred_is_told_as_well() -> None:
    drawn = knobs.draw(1, vms=100)
    report = tell(drawn)
    assert not report.violations, "\n".join(story.told(drawn, report))


def test_a_story_is_shrunk_to_the_faults_and_jobs_that_it_needs() -> None:
    """With a stand-in for the product, which breaks whenever one kind of fault may strike."""

    def stand_in(drawn: knobs.Knobs) -> Report:
        report = Report(seed=drawn.seed)
        if "partition" in drawn.faults and drawn.clients[0].jobs[0].calls > 2:
            report.violations.append(Violation("a promise", "is broken", 0.0))
        return report

    drawn = next(
        found
        for found in map(knobs.draw, range(1000))
        if "partition" in found.faults and found.clients[0].jobs[0].calls > 40
    )
    shortest, report = story.shrink(drawn, stand_in(drawn), stand_in)
    assert report.violations
    assert list(shortest.faults) == ["partition"]
    assert len(shortest.clients) == 1
    assert [job.calls for job in shortest.clients[0].jobs] == [3]


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_half_a_minute_of_seeds_on_two_processors() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds", "100000", "--first", "1000",
         "--budget", "30", "--jobs", "2"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    # Status 1 is also that of a fault or a timer that so few seeds have not met.
    assert "violation: seed" not in ran.stdout, ran.stdout
    assert "of these with 10 / 100 VMs" in ran.stdout, ran.stdout + ran.stderr
