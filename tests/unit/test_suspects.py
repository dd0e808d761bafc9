"""Calls that may take machines down, and calls that are tried again: stories of the scheduler."""

from __future__ import annotations

from dayfly.master import events as e
from dayfly.master.retrying import PATIENCE
from dayfly.master.suspects import Loss, Suspects, verdict
from dayfly.model import CallOutcome, OutcomeKind
from dayfly.wire import messages as m
from dayfly.wire.messages import Span
from tests.unit.master_support import spec
from tests.unit.test_scheduler import Story, closed, leases, needed, told


def lose(story: Story, name: str, *, innocent: bool = False) -> list[e.Action]:
    return story.tell(e.WorkerLost(worker=name, reason=f"{name} is silent", innocent=innocent))


def gone(story: Story, name: str, *, innocent: bool = False) -> list[e.Action]:
    return story.tell(e.WorkerGone(worker=name, innocent=innocent))


def delivered(actions: list[e.Action]) -> list[CallOutcome]:
    return [o for a in actions if isinstance(a, e.Deliver) for o in a.outcomes]


def fail(story: Story, name: str, index: int, *, attempt: int = 0) -> list[e.Action]:
    header = b'{"type":"ValueError","module":"builtins","message":"no luck","traceback":""}\n'
    failed = CallOutcome(index, OutcomeKind.RAISED, header, 10.0, 10.2, name, attempt)
    return story.tell(e.OutcomesCame(worker=name, job="j", outcomes=[failed]))


def attempts(actions: list[e.Action]) -> list[int]:
    return [a.attempt for a in actions if isinstance(a, e.Lease)]


# -- calls that are in hand when workers are lost --


def test_a_call_that_takes_three_workers_down_is_failed_by_name_and_the_others_go_on() -> None:
    story = Story()
    story.job(spec(), 6)
    assert leases(story.worker("w1", spec())) == {"w1": [0, 1]}
    lose(story, "w1")
    assert leases(story.worker("w2", spec())) == {"w2": [0, 1]}
    lose(story, "w2")
    # Either may have done it: from now on one at a time, with nothing else on the machine.
    assert leases(story.worker("w3", spec())) == {"w3": [1]}
    assert leases(story.done("w3", 1)) == {"w3": [0]}
    actions = lose(story, "w3")
    (convicted,) = delivered(gone(story, "w3"))
    assert (convicted.index, convicted.kind) == (0, OutcomeKind.CRASHED)
    text = convicted.payload.decode()
    for words in ("3 workers", "w1: w1 is silent", "w3: w3 is silent", "larger worker_instance"):
        assert words in text
    # What it has cost in workers does not count against the job.
    (need,) = [a for a in actions if isinstance(a, e.NeedWorkers)]
    assert (need.count, need.spared) == (1, 3)
    story.worker("w4", spec())
    story.done("w4", 2, 3)
    ended = closed(story.done("w4", 4, 5))
    assert ended is not None
    assert (ended.done, ended.failed) == (6, 1)


def test_calls_that_only_waited_on_a_lost_worker_are_not_convicted() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 400)
    story.done("w1", 0, 1, seconds=0.001)
    held = set(leases(story.actions)["w1"]) - {0, 1}
    assert len(held) > 100
    lose(story, "w1")
    # Again they are the first in the queue, but no more than can run at a time.
    assert leases(story.worker("w2", spec())) == {"w2": [2, 3]}
    lose(story, "w2")
    # Two are suspects; the others are let run beside each other on the next worker but one.
    assert len(leases(story.worker("w3", spec()))["w3"]) == 1
    assert len(leases(story.worker("w4", spec()))["w4"]) == 2


def test_a_suspect_that_succeeds_is_none() -> None:
    story = Story()
    story.job(spec(), 2)
    for name in ("w1", "w2"):
        story.worker(name, spec())
        lose(story, name)
    first = leases(story.worker("w3", spec()))["w3"][0]
    second = leases(story.done("w3", first))["w3"][0]
    ended = closed(story.done("w3", second))
    assert ended is not None
    assert (ended.done, ended.failed) == (2, 0)


