"""Workers that cannot be given what a job's functions need: stories of the scheduler."""

from __future__ import annotations

from dayfly.environment.report import EnvironmentFailure
from dayfly.master import events as e
from dayfly.model import ExecMode, JobState
from dayfly.wire.messages import Span
from tests.unit.master_support import spec
from tests.unit.test_scheduler import Story, closed, leases, needed

ADVICE = {"disk": "give the VMs a larger volume", "package": "take another version"}


def unfit(
    story: Story, name: str, kind: str, *, job: str = "j", witness: str = ""
) -> list[e.Action]:
    failure = EnvironmentFailure(
        what=f"environment 1a2b cannot be had on {name}: {kind}",
        stage="install",
        kind=kind,
        package="six==1.16.0",
        vm=name,
        platform="Python 3.11, x86_64-manylinux_2_35",
        cause="one\ntwo",
        hint=ADVICE.get(kind, "look at it"),
    )
    event = e.WorkerUnfit(worker=name, job=job, failure=failure, witness=witness)
    return story.tell(event) + story.tell(
        e.HandedBack(worker=name, job=job, spans=held(story, name, job))
    )


def held(story: Story, name: str, job: str) -> list[Span]:
    open_job = story.scheduler.job(job)
    worker = story.scheduler._roster.get(name)
    return open_job.ledger.in_hands(worker.number) if open_job and worker else []


def dismissed(actions: list[e.Action]) -> list[str]:
    return [a.worker for a in actions if isinstance(a, e.Dismiss)]


def test_an_environment_that_no_vm_can_have_fails_the_job_once_with_all_that_is_known() -> None:
    story = Story()
    for name in ("w1", "w2", "w3"):
        story.worker(name, spec(wanted=3))
    story.job(spec(wanted=3), 100)
    actions = unfit(story, "w2", "package")
    ended = closed(actions)
    assert ended is not None
    assert (ended.state, ended.error) == (JobState.FAILED, "EnvironmentFailedError")
    assert ended.reason == (
        "job j cannot run: environment 1a2b cannot be had on w2: package\n"
        "  step:  install of six==1.16.0, Python 3.11, x86_64-manylinux_2_35\n"
        "  cause: one\n"
        "         two\n"
        "  next:  take another version"
    )
    assert ended.failure is not None
    assert ended.failure.package == "six==1.16.0"
    # The workers are as good as before, for other jobs.
    assert not dismissed(actions)
    assert not needed(actions)
    # What the others say of it later is nothing new.
    assert unfit(story, "w1", "package") == []
    assert leases(story.job(spec("k"), 2))


def test_a_full_disk_leaves_the_calls_to_the_other_workers_and_its_vm_goes() -> None:
    story = Story()
    for name in ("w1", "w2"):
        story.worker(name, spec(wanted=2))
    story.job(spec(wanted=2), 6)
    actions = unfit(story, "w1", "disk")
    assert closed(actions) is None
    assert dismissed(actions) == ["w1"]
    assert not needed(actions)
    # It is replaced once it is known that a VM can have what the functions need.
    actions = story.done("w2", *leases(story.actions)["w2"][:1])
    assert needed(actions) == [1]
    assert "w1" not in leases(actions)
    story.tell(e.WorkerLost(worker="w1", reason="dismissed", innocent=True))
    for index in range(6):
        actions = story.done("w2", index)
        assert "w1" not in leases(actions)
    assert story.scheduler.open_jobs == []


def test_a_single_worker_is_replaced_once_and_then_the_job_fails_with_what_both_said() -> None:
    story = Story()
    story.worker("w1", spec(wanted=1))
    story.job(spec(wanted=1), 6)
    actions = unfit(story, "w1", "disk")
    assert (needed(actions), dismissed(actions), closed(actions)) == ([1], ["w1"], None)
    assert not needed(story.tell(e.WorkerLost(worker="w1", reason="dismissed", innocent=True)))
    story.worker("w2", spec(wanted=1))
    ended = closed(unfit(story, "w2", "disk"))
    assert ended is not None
    assert ended.reason.startswith(
        "job j cannot run: none of 2 VMs could be prepared\n"
        "  environment 1a2b cannot be had on w1: disk\n"
        "  environment 1a2b cannot be had on w2: disk\n"
    )
    assert "next:  give the VMs a larger volume" in ended.reason


