"""The scheduler by stories: events in, actions out."""

from __future__ import annotations

import msgspec
import pytest

from dayfly.master import events as e
from dayfly.master import sizing
from dayfly.master.fleet import COMEBACK
from dayfly.master.scheduler import CLIENT_GRACE, PATIENCE, RETURN_GRACE, Scheduler
from dayfly.model import DismantlePolicy, ExecMode, JobSpec, JobState, OutcomeKind
from dayfly.wire import messages as m
from dayfly.wire.messages import Span
from tests.unit.master_support import outcome, spec


class Story:
    """A scheduler, the time, and everything that it wanted done."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(start_timeout=300.0)
        self.now = 0.0
        self.actions: list[e.Action] = []

    def tell(self, event: e.Event) -> list[e.Action]:
        actions = self.scheduler.handle(event, self.now)
        self.actions += actions
        return actions

    def job(self, job: JobSpec, count: int, *, chunk: int = 0) -> list[e.Action]:
        actions = self.tell(e.JobSubmitted(spec=job))
        for start in range(0, count, chunk or count or 1):
            size = min(chunk or count, count - start)
            actions += self.tell(e.ItemsCame(job=job.id, start=start, count=size))
        return actions + self.tell(e.ItemsEnded(job=job.id, total=count))

    def worker(
        self, name: str, job: JobSpec, *, processes: int = 2, incarnation: str = "a"
    ) -> list[e.Action]:
        self.tell(e.WorkerComing(worker=name, pool=e.pool_of(job)))
        return self.ready(name, processes=processes, incarnation=incarnation)

    def ready(
        self,
        name: str,
        *,
        processes: int = 2,
        incarnation: str = "a",
        holding: dict[str, list[Span]] | None = None,
    ) -> list[e.Action]:
        return self.tell(
            e.WorkerReady(
                worker=name,
                incarnation=incarnation,
                processes=processes,
                holding=holding or {},
            )
        )

    def done(
        self, name: str, *indices: int, job: str = "j", seconds: float = 1.0
    ) -> list[e.Action]:
        outcomes = [outcome(index, seconds=seconds) for index in indices]
        return self.tell(e.OutcomesCame(worker=name, job=job, outcomes=outcomes))


def leases(actions: list[e.Action]) -> dict[str, list[int]]:
    """The calls that were handed out, by worker."""
    found: dict[str, list[int]] = {}
    for action in actions:
        if isinstance(action, e.Lease):
            calls = range(action.span.start, action.span.stop)
            found.setdefault(action.worker, []).extend(calls)
    return found


def told(actions: list[e.Action], worker: str) -> list[m.Revoke | m.Recall | m.Forget]:
    return [a.message for a in actions if isinstance(a, e.Tell) and a.worker == worker]


def closed(actions: list[e.Action]) -> e.JobClosed | None:
    return next((a for a in actions if isinstance(a, e.JobClosed)), None)


def needed(actions: list[e.Action]) -> list[int]:
    return [a.count for a in actions if isinstance(a, e.NeedWorkers)]


def test_at_first_each_free_process_gets_one_call() -> None:
    story = Story()
    actions = story.worker("w1", spec()) + story.worker("w2", spec())
    actions += story.job(spec(), 100)
    assert sorted(i for calls in leases(actions).values() for i in calls) == [0, 1, 2, 3]
    assert {name: len(calls) for name, calls in leases(actions).items()} == {"w1": 2, "w2": 2}


def test_few_calls_are_spread_over_the_workers() -> None:
    story = Story()
    actions = story.worker("w1", spec(), processes=4) + story.worker("w2", spec(), processes=4)
    actions += story.job(spec(), 4)
    assert {name: len(calls) for name, calls in leases(actions).items()} == {"w1": 2, "w2": 2}


def test_long_calls_are_not_handed_out_ahead() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 100)
    assert leases(story.done("w1", 0, seconds=5.0)) == {"w1": [2]}


def test_short_calls_are_handed_out_for_a_tenth_of_a_second_ahead() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 100_000)
    story.done("w1", 0, 1, seconds=0.001)
    held = story.scheduler.held("w1")
    assert held == pytest.approx(2 * sizing.AHEAD / 0.001, rel=0.05)
    # Nothing more before half of it is used.
    assert leases(story.done("w1", 2, seconds=0.001)) == {}


def test_a_span_lies_within_one_chunk_and_chunksize_fixes_its_size() -> None:
    story = Story()
    story.worker("w1", spec(chunksize=7))
    actions = story.job(spec(chunksize=7), 20, chunk=5)
    spans = [a.span for a in actions if isinstance(a, e.Lease)]
    assert spans[:2] == [Span(0, 2), Span(2, 4)] or all(
        span.start // 5 == (span.stop - 1) // 5 for span in spans
    )
    for index in range(20):
        actions = story.done("w1", index)
        for action in actions:
            if isinstance(action, e.Lease):
                assert action.span.start // 5 == (action.span.stop - 1) // 5


def test_calls_run_while_items_are_still_being_read() -> None:
    story = Story()
    story.worker("w1", spec())
    story.tell(e.JobSubmitted(spec=spec()))
    assert leases(story.tell(e.ItemsCame(job="j", start=0, count=1))) == {"w1": [0]}
    story.done("w1", 0)
    assert closed(story.actions) is None
    assert leases(story.tell(e.ItemsCame(job="j", start=1, count=1))) == {"w1": [1]}
    story.done("w1", 1)
    ended = closed(story.tell(e.ItemsEnded(job="j", total=2)))
    assert ended is not None
    assert (ended.state, ended.done, ended.total) == (JobState.COMPLETED, 2, 2)


def test_a_job_of_no_items_is_completed_at_once() -> None:
    ended = closed(Story().job(spec(), 0))
    assert ended is not None
    assert ended.state is JobState.COMPLETED


def test_the_first_outcome_of_a_call_wins() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 3)
    story.done("w1", 0)
    delivered = [a for a in story.done("w1", 0) if isinstance(a, e.Deliver)]
    assert delivered == []


def test_a_lost_workers_calls_are_first_in_the_queue_and_its_late_outcome_still_counts() -> None:
    story = Story()
    story.worker("w1", spec(wanted=2))
    story.worker("w2", spec(wanted=2), processes=1)
    story.job(spec(wanted=2), 10)
    held = leases(story.actions)
    actions = story.tell(e.WorkerLost(worker="w1", reason="its VM is gone"))
    assert needed(actions) == [1]
    mine = held["w2"][0]
    first = leases(story.done("w2", mine))["w2"][0]
    assert first == min(held["w1"])
    # The first worker was only slow: what it sends counts, and the call is taken from w2.
    actions = story.done("w1", first)
    assert [a.outcomes[0].index for a in actions if isinstance(a, e.Deliver)] == [first]
    assert m.Revoke(job="j", indices=[first]) in told(actions, "w2")


def test_workers_are_asked_for_as_many_as_the_rest_of_the_job_can_use() -> None:
    story = Story()
    for name in ("w1", "w2", "w3"):
        story.worker(name, spec(wanted=3))
    story.job(spec(wanted=3), 6)
    for name in ("w1", "w2"):
        story.done(name, *leases(story.actions)[name])
    # Two calls are left, which one worker can run, and two are here.
    assert needed(story.tell(e.WorkerLost(worker="w3", reason="gone"))) == []
    assert needed(story.tell(e.WorkerLost(worker="w2", reason="gone"))) == []
    assert needed(story.tell(e.WorkerLost(worker="w1", reason="gone"))) == [1]


def test_no_worker_is_asked_for_twice() -> None:
    story = Story()
    for name in ("w1", "w2", "w3"):
        story.worker(name, spec(wanted=3))
    story.job(spec(wanted=3), 100)
    lost = [needed(story.tell(e.WorkerLost(worker=w, reason="gone"))) for w in ("w1", "w2")]
    assert lost == [[1], [1]]
    story.tell(e.WorkerComing(worker="w4", pool=e.pool_of(spec())))
    assert needed(story.tell(e.WorkerLost(worker="w4", reason="gone"))) == [1]


@pytest.mark.parametrize("first", ["the job", "the workers"])
def test_workers_that_are_not_back_after_a_restart_are_no_launches_that_failed(first: str) -> None:
    story = Story()
    if first == "the job":
        story.tell(e.JobSubmitted(spec=spec(wanted=1)))
    for name in ("w1", "w2"):
        story.tell(e.WorkerComing(worker=name, pool=e.pool_of(spec()), returning=True))
    if first == "the workers":
        story.tell(e.JobSubmitted(spec=spec(wanted=1)))
    story.now = RETURN_GRACE
    said = [story.tell(e.WorkerLost(worker=w, reason="not back")) for w in ("w1", "w2")]
    assert [needed(each) for each in said] == [[], [1]]
    assert closed(said[1]) is None, "it is not given up before start_timeout"


def test_a_job_without_workers_fails_after_the_start_timeout_with_what_happened_to_each() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 10)
    story.now = 50.0
    story.tell(e.WorkerLost(worker="w1", reason="spot interruption"))
    assert story.scheduler.wake == 350.0
    story.now = 350.0
    ended = closed(story.tell(e.Tick()))
    assert ended is not None
    assert ended.error == "NoWorkersError"
    assert "w1: spot interruption" in ended.reason
    assert "start_timeout" in ended.reason


def test_a_new_job_that_finds_no_worker_asks_for_some() -> None:
    story = Story()
    story.job(spec(wanted=2), 10)
    story.now = PATIENCE
    assert needed(story.tell(e.Tick())) == [2]
    assert needed(story.tell(e.Tick())) == []


def test_calls_are_recalled_for_an_idle_worker_when_nothing_waits() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 40)
    story.done("w1", 0, 1, seconds=0.01)
    assert story.scheduler.held("w1") > 10
    while story.scheduler.job("j") and story.scheduler.job("j").ledger.pending:  # type: ignore[union-attr]
        calls = leases(story.actions)["w1"]
        ledger = story.scheduler.job("j").ledger  # type: ignore[union-attr]
        story.done("w1", *[i for i in calls if ledger.holder_of(i) > 0][:2], seconds=0.01)
    actions = story.worker("w2", spec())
    (recall,) = told(actions, "w1")
    assert isinstance(recall, m.Recall)
    held = sorted(i for i in range(40) if story.scheduler.job("j").ledger.holder_of(i) > 0)  # type: ignore[union-attr]
    back = held[-recall.count :]
    spans = [Span(i, i + 1) for i in back]
    actions = story.tell(e.HandedBack(worker="w1", job="j", spans=spans))
    assert leases(actions)["w2"]
    assert set(leases(actions)) == {"w2"}


def test_a_worker_that_goes_just_as_a_job_comes_is_no_failed_launch() -> None:
    story = Story()
    story.worker("w1", spec(), processes=1)
    story.tell(e.WorkerAway(worker="w1"))
    story.job(spec(wanted=1), 1)
    story.tell(e.FollowersChanged(job="j", count=1))
    story.tell(e.WorkerLost(worker="w1", reason="its connection broke"))
    story.tell(e.WorkerComing(worker="w2", pool=e.pool_of(spec())))
    story.tell(e.WorkerLost(worker="w2", reason="it never answered"))
    assert story.scheduler.open_jobs == ["j"], "another is asked for"


def test_a_call_that_waits_behind_a_long_one_of_another_job_is_found_for_an_idle_worker() -> None:
    story = Story()
    story.worker("w1", spec("long"), processes=1)
    story.tell(e.JobSubmitted(spec=spec("long")))
    story.tell(e.ItemsCame(job="long", start=0, count=1))
    story.done("w1", 0, job="long", seconds=100.0)
    story.job(spec("short"), 4)
    story.done("w1", 0, job="short", seconds=0.001)
    story.tell(e.ItemsCame(job="long", start=1, count=1))
    story.done("w1", 1, job="short", seconds=0.001)
    waits = [i for i in range(4) if story.scheduler.job("short").ledger.holder_of(i) > 0]  # type: ignore[union-attr]
    story.done("w1", *waits[:-1], job="short", seconds=0.001)
    assert story.scheduler.held("w1") == 2, "the long one runs, and one of the short ones waits"
    actions = story.worker("w2", spec("long"), processes=1)
    asked = []
    for _ in range(3):
        if not (said := told(actions, "w1")):
            break
        (recall,) = said
        assert isinstance(recall, m.Recall)
        asked.append(recall.job)
        back = [Span(waits[-1], waits[-1] + 1)] if recall.job == "short" else []
        actions = story.tell(e.HandedBack(worker="w1", job=recall.job, spans=back))
    assert leases(actions) == {"w2": [waits[-1]]}
    assert asked in (["short"], ["long", "short"]), "what has begun is not asked for again"


def test_the_least_served_job_goes_first() -> None:
    story = Story()
    story.worker("w1", spec())
    story.worker("w2", spec())
    story.job(spec("a"), 100)
    story.job(spec("b"), 100)
    held = leases(story.actions)
    for name in ("w1", "w2"):
        story.done(name, held[name][0], job="a")
    counts = {job: story.scheduler.job(job).ledger.leased for job in "ab"}  # type: ignore[union-attr]
    assert counts == {"a": 2, "b": 2}


def test_workers_serve_only_jobs_of_their_kind() -> None:
    story = Story()
    create = spec("c", mode=ExecMode.CREATE)
    story.worker("w1", create)
    assert leases(story.job(spec(), 5)) == {}
    assert leases(story.job(spec("d", mode=ExecMode.CREATE), 5)) == {}
    assert set(leases(story.job(create, 5))) == {"w1"}


def test_cancelling_a_job_revokes_its_calls_and_drops_later_outcomes() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 10)
    actions = story.tell(e.CancelAsked(job="j", indices=None, reason="by ada"))
    assert told(actions, "w1") == [m.Revoke(job="j"), m.Forget(job="j")]
    ended = closed(actions)
    assert ended is not None
    assert ended.state is JobState.CANCELLED
    assert story.done("w1", 0) == []
    assert story.scheduler.held("w1") == 0


def test_single_calls_are_cancelled_at_once_wherever_they_are() -> None:
    story = Story()
    story.worker("w1", spec())
    story.tell(e.JobSubmitted(spec=spec()))
    story.tell(e.ItemsCame(job="j", start=0, count=4))
    actions = story.tell(e.CancelAsked(job="j", indices=[0, 3, 5], reason="by ada"))
    (deliver,) = [a for a in actions if isinstance(a, e.Deliver)]
    assert [(o.index, o.kind) for o in deliver.outcomes] == [
        (0, OutcomeKind.CANCELLED),
        (3, OutcomeKind.CANCELLED),
    ]
    assert told(actions, "w1") == [m.Revoke(job="j", indices=[0])]
    assert leases(actions) == {"w1": [2]}
    actions = story.tell(e.ItemsCame(job="j", start=4, count=2))
    assert [o.index for a in actions if isinstance(a, e.Deliver) for o in a.outcomes] == [5]
    story.tell(e.ItemsEnded(job="j", total=6))
    story.done("w1", 1, 2)
    assert closed(story.done("w1", 4)) is not None


def test_a_job_whose_last_calls_are_cancelled_is_completed() -> None:
    story = Story()
    story.job(spec(), 2)
    ended = closed(story.tell(e.CancelAsked(job="j", indices=[0, 1], reason="by ada")))
    assert ended is not None
    assert (ended.state, ended.failed) == (JobState.COMPLETED, 2)


def test_the_hard_timer_cuts_a_job_from_its_start() -> None:
    story = Story()
    policy = DismantlePolicy(hard=100.0)
    story.worker("w1", spec(policy=policy))
    story.now = 40.0
    story.job(spec(policy=policy), 10)
    assert story.scheduler.wake == 140.0
    story.now = 139.0
    assert closed(story.tell(e.Tick())) is None
    story.now = 140.0
    ended = closed(story.tell(e.Tick()))
    assert ended is not None
    assert ended.error == "HardTimeoutError"
    assert "hard_dismantle_timeout" in ended.reason


def test_without_auto_dismantle_no_job_is_cut() -> None:
    story = Story()
    policy = DismantlePolicy(hard=100.0, auto=False)
    story.worker("w1", spec(policy=policy))
    story.job(spec(policy=policy), 10)
    assert story.scheduler.wake is None


def test_a_job_lives_on_for_a_while_without_its_client() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 10)
    story.tell(e.FollowersChanged(job="j", count=0))
    story.now = 50.0
    story.tell(e.FollowersChanged(job="j", count=1))
    story.tell(e.FollowersChanged(job="j", count=0))
    story.now = 50.0 + CLIENT_GRACE - 1
    assert closed(story.tell(e.Tick())) is None
    story.now += 1
    ended = closed(story.tell(e.Tick()))
    assert ended is not None
    assert ended.state is JobState.CANCELLED


def test_a_client_that_goes_silent_may_sleep_for_as_long_as_the_timers_let_it() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 10)
    story.tell(e.FollowersChanged(job="j", count=0, silent=True))
    story.now = 3000.0
    assert closed(story.tell(e.Tick())) is None
    # It woke up, and was then ended.
    story.tell(e.FollowersChanged(job="j", count=1))
    story.tell(e.FollowersChanged(job="j", count=0))
    story.now += CLIENT_GRACE
    ended = closed(story.tell(e.Tick()))
    assert ended is not None
    assert ended.state is JobState.CANCELLED


def test_a_job_whose_client_sleeps_is_cut_by_the_hard_timer_all_the_same() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 10)
    story.tell(e.FollowersChanged(job="j", count=0, silent=True))
    assert story.scheduler.wake == 3600.0
    story.now = 3600.0
    ended = closed(story.tell(e.Tick()))
    assert ended is not None
    assert ended.error == "HardTimeoutError"


def detached() -> JobSpec:
    return msgspec.structs.replace(spec(wanted=2), detach=True)


def test_a_detached_job_goes_on_without_any_client() -> None:
    story = Story()
    story.worker("w1", detached())
    story.job(detached(), 3)
    story.tell(e.FollowersChanged(job="j", count=0))
    story.now = 2000.0
    assert closed(story.tell(e.Tick())) is None
    story.done("w1", 0, 1)
    ended = closed(story.done("w1", 2))
    assert ended is not None
    assert ended.state is JobState.COMPLETED


def test_a_detached_job_whose_items_never_came_ends_with_its_client() -> None:
    story = Story()
    story.worker("w1", detached())
    story.tell(e.JobSubmitted(spec=detached()))
    story.tell(e.ItemsCame(job="j", start=0, count=5))
    story.tell(e.FollowersChanged(job="j", count=0))
    story.now = CLIENT_GRACE
    ended = closed(story.tell(e.Tick()))
    assert ended is not None
    assert ended.state is JobState.CANCELLED


def test_a_job_whose_submitter_left_too_early_is_failed_whoever_else_follows_it() -> None:
    story = Story()
    story.worker("w1", detached())
    story.tell(e.JobSubmitted(spec=detached()))
    story.tell(e.ItemsCame(job="j", start=0, count=5))
    story.done("w1", 0, 1)
    story.tell(e.FollowersChanged(job="j", count=2))
    story.now = 10.0
    story.tell(e.SubmitterChanged(job="j", left=True))
    story.tell(e.FollowersChanged(job="j", count=1))
    assert story.scheduler.wake == 10.0 + CLIENT_GRACE
    story.now = 9.0 + CLIENT_GRACE
    assert closed(story.tell(e.Tick())) is None
    story.now = 10.0 + CLIENT_GRACE
    ended = closed(story.tell(e.Tick()))
    assert ended is not None
    assert (ended.state, ended.error, ended.done) == (JobState.FAILED, "JobError", 2)
    assert "5 had come, and 2 of their calls were done" in ended.reason


@pytest.mark.parametrize("back", [False, True])
def test_a_submitter_that_is_back_or_had_handed_everything_over_is_not_missed(back: bool) -> None:
    story = Story()
    story.tell(e.JobSubmitted(spec=detached()))
    story.tell(e.ItemsCame(job="j", start=0, count=5))
    if not back:
        story.tell(e.ItemsEnded(job="j", total=5))
    story.tell(e.SubmitterChanged(job="j", left=True))
    story.now = CLIENT_GRACE - 1
    if back:
        story.tell(e.SubmitterChanged(job="j", left=False))
    story.now = 2 * CLIENT_GRACE
    assert closed(story.tell(e.Tick())) is None


def test_a_detached_job_that_lost_its_workers_waits_for_a_client_to_launch_others() -> None:
    story = Story()
    story.worker("w1", detached())
    story.job(detached(), 8)
    story.tell(e.FollowersChanged(job="j", count=0))
    story.now = 10.0
    story.tell(e.WorkerLost(worker="w1", reason="spot"))
    story.now = 2000.0  # long past start_timeout: nobody could have launched
    assert closed(story.tell(e.Tick())) is None
    assert needed(story.tell(e.FollowersChanged(job="j", count=1))) == [2]
    assert story.scheduler.wake == 2300.0, "start_timeout begins with the client that may launch"
    assert leases(story.worker("w2", detached())) == {"w2": [0, 1]}


def test_a_detached_job_that_lost_its_workers_goes_on_with_one_that_comes_back() -> None:
    story = Story()
    story.worker("w1", detached())
    story.job(detached(), 8)
    story.tell(e.FollowersChanged(job="j", count=0))
    story.tell(e.WorkerLost(worker="w1", reason="silent"))
    story.now = 1000.0
    assert leases(story.worker("w1", detached(), incarnation="a"))["w1"]


def test_a_detached_job_that_nobody_comes_for_is_cut_with_what_it_has() -> None:
    story = Story()
    story.worker("w1", detached())
    story.job(detached(), 8)
    story.done("w1", 0)
    story.tell(e.FollowersChanged(job="j", count=0))
    story.tell(e.WorkerLost(worker="w1", reason="spot"))
    story.now = 3600.0
    ended = closed(story.tell(e.Tick()))
    assert ended is not None
    assert (ended.error, ended.done, ended.total) == ("HardTimeoutError", 1, 8)


def test_a_detached_job_whose_workers_were_never_launched_asks_whoever_attaches() -> None:
    story = Story()
    story.job(detached(), 8)
    story.tell(e.FollowersChanged(job="j", count=0))
    story.now = 1000.0
    assert needed(story.tell(e.Tick())) == [], "there is nobody to ask"
    assert needed(story.tell(e.FollowersChanged(job="j", count=1))) == [2]


def test_when_the_client_that_was_asked_for_workers_leaves_another_one_is_asked() -> None:
    story = Story()
    story.worker("w1", detached())
    story.job(detached(), 8)
    story.tell(e.FollowersChanged(job="j", count=2))
    assert needed(story.tell(e.WorkerLost(worker="w1", reason="spot"))) == [2]
    assert needed(story.tell(e.FollowersChanged(job="j", count=1))) == [2]


@pytest.mark.parametrize("orphan", [False, True])
def test_after_a_restart_only_a_job_that_its_clients_had_left_is_given_up(orphan: bool) -> None:
    story = Story()
    done = bytearray(10)
    story.tell(
        e.JobRestored(
            spec=spec(),
            chunks=[Span(0, 10)],
            total=10,
            done=done,
            failed=0,
            started=0.0,
            orphan=orphan,
        )
    )
    story.now = CLIENT_GRACE
    assert (closed(story.tell(e.Tick())) is not None) is orphan


def restored(story: Story, *workers: str) -> None:
    done = bytearray(10)
    done[:3] = b"\1\1\1"
    story.tell(
        e.JobRestored(
            spec=spec(), chunks=[Span(0, 10)], total=10, done=done, failed=0, started=-5.0
        )
    )
    story.tell(e.FollowersChanged(job="j", count=1))
    for worker in workers:
        story.tell(e.WorkerComing(worker=worker, pool=e.pool_of(spec()), returning=True))


def test_after_a_restart_nothing_is_handed_out_that_a_known_worker_may_hold() -> None:
    story = Story()
    restored(story, "w1", "w2")
    assert leases(story.ready("w1", holding={"j": [Span(3, 5)]})) == {}
    assert story.scheduler.held("w1") == 2
    actions = story.ready("w2", holding={"j": [Span(7, 8)]})
    assert leases(actions) == {"w2": [5]}


def test_after_a_restart_what_a_worker_may_hold_waits_until_it_is_lost_however_late() -> None:
    story = Story()
    restored(story, "w1", "w2")
    story.ready("w1")
    story.now = 2 * COMEBACK  # w2 was back in time, and fell silent before it said what it holds
    assert leases(story.tell(e.Tick())) == {}
    assert leases(story.tell(e.WorkerLost(worker="w2", reason="silent"))) == {"w1": [3, 4]}


def test_after_a_grace_the_calls_of_a_worker_that_is_silent_go_to_others() -> None:
    story = Story()
    restored(story, "w1", "w2")
    story.ready("w1")
    assert story.scheduler.wake == RETURN_GRACE
    story.now = RETURN_GRACE
    assert leases(story.tell(e.Tick())) == {"w1": [3, 4]}
    # It comes at last, with a call that is in other hands now, and one that waits.
    actions = story.ready("w2", holding={"j": [Span(4, 6)]})
    assert told(actions, "w2") == [m.Revoke(job="j", indices=[4])]
    assert leases(actions) == {"w2": [6]}


def test_a_client_that_was_launching_is_asked_again_for_what_is_lacking_then() -> None:
    story = Story()
    story.worker("w1", spec(wanted=2))
    story.job(spec(wanted=2), 8)
    story.tell(e.FollowersChanged(job="j", count=1))
    lost = e.WorkerLost(worker="w2", reason="it was taken back", innocent=True)
    story.tell(e.WorkerComing(worker="w2", pool=e.pool_of(spec())))
    assert needed(story.tell(lost)) == [1]
    again = e.FollowersChanged(job="j", count=1, again=True)
    assert needed(story.tell(again)) == [1], "nothing was launched for that"
    story.tell(e.WorkerComing(worker="w3", pool=e.pool_of(spec())))
    assert needed(story.tell(again)) == []


def test_a_worker_whose_vm_was_started_anew_is_a_new_worker_that_takes_part_anew() -> None:
    story = Story()
    story.worker("w1", spec())
    story.worker("w2", spec())
    assert leases(story.job(spec(), 4)) == {"w1": [0, 2], "w2": [1, 3]}
    actions = story.tell(e.WorkerComing(worker="w1", pool=e.pool_of(spec())))
    assert not [action for action in actions if isinstance(action, e.NeedWorkers)]
    assert leases(story.done("w2", 1, 3)) == {"w2": [0, 2]}
    # It was the same VM after all, told of with another date, and still has both in hand.
    actions = story.ready("w1", holding={"j": [Span(0, 1), Span(2, 3)]})
    assert told(actions, "w1") == [m.Revoke(job="j", indices=[0, 2])]


def test_what_a_worker_holds_that_was_thought_to_be_new_engages_it() -> None:
    story = Story()
    restored(story, "w1")
    story.tell(e.WorkerComing(worker="w1", pool=e.pool_of(spec())))
    actions = story.ready("w1", holding={"j": [Span(3, 5)]})
    assert e.Engage(worker="w1", job="j", started=-5.0) in actions


def test_a_worker_that_reconnects_keeps_what_it_holds_and_loses_what_never_arrived() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 3)
    assert leases(story.actions) == {"w1": [0, 1]}
    actions = story.ready("w1", holding={"j": [Span(0, 1)]})
    assert leases(actions) == {"w1": [1]}


def test_an_agent_that_started_anew_has_lost_its_calls() -> None:
    story = Story()
    story.worker("w1", spec())
    story.job(spec(), 3)
    actions = story.ready("w1", incarnation="b")
    assert leases(actions) == {"w1": [0, 1]}


def test_a_worker_that_holds_calls_of_a_job_that_is_over_is_told_to_drop_them() -> None:
    story = Story()
    story.tell(e.WorkerComing(worker="w1", pool=e.pool_of(spec())))
    actions = story.ready("w1", holding={"old": [Span(0, 5)]})
    assert told(actions, "w1") == [m.Revoke(job="old"), m.Forget(job="old")]


def test_timers_are_told_which_jobs_are_on_a_worker() -> None:
    story = Story()
    story.now = 7.0
    story.worker("w1", spec())
    actions = story.job(spec(), 1)
    assert e.Engage(worker="w1", job="j", started=7.0) in actions
    assert e.Disengage(worker="w1", job="j") in story.done("w1", 0)


def test_a_job_that_had_workers_before_the_master_restarted_waits_for_new_ones() -> None:
    story = Story()
    story.tell(
        e.JobRestored(
            spec=spec(),
            chunks=[Span(0, 4)],
            total=4,
            done=bytearray(4),
            failed=0,
            started=-1.0,
        )
    )
    story.tell(e.FollowersChanged(job="j", count=1))
    for name in ("w1", "w2", "w3"):
        story.tell(e.WorkerComing(worker=name, pool=e.pool_of(spec())))
        actions = story.tell(e.WorkerLost(worker=name, reason="it never called"))
        assert closed(actions) is None
        assert needed(actions) == [1]
