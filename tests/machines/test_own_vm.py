"""A VM of the user's own: it does a whole job, and stays the user's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dayfly import FunctionExecutor, errors
from tests.machines import images
from tests.machines.fixtures import Ec2Box
from tests.machines.functions import square, where
from tests.machines.guest import Guests
from tests.machines.other_keys import OTHER_KEY, was_entered
from tests.machines.waiting import eventually

pytestmark = [pytest.mark.machines, pytest.mark.timeout(180)]


def consumer(box: Ec2Box, mine: str, **keys: Any) -> FunctionExecutor:
    return FunctionExecutor(
        config=box.config,
        progress=False,
        exec_mode="consume",
        instance_id=mine,
        ssh_key_filename=str(box.path / "key"),
        soft_dismantle_timeout=2,
        **keys,
    )


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "running"])
async def test_it_does_the_whole_job_and_is_stopped_and_never_ended(
    warm_box: Ec2Box, stopped: bool
) -> None:
    aws = warm_box.aws
    guests = Guests(aws)
    mine = await guests.launch_own(warm_box.path, image=images.TRODDEN, stopped=stopped)
    tags = aws.tags(mine)
    async with consumer(warm_box, mine) as ex:
        names = await ex.map(where, range(6))
    assert set(names) == {f"ip-{aws.world.lives[mine].address.replace('.', '-')}"}
    await eventually(lambda: aws.state(mine) == "stopped", within=30)
    assert [life.id for life in aws.instances()] == [mine], "no other was launched"
    assert aws.tags(mine) == tags
    assert not aws.count("TerminateInstances")


async def test_one_that_shows_another_key_than_its_console_did_is_refused(
    warm_box: Ec2Box,
) -> None:
    warm_box.machines.files |= OTHER_KEY
    mine = await Guests(warm_box.aws).launch_own(warm_box.path, image=images.TRODDEN)
    async with consumer(warm_box, mine) as ex, asyncio.timeout(90):
        with pytest.raises(errors.HostKeyError, match=mine):
            await ex.map(square, range(2))
    assert not was_entered(warm_box, mine)
