"""Clusters that were there before, of other days and other versions."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from typing import Any

import msgspec
import pytest

import dayfly
from dayfly import FunctionExecutor, bootstrap, errors, provision
from dayfly.client.ascent import Ascender
from dayfly.cloud.localhost import plane
from dayfly.cloud.localhost.addresses import Endpoint, free_ports
from dayfly.config import load
from dayfly.model import Instance, InstanceSpec, InstanceState, Tag
from dayfly.parts import open_parts
from tests.acceptance.conftest import eventually
from tests.conftest import Home

pytestmark = pytest.mark.timeout(90)


def make(home: Home, package: bootstrap.Package | None = None) -> FunctionExecutor:
    parts = open_parts(load(home.config))
    if package is not None:
        parts = dataclasses.replace(parts, package=lambda: package)
    return FunctionExecutor(config=home.config, max_workers=1, progress=False, parts=parts)


async def test_a_later_client_sweeps_what_is_past_its_expiry(home: Home) -> None:
    async with open_parts(load(home.config)) as parts:
        owner = await parts.cloud.owner()

        async def launch(expires_at: str) -> str:
            tags = {
                Tag.MANAGED: "true",
                Tag.OWNER: owner,
                Tag.ROLE: "worker",
                Tag.CLUSTER: "of another day",
                Tag.EXPIRES_AT: expires_at,
            }
            spec = InstanceSpec(
                role="worker",
                instance_types=["local.1"],
                on_poweroff="terminate",
                user_data="#cloud-config\n{}\n",
                tags={key.value: value for key, value in tags.items()},
            )
            launched = await parts.cloud.launch(spec, 1, token=expires_at)
            return launched.instances[0].id

        late = await launch(str(round(time.time() - 60)))
        early = await launch(str(round(time.time() + 3600)))
        never = await launch("0")
        async with make(home) as ex:
            assert await ex.map(abs, [-1]) == [1]

        async def swept() -> bool:
            found = {i.id: i.state for i in await parts.cloud.list(ids=[late, early, never])}
            return found == {
                late: InstanceState.TERMINATED,
                early: InstanceState.RUNNING,
                never: InstanceState.RUNNING,
            }

        await eventually(swept)


async def test_a_worker_that_serves_again_is_not_swept_on_the_day_that_its_launch_named(
    home: Home,
) -> None:
    async with make(home) as ex:
        assert await ex.map(abs, [-1]) == [1]
    async with open_parts(load(home.config)) as parts:

        async def worker() -> Instance:
            (found,) = [i for i in await parts.cloud.list() if i.tags[Tag.ROLE] == "worker"]
            return found

        # As if it had served one job after the other for an hour.
        soon = str(round(time.time() + 30))
        await parts.cloud.tag([(await worker()).id], {Tag.EXPIRES_AT: soon})
        async with make(home) as ex:
            assert await ex.map(abs, [-2]) == [2]

        async def kept() -> bool:
            return float((await worker()).tags[Tag.EXPIRES_AT]) > time.time() + 3600

        await eventually(kept)


async def test_what_is_to_run_on_for_ever_is_not_swept_on_a_day_named_before(home: Home) -> None:
    async with make(home) as ex:
        assert await ex.map(abs, [-1]) == [1]
    config = home.config | {"localhost": {**home.config["localhost"], "auto_dismantle": False}}
    async with open_parts(load(config)) as parts:
        ascender = await Ascender.prepare(parts)
        found = await ascender.cluster.instances()
        await ascender.cluster.keep(found[:1], [found[1].id, "local-gone"])
        kept = await parts.cloud.list(ids=[i.id for i in found])
        assert [i.tags[Tag.EXPIRES_AT] for i in kept] == ["0", "0"]


async def test_a_worker_that_was_stopped_with_its_disk_is_not_swept(home: Home) -> None:
    config = home.config | {"localhost": {**home.config["localhost"], "delete_on_dismantle": False}}
    async with FunctionExecutor(config=config, max_workers=1, progress=False) as ex:
        assert await ex.map(abs, [-1]) == [1]
    async with open_parts(load(config)) as parts:
        (worker,) = [i for i in await parts.cloud.list() if i.tags[Tag.ROLE] == "worker"]
        ascender = await Ascender.prepare(parts)

        async def is_stopped() -> bool:
            (found,) = await parts.cloud.list(ids=[worker.id])
            return found.state is InstanceState.STOPPED

        await parts.cloud.tag([worker.id], {Tag.EXPIRES_AT: "1"})
        assert [i.id for i in await ascender.cluster.sweep()] == [worker.id]
        await eventually(is_stopped)
        await parts.clock.sleep(2 * parts.cloud.pace)
        assert await ascender.cluster.sweep() == []
        assert await is_stopped()


async def test_a_client_that_moves_is_let_in_again_each_time(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_parts(load(home.config)) as parts:
        ascender = await Ascender.prepare(parts)
        admitted: list[float] = []

        async def admit() -> None:
            admitted.append(time.monotonic())

        monkeypatch.setattr(parts.cloud, "admit", admit)
        await (await ascender.ascend(print)).aclose()
        reach = provision.reach
        for times in (1, 2):

            async def moved(*args: Any, **more: Any) -> Any:
                monkeypatch.setattr(provision, "reach", reach)
                raise errors.UnreachableError("nothing answers at all")

            monkeypatch.setattr(provision, "reach", moved)
            await (await ascender.ascend(print)).aclose()
            assert len(admitted) == times


async def test_another_dayfly_waits_for_the_master_to_be_idle_and_then_takes_it_over(
    home: Home,
) -> None:
    other = msgspec.structs.replace(bootstrap.read_package(), digest="0" * 16)
    async with make(home) as ex:
        job = ex.map(time.sleep, [60])
        await eventually(lambda: job.progress.running > 0)
        async with make(home, other) as newer:
            with pytest.raises(dayfly.VersionMismatchError, match=job.id):
                await newer.map(abs, [-1])
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    async with make(home, other) as newer:
        assert await newer.map(abs, [-2]) == [2]


async def test_a_master_that_is_just_stopping_is_waited_for_and_started(home: Home) -> None:
    async with make(home) as ex:
        assert await ex.map(abs, [-1]) == [1]
    async with open_parts(load(home.config)) as parts:
        (master,) = await parts.cloud.list(tags={Tag.ROLE: "master"})
        await parts.cloud.stop([master.id])
        async with make(home) as ex:
            assert await ex.map(abs, [-2]) == [2]
        (again,) = await parts.cloud.list(tags={Tag.ROLE: "master"})
        assert again.id == master.id


async def test_where_only_one_loopback_address_answers_ports_tell_the_vms_apart(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS; the VMs themselves are told where to listen, so only the launch differs."""
    monkeypatch.setattr(plane, "draw_endpoint", lambda *_: Endpoint("127.0.0.1", *free_ports()))

    def where(_: int) -> str:
        time.sleep(0.1)
        return os.environ["DAYFLY_INSTANCE"]

    async with FunctionExecutor(config=home.config, max_workers=2, progress=False) as ex:
        assert len(set(await ex.map(where, range(40)))) == 2
    async with open_parts(load(home.config)) as parts:
        found = await parts.cloud.list()
    assert {instance.address for instance in found} == {"127.0.0.1"}
    assert len({instance.ssh_port for instance in found}) == 3
