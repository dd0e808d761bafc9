"""Where workers come from and what becomes of them, by ``exec_mode``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from dayfly import FunctionExecutor
from dayfly.config import load
from dayfly.model import Instance, InstanceSpec, InstanceState, Tag
from dayfly.parts import open_parts
from tests.acceptance.conftest import eventually
from tests.conftest import Home

pytestmark = pytest.mark.timeout(90)


def where(x: int) -> tuple[int, str]:
    return x, os.environ["DAYFLY_INSTANCE"]


async def listing(home: Home) -> list[Instance]:
    async with open_parts(load(home.config)) as parts:
        return await parts.cloud.list()


async def test_create_makes_workers_for_one_map_and_deletes_them(home: Home) -> None:
    async with FunctionExecutor(
        config=home.config, exec_mode="create", max_workers=2, progress=False
    ) as ex:
        first = {instance for _, instance in await ex.map(where, range(4))}
        second = {instance for _, instance in await ex.map(where, range(4))}
    assert not first & second, "each map had its own"

    async def gone() -> bool:
        states = {i.id: i.state for i in await listing(home)}
        return all(
            states.get(i, InstanceState.TERMINATED) is InstanceState.TERMINATED
            for i in first | second
        )

    await eventually(gone)
    (master,) = [i for i in await listing(home) if i.state is InstanceState.RUNNING]
    assert master.tags[Tag.ROLE] == "master"


async def users_own_vm(home: Home, *, stopped: bool) -> str:
    """A VM that the user made, with the user's own key, known to nobody else."""
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")
    path = home.path / "key"
    path.write_bytes(key.export_private_key())
    path.chmod(0o600)
    public = key.export_public_key().decode().strip()
    async with open_parts(load(home.config)) as parts:
        launch = await parts.cloud.launch(
            InstanceSpec(
                role="worker",
                instance_types=["local.2"],
                on_poweroff="stop",
                user_data=f'#cloud-config\nssh_authorized_keys: ["{public}"]\n',
                tags={"Name": "mine"},
            ),
            1,
            token="mine",
        )
        (vm,) = launch.instances

        async def reached(state: InstanceState) -> bool:
            (now,) = await parts.cloud.list(ids=[vm.id])
            return now.state is state

        await eventually(lambda: reached(InstanceState.RUNNING))
        if stopped:
            await parts.cloud.stop([vm.id])
            await eventually(lambda: reached(InstanceState.STOPPED))
    return vm.id


@pytest.mark.parametrize(
    "stopped",
    [
        pytest.param(True, marks=pytest.mark.thorough, id="stopped"),
        pytest.param(False, id="running"),
    ],
)
async def test_consume_runs_the_whole_job_on_the_users_vm(home: Home, stopped: bool) -> None:
    vm = await users_own_vm(home, stopped=stopped)
    async with FunctionExecutor(
        config=home.config,
        exec_mode="consume",
        instance_id=vm,
        ssh_key_filename=str(home.path / "key"),
        soft_dismantle_timeout=2,
        progress=False,
    ) as ex:
        assert await ex.map(where, range(20)) == [(n, vm) for n in range(20)]

    async def is_stopped() -> bool:
        return [i.state for i in await listing(home)] == [InstanceState.STOPPED]

    await eventually(is_stopped, within=20)
    (instance,) = await listing(home)
    assert instance.tags["Name"] == "mine", "never re-tagged"
    disk = Path(home.config["localhost"]["directory"]) / "instances" / vm
    assert await asyncio.to_thread(disk.exists), "never deleted"


@pytest.mark.thorough
async def test_workers_that_keep_their_disks_are_stopped_and_started_again(home: Home) -> None:
    keys: dict[str, Any] = {
        "delete_on_dismantle": False,
        "max_workers": 1,
        "soft_dismantle_timeout": 1,
    }
    async with FunctionExecutor(config=home.config, progress=False, **keys) as ex:
        ((_, first),) = await ex.map(where, range(1))

        async def stopped() -> bool:
            states = {i.id: i.state for i in await listing(home)}
            return set(states.values()) == {InstanceState.STOPPED}

        await eventually(stopped, within=30)
    async with FunctionExecutor(config=home.config, progress=False, **keys) as ex:
        ((_, second),) = await ex.map(where, range(1))
    assert second == first
    assert len(await listing(home)) == 2