def test_a_hundred_workers_of_which_none_is_fit_fail_the_job_when_the_last_has_said_so() -> None:
    story = Story()
    names = [f"w{number}" for number in range(100)]
    job = spec(wanted=100)
    for name in names:
        story.worker(name, job)
    story.job(job, 400)
    for name in names[:-1]:
        actions = unfit(story, name, "disk")
        assert closed(actions) is None
        assert not needed(actions)
    ended = closed(unfit(story, names[-1], "disk"))
    assert ended is not None
    assert "none of 100 VMs could be prepared" in ended.reason
    assert "w99" in ended.reason
    assert len(ended.reason.splitlines()) < 30


def test_what_the_master_could_not_reach_either_is_not_tried_on_another_vm() -> None:
    story = Story()
    story.worker("w1", spec(wanted=1))
    story.job(spec(wanted=1), 6)
    ended = closed(unfit(story, "w1", "network", witness="no route to pypi.org"))
    assert ended is not None
    assert "the master: no route to pypi.org" in ended.reason
    assert not dismissed(story.actions)


def test_a_worker_that_another_job_uses_is_set_aside_and_stays() -> None:
    story = Story()
    story.worker("w1", spec("k"))
    story.worker("w2", spec("k"))
    story.job(spec("k"), 100)
    story.job(spec("j"), 100)
    story.done("w1", *leases(story.actions)["w1"][:1], job="k")
    assert not dismissed(unfit(story, "w1", "disk"))
    assert not dismissed(unfit(story, "w1", "disk"))
    assert story.scheduler.held("w1")
    seen: dict[str, set[str]] = {"j": set(), "k": set()}
    for _ in range(400):
        for job in list(story.scheduler.open_jobs):
            for name in ("w1", "w2"):
                for span in held(story, name, job):
                    seen[job].add(name)
                    story.done(name, *range(span.start, span.stop), job=job)
    assert story.scheduler.open_jobs == []
    assert seen["k"] == {"w1", "w2"}
    assert "w1" not in seen["j"]


def test_the_users_own_vm_is_not_replaced() -> None:
    story = Story()
    mine = spec(mode=ExecMode.CONSUME)
    story.worker("m0", mine)
    story.job(mine, 4)
    ended = closed(unfit(story, "m0", "disk"))
    assert ended is not None
    assert "on m0: disk" in ended.reason


def test_vms_of_which_none_can_be_made_a_worker_fail_each_job_of_their_pool_at_once() -> None:
    story = Story()
    story.job(spec("j", wanted=100), 400)
    story.job(spec("k", wanted=100), 400)
    for number in range(100):
        story.tell(e.WorkerComing(worker=f"w{number}", pool=e.pool_of(spec())))
    failure = EnvironmentFailure(what="no Python 3.14 on w1", stage="python", kind="interpreter")
    actions = story.tell(e.WorkerUnfit(worker="w1", failure=failure))
    assert [a.job for a in actions if isinstance(a, e.JobClosed)] == ["j", "k"]
    actions = story.tell(e.WorkerLost(worker="w1", reason="no Python 3.14"))
    assert not needed(actions)


def test_a_hundred_vms_that_cannot_be_made_workers_are_not_replaced_and_fail_the_job() -> None:
    story = Story()
    job = spec(wanted=100)
    story.job(job, 400)
    names = [f"w{number}" for number in range(100)]
    for name in names:
        story.tell(e.WorkerComing(worker=name, pool=e.pool_of(job)))
    for name in names:
        failure = EnvironmentFailure(what=f"no sudo on {name}", cause="sudo: no", hint="mend it")
        actions = story.tell(e.WorkerUnfit(worker=name, failure=failure))
        actions += story.tell(e.WorkerLost(worker=name, reason="no sudo"))
        assert not needed(actions)
        assert not dismissed(actions), "it goes by itself"
        ended = closed(actions)
        assert (ended is not None) is (name == names[-1])
    assert ended is not None
    assert ended.reason.splitlines()[0] == "job j cannot run: none of 100 VMs could be prepared"
    assert ended.reason.splitlines()[-3:] == [
        "  no sudo on w99",
        "  cause: sudo: no",
        "  next:  mend it",
    ]


def test_one_of_many_vms_that_cannot_be_made_a_worker_is_replaced_when_another_was_fit() -> None:
    story = Story()
    job = spec(wanted=3)
    story.job(job, 400)
    for name in ("w1", "w2", "w3"):
        story.tell(e.WorkerComing(worker=name, pool=e.pool_of(job)))
    failure = EnvironmentFailure(what="no sudo on w1")
    actions = story.tell(e.WorkerUnfit(worker="w1", failure=failure))
    actions += story.tell(e.WorkerLost(worker="w1", reason="no sudo"))
    actions += story.ready("w2")
    assert not needed(actions)
    assert needed(story.done("w2", 0)) == [1]
