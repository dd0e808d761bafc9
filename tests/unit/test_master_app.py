"""The master over real websockets and a real journal, with workers and clients of the tests."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

import dayfly
from dayfly import errors
from dayfly.client.recollection import recollect
from dayfly.clock import SystemClock
from dayfly.master import archive
from dayfly.model import DismantlePolicy, ExecMode, JobRecord, JobState, LogLine, OutcomeKind
from dayfly.storage import keys
from dayfly.wire import messages as m
from dayfly.wire.client import MasterDoor
from dayfly.wire.link import dial
from tests.unit.master_support import (
    POLICY,
    FakeClock,
    FakeWorker,
    Followed,
    Master,
    follow,
    instance,
    master,
    master_config,
    outcome,
    spec,
    submit,
    until,
)

Kind = TypeVar("Kind", bound=m.Message)


async def test_a_map_runs_on_one_worker_and_comes_back_in_numbered_deliveries(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        await submit(door, spec(), 250)
        await until(lambda: service.installer.installed == ["w1"])
        worker = await (await service.worker()).ready()
        heard = await follow(door)
        assert heard.indices == list(range(250))
        assert heard.numbers == list(range(1, len(heard.numbers) + 1))
        assert heard.ended is not None
        assert heard.ended.state is JobState.COMPLETED
        assert heard.ended.after == heard.numbers[-1]
        briefed = [a for a in worker.heard if isinstance(a, m.Assign) and a.brief]
        assert len(briefed) == 1
        assert all(
            a.items[0] == b"%d" % a.span.start for a in worker.heard if isinstance(a, m.Assign)
        )
        await until(lambda: not worker.unkept)
        await until(lambda: any(isinstance(w, m.Forget) for w in worker.heard))
        await worker.leave()


async def test_a_master_that_is_killed_in_mid_job_finishes_it_after_its_restart(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    first = Followed()
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1"), instance("w2")], policy=POLICY))
        await submit(door, spec(wanted=2), 300)
        one = await service.worker("w1")
        one.hold_after = 30
        await one.ready()
        two = await service.worker("w2", incarnation="b")
        two.hold = True
        await two.ready()
        listening = asyncio.create_task(follow(door, first))
        await until(lambda: bool(one.held) and bool(two.held) and not one.unkept)
        answered = len(one.ran) - len(one.held["j"])
        await until(lambda: len(first.outcomes) == answered)
    await listening
    for worker in (one, two):
        await worker.leave()
    assert first.ended is None

    async with master(tmp_path, clock=clock) as service, service.client() as door:
        spans = {
            name: [m.Span(i, i + 1) for i in w.held["j"]] for name, w in (("w1", one), ("w2", two))
        }
        again = await (await service.worker("w2", incarnation="b")).ready({"j": spans["w2"]})
        await asyncio.sleep(0.05)
        # What the first worker may hold is given to nobody before it has spoken.
        assert again.ran == []
        other = await (await service.worker("w1", incarnation="a")).ready({"j": spans["w1"]})
        await again.answer("j", two.held["j"])
        await other.answer("j", one.held["j"])
        await door.send(m.Follow(job="j", after=first.numbers[-1]))
        rest = await follow(door)
        numbers = first.numbers + rest.numbers
        assert numbers == list(range(1, len(numbers) + 1))
        assert sorted(first.indices + rest.indices) == list(range(300))
        held = set(one.held["j"]) | set(two.held["j"])
        assert not held & set(again.ran + other.ran)
        for worker in (again, other):
            await worker.leave()


async def test_calls_of_a_worker_that_did_not_come_back_run_on_another(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1"), instance("w2")], policy=POLICY))
        lost = await service.worker("w1")
        lost.hold = True
        await lost.ready()
        await submit(door, spec(wanted=2), 10)
        await until(lambda: len(lost.ran) == 2)
        good = await (await service.worker("w2")).ready()
        listening = asyncio.create_task(follow(door))
        await until(lambda: len(good.ran) == 8)
        await lost.leave()
        await until(lambda: "w1" not in service.hub.peers.workers)
        assert not listening.done()
        await service.clock.advance(6)
        heard = await listening
        assert heard.indices == list(range(10))
        needed = [o for o in heard.others if isinstance(o, m.WorkersNeeded)]
        assert [n.count for n in needed] == []
        notices = [o.text for o in heard.others if isinstance(o, m.Notice)]
        assert any("w1" in text and "did not come back within 5 s" in text for text in notices)
        await until(lambda: service.installer.powered_off == ["w1"])
        await good.leave()


async def test_a_worker_that_was_cut_off_for_long_is_told_to_go_and_what_it_has_done_counts(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        cut_off = await service.worker("w1")
        cut_off.hold = True
        await cut_off.ready()
        await submit(door, spec(), 2)
        await until(lambda: len(cut_off.ran) == 2)
        service.installer.failures["w1"] = errors.UnreachableError("w1 did not answer SSH")
        await cut_off.leave()
        await until(lambda: "w1" not in service.hub.peers.workers)
        await service.clock.advance(6)
        assert service.hub.standing.worker_rows()[1:] == []
        back = await (await service.worker("w1")).ready({"j": [m.Span(0, 2)]})
        await back.answer("j", cut_off.held["j"])
        assert (await follow(door)).indices == [0, 1]
        assert any(isinstance(said, m.PowerOff) for said in back.heard)
        assert not any(isinstance(said, m.Refused) for said in back.heard)
        await back.leave()


async def test_a_vm_that_never_answers_is_named_and_its_client_is_asked_for_another(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client() as door:
        service.installer.failures["w1"] = errors.UnreachableError(
            "w1 did not answer SSH", cause="connection refused"
        )
        await submit(door, spec(), 4)
        await until(lambda: bool(service.hub.open_jobs))
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        message = await _first(door, m.WorkersNeeded)
        assert message.count == 1
        assert "connection refused" in message.reason
        await door.send(m.Adopt(instances=[instance("w2")], policy=POLICY))
        worker = await (await _worker(service, "w2")).ready()
        assert (await follow(door)).indices == [0, 1, 2, 3]
        await worker.leave()


async def _worker(service: Master, name: str) -> FakeWorker:
    await until(lambda: name in service.installer.installed)
    return await service.worker(name)


async def _first(door: MasterDoor, kind: type[Kind]) -> Kind:
    """The next message of a kind that the master pushes."""
    async for message in door.pushed():
        if isinstance(message, kind):
            return message
    raise AssertionError(f"the master never said {kind.__name__}")


async def test_a_job_without_any_worker_fails_in_time_and_says_what_happened_to_each(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client() as door:
        for name in ("w1", "w2"):
            service.installer.failures[name] = errors.UnreachableError(f"{name} is silent")
        await submit(door, spec(), 4)
        await until(lambda: bool(service.hub.open_jobs))
        await door.send(m.Adopt(instances=[instance("w1"), instance("w2")], policy=POLICY))
        heard = await follow(door)
        assert heard.ended is not None
        assert heard.ended.state is JobState.FAILED
        assert heard.ended.error == "NoWorkersError"
        assert "w1 is silent" in heard.ended.reason
        assert "w2 is silent" in heard.ended.reason


async def test_the_hard_timer_ends_a_job_with_the_outcomes_so_far(tmp_path: Path) -> None:
    policy = DismantlePolicy(soft=10.0, hard=60.0)
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=policy))
        worker = await service.worker()
        worker.hold = True
        await worker.ready()
        await submit(door, spec(policy=policy), 5)
        await until(lambda: len(worker.ran) == 2)
        await worker.answer("j", [0])
        heard = Followed()
        listening = asyncio.create_task(follow(door, heard))
        await until(lambda: len(heard.outcomes) == 1)
        await service.clock.advance(61)
        await listening
        assert heard.ended is not None
        assert heard.ended.error == "HardTimeoutError"
        assert "hard_dismantle_timeout" in heard.ended.reason
        assert heard.indices == [0]
        await until(lambda: any(isinstance(w, m.PowerOff) for w in worker.heard))
        await worker.leave()
        assert not [o for o in heard.others if isinstance(o, m.WorkersNeeded)]


async def test_the_master_powers_itself_off_after_the_soft_timeout(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        assert service.vm.deadlines[-1] == pytest.approx(3605)
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await submit(door, spec(), 5)
        await follow(door)
        await until(lambda: service.vm.deadlines[-1] == pytest.approx(305))
        rows = await door.list_workers()
        assert [(row.instance, row.role, row.dismantle_why) for row in rows] == [
            ("m0", "master", "soft"),
            ("w1", "worker", "soft"),
        ]
        await until(lambda: any(isinstance(w, m.SetDeadline) for w in worker.heard))
        deadlines = [w.seconds for w in worker.heard if isinstance(w, m.SetDeadline)]
        assert deadlines[-1] == pytest.approx(305)
        await service.clock.advance(299)
        assert not service.vm.off.is_set()
        await service.clock.advance(10)
        await until(service.vm.off.is_set, service.clock)
        await worker.leave()


async def test_the_master_waits_with_its_soft_timer_for_a_vm_that_is_told_to_go_and_still_boots(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client() as door:
        answers = service.installer.power_off_answers = asyncio.Event()
        service.installer.hangs = {"w2"}
        job = spec(mode=ExecMode.CREATE, wanted=2)
        vms = [instance(name, mode=ExecMode.CREATE) for name in ("w1", "w2")]
        await door.send(m.Adopt(instances=vms, policy=POLICY, job="j"))
        worker = await (await service.worker()).ready()
        await submit(door, job, 4)
        await follow(door)
        await until(lambda: any(isinstance(w, m.PowerOff) for w in worker.heard))
        await worker.leave()
        await until(lambda: len(service.hub.standing.worker_rows()) == 2)
        # It keeps its own VM up, too, and says so to whoever asks.
        assert service.vm.deadlines[-1] == pytest.approx(605, abs=5)
        (own, gone) = await door.list_workers()
        assert own.dismantle_in == pytest.approx(600, abs=5)
        assert own.dismantle_why == "soft"
        assert gone.phase == "leaving"
        await service.clock.advance(400)
        assert not service.vm.off.is_set()
        answers.set()
        await service.clock.advance(6)
        await until(service.vm.off.is_set, service.clock)
        assert service.installer.powered_off == ["w2"]


async def test_the_master_waits_with_its_soft_timer_until_a_worker_that_comes_is_told_of_its_own(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await submit(door, spec(wanted=2), 4)
        await follow(door)
        await service.clock.advance(200)
        await door.send(m.Adopt(instances=[instance("w2")], policy=POLICY))
        await until(lambda: len(service.hub.standing.worker_rows()) == 3)
        await service.clock.advance(102)
        late = await service.worker("w2")
        await service.clock.advance(3)
        assert not service.vm.off.is_set()
        await late.ready()
        await until(lambda: any(isinstance(w, m.SetDeadline) for w in late.heard))
        await service.clock.advance(6)
        await until(service.vm.off.is_set, service.clock)
        deadlines = [w.seconds for w in late.heard if isinstance(w, m.SetDeadline)]
        assert deadlines[-1] == pytest.approx(305, abs=1)
        await worker.leave()
        await late.leave()


@pytest.mark.parametrize(("hard", "limit"), [(3600.0, 600.0), (500.0, 500.0)])
async def test_a_vm_that_never_boots_holds_the_master_for_a_bounded_time(
    tmp_path: Path, hard: float, limit: float
) -> None:
    policy = DismantlePolicy(soft=300.0, hard=hard)
    async with master(tmp_path, policy=policy) as service, service.client() as door:
        service.installer.hangs = {"w2"}
        await door.send(m.Adopt(instances=[instance("w1")], policy=policy))
        await door.send(m.Adopt(instances=[instance("w2")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await submit(door, spec(wanted=2, policy=policy), 4)
        await follow(door)
        begun = service.clock.monotonic()
        await service.clock.advance(limit - 10)
        assert not service.vm.off.is_set()
        await service.clock.advance(16)
        await until(service.vm.off.is_set, service.clock)
        assert service.clock.monotonic() - begun < limit + 8
        await worker.leave()


async def test_two_clients_follow_their_own_jobs_and_each_others_rows(tmp_path: Path) -> None:
    async with (
        master(tmp_path) as service,
        service.client("ada") as ada,
        service.client("bob") as bob,
    ):
        await ada.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await asyncio.gather(submit(ada, spec("a"), 50), submit(bob, spec("b"), 70))
        one, two = await asyncio.gather(follow(ada), follow(bob))
        assert (len(one.outcomes), len(two.outcomes)) == (50, 70)
        await ada.send(m.Release(job="a"))
        rows = {row.id: row for row in await bob.list_jobs()}
        assert (rows["a"].done, rows["a"].total, rows["a"].state) == (50, 50, JobState.COMPLETED)
        assert rows["b"].workers == 1
        await worker.leave()


async def test_a_follower_that_comes_later_gets_all_outcomes_from_the_number_it_names(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await submit(door, spec(), 60)
        first = await follow(door)
        async with service.client("late") as late:
            await late.send(m.Follow(job="j"))
            assert (await follow(late)).indices == list(range(60))
            await late.send(m.Follow(job="j", after=first.numbers[-1] - 1))
            assert (await follow(late)).numbers == first.numbers[-1:]
        await worker.leave()


@pytest.mark.parametrize("few", [0, 1 << 20], ids=["in parts", "in the record"])
async def test_a_job_that_was_completed_stays_so_when_a_second_master_was_told_to_run_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(archive, "FEW", few)

    async def archived(service: Master) -> None:
        dossier = service.hub.books.dossier("j")
        assert dossier is not None
        await until(lambda: dossier.archived)

    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await submit(door, spec(), 3)
        assert (await follow(door)).indices == [0, 1, 2]
        await archived(service)
        await worker.leave()
    for lost in tmp_path.glob("journal.sqlite*"):
        lost.unlink()
    async with master(tmp_path) as service, service.client() as door:
        await submit(door, spec(), 3)
        await door.send(m.Cancel(job="j"))
        ended = (await follow(door)).ended
        assert ended is not None
        assert ended.state is JobState.CANCELLED
        await archived(service)
        memory = await recollect(service.storage, "j")
        assert memory is not None
        assert memory.last_word.state is JobState.COMPLETED
        deliveries = [each async for each in memory.deliveries()]
        assert sorted(o.index for d in deliveries for o in d.outcomes) == [0, 1, 2]


@pytest.mark.parametrize("few", [0, 1 << 20], ids=["in parts", "in the record"])
async def test_a_job_that_is_over_can_be_read_from_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(archive, "FEW", few)
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await service.worker()
        worker.hold = True
        await worker.ready()
        await submit(door, spec(), 2)
        await until(lambda: len(worker.ran) == 2)
        await worker.printed("j", "hello", "world")
        await worker.answer("j", [0, 1])
        heard = await follow(door)
        # Lines come before the end, without being asked for: the client submitted the job.
        assert heard.lines == ["hello", "world"]
        dossier = service.hub.books.dossier("j")
        assert dossier is not None
        await until(lambda: dossier.archived)
        await door.send(m.Release(job="j"))
        data = await service.storage.get_object(keys.record("j"))
        record = msgspec.json.decode(data, type=JobRecord)
        assert (record.done, record.state) == (2, JobState.COMPLETED)
        frames = record.outcomes
        if not few:
            assert frames == []
            part = await service.storage.get_object(keys.outcomes("j", *record.parts))
            frames = m.CHUNK.decode(part)
        deliveries = [msgspec.msgpack.decode(frame, type=m.Delivery) for frame in frames]
        assert [o.index for d in deliveries for o in d.outcomes] == [0, 1]
        lines = msgspec.msgpack.decode(
            await service.storage.get_object(keys.logs("j")), type=list[LogLine]
        )
        assert [line.text for line in lines] == ["hello", "world"]
        await until(lambda: service.hub.books.dossier("j") is None)
        assert [line.text for line in await door.read_logs("j")] == ["hello", "world"]
        await door.send(m.Follow(job="j"))
        message = await _first(door, m.Refused)
        assert message.code == "JobError"
        await worker.leave()


async def test_a_job_that_is_over_outlives_the_masters_restart_and_so_does_its_timer(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await submit(door, spec(), 30)
        await follow(door)
        await worker.leave()
    await clock.advance(100)
    async with master(tmp_path, clock=clock) as service, service.client("late") as door:
        await door.send(m.Follow(job="j"))
        assert (await follow(door)).indices == list(range(30))
        (row,) = await door.list_jobs()
        assert (row.done, row.state) == (30, JobState.COMPLETED)
        rows = await door.list_workers()
        assert [round(row.dismantle_in or 0) for row in rows] == [200, 200]
        await door.send(m.Release(job="j"))
        await until(lambda: service.hub.books.dossier("j") is None)
    async with master(tmp_path, clock=clock) as service, service.client("later") as door:
        assert [row.id for row in await door.list_jobs()] == ["j"]
        await door.send(m.Cancel(job="nothing"))
        assert (await _first(door, m.Refused)).job == "nothing"


async def test_logs_of_all_jobs_are_followed_live_with_those_so_far(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await service.worker()
        worker.hold = True
        await worker.ready()
        await submit(door, spec(), 2)
        await until(lambda: len(worker.ran) == 2)
        await worker.printed("j", "past")
        await until(lambda: service.hub.books.logbook.size("j") > 0)
        async with service.client("poll") as other:
            await other.send(m.FollowLogs(past=True))
            lines: list[str] = []
            async for message in other.pushed():
                if isinstance(message, m.Logs):
                    lines += [line.text for line in message.lines]
                    if lines == ["past"]:
                        await worker.printed("j", "now")
                    if len(lines) == 2:
                        break
            assert lines == ["past", "now"]
        await worker.answer("j", [0, 1])
        await follow(door)
        await worker.leave()


async def test_one_call_is_cancelled_and_the_others_finish(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await service.worker()
        worker.hold = True
        await worker.ready()
        await submit(door, spec(), 4)
        await until(lambda: len(worker.ran) == 2)
        await door.send(m.Cancel(job="j", indices=[0, 3]))
        await until(lambda: m.Revoke(job="j", indices=[0]) in worker.heard)
        await until(lambda: worker.ran == [0, 1, 2])
        await worker.answer("j", [0, 1, 2])
        heard = await follow(door)
        kinds = {o.index: o.kind for o in heard.outcomes}
        assert kinds == {
            0: OutcomeKind.CANCELLED,
            1: OutcomeKind.VALUE,
            2: OutcomeKind.VALUE,
            3: OutcomeKind.CANCELLED,
        }
        await worker.leave()


async def test_a_job_whose_client_is_gone_is_cancelled_after_a_grace(tmp_path: Path) -> None:
    async with master(tmp_path) as service:
        async with service.client() as door:
            await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
            worker = await service.worker()
            worker.hold = True
            await worker.ready()
            await submit(door, spec(), 4)
            await until(lambda: len(worker.ran) == 2)
        await until(lambda: not service.hub.peers.clients)
        await service.clock.advance(59)
        assert service.hub.open_jobs == ["j"]
        await service.clock.advance(2)
        assert service.hub.open_jobs == []
        await until(lambda: m.Revoke(job="j") in worker.heard)
        async with service.client("late") as late:
            (row,) = await late.list_jobs()
            assert row.state is JobState.CANCELLED
            assert "no client" in row.reason
        await worker.leave()


async def test_whoever_follows_a_job_is_told_that_its_client_died_before_all_items_were_there(
    tmp_path: Path,
) -> None:
    detached = msgspec.structs.replace(spec(), detach=True)
    clock = FakeClock()
    async with master(tmp_path, clock=clock) as service, service.client("other") as other:
        async with service.client() as door:
            await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
            worker = await (await service.worker()).ready()
            await submit(door, detached, 4, end=False)
            await until(lambda: len(worker.ran) == 4)
            await other.send(m.Follow(job="j"))
            await until(lambda: len(service.hub.peers.followers("j")) == 2)
        await until(lambda: len(service.hub.peers.clients) == 1)
        await clock.advance(50)
        assert service.hub.open_jobs == ["j"]
        await worker.leave()
    # The master's service was killed: it has not forgotten who had left.
    async with master(tmp_path, clock=clock) as service, service.client("other") as other:
        await other.send(m.Follow(job="j"))
        heard = Followed()
        listening = asyncio.create_task(follow(other, heard))
        await until(lambda: len(heard.outcomes) == 4)
        await clock.advance(59)
        assert service.hub.open_jobs == ["j"]
        await clock.advance(2)
        await until(listening.done)
        assert heard.ended is not None
        assert (heard.ended.state, heard.ended.error) == (JobState.FAILED, "JobError")
        for words in ("its client left before all of its items were there", "4 had come, and 4"):
            assert words in heard.ended.reason
        assert heard.indices == [0, 1, 2, 3]


async def test_a_client_that_comes_back_with_the_rest_of_its_items_has_lost_nothing(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client("other") as other:
        async with service.client() as door:
            await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
            worker = await (await service.worker()).ready()
            await submit(door, spec(), 4, end=False)
            await until(lambda: len(worker.ran) == 4)
            await other.send(m.Follow(job="j"))
            await until(lambda: len(service.hub.peers.followers("j")) == 2)
        await until(lambda: len(service.hub.peers.clients) == 1)
        await service.clock.advance(59)
        async with service.client() as door:
            await submit(door, spec(), 4, end=False)
            await until(lambda: len(service.hub.peers.submitters) == 1)
            await service.clock.advance(100)
            assert service.hub.open_jobs == ["j"]
            await door.send(m.ItemsEnd(job="j", total=4))
            assert (await follow(other)).indices == [0, 1, 2, 3]
        await worker.leave()


async def test_a_create_worker_goes_with_its_job(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        vm = instance("w1", mode=ExecMode.CREATE)
        await door.send(m.Adopt(instances=[vm], policy=POLICY, job="j"))
        worker = await (await service.worker()).ready()
        await submit(door, spec(mode=ExecMode.CREATE), 4)
        await follow(door)
        await until(lambda: any(isinstance(w, m.PowerOff) for w in worker.heard))
        await worker.leave()
        await until(lambda: len(service.hub.standing.worker_rows()) == 1, service.clock)


async def test_a_consumed_vm_is_its_own_worker_and_nothing_is_installed(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("m0")], policy=POLICY))
        await submit(door, spec(mode=ExecMode.CONSUME), 4)
        await until(lambda: len(service.hub.standing.worker_rows()) == 2)
        worker = await (await service.worker("m0")).ready()
        assert (await follow(door)).indices == [0, 1, 2, 3]
        assert service.installer.installed == []
        await worker.leave()


async def test_a_job_that_is_said_again_after_a_broken_connection_runs_once(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service:
        async with service.client() as door:
            await submit(door, spec(), 20, chunk=10, end=False)
            await until(lambda: service.hub.known_items("j") == 20)
        async with service.client() as door:
            await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
            await submit(door, spec(), 30, chunk=10)
            await door.send(m.Follow(job="j"))
            worker = await (await service.worker()).ready()
            heard = await follow(door)
            assert heard.indices == list(range(30))
            assert sorted(worker.ran) == list(range(30))
            await worker.leave()


async def test_a_client_that_reads_nothing_does_not_hold_up_another(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        slow = await dial(
            m.TO_CLIENT, role="client", name="slow", secret="c" * 64, unix_socket=service.socket
        )
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await service.worker()
        worker.hold = True
        await worker.ready()
        await submit(door, spec(), 400)
        await until(lambda: bool(service.hub.open_jobs))
        await slow.send(m.Follow(job="j"))
        for index in range(400):
            big = msgspec.structs.replace(outcome(index), payload=bytes(50_000))
            await worker.link.send(m.Done(serial=index + 1, job="j", outcomes=[big]))
        heard = await follow(door)
        assert heard.indices == list(range(400))
        (peer,) = [p for p in service.hub.peers.clients if p.link.peer == "slow"]
        assert peer.follows["j"] < heard.numbers[-1]
        await slow.aclose()
        await worker.leave()


async def test_whoever_lacks_the_secret_and_workers_of_others_are_not_let_in(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service:
        with pytest.raises(errors.AuthenticationError):
            await MasterDoor.open(service.socket, secret="x" * 64, name="eve")
        stranger = await service.worker("w9")
        said = [message async for message in stranger.link]
        assert isinstance(said[0], m.Refused)
        await stranger.leave()


async def test_a_status_says_what_is_being_waited_for(tmp_path: Path) -> None:
    async with master(tmp_path) as service, service.client() as door:
        service.installer.hangs = {"w1", "w2"}
        await submit(door, spec(wanted=3), 100)
        vms = [instance(name) for name in ("w1", "w2", "w3")]
        await door.send(m.Adopt(instances=vms, policy=POLICY))
        await until(lambda: service.installer.installed == ["w3"])
        worker = await service.worker("w3")
        worker.hold = True
        await worker.ready()
        await until(lambda: bool(worker.ran))
        await service.clock.advance(1)
        message = await _first(door, m.JobStatus)
        while not message.ready:
            message = await _first(door, m.JobStatus)
        assert message.waiting == "2 of 3 VMs to answer SSH"
        assert (message.coming, message.ready, message.running) == (2, 1, 2)
        await worker.leave()


class Service:
    """``python -m dayfly.master`` in a process of its own, as the service manager runs it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.clock = SystemClock()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        config = master_config(folder, port=self.port, launched_at=self.clock.now())
        path = folder / "etc/dayfly/master.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(msgspec.json.encode(config))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.setblocking(False)
            address = self.root / "notify"
            address.unlink(missing_ok=True)
            notified.bind(str(address))
            environment = os.environ | {
                "DAYFLY_ROOT": str(self.root),
                "NOTIFY_SOCKET": str(address),
                "PYTHONPATH": str(Path(dayfly.__file__).parent.parent),
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "dayfly.master", env=environment
            )
            try:
                async with asyncio.timeout(20):
                    said = await asyncio.get_running_loop().sock_recv(notified, 100)
                assert said == b"READY=1"
                yield process
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def client(self) -> MasterDoor:
        link = await dial(
            m.TO_CLIENT,
            role="client",
            name="ada",
            secret="c" * 64,
            host="127.0.0.1",
            port=self.port,
        )
        return MasterDoor(link)

    async def worker(self) -> FakeWorker:
        link = await dial(
            m.TO_WORKER, role="worker", name="m0", secret="w" * 64, host="127.0.0.1", port=self.port
        )
        return FakeWorker(link, "m0", "a", 2)