def test_a_worker_is_emptied_for_a_suspect_while_the_others_go_on() -> None:
    story = Story()
    story.job(spec(), 20)
    for name in ("w1", "w2"):
        story.worker(name, spec(), processes=1)
        lose(story, name)
    story.worker("w3", spec(), processes=1)
    story.worker("w4", spec(), processes=2)
    suspect = leases(story.actions)["w3"]
    assert suspect == [0]
    assert leases(story.done("w4", 1)) == {"w4": [3]}
    assert leases(story.done("w4", 2)) == {"w4": [4]}


def test_with_every_process_busy_a_suspect_gets_the_worker_that_is_free_first() -> None:
    story = Story()
    story.job(spec(), 20)
    story.worker("w4", spec(), processes=2)
    for name in ("w1", "w2"):
        story.worker(name, spec(), processes=1)
        lose(story, name)
    suspect = leases(story.actions)["w1"][0]
    # It is given nothing more until both of its processes are free, and then the suspect alone.
    assert leases(story.done("w4", 0)) == {}
    assert leases(story.done("w4", 1)) == {"w4": [suspect]}
    held = story.scheduler.held("w4")
    assert held == 1
    assert len(leases(story.done("w4", suspect))["w4"]) == 2


def test_a_suspect_that_never_reached_a_worker_is_not_convicted_with_it() -> None:
    story = Story()
    story.job(spec(), 3)
    for name in ("w1", "w2"):
        story.worker(name, spec(), processes=3)
        lose(story, name)
    (suspect,) = leases(story.worker("w3", spec()))["w3"]
    story.tell(e.WorkerAway(worker="w3"))
    # Its call is not wanted any more; another one cannot reach it before it is back.
    cancelled = e.CancelAsked(job="j", indices=[suspect], reason="ada")
    assert leases(story.tell(cancelled)) == {}
    assert delivered(lose(story, "w3") + gone(story, "w3")) == []
    assert len(leases(story.worker("w4", spec()))["w4"]) == 1


def test_a_worker_that_comes_back_proves_its_calls_innocent() -> None:
    story = Story()
    story.job(spec(), 2)
    for _ in range(5):  # a network that comes and goes takes nobody down
        story.worker("w1", spec())
        actions = lose(story, "w1")
        assert [type(a) for a in actions].count(e.Marked) == 1
        story.tell(e.WorkerComing(worker="w1", pool=e.pool_of(spec())))
        actions = story.ready("w1", holding={"j": [Span(0, 2)]})
        assert e.Absolved(job="j", worker="w1", incarnation="a") in actions
        assert story.scheduler.held("w1") == 2
    ended = closed(story.done("w1", 0, 1))
    assert ended is not None
    assert ended.failed == 0


def test_an_agent_that_a_call_kills_three_times_has_its_call_failed() -> None:
    story = Story()
    story.worker("w1", spec(), processes=1)
    story.job(spec(), 3)
    for incarnation in ("b", "c"):
        assert leases(story.ready("w1", processes=1, incarnation=incarnation)) == {"w1": [0]}
    actions = story.ready("w1", processes=1, incarnation="d")
    (convicted,) = delivered(actions)
    assert convicted.index == 0
    assert "3 times it was in the hands of a worker" in convicted.payload.decode()
    assert leases(actions) == {"w1": [1]}


def accused() -> Story:
    """The only call has two marks, runs alone on w3, and that is silent."""
    story = Story()
    story.job(spec(), 1)
    for name in ("w1", "w2", "w3"):
        assert leases(story.worker(name, spec())) == {name: [0]}
        actions = lose(story, name)
    assert delivered(actions) == []
    assert story.scheduler.accuses("w3")
    assert not story.scheduler.accuses("w2")
    return story


def test_a_suspect_whose_worker_is_only_silent_is_not_failed_and_its_value_is_kept() -> None:
    story = accused()
    # Nobody else gets it meanwhile: it may well take that one down, too.
    assert leases(story.worker("w4", spec())) == {}
    story.now = 20.0
    story.tell(e.WorkerComing(worker="w3", pool=e.pool_of(spec())))
    actions = story.ready("w3", holding={"j": [Span(0, 1)]})
    assert e.Absolved(job="j", worker="w3", incarnation="a") in actions
    assert not story.scheduler.accuses("w3")
    assert (leases(actions), told(actions, "w3")) == ({}, [])
    actions = story.done("w3", 0)
    assert [outcome.kind for outcome in delivered(actions)] == [OutcomeKind.VALUE]
    ended = closed(actions)
    assert ended is not None
    assert ended.failed == 0
    assert gone(story, "w3") == []


