"""What a job has cost so far, and that ``max_cost`` ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from dayfly import FunctionExecutor, cost
from dayfly.cli.job import COLUMNS, cells
from dayfly.client import progress
from dayfly.errors import CostLimitError
from dayfly.master.events import Pool
from dayfly.master.meter import Meter
from dayfly.model import ExecMode, Instance, JobRow, JobSpec, JobState
from dayfly.wire import messages as m
from tests.unit import master_support
from tests.unit.inprocess import InProcess
from tests.unit.master_support import (
    POLICY,
    FakeClock,
    Followed,
    follow,
    instance,
    master,
    settle,
    spec,
    submit,
    until,
)

#: So that an hour of a VM, all in, is 3.6 dollars: a tenth of a cent per second.
HOURLY = 3.6 - cost.ROOT_HOURLY - cost.IPV4_HOURLY
SECOND = 0.001
POOL = Pool(ExecMode.REUSE, "python3", "k")


def vm(name: str, launched_at: float = 0.0, hourly: float | None = HOURLY) -> Instance:
    made = instance(name, launched_at=launched_at)
    return msgspec.structs.replace(made, hourly=hourly)


def running(*workers: Instance, cap: float | None = None, since: float = 0.0) -> Meter:
    """A master that was there long before, one job, and these workers."""
    meter = Meter(vm("master", -1000.0), started=-1000.0)
    meter.submitted("j", POOL, since=since, cap=cap)
    for worker in workers:
        assert meter.adopted(worker, POOL, started=worker.launched_at)
    return meter


def test_a_job_pays_for_the_master_and_its_workers_from_its_submission() -> None:
    meter = running(vm("w1", -50.0), vm("w2", -500.0))
    assert meter.cost("j", 10.0) == pytest.approx(3 * 10 * SECOND)
    assert meter.hourly("j", 10.0) == pytest.approx(3 * 3.6)


def test_a_worker_that_was_started_for_it_costs_a_minute_at_once() -> None:
    meter = running(vm("w1", 5.0))
    assert meter.cost("j", 10.0) == pytest.approx((10 + 60) * SECOND)
    assert meter.hourly("j", 10.0) == pytest.approx(3.6), "its minute is paid for"
    assert meter.cost("j", 100.0) == pytest.approx((100 + 95) * SECOND)
    assert meter.hourly("j", 100.0) == pytest.approx(2 * 3.6)


def test_a_worker_that_is_gone_costs_no_more() -> None:
    meter = running(vm("w1", -50.0), vm("w2", 0.0))
    assert meter.gone(vm("w1", -50.0), 10.0)
    assert meter.gone(vm("w2", 0.0), 10.0)
    assert not meter.gone(vm("w2", 0.0), 20.0)
    assert meter.cost("j", 100.0) == pytest.approx((100 + 10 + 60) * SECOND)


def test_a_worker_that_is_started_again_is_another_run() -> None:
    meter = running(vm("w1", 0.0))
    meter.gone(vm("w1", 0.0), 70.0)
    assert not meter.adopted(vm("w1", 0.0), POOL, started=0.0)
    assert meter.adopted(vm("w1", 200.0), POOL, started=200.0)
    assert meter.cost("j", 300.0) == pytest.approx((300 + 70 + 100) * SECOND)


def test_workers_of_other_pools_and_the_past_are_not_charged() -> None:
    meter = running(since=100.0)
    meter.adopted(vm("a"), Pool(ExecMode.CREATE, job="other"), started=0.0)
    meter.adopted(vm("b"), POOL, started=0.0)
    meter.gone(vm("b"), 90.0)
    assert meter.cost("j", 110.0) == pytest.approx(10 * SECOND)


def test_the_masters_own_vm_is_not_charged_twice_as_its_worker() -> None:
    meter = running()
    assert not meter.adopted(vm("master", -1000.0), POOL, started=-1000.0)
    assert not meter.gone(vm("master", -1000.0), 5.0)
    assert meter.cost("j", 10.0) == pytest.approx(10 * SECOND)


def test_where_a_price_is_not_known_neither_is_the_cost() -> None:
    meter = running(vm("w1", hourly=None), cap=1.0)
    assert meter.cost("j", 10.0) is None
    assert meter.next_cap(10.0) is None


def test_a_job_that_is_over_has_its_sum_and_is_forgotten() -> None:
    meter = running(vm("w1", -50.0))
    meter.gone(vm("w1", -50.0), 10.0)
    assert meter.closed("j", 20.0) == pytest.approx(30 * SECOND)
    assert meter.closed("j", 20.0) is None
    meter.submitted("j2", POOL, since=15.0, cap=None)
    assert meter.cost("j2", 20.0) == pytest.approx(5 * SECOND)


@pytest.mark.parametrize("launched", [-500.0, 0.0, 5.0, 20.0])
@pytest.mark.parametrize("cap", [0.2, 0.25, 0.5, 5.0])
def test_the_moment_of_the_cap_is_exact(launched: float, cap: float) -> None:
    meter = running(vm("w1", launched), vm("w2", -60.0), vm("w3", 20.0), cap=cap)
    now = 20.0
    found = meter.next_cap(now)
    assert found is not None
    if found.at > now:
        assert meter.cost("j", found.at) == pytest.approx(cap)
        before = meter.cost("j", found.at - 0.01)
        assert before is not None
        assert before < cap
    else:
        spent = meter.cost("j", now)
        assert spent is not None
        assert spent >= cap
    assert found.hourly == pytest.approx(4 * 3.6)


def test_the_overshoot_is_the_minimum_of_those_that_came_last() -> None:
    meter = running(cap=0.1)
    late = [vm(f"w{n}", 99.0) for n in range(3)]
    for worker in late:
        meter.adopted(worker, POOL, started=99.0)
    found, spent = meter.next_cap(99.0), meter.cost("j", 99.0)
    assert found is not None
    assert found.at == 99.0
    assert spent is not None
    assert spent - 0.1 <= len(late) * cost.bill(0.0, 3.6, started=True)


def test_the_job_whose_cap_comes_first_is_told_of() -> None:
    meter = running(cap=5.0)
    meter.submitted("poor", POOL, since=0.0, cap=0.1)
    meter.submitted("free", POOL, since=0.0, cap=None)
    found = meter.next_cap(0.0)
    assert found is not None
    assert found.job == "poor"
    assert found.at == pytest.approx(100.0)


# -- within the master --


@pytest.fixture(autouse=True)
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The master's own VM has a price, and was started long ago."""
    plain = master_support.master_config

    def config(folder: Path, **keys: object) -> object:
        made = plain(folder, **keys)  # type: ignore[arg-type]
        return msgspec.structs.replace(
            made, instance=msgspec.structs.replace(made.instance, hourly=HOURLY)
        )

    monkeypatch.setattr(master_support, "master_config", config)