async def test_a_service_that_is_killed_starts_again_and_ends_cleanly_when_told(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path)
    first = Followed()
    async with service.running() as process, await service.client() as door:
        await door.send(m.Adopt(instances=[instance("m0")], policy=POLICY))
        await submit(door, spec(mode=ExecMode.CONSUME), 100)
        await _until_up(door)
        worker = await service.worker()
        worker.hold_after = 20
        await worker.ready()
        listening = asyncio.create_task(follow(door, first))
        await until(lambda: bool(worker.held) and not worker.unkept)
        process.kill()
        await listening
        await worker.leave()
    async with service.running() as process, await service.client() as door:
        again = await service.worker()
        held = worker.held["j"]
        await again.ready({"j": [m.Span(index, index + 1) for index in held]})
        await again.answer("j", held)
        after = first.numbers[-1] if first.numbers else 0
        await door.send(m.Follow(job="j", after=after))
        rest = await follow(door)
        assert sorted(first.indices + rest.indices) == list(range(100))
        assert not set(held) & set(again.ran)
        await again.leave()
        process.terminate()
        assert await process.wait() == 0
    due = (tmp_path / "run/dayfly/deadline").read_text()
    left = float(due) - float(Path("/proc/uptime").read_text().split()[0])
    assert 290 < left < 306


async def _until_up(door: MasterDoor) -> None:
    async with asyncio.timeout(10):
        while len(await door.list_workers()) < 2:
            await asyncio.sleep(0.01)


async def test_a_storage_that_refuses_costs_a_warning_and_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "AGAIN", (0.02,))
    (tmp_path / "storage").mkdir()
    obstacle = tmp_path / "storage" / "dayfly%"
    obstacle.write_text("in the way of the folder")
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await (await service.worker()).ready()
        await submit(door, spec(), 3)
        heard = await follow(door)
        assert heard.indices == [0, 1, 2]
        await until(lambda: caplog.text.count("job j could not be written to storage yet") > 1)
        await door.send(m.Release(job="j"))
        await door.list_jobs()
        assert service.hub.books.dossier("j") is not None, "nobody else holds its outcomes"
        obstacle.unlink()
        await until(lambda: service.hub.books.dossier("j") is None)
        await worker.leave()
