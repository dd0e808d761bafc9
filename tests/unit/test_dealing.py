"""Who gets the calls that wait, where several jobs or workers could have them."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise

from dayfly.master import events as e
from dayfly.master.dealer import TURN
from dayfly.wire import messages as m
from tests.unit.master_support import spec
from tests.unit.test_scheduler import Story, leases, told


class Work(Story):
    """Workers that run what they are given, each call for as long as its job's take.

    Attributes:
        ran: The jobs of the calls that have ended, in order.
    """

    def __init__(self, **seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.ran: list[str] = []
        self._running: list[tuple[float, e.Lease]] = []

    def tell(self, event: e.Event) -> list[e.Action]:
        actions = super().tell(event)
        for action in actions:
            if isinstance(action, e.Lease):
                assert action.span.stop == action.span.start + 1, "calls this long come alone"
                self._running.append((self.now + self.seconds[action.job], action))
        return actions

    def run(self, until: float) -> list[str]:
        """The jobs of the calls that end by then, in order."""
        before = len(self.ran)
        while self._running and min(self._running, key=lambda one: one[0])[0] <= until:
            ended = min(self._running, key=lambda one: one[0])
            self._running.remove(ended)
            self.now, lease = ended
            self.ran.append(lease.job)
            self.done(
                lease.worker, lease.span.start, job=lease.job, seconds=self.seconds[lease.job]
            )
        return self.ran[before:]


def test_on_a_worker_of_one_process_a_second_job_does_not_wait_for_the_end_of_the_first() -> None:
    work = Work(first=30.0, second=30.0)
    work.worker("mine", spec("first"), processes=1)
    work.job(spec("first"), 70)
    work.now = 5.0
    work.job(spec("second"), 8)
    assert work.run(100.0) == ["first", "second", "first"]
    # From call to call, whoever has more of them.
    assert Counter(work.run(500.0)[:12]) == {"first": 6, "second": 6}
    work.run(10_000.0)
    assert Counter(work.ran) == {"first": 70, "second": 8}


def test_more_jobs_than_processes_are_all_served() -> None:
    work = Work(a=10.0, b=10.0, c=10.0)
    work.worker("w1", spec("a"), processes=1)
    work.worker("w2", spec("a"), processes=1)
    for job in "abc":
        work.job(spec(job), 100)
    ran = Counter(work.run(600.0))
    assert max(ran.values()) - min(ran.values()) <= 2
    assert ran.total() == 2 * 60


def test_a_process_does_not_change_between_jobs_at_each_of_their_short_calls() -> None:
    """It may have to import the modules of the other one each time."""
    work = Work(a=0.25, b=0.25)
    work.worker("w1", spec("a"), processes=1)
    for job in "ab":
        work.job(spec(job), 1000)
    ran = work.run(60.0)
    changes = sum(one != next_ for one, next_ in pairwise(ran))
    assert 60.0 / TURN - 2 <= changes <= 60.0 / TURN
    counts = Counter(ran)
    assert abs(counts["a"] - counts["b"]) <= TURN / 0.25


def test_a_job_of_one_call_on_a_busy_worker_runs_next() -> None:
    work = Work(long=30.0, hello=0.1)
    work.worker("mine", spec("long"), processes=1)
    work.job(spec("long"), 100)
    work.run(100.0)
    work.job(spec("hello"), 1)
    assert work.run(125.0) == ["long", "hello"]


# -- workers that cannot be talked to --


def test_when_the_worker_that_was_to_hand_calls_back_goes_silent_another_is_asked_at_once() -> None:
    story = Story()
    for name in ("w1", "w2"):
        story.worker(name, spec())
    story.job(spec(), 60)
    job = story.scheduler.job("j")
    assert job is not None
    while job.ledger.pending:
        for name in ("w1", "w2"):
            calls = leases(story.actions).get(name, [])
            story.done(name, *[i for i in calls if job.ledger.holder_of(i) > 0][:2], seconds=0.01)
    actions = story.worker("idle", spec())
    asked = [name for name in ("w1", "w2") if told(actions, name)]
    assert len(asked) == 1
    (other,) = {"w1", "w2"} - set(asked)
    actions = story.tell(e.WorkerAway(worker=asked[0]))
    assert [type(message) for message in told(actions, other)] == [m.Recall]


def work_of_an_outcome(idle: int) -> int:
    """The functions that are called as an outcome comes, while so many workers have nothing."""
    story = Story()
    job = spec(chunksize=50)
    story.worker("busy", job)
    story.job(job, 50)
    for number in range(idle):
        story.worker(f"idle {number}", job)
    assert any(isinstance(each, m.Recall) for each in told(story.actions, "busy"))
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        story.done("busy", 0)
    finally:
        sys.setprofile(before)
    return calls


def test_an_outcome_costs_no_more_among_a_thousand_idle_workers_than_among_ten() -> None:
    assert work_of_an_outcome(idle=1000) == work_of_an_outcome(idle=10)
