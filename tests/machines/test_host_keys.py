"""Whoever does not show the key that was made for it is told nothing."""

from __future__ import annotations

import asyncio

import pytest

from dayfly import FunctionExecutor, errors
from tests.machines.fixtures import Ec2Box
from tests.machines.functions import slow, square
from tests.machines.other_keys import OTHER_KEY, was_entered
from tests.machines.waiting import eventually

pytestmark = [pytest.mark.machines, pytest.mark.timeout(180)]


async def test_a_master_with_another_key_is_refused_by_name(warm_box: Ec2Box) -> None:
    warm_box.machines.files |= OTHER_KEY
    async with (
        FunctionExecutor(config=warm_box.config, progress=False, max_workers=1) as ex,
        asyncio.timeout(90),
    ):
        with pytest.raises(errors.HostKeyError) as refused:
            await ex.map(square, range(2))
    (master,) = warm_box.instances("master")
    assert master.id in str(refused.value)
    assert not was_entered(warm_box, master.id)


async def test_a_worker_with_another_key_is_refused_by_name_and_another_does_its_work(
    warm_box: Ec2Box, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FunctionExecutor(config=warm_box.config, max_workers=1) as ex:
        assert await ex.map(square, range(2)) == [0, 1]
    (good,) = warm_box.instances("worker")
    warm_box.machines.files |= OTHER_KEY
    async with FunctionExecutor(config=warm_box.config, max_workers=2) as ex, asyncio.timeout(90):
        job = ex.map(slow, range(40))
        await eventually(lambda: len(warm_box.machines.states()) == 3)
        warm_box.machines.files.clear()  # what takes its place is as it should be
        (bad,) = [life.id for life in warm_box.instances("worker") if life.id != good.id]
        assert await job == [*range(40)]
        took = await eventually(lambda: warm_box.aws.state(bad) == "terminated", within=60)
        print(f"ended {took:.1f} s after the job")
    told = capsys.readouterr().err
    assert f"({bad})" in told
    assert "host key" in told
    assert not was_entered(warm_box, bad)