def test_a_suspect_that_had_been_marked_among_others_waits_for_its_verdict_too() -> None:
    story = Story()
    story.worker("w1", spec(), processes=1)
    story.job(spec(), 4)
    story.done("w1", 0)
    lose(story, "w1")
    for name in ("w2", "w3"):
        (poison,) = leases(story.worker(name, spec(), processes=1))[name]
        assert poison == 1
        lose(story, name)
    assert story.scheduler.accuses("w3")
    assert leases(story.worker("w4", spec())) == {"w4": [2, 3]}
    assert leases(story.done("w4", 2, 3)) == {}
    assert closed(gone(story, "w3")) is not None


def test_the_late_outcome_of_a_suspect_counts_while_its_worker_may_still_come_back() -> None:
    story = accused()
    ended = closed(story.done("w3", 0))
    assert ended is not None
    assert ended.failed == 0


def test_a_suspect_is_failed_when_its_worker_comes_back_without_its_process() -> None:
    story = accused()
    story.tell(e.WorkerComing(worker="w3", pool=e.pool_of(spec())))
    actions = story.ready("w3", incarnation="b")
    assert [outcome.kind for outcome in delivered(actions)] == [OutcomeKind.CRASHED]
    assert closed(actions) is not None


def test_a_suspect_whose_worker_the_cloud_has_ended_is_run_again() -> None:
    story = accused()
    actions = gone(story, "w3", innocent=True)
    assert delivered(actions) == []
    assert e.Absolved(job="j", worker="w3", incarnation="a") in actions
    assert leases(story.worker("w4", spec())) == {"w4": [0]}
    assert closed(story.done("w4", 0)) is not None


def test_a_suspect_that_an_earlier_worker_still_runs_is_left_to_that() -> None:
    story = accused()
    story.tell(e.WorkerComing(worker="w1", pool=e.pool_of(spec())))
    assert told(story.ready("w1", holding={"j": [Span(0, 1)]}), "w1") == []
    assert gone(story, "w3") == []
    ended = closed(story.done("w1", 0))
    assert ended is not None
    assert ended.failed == 0


def test_a_suspect_that_is_cancelled_while_its_worker_is_silent_is_no_crash() -> None:
    story = accused()
    cancelled = story.tell(e.CancelAsked(job="j", indices=[0], reason="ada"))
    assert [outcome.kind for outcome in delivered(cancelled)] == [OutcomeKind.CANCELLED]
    assert closed(cancelled) is not None
    assert gone(story, "w3") == []


def test_workers_whose_time_is_up_mark_nobody() -> None:
    story = Story()
    story.job(spec(), 2)
    for name in ("w1", "w2", "w3", "w4"):
        story.worker(name, spec())
        assert not any(isinstance(a, e.Marked) for a in lose(story, name, innocent=True))
    assert leases(story.worker("w5", spec())) == {"w5": [0, 1]}


def test_marks_outlive_the_master() -> None:
    story = Story()
    losses = [Loss(name, "a", "gone", [Span(0, 2)]) for name in ("w1", "w2")]
    losses.append(Loss("w3", "a", "gone", [Span(4, 6)]))
    restored = e.JobRestored(
        spec=spec(),
        chunks=[Span(0, 8)],
        total=8,
        done=bytearray(b"\1" + bytes(7)),
        failed=0,
        started=-1.0,
        losses=losses,
    )
    story.tell(restored)
    assert leases(story.worker("w4", spec())) == {"w4": [1]}  # the other suspect is done
    lose(story, "w4")
    (convicted,) = delivered(gone(story, "w4"))
    assert convicted.index == 1
    assert leases(story.worker("w5", spec())) == {
        "w5": [4, 5]
    }  # marked once: the first in the queue


