"""What can be asked to go wrong with the embedded cloud."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dayfly.cloud.localhost import Faults
from dayfly.errors import CapacityError, CloudError, UnreachableError
from dayfly.model import Instance, InstanceSpec, InstanceState, Launch
from tests.embedded import Embedded, embedded_cloud

S = InstanceState


@pytest.fixture
async def embedded(own_home: Path) -> AsyncIterator[Embedded]:
    async with embedded_cloud(own_home / "cloud") as embedded:
        yield embedded


async def launch(embedded: Embedded, count: int, *, minimum: int = 1, name: str = "t") -> Launch:
    spec = InstanceSpec(
        role="worker",
        instance_types=["local.1"],
        on_poweroff="stop",
        user_data=embedded.user_data(),
        tags={},
    )
    return await embedded.cloud.launch(spec, count, minimum=minimum, token=name)


async def test_a_launch_gets_what_capacity_there_is_and_says_what_is_missing(
    embedded: Embedded,
) -> None:
    await embedded.cloud.set_faults(Faults(capacity=3))
    got = await launch(embedded, 5)
    assert len(got.instances) == 3
    (shortfall,) = got.shortfalls
    assert (shortfall.pool, shortfall.asked, shortfall.got) == ("local.1", 5, 3)
    assert shortfall.code == "InsufficientInstanceCapacity"
    assert "capacity" in shortfall.message

    again = await launch(embedded, 5)
    assert again.shortfalls == got.shortfalls
    assert len(await embedded.cloud.list()) == 3


async def test_less_than_the_minimum_is_nothing(embedded: Embedded) -> None:
    await embedded.cloud.set_faults(Faults(capacity=3))
    with pytest.raises(CapacityError, match="at least 4, and 3 can be had"):
        await launch(embedded, 5, minimum=4)
    assert await embedded.cloud.list() == []


async def test_capacity_counts_what_is_up_and_binds_a_start_as_well(embedded: Embedded) -> None:
    await embedded.cloud.set_faults(Faults(capacity=1))
    (first,) = (await launch(embedded, 1, name="first")).instances
    with pytest.raises(CapacityError):
        await launch(embedded, 1, name="second")
    await embedded.until(first, S.RUNNING)
    await embedded.cloud.stop([first.id])
    await embedded.until(first, S.STOPPED)
    assert (await launch(embedded, 1, name="third")).instances
    with pytest.raises(CapacityError, match="cannot be started"):
        await embedded.cloud.start([first.id])
    assert (await embedded.look(first)).state is S.STOPPED


async def refused(embedded: Embedded, instance: Instance, timeout: float = 0.3) -> str:
    with pytest.raises(UnreachableError) as caught:
        await embedded.shell.connect(embedded.target(instance), timeout=timeout)
    return caught.value.cause


async def test_a_vm_that_never_boots_runs_and_answers_nothing_and_can_be_terminated(
    embedded: Embedded,
) -> None:
    await embedded.cloud.set_faults(Faults(never_boot=1))
    stuck, sound = await embedded.launch(2)
    await embedded.run(sound, "true")
    assert (await embedded.look(stuck)).state is S.RUNNING
    assert await embedded.cloud.console(stuck.id) == ""
    assert "SSH server is not" in await refused(embedded, stuck)
    assert (await embedded.cloud.faults()).never_boot == 0
    await embedded.cloud.terminate([stuck.id])
    await embedded.until(stuck, S.TERMINATED)


async def test_a_vm_without_ssh_still_runs_its_own_commands(embedded: Embedded) -> None:
    await embedded.cloud.set_faults(Faults(refuse_ssh=1))
    (deaf,) = await embedded.launch(runcmd=[["poweroff"]])
    gone = await embedded.until(deaf, S.TERMINATED)
    assert gone.state_reason.startswith("Client.InstanceInitiatedShutdown")


async def test_a_vm_whose_ssh_says_nothing(embedded: Embedded) -> None:
    await embedded.cloud.set_faults(Faults(silent_ssh=1))
    (silent,) = await embedded.launch()
    cause = ""
    async with asyncio.timeout(5):
        while "not in SSH" not in cause:
            cause = await refused(embedded, silent, timeout=0.2)


async def test_an_interrupted_spot_instance_is_warned_and_taken(embedded: Embedded) -> None:
    async with embedded.vm(spot=True) as (instance, connection):
        await embedded.cloud.interrupt(instance.id, notice=0.7)
        told = await connection.run("cat $DAYFLY_ROOT/run/spot-instance-action")
        notice = json.loads(told.stdout)
        assert notice["action"] == "terminate"
        assert notice["time"].startswith(time.strftime("%Y-%m-%dT", time.gmtime()))
        assert (await embedded.look(instance)).state is S.RUNNING
        gone = await embedded.until(instance, S.TERMINATED)
        assert gone.state_reason == "Server.SpotInstanceTermination"
    with pytest.raises(CloudError):
        await embedded.cloud.interrupt(instance.id)


async def test_only_spot_instances_are_interrupted_and_they_cannot_stop_themselves(
    embedded: Embedded,
) -> None:
    (instance,) = await embedded.launch()
    with pytest.raises(CloudError, match="not a spot instance"):
        await embedded.cloud.interrupt(instance.id)
    with pytest.raises(CloudError, match="spot"):
        await embedded.launch(spot=True, on_poweroff="stop")
