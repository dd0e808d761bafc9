"""Workers are launched for the jobs that may have some."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from dayfly.client.conversation import Channel
from dayfly.client.staffing import Staffing
from dayfly.client.supply import Supplied, Supply, kind_of
from dayfly.errors import UnreachableError
from dayfly.model import ExecMode
from dayfly.wire import messages as m
from tests.unit.master_support import instance


async def replaced(mode: ExecMode) -> int:
    """How many workers are launched when the master has lost one."""
    launched: list[int] = []

    async def launch(count: int, *, others: bool) -> Supplied:
        launched.append(count)
        return Supplied()

    tasks: list[asyncio.Task[Any]] = []

    def spawn(work: Any, name: str) -> asyncio.Task[Any]:
        tasks.append(asyncio.create_task(work, name=name))
        return tasks[-1]

    spec = SimpleNamespace(mode=mode)
    supply = SimpleNamespace(spec=spec, launch=launch, fits=True, spared=0)
    told: list[object] = []
    channel = SimpleNamespace(
        id="j-1", supply=supply, launching=False, owed=0, ended=False, emit=told.append
    )
    parts = SimpleNamespace(clock=None, cloud=SimpleNamespace(pace=1.0))
    staffing = Staffing(
        cast("Any", parts),
        cast("Any", SimpleNamespace(cluster=None)),
        cast("Any", None),
        cast("Any", SimpleNamespace(spawn=spawn)),
    )
    await staffing.replace(cast("Channel", channel), 1, "its agent is gone")
    await asyncio.gather(*tasks)
    assert len(told) == 1
    return sum(launched)


async def test_no_vm_is_launched_in_the_place_of_one_that_is_the_users() -> None:
    assert await replaced(ExecMode.REUSE) == 1
    assert await replaced(ExecMode.CONSUME) == 0


async def test_a_fault_while_workers_are_found_fails_the_job_and_is_told() -> None:
    given_up: list[Exception] = []

    class Host:
        def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
            return asyncio.create_task(work, name=name)

        async def give_up(self, channel: Channel, error: Exception) -> None:
            given_up.append(error)

    async def launch(count: int, *, others: bool) -> Supplied:
        raise KeyError("a type that no price list has")

    spec = SimpleNamespace(mode=ExecMode.REUSE)
    supply = SimpleNamespace(spec=spec, launch=launch, fits=True, spared=0)
    channel = SimpleNamespace(
        id="j-1", supply=supply, launching=False, owed=0, ended=False, emit=lambda _: None
    )
    parts = SimpleNamespace(clock=None, cloud=SimpleNamespace(pace=1.0))
    ascender = SimpleNamespace(cluster=None)
    staffing = Staffing(*cast("Any", (parts, ascender, None, Host())))
    await staffing.replace(cast("Channel", channel), 1, "its agent is gone")
    await asyncio.gather(*staffing.under_way)
    assert [type(error) for error in given_up] == [KeyError]


async def test_a_master_that_asked_while_workers_were_launched_is_told_to_ask_again() -> None:
    said: list[object] = []
    launching, may_come = asyncio.Event(), asyncio.Event()

    class Host:
        def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
            return asyncio.create_task(work, name=name)

        async def tell(self, channel: Channel, message: object, *, remember: bool = False) -> None:
            said.append(message)

    async def launch(count: int, *, others: bool) -> Supplied:
        launching.set()
        await may_come.wait()
        return Supplied()

    spec = SimpleNamespace(mode=ExecMode.REUSE)
    supply = SimpleNamespace(spec=spec, launch=launch, fits=True, spared=0)
    channel = SimpleNamespace(
        id="j-1", supply=supply, launching=False, owed=0, ended=False, emit=lambda _: None
    )
    parts = SimpleNamespace(clock=None, cloud=SimpleNamespace(pace=1.0))
    ascender = SimpleNamespace(cluster=None)
    staffing = Staffing(*cast("Any", (parts, ascender, None, Host())))
    await staffing.replace(cast("Channel", channel), 1, "it was taken back")
    await launching.wait()
    await staffing.replace(cast("Channel", channel), 1, "so was the next")
    assert not said
    may_come.set()
    await asyncio.gather(*staffing.under_way)
    assert said == [m.AskAgain(job="j-1")]


async def test_workers_that_no_master_took_are_ended_unless_another_job_counts_on_them() -> None:
    async def given_back(*, others: bool) -> list[str]:
        ended: list[str] = []

        class Host:
            def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
                return asyncio.create_task(work, name=name)

            async def tell(self, *_: object, **__: object) -> None:
                raise UnreachableError("the master did not answer SSH within 120 s")

            async def give_up(self, channel: Channel, error: Exception) -> None:
                pass

        async def give_back(ids: list[str]) -> None:
            ended.extend(ids)

        policy = SimpleNamespace(auto=True)
        spec = SimpleNamespace(mode=ExecMode.REUSE, policy=policy, kind=kind_of({}))
        supply = Supply(cast("Any", None), cast("Any", spec), {})
        supply.launched = ["i-1"]

        async def launch(count: int, *, others: bool) -> Supplied:
            return Supplied(instances=[instance("i-0"), instance("i-1")])

        supply.launch = launch  # type: ignore[method-assign]  # no cloud is asked
        channel = SimpleNamespace(
            id="j-1",
            supply=supply,
            request=SimpleNamespace(spec=spec),
            launching=False,
            owed=0,
            ended=False,
            emit=lambda _: None,
        )
        parts = SimpleNamespace(clock=None, cloud=SimpleNamespace(pace=1.0))
        cluster = SimpleNamespace(give_back=give_back)
        ascender = SimpleNamespace(cluster=cluster, adoption=lambda *_: None)
        conversation = SimpleNamespace(has_others=lambda _: others)
        staffing = Staffing(*cast("Any", (parts, ascender, conversation, Host())))
        await staffing.replace(cast("Channel", channel), 1, "it was taken back")
        await asyncio.gather(*staffing.under_way)
        return ended

    assert await given_back(others=False) == ["i-1"]
    assert await given_back(others=True) == []