def test_a_suspect_that_a_worker_still_runs_after_a_restart_is_left_to_it_alone() -> None:
    story = Story()
    losses = [Loss(name, "a", "gone", [Span(0, 1)]) for name in ("w1", "w2")]
    story.tell(
        e.JobRestored(
            spec=spec(),
            chunks=[Span(0, 8)],
            total=8,
            done=bytearray(8),
            failed=0,
            started=-1.0,
            losses=losses,
        )
    )
    story.tell(e.WorkerComing(worker="w3", pool=e.pool_of(spec()), returning=True))
    actions = story.ready("w3", holding={"j": [Span(0, 1)]})
    assert leases(actions) == {}
    assert told(actions, "w3") == []
    lose(story, "w3")
    assert [outcome.index for outcome in delivered(gone(story, "w3"))] == [0]


def test_the_marks_of_a_call_are_the_losses_that_name_it() -> None:
    suspects = Suspects()
    suspects.add(Loss("w1", "a", "gone", [Span(0, 2), Span(5, 9)]))
    suspects.add(Loss("w2", "a", "gone", [Span(6, 7)]))
    assert [len(suspects.marks(index)) for index in (0, 2, 5, 6, 8, 9)] == [1, 0, 1, 2, 1, 0]
    assert suspects.suspicious(6)
    assert not suspects.take_back("w1", "b")
    assert suspects.take_back("w1", "a")
    assert not suspects.suspicious(6)
    assert "w2: gone" in verdict(suspects.marks(6))


# -- calls that fail are run again --


def test_a_call_that_fails_is_run_again_on_another_worker() -> None:
    story = Story()
    story.worker("w1", spec(retries=2, wanted=2), processes=1)
    story.worker("w2", spec(retries=2, wanted=2), processes=1)
    story.job(spec(retries=2, wanted=2), 3)
    held = {name: calls[0] for name, calls in leases(story.actions).items()}
    actions = fail(story, "w1", held["w1"])
    assert delivered(actions) == []
    (tried,) = [a for a in actions if isinstance(a, e.Tried)]
    assert (tried.index, tried.tried.what) == (held["w1"], "raised ValueError: no luck")
    assert leases(actions) == {"w1": [2]}  # not what it has just failed: the other one gets that
    actions = story.done("w2", held["w2"])
    assert leases(actions) == {"w2": [held["w1"]]}
    assert attempts(actions) == [1]
    (outcome,) = delivered(story.done("w2", held["w1"]))
    assert [one.worker for one in outcome.tries] == ["w1"]


def test_of_two_idle_workers_the_one_that_has_not_failed_it_gets_it() -> None:
    story = Story()
    story.worker("w1", spec(retries=1))
    story.job(spec(retries=1), 1)
    story.worker("w2", spec(retries=1))
    assert leases(fail(story, "w1", 0)) == {"w2": [0]}


def test_a_call_that_failed_and_is_a_suspect_since_gets_no_company() -> None:
    story, asked = Story(), spec(retries=3)
    story.worker("w1", asked, processes=1)
    story.worker("w2", asked, processes=1)
    story.job(asked, 5)
    assert leases(fail(story, "w1", 0)) == {"w1": [2]}
    assert leases(story.done("w2", 1)) == {"w2": [0]}
    lose(story, "w2", innocent=True)
    story.tell(e.WorkerComing(worker="w2", pool=e.pool_of(asked)))
    mine = {"j": [Span(0, 1)]}
    ready = e.WorkerReady(
        worker="w2", incarnation="a", processes=1, holding=mine, attempts={"j": {0: 1}}
    )
    assert leases(story.tell(ready)) == {}
    lose(story, "w2")
    assert leases(story.worker("w3", asked, processes=1)) == {"w3": [0]}
    lose(story, "w3")
    # It waits for the worker that is being emptied for it; another one may take the others.
    assert leases(story.worker("w4", asked)) == {"w4": [3, 4]}
    assert leases(story.done("w1", 2)) == {"w1": [0]}


def test_with_one_worker_only_a_call_is_run_again_there() -> None:
    story = Story()
    story.worker("w1", spec(retries=1), processes=1)
    story.job(spec(retries=1), 2)
    assert leases(fail(story, "w1", 0)) == {"w1": [0]}
    (last,) = delivered(fail(story, "w1", 0, attempt=1))
    assert last.kind is OutcomeKind.RAISED
    assert len(last.tries) == 1


