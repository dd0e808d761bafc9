"""A master with calls that fail, calls that take workers down, and workers that are taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dayfly.master.journal import Journal
from dayfly.model import OutcomeKind
from dayfly.wire import messages as m
from tests.unit.master_support import (
    POLICY,
    FakeClock,
    Followed,
    follow,
    instance,
    master,
    spec,
    submit,
    until,
)


async def test_tries_are_counted_over_a_restart_of_the_master(tmp_path: Path) -> None:
    clock = FakeClock()
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1", processes=1)], policy=POLICY))
        worker = await service.worker("w1", processes=1)
        worker.hold = True
        await worker.ready()
        await submit(door, spec(retries=2, processes=1), 1)
        await until(lambda: worker.ran == [0])
        await worker.fail("j", 0)
        await until(lambda: worker.ran == [0, 0])
        await until(lambda: not worker.unkept)
        await worker.leave()
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        await door.send(m.Follow(job="j"))
        listening = asyncio.create_task(follow(door))
        # It was given the second try before the master died, and fails that too.
        link = await service.worker("w1", processes=1)
        link.hold = True
        await link.link.send(
            m.Ready(
                incarnation="a",
                processes=1,
                holding={"j": [m.Span(0, 1)]},
                attempts={"j": {0: 1}},
            )
        )
        link.task = asyncio.create_task(link._listen())
        await link.fail("j", 0, attempt=1)
        await until(lambda: link.ran == [0])
        (assign,) = [a for a in link.heard if isinstance(a, m.Assign)]
        assert assign.attempt == 2
        await link.fail("j", 0, attempt=2)
        heard = await listening
        (last,) = heard.outcomes
        assert last.kind is OutcomeKind.RAISED
        assert [one.what for one in last.tries] == ["raised ValueError: no luck"] * 2
        assert heard.ended is not None
        await link.leave()
    journal = Journal(tmp_path / "journal.sqlite")
    jobs, _ = journal.load()
    assert [(job.tries, job.losses) for job in jobs] == [({}, [])]
    journal.close()


async def test_an_agent_that_dies_thrice_of_a_call_is_told_over_a_restart_of_the_master(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1", processes=1)], policy=POLICY))
        await submit(door, spec(processes=1), 3)
        for incarnation in ("first", "second", "third"):
            worker = await service.worker("w1", processes=1, incarnation=incarnation)
            worker.hold = True
            await worker.ready()
            await until(lambda given=worker.ran: given == [0])  # type: ignore[misc]
            await worker.leave()
    async with master(tmp_path, clock=clock) as service, service.client() as door:
        await door.send(m.Follow(job="j"))
        third = await service.worker("w1", processes=1, incarnation="third")
        await third.ready({"j": [m.Span(0, 1)]})
        await until(lambda: service.hub.standing.worker_rows()[1].running == 1)
        assert third.ran == []
        await third.leave()
        fourth = await service.worker("w1", processes=1, incarnation="fourth")
        await fourth.ready()
        heard = await follow(door)
        await fourth.leave()
    poison, *others = sorted(heard.outcomes, key=lambda outcome: outcome.index)
    assert poison.kind is OutcomeKind.CRASHED
    assert "its agent's process ended" in poison.payload.decode()
    assert [outcome.kind for outcome in others] == [OutcomeKind.VALUE] * 2
    assert fourth.ran == [1, 2]


async def test_a_worker_that_drains_is_powered_off_once_its_last_outcome_is_kept(
    tmp_path: Path,
) -> None:
    async with master(tmp_path) as service, service.client() as door:
        await door.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        worker = await service.worker("w1")
        worker.hold = True
        await worker.ready()
        await submit(door, spec(), 4)
        heard = Followed()
        listening = asyncio.create_task(follow(door, heard))
        await until(lambda: worker.ran == [0, 1])
        await worker.link.send(m.Draining(seconds=120.0, reason="the cloud wants it back"))

        def asked() -> list[m.WorkersNeeded]:
            return [o for o in heard.others if isinstance(o, m.WorkersNeeded)]

        await until(lambda: bool(asked()))
        assert (asked()[0].count, asked()[0].spared) == (1, 1)
        assert "the cloud wants it back" in asked()[0].reason
        async with service.client("somebody else") as other:
            rows = {row.name: row for row in await other.list_workers()}
        assert rows["dayfly-w1"].phase == "draining"
        await worker.answer("j", [0])
        await worker.answer("j", [1])
        await until(lambda: any(isinstance(each, m.PowerOff) for each in worker.heard))
        assert not worker.unkept
        await worker.leave()
        await door.send(m.Adopt(instances=[instance("w2")], policy=POLICY))
        second = await (await service.worker("w2")).ready()
        await listening
        assert heard.indices == [0, 1, 2, 3]
        assert second.ran == [2, 3]
        await second.leave()