def capped(job: str = "j", *, cap: float | None, wanted: int = 2) -> JobSpec:
    return msgspec.structs.replace(spec(job, wanted=wanted), max_cost=cap)


async def test_a_job_is_cut_at_its_cap_and_what_is_there_is_kept(tmp_path: Path) -> None:
    clock, heard = FakeClock(), Followed()
    started = clock.now()
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        workers = [vm("w1", started), vm("w2", started)]
        await door.send(m.Adopt(instances=workers, policy=POLICY))
        await submit(door, capped(cap=0.6), 300)
        await until(lambda: len(service.installer.installed) == 2)
        one = await service.worker("w1")
        one.hold_after = 30
        await one.ready()
        two = await service.worker("w2", incarnation="b")
        two.hold = True
        await two.ready()
        listening = asyncio.create_task(follow(door, heard))
        await until(lambda: bool(one.held) and bool(two.held) and len(heard.outcomes) >= 2)
        # At three VMs, 0.6 dollars are 200 s.
        await clock.advance(199.99)
        assert service.hub.is_open("j")
        await clock.advance(0.02)
        assert not service.hub.is_open("j")
        await listening
        assert heard.ended is not None
        assert heard.ended.state is JobState.FAILED
        assert heard.ended.error == "CostLimitError"
        assert heard.ended.cost is not None
        assert abs(heard.ended.cost - 0.6) < 1e-6, "the job is cut at the very moment"
        reason = heard.ended.reason
        assert "max_cost ($0.60)" in reason
        assert "have cost $0.60, at $10.80 per hour" in reason
        assert f"the {len(heard.outcomes)} outcomes so far are kept" in reason
        # The workers have no other job: they are told to go at once.
        for worker in (one, two):
            await until(lambda w=worker: any(isinstance(x, m.PowerOff) for x in w.heard))  # type: ignore[misc]
        rows = await door.list_jobs()
        assert rows[0].cost == heard.ended.cost


async def test_workers_that_have_another_job_stay(tmp_path: Path) -> None:
    clock = FakeClock()
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        await door.send(m.Adopt(instances=[vm("w1", clock.now())], policy=POLICY))
        await submit(door, capped("rich", cap=None, wanted=1), 4)
        await submit(door, capped("poor", cap=0.5, wanted=1), 4)
        await until(lambda: service.installer.installed == ["w1"])
        worker = await service.worker("w1")
        worker.hold = True
        await worker.ready()
        await until(lambda: bool(worker.held))
        await clock.advance(260)
        await until(lambda: not service.hub.is_open("poor"))
        assert service.hub.is_open("rich")
        await settle()
        assert not any(isinstance(x, m.PowerOff) for x in worker.heard)
        worker.hold = False