def test_a_try_does_not_wait_for_another_worker_that_is_busy_for_an_hour() -> None:
    story, asked = Story(), spec(retries=2)
    story.worker("w1", asked, processes=1)
    story.worker("w2", asked, processes=1)
    story.job(asked, 2)
    assert leases(fail(story, "w1", 0)) == {}
    assert story.scheduler.wake == PATIENCE
    story.now = PATIENCE - 1
    assert leases(story.tell(e.Tick())) == {}
    story.now = PATIENCE
    actions = story.tell(e.Tick())
    assert leases(actions) == {"w1": [0]}
    assert attempts(actions) == [1]
    # Each try is patient anew.
    story.now = 100.0
    assert leases(fail(story, "w1", 0, attempt=1)) == {}
    assert story.scheduler.wake == 100.0 + PATIENCE
    actions = story.done("w2", 1)
    assert leases(actions) == {"w2": [0]}
    (last,) = delivered(story.done("w2", 0))
    assert len(last.tries) == 2


def test_patience_with_a_try_goes_on_after_the_master_restarted() -> None:
    story, asked = Story(), spec(retries=2)
    story.worker("w0", asked, processes=1)
    story.job(asked, 1)
    (tried,) = [a.tried for a in fail(story, "w0", 0) if isinstance(a, e.Tried)]
    again = Story()
    again.now = 10.0
    again.tell(
        e.JobRestored(
            spec=asked,
            chunks=[Span(0, 2)],
            total=2,
            done=bytearray(2),
            failed=0,
            started=0.0,
            tries={0: [tried]},
        )
    )
    for name in ("w0", "w1"):
        again.tell(e.WorkerComing(worker=name, pool=e.pool_of(asked), returning=True))
    again.ready("w0", processes=1)
    assert leases(again.ready("w1", processes=1, holding={"j": [Span(1, 2)]})) == {}
    again.now = 10.0 + PATIENCE
    assert leases(again.tell(e.Tick())) == {"w0": [0]}


def test_what_cannot_be_pickled_is_not_tried_again() -> None:
    story = Story()
    story.worker("w1", spec(retries=5))
    story.job(spec(retries=5), 1)
    unpicklable = CallOutcome(0, OutcomeKind.UNPICKLABLE, b"", 1.0, 1.1, "w1")
    actions = story.tell(e.OutcomesCame(worker="w1", job="j", outcomes=[unpicklable]))
    assert [outcome.kind for outcome in delivered(actions)] == [OutcomeKind.UNPICKLABLE]


def test_a_lost_worker_costs_no_try_and_its_late_failure_counts_for_nothing() -> None:
    story = Story()
    story.worker("w1", spec(retries=1), processes=1)
    story.job(spec(retries=1), 1)
    lose(story, "w1", innocent=True)
    assert attempts(story.worker("w2", spec(retries=1), processes=1)) == [0]
    assert fail(story, "w1", 0) == []
    assert attempts(fail(story, "w2", 0)) == [1]
    assert closed(story.done("w2", 0)) is not None


def test_a_failure_that_is_said_again_after_a_broken_connection_is_one_try() -> None:
    story = Story()
    story.worker("w1", spec(retries=1), processes=1)
    story.job(spec(retries=1), 1)
    fail(story, "w1", 0)  # it never heard that this was kept, nor got the call again
    actions = story.ready("w1", processes=1, holding={"j": [Span(0, 1)]})
    assert told(actions, "w1") == [m.Revoke(job="j", indices=[0])]
    assert attempts(actions) == [1]
    assert fail(story, "w1", 0) == []
    assert closed(story.done("w1", 0)) is not None


def test_tries_outlive_the_master_and_an_attempt_that_runs_is_left_to_its_worker() -> None:
    story = Story()
    story.worker("w0", spec(retries=2), processes=1)
    story.job(spec(retries=2), 1)
    (tried,) = [a.tried for a in fail(story, "w0", 0) if isinstance(a, e.Tried)]
    again = Story()
    again.tell(
        e.JobRestored(
            spec=spec(retries=2),
            chunks=[Span(0, 1)],
            total=1,
            done=bytearray(1),
            failed=0,
            started=-1.0,
            tries={0: [tried]},
        )
    )
    again.tell(e.WorkerComing(worker="w0", pool=e.pool_of(spec()), returning=True))
    holding = {"j": [Span(0, 1)]}
    ready = e.WorkerReady(
        worker="w0", incarnation="a", processes=1, holding=holding, attempts={"j": {0: 1}}
    )
    assert leases(again.tell(ready)) == {}
    assert attempts(fail(again, "w0", 0, attempt=1)) == [2]
    (last,) = delivered(fail(again, "w0", 0, attempt=2))
    assert len(last.tries) == 2


