"""Which draining workers should be gone: what the campaign accuses a master of, and what not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from dayfly.model import InstanceState
from tests.simulation.cloudstate import CloudState
from tests.simulation.drains import GOES, LOOK, Drains
from tests.simulation.evidence import Evidence

WORKER = "i-1"
CONNECTED, DRAINS = 100.0, 190.0


class Story:
    """A worker that drains, and has nothing in hand; its agent is connected to its master."""

    def __init__(self) -> None:
        self.evidence = Evidence(lambda: 0.0, lambda text: None)
        self.evidence.agents[WORKER].append(CONNECTED - 5.0)
        self.evidence.connected[WORKER].append(CONNECTED)
        self.evidence.draining[WORKER] = DRAINS
        self.disturbed = 0.0
        self.violations: list[str] = []
        vm = SimpleNamespace(state=InstanceState.RUNNING)
        self.drains = Drains(
            cast("CloudState", SimpleNamespace(vms={WORKER: vm})),
            self.evidence,
            [],
            disturbed=lambda: self.disturbed,
            slack=lambda: 0.0,
            violated=lambda promise, what: self.violations.append(what),
        )

    def agent_is_killed(self, at: float) -> None:
        """It has no time to notice that its master is gone; the next one starts soon after."""
        self.disturbed = at
        self.evidence.agents[WORKER].append(at + 1.3)

    def accused(self, since: float, until: float) -> bool:
        """Whether the worker is found to be there for too long."""
        now = since
        while now <= until:
            self.drains.check(now)
            now += LOOK
        return bool(self.violations)


def test_a_draining_worker_that_runs_nothing_and_has_a_master_should_be_gone_soon() -> None:
    assert not Story().accused(DRAINS, DRAINS + GOES - LOOK)
    assert Story().accused(DRAINS, DRAINS + GOES + 2 * LOOK)


def test_a_draining_worker_whose_next_agent_finds_no_master_is_nobodys_to_dismiss() -> None:
    story = Story()
    story.agent_is_killed(198.7)
    assert not story.accused(DRAINS, 198.7 + 5 * GOES)


def test_a_draining_worker_whose_next_agent_has_called_should_be_gone_soon_after_that() -> None:
    story = Story()
    story.agent_is_killed(198.7)
    assert not story.accused(DRAINS, 239.0)
    story.evidence.connected[WORKER].append(240.0)
    assert not story.accused(240.0, 240.0 + GOES - LOOK)
    assert story.accused(240.0 + GOES, 240.0 + GOES + 2 * LOOK)
