"""For whom calls may run: what the campaign accuses a master of, and what it does not."""

from __future__ import annotations

import pytest

from dayfly.master.scheduler import CLIENT_GRACE
from tests.simulation.evidence import Evidence
from tests.simulation.runner import Execution
from tests.simulation.runs import LEISURE, OBEYED, Death, Runs

JOB, WORKER = "j-1", "i-1"
DIED = 100.0
LATE = DIED + CLIENT_GRACE + LEISURE + 5.0


class Story:
    """A job whose client has died at :data:`DIED`, under a master that heard it."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.torn: list[float] = []
        self.violations: list[str] = []
        self.evidence = Evidence(lambda: 0.0, lambda text: None)
        self.evidence.opened[JOB] = 10.0
        self.evidence.here.append(10.0)
        self.evidence.connected[WORKER].append(20.0)
        self.evidence.ended["alice@laptop 101"].append(DIED)
        self.runs = Runs(
            self.executions,
            self.evidence,
            torn=self.torn,
            retries=lambda job: 0,
            timeout=lambda job: None,
            slack=lambda: 0.0,
            violated=lambda promise, what: self.violations.append(promise),
        )
        self.runs.abandoned[JOB] = Death(DIED, "laptop", 101)

    def restarted(self, gone: float, back: float) -> None:
        """The master's VM goes, and is back with its journal."""
        self.evidence.parted[WORKER] = gone + 10.0
        self.evidence.restored[JOB] = back
        self.evidence.connected[WORKER].append(back + 1.0)

    def accused(self, began: float) -> bool:
        """Whether a call that begins then is one too many."""
        self.executions.append(Execution(JOB, len(self.executions), WORKER, began))
        self.runs.check()
        return bool(self.violations)


def test_a_call_that_begins_after_the_grace_is_paid_for_by_nobody() -> None:
    story = Story()
    assert not story.accused(DIED + CLIENT_GRACE)
    assert story.accused(LATE)


def test_a_worker_whose_master_is_gone_goes_on_with_what_it_holds_though_the_client_has_died() -> (
    None
):
    story = Story()
    story.evidence.parted[WORKER] = DIED + 45.0
    assert not story.accused(LATE)


def test_a_master_that_heard_of_the_end_of_a_client_gives_the_grace_anew_when_it_is_back() -> None:
    story = Story()
    story.restarted(gone=DIED + 30.0, back=DIED + 130.0)
    assert not story.accused(DIED + 130.0 + CLIENT_GRACE)
    assert story.accused(DIED + 130.0 + CLIENT_GRACE + LEISURE + 1.0)


@pytest.mark.parametrize("forgot", ["was down", "lost the newest part of its journal"])
def test_a_master_that_cannot_know_of_the_end_of_a_client_leaves_the_job_to_the_timers(
    forgot: str,
) -> None:
    story = Story()
    if forgot == "was down":
        story.evidence.ended.clear()
    else:
        story.torn.append(DIED + 30.0)
    story.restarted(gone=DIED + 30.0, back=DIED + 130.0)
    assert not story.accused(DIED + 1000.0)


GIVEN_UP, ELSEWHERE = 100.0, 110.0


def cut_off() -> Story:
    """A worker is given up, and a call that it holds runs on another one, from 110 s to 120 s."""
    story = Story()
    story.runs.abandoned.clear()
    story.evidence.lost[WORKER].append((GIVEN_UP, "its connection broke"))
    story.evidence.connected["i-2"].append(GIVEN_UP + 2.0)
    story.executions.append(Execution(JOB, 7, "i-2", ELSEWHERE, ended=120.0, how="value"))
    story.runs.check()
    return story


def runs_it_too(story: Story, began: float) -> bool:
    """Whether the first worker is accused if it begins that call as well."""
    story.executions.append(Execution(JOB, 7, WORKER, began))
    story.runs.check()
    return bool(story.violations)


def test_a_worker_that_is_cut_off_goes_on_with_the_calls_that_were_given_to_others() -> None:
    assert not runs_it_too(cut_off(), 150.0)


def test_a_worker_that_its_master_has_heard_again_runs_no_call_that_others_have_run() -> None:
    story = cut_off()
    story.evidence.connected[WORKER].append(140.0)
    assert runs_it_too(story, 140.0 + OBEYED + 0.1)


@pytest.mark.parametrize("why", ["lost", "not back after a restart"])
@pytest.mark.parametrize(("began", "accused"), [(0.9, False), (OBEYED + 0.1, True)])
def test_a_worker_that_calls_again_may_begin_what_it_holds_until_it_is_told_that_others_have_it(
    why: str, began: float, accused: bool
) -> None:
    story = Story()
    story.runs.abandoned.clear()
    if why == "lost":
        story.evidence.lost[WORKER].append((GIVEN_UP, "its agent did not come back"))
    else:
        story.evidence.served.append(GIVEN_UP)
    story.evidence.connected["i-2"].append(GIVEN_UP + 2.0)
    back = GIVEN_UP + 8.0
    story.evidence.connected[WORKER].append(back)
    begun = Execution(JOB, 7, WORKER, back + began, ended=back + began + 0.5, how="revoked")
    story.executions += [begun, Execution(JOB, 7, "i-2", back + 20.0)]
    story.runs.check()
    assert bool(story.violations) is accused


@pytest.mark.parametrize("lost", [False, True], ids=["that master", "a new master"])
def test_a_worker_that_a_master_refuses_goes_on_only_if_that_cannot_know_it(lost: bool) -> None:
    story = cut_off()
    if lost:
        story.evidence.served.append(ELSEWHERE + 5.0)
    story.evidence.refused[WORKER].append(140.0)
    assert runs_it_too(story, 150.0) is not lost


def test_a_worker_that_was_given_up_after_others_had_run_a_call_had_no_right_to_it() -> None:
    story = cut_off()
    story.evidence.lost[WORKER] = [(ELSEWHERE + 1.0, "its connection broke")]
    assert runs_it_too(story, 150.0)


@pytest.mark.parametrize(("back", "accused"), [(103.0, True), (None, False)])
def test_a_worker_that_did_not_come_back_after_a_restart_of_its_master_goes_on_with_its_calls(
    back: float | None, accused: bool
) -> None:
    story = cut_off()
    story.evidence.lost.clear()
    story.evidence.served.append(GIVEN_UP)
    if back is not None:
        story.evidence.connected[WORKER].append(back)
    assert runs_it_too(story, 150.0) is accused


@pytest.mark.parametrize(("back", "accused"), [(103.0, True), (None, False)])
def test_a_worker_that_a_power_cut_made_its_master_forget_goes_on_with_its_calls(
    back: float | None, accused: bool
) -> None:
    story = Story()
    story.runs.abandoned.clear()
    story.torn.append(GIVEN_UP)
    if back is not None:
        story.evidence.connected[WORKER].append(back)
    held = Execution(JOB, 7, WORKER, ELSEWHERE, ended=120.0, how="revoked")
    story.executions += [held, Execution(JOB, 7, "i-2", 120.0)]
    story.runs.check()
    assert bool(story.violations) is accused