def test_what_a_worker_dropped_because_it_was_told_to_is_no_outcome() -> None:
    story = Story()
    story.worker("w1", spec(wanted=2), processes=1)
    story.job(spec(wanted=2), 1)
    lose(story, "w1")
    story.worker("w2", spec(wanted=2), processes=1)
    story.tell(e.WorkerComing(worker="w1", pool=e.pool_of(spec())))
    actions = story.ready("w1", processes=1, holding={"j": [Span(0, 1)]})
    assert told(actions, "w1") == [m.Revoke(job="j", indices=[0])]
    dropped = CallOutcome(0, OutcomeKind.CANCELLED, b"it was asked for", worker="w1")
    assert story.tell(e.OutcomesCame(worker="w1", job="j", outcomes=[dropped])) == []
    assert closed(story.done("w2", 0)) is not None


# -- workers that the cloud takes back --


def test_a_worker_that_drains_gets_no_more_and_another_is_asked_for_at_once() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 10)
    actions = story.tell(e.WorkerDraining(worker="w1", reason="w1 goes in 120 s"))
    (need,) = [a for a in actions if isinstance(a, e.NeedWorkers)]
    assert (need.count, need.spared) == (1, 1)
    assert leases(story.done("w1", 0)) == {}
    actions = story.done("w1", 1)
    assert e.Dismiss(worker="w1", why="spot") in actions
    assert leases(actions) == {}
    assert needed(lose(story, "w1", innocent=True)) == []
    assert leases(story.worker("w2", spec())) == {"w2": [2, 3]}


def test_an_idle_worker_that_drains_can_go_at_once() -> None:
    story = Story()
    story.worker("w1", spec())
    assert story.tell(e.WorkerDraining(worker="w1", reason="spot")) == [
        e.Dismiss(worker="w1", why="spot")
    ]
    assert story.tell(e.WorkerDraining(worker="w1", reason="spot")) == []


def test_what_a_draining_worker_holds_after_a_restart_is_waited_for() -> None:
    story = Story()
    story.job(spec(), 2)
    story.tell(e.WorkerComing(worker="w1", pool=e.pool_of(spec()), returning=True))
    assert needed(story.tell(e.WorkerDraining(worker="w1", reason="spot"))) == [1]
    actions = story.ready("w1", holding={"j": [Span(0, 1)]})
    assert leases(actions) == {}
    assert e.Dismiss(worker="w1", why="spot") not in actions
    assert e.Dismiss(worker="w1", why="spot") in story.done("w1", 0)


def test_calls_of_a_worker_that_is_gone_before_they_end_run_elsewhere_at_no_cost() -> None:
    story = Story()
    story.worker("w1", spec(retries=1, wanted=2))
    story.worker("w2", spec(retries=1, wanted=2))
    story.job(spec(retries=1, wanted=2), 4)
    mine = leases(story.actions)["w1"]
    story.tell(e.WorkerDraining(worker="w1", reason="spot"))
    lose(story, "w1", innocent=True)
    actions = story.done("w2", *leases(story.actions)["w2"])
    assert sorted(leases(actions)["w2"]) == mine
    assert attempts(actions) == [0] * len(attempts(actions))


def test_a_worker_that_drained_while_nobody_was_attached_is_not_held_against_the_next() -> None:
    story = Story()
    story.job(spec(), 4)
    story.worker("w1", spec())
    story.tell(e.FollowersChanged(job="j", count=0, silent=True))
    story.tell(e.WorkerDraining(worker="w1", reason="spot"))
    lose(story, "w1", innocent=True)
    actions = story.tell(e.FollowersChanged(job="j", count=1))
    (need,) = [a for a in actions if isinstance(a, e.NeedWorkers)]
    assert (need.count, need.spared) == (1, 1)
