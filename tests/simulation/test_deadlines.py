"""How long a VM may be up: what the campaign calls too long, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from dayfly.model import Instance, InstanceState, Tag
from tests.simulation import knobs
from tests.simulation.cloudstate import CloudState
from tests.simulation.deadlines import ENDED, GIVEN_UP, Deadlines
from tests.simulation.evidence import Evidence
from tests.simulation.vms import Pool, Vm

S = InstanceState
JOB, MASTER, WORKER = "j-1", "i-1", "i-2"
SOFT, HARD, START_TIMEOUT = 120.0, 1200.0, 300.0
BOOTED, OVER = 30.0, 60.0


class Sky:
    """Instances that change when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.vms: dict[str, Vm] = {}
        self.listeners: list[Callable[..., None]] = []
        self.on_change = self.listeners.append

    def add(self, id: str, **tags: str) -> Vm:
        instance = Instance(
            id=id, instance_type="t3.medium", state=S.PENDING, tags=tags, launched_at=0.0
        )
        vm = Vm(1, Pool("t3.medium", "a", False), "terminate", "", tags, "token", instance)
        vm.become(S.PENDING, "", 0.0)
        vm.become(S.RUNNING, "", BOOTED)
        self.vms[id] = vm
        return vm


class Story:
    """A master and a worker, both up since :data:`BOOTED`; a job that is over at :data:`OVER`."""

    def __init__(self, *, job: str = "") -> None:
        drawn = knobs.draw(1)
        drawn = replace(
            drawn, soft=SOFT, hard=HARD, start_timeout=START_TIMEOUT, auto=True, faults={}
        )
        sky = Sky()
        self.master = sky.add(MASTER, **{Tag.ROLE: "master"})
        self.worker = sky.add(WORKER, **{Tag.ROLE: "worker"}, **({Tag.JOB: job} if job else {}))
        self.answered: float | None = None
        self.torn: list[float] = []
        self.evidence = Evidence(lambda: 0.0, lambda text: None)
        self.evidence.opened[JOB] = self.evidence.started[JOB] = BOOTED + 10.0
        self.evidence.over[JOB] = OVER, "completed"
        self.deadlines = Deadlines(
            cast("CloudState", sky),
            self.evidence,
            drawn,
            booted=lambda vm: BOOTED,
            answered=lambda vm: self.answered,
            stepped=lambda: 0.0,
            torn=self.torn,
            violated=lambda promise, what: None,
        )

    def heard(self, at: float) -> None:
        """The worker's agent is connected from then on."""
        self.evidence.connected[WORKER].append(at)

    def limit(self, vm: Vm) -> float:
        """Until when it may be up, but for the slack."""
        return round(self.deadlines.limit(vm)[0] - self.deadlines.slack, 6)


@pytest.mark.parametrize("heard", [BOOTED + 20.0, BOOTED + 50.0, BOOTED + 220.0])
def test_a_worker_that_boots_slowly_has_its_soft_timer_from_when_it_is_heard_of(
    heard: float,
) -> None:
    story = Story()
    story.heard(heard)
    assert story.limit(story.worker) == max(OVER, heard) + SOFT


def test_a_worker_that_comes_back_to_its_master_gains_nothing_by_it() -> None:
    story = Story()
    story.heard(BOOTED + 20.0)
    story.heard(OVER + 100.0)
    assert story.limit(story.worker) == OVER + SOFT


def test_a_worker_that_nobody_ever_heard_of_goes_by_its_hard_timer() -> None:
    story = Story()
    assert story.limit(story.worker) == BOOTED + 10.0 + HARD


def test_a_master_that_has_heard_of_all_workers_goes_by_its_soft_timer() -> None:
    story = Story()
    story.heard(OVER + SOFT - 1.0)
    assert story.limit(story.master) == OVER + SOFT


def test_a_master_stays_until_it_has_heard_of_a_worker_that_boots_slowly() -> None:
    story = Story()
    story.heard(OVER + SOFT + 10.0)
    assert story.limit(story.master) == OVER + SOFT + 10.0


def test_a_master_does_not_stay_for_ever_for_a_worker_that_never_comes() -> None:
    story = Story()
    assert story.limit(story.master) == OVER + SOFT + START_TIMEOUT


def test_a_master_stays_until_it_has_told_a_worker_that_it_lost_to_go() -> None:
    story = Story()
    story.heard(OVER - 1.0)
    lost = OVER + SOFT - 10.0
    story.evidence.lost[WORKER].append((lost, "the connection broke"))
    assert story.limit(story.master) == lost + GIVEN_UP


@pytest.mark.parametrize("answered", [BOOTED + 10.0, BOOTED + 220.0])
def test_a_worker_that_was_made_for_a_job_goes_with_it_or_as_soon_as_it_answers(
    answered: float,
) -> None:
    story = Story(job=JOB)
    story.answered = answered
    assert story.limit(story.worker) == max(OVER, answered) + ENDED


def test_a_power_cut_that_takes_the_start_of_a_job_from_the_journal_begins_it_anew() -> None:
    story = Story()
    back = OVER - 5.0
    story.evidence.restored[JOB] = back
    assert story.limit(story.worker) == BOOTED + 10.0 + HARD
    story.torn.append(OVER - 15.0)
    assert story.limit(story.worker) == back + HARD
