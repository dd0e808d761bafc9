"""Which jobs stand still: what the campaign accuses a master of, and what it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from dayfly.model import Instance, InstanceState
from tests.simulation.cloudstate import CloudState
from tests.simulation.evidence import Evidence
from tests.simulation.stalls import LOOK, STILL, Stalls
from tests.simulation.vms import Pool, Vm

S = InstanceState
JOB, WORKER = "j-1", "i-1"
CONNECTED = 100.0


class Story:
    """A job that is awaited, nothing of which runs; its worker is connected."""

    def __init__(self) -> None:
        instance = Instance(
            id=WORKER, instance_type="t3.medium", state=S.PENDING, tags={}, launched_at=0.0
        )
        self.vm = Vm(1, Pool("t3.medium", "a", False), "stop", "", {}, "", instance)
        self.vm.become(S.RUNNING, "", 50.0)
        self.evidence = Evidence(lambda: 0.0, lambda text: None)
        self.evidence.opened[JOB] = 10.0
        self.evidence.agents[WORKER].append(CONNECTED - 5.0)
        self.evidence.connected[WORKER].append(CONNECTED)
        self.violations: list[str] = []
        self.stalls = Stalls(
            cast("CloudState", SimpleNamespace(vms={WORKER: self.vm})),
            self.evidence,
            [],
            executions=[],
            retries=lambda job: 0,
            awaited=lambda: [JOB],
            disturbed=lambda: 0.0,
            violated=lambda promise, what: self.violations.append(what),
        )

    def started_again(self, at: float) -> None:
        """The VM goes, and its agent with it, which says nothing more; then the VM is back."""
        for state in (S.STOPPING, S.STOPPED, S.PENDING, S.RUNNING):
            self.vm.become(state, "", at)

    def accused(self, since: float) -> bool:
        """Whether the job is found to stand still within the time for which none may."""
        now = since
        while now < since + STILL + 2 * LOOK:
            self.stalls.check(now)
            now += LOOK
        return bool(self.violations)


def test_a_job_whose_worker_is_connected_and_does_nothing_stands_still() -> None:
    assert Story().accused(CONNECTED)


def test_a_job_whose_worker_was_started_again_and_has_not_called_does_not_stand_still() -> None:
    story = Story()
    story.started_again(200.0)
    assert not story.accused(210.0)


@pytest.mark.parametrize("called", [False, True])
def test_an_agent_that_is_started_anew_serves_once_it_has_called(called: bool) -> None:
    story = Story()
    story.evidence.agents[WORKER].append(200.0)
    if called:
        story.evidence.connected[WORKER].append(205.0)
    assert story.accused(210.0) is called