async def test_a_restarted_master_remembers_what_a_job_has_cost(tmp_path: Path) -> None:
    clock = FakeClock()
    job = capped(cap=100.0)
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        workers = [vm("w1", clock.now()), vm("w2", clock.now())]
        await door.send(m.Adopt(instances=workers, policy=POLICY))
        await submit(door, job, 4)
        for name in ("w1", "w2"):
            worker = await service.worker(name, incarnation=name)
            worker.hold = True
            await worker.ready()
        await until(lambda: service.hub.standing.status("j") is not None)
        await clock.advance(100)
        service.hub.fleet.ended("w2", "Server.SpotInstanceTermination")
        await settle()
        await clock.advance(50)
        before = service.hub.till.cost("j")
        assert before == pytest.approx((150 + 150 + 100) * SECOND)
    async with master(tmp_path, clock=clock) as service:
        assert service.hub.till.cost("j") == pytest.approx(before)


async def test_a_cap_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    heard = Followed()
    async with master(tmp_path) as service, service.client() as door:
        await submit(door, capped(cap=1.0), 1)
        await door.send(m.Adopt(instances=[vm("w1", hourly=None)], policy=POLICY))
        listening = asyncio.create_task(follow(door, heard))
        await until(lambda: any(isinstance(x, m.Notice) for x in heard.others))
        listening.cancel()
        notices = [x.text for x in heard.others if isinstance(x, m.Notice)]
        assert notices == ["max_cost of job j cannot be kept: no price is known of one of its VMs"]


# -- on the client --


@pytest.fixture
def session() -> InProcess:
    return InProcess()


@pytest.fixture
async def executor(session: InProcess) -> AsyncIterator[FunctionExecutor]:
    config = {"dayfly": {"backend": "localhost"}, "localhost": {"max_cost": 2.5}}
    async with FunctionExecutor(config=config, session=session, progress=False) as executor:
        yield executor


def square(x: int) -> int:
    return x * x


async def test_the_handle_tells_the_cost_so_far_and_at_the_end(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.held = {1}
    job = executor.map(square, range(2))
    assert job.cost is None
    await anext(job.as_completed())
    assert session.requests[0].spec.max_cost == 2.5
    status = m.JobStatus(job=job.id, done=1, running=1, ready=1, coming=0, cost=0.5, hourly=3600.0)
    session.channels[0].queue.put_nowait(status)
    await until(lambda: job.cost is not None)
    first = job.cost
    assert first is not None
    assert first >= 0.5
    # Nothing more is heard, and still it grows.
    await until(lambda: (job.cost or 0.0) > first)
    session.last_word = m.JobEnded(job=job.id, state=JobState.COMPLETED, after=2, cost=0.75)
    session.release()
    assert await job == [0, 1]
    assert job.cost == 0.75


async def test_a_job_that_was_cut_at_its_cap_raises_that(
    executor: FunctionExecutor, session: InProcess
) -> None:
    session.last_word = m.JobEnded(
        job="j",
        state=JobState.FAILED,
        after=1,
        error="CostLimitError",
        reason="job j was cut by max_cost ($2.50)",
        cost=2.5,
    )
    job = executor.map(square, range(2))
    with pytest.raises(CostLimitError, match="max_cost"):
        await job
    assert job.cost == 2.5
    outcomes = job.as_completed()
    assert [(await anext(outcomes)).value for _ in range(2)] == [0, 1], "they are kept"


def test_a_jobs_row_tells_its_cost() -> None:
    row = JobRow(
        id="j",
        function="f",
        submitted_at=0.0,
        workers=1,
        done=1,
        failed=0,
        total=1,
        state=JobState.COMPLETED,
        cost=0.0031,
    )
    column = COLUMNS.index("cost")
    assert cells(row)[column] == "$0.0031"
    assert cells(msgspec.structs.replace(row, cost=None))[column] == ""


# -- how it reads --


def shown(cost_: float | None, **keys: object) -> progress.View:
    counts = progress.Progress(total=1000, done=1000)
    state = JobState.COMPLETED
    return progress.View(
        job="j", function="f", counts=counts, started=0.0, ended=4.2, state=state, cost=cost_
    )


def test_the_last_line_tells_the_cost_where_there_is_one() -> None:
    assert progress.last_line(shown(0.0031), 9.0) == "f j: 1,000 calls done in 4.2 s, $0.0031"
    for nothing in (None, 0.0):
        assert progress.last_line(shown(nothing), 9.0) == "f j: 1,000 calls done in 4.2 s"
        assert "cost" not in progress.html(shown(nothing), 9.0)
    assert "$0.0031" in progress.html(shown(0.0031), 9.0)


def test_the_live_line_tells_the_cost() -> None:
    counts = progress.Progress(total=1000, done=10, running=4)
    view = progress.View(job="j", function="f", counts=counts, started=0.0, cost=0.0012)
    assert progress.live_line(view, 9.0).endswith("  9.0 s  $0.0012")
    assert progress.plain_line(view, 9.0).endswith("(9.0 s, $0.0012)")
