"""No machine outlives its timers, whoever is dead."""

from __future__ import annotations

import signal
import time

import pytest

from dayfly import FunctionExecutor
from dayfly.dismantle import SLACK
from dayfly.model import DismantlePolicy
from tests.machines.fixtures import Ec2Box
from tests.machines.functions import square
from tests.machines.guest import Guests
from tests.machines.waiting import eventually
from tests.programs import program

pytestmark = [pytest.mark.machines, pytest.mark.timeout(180)]

#: Seconds that a machine may take to notice that its time has come, and to power off.
DOWN = 10.0


async def test_the_deadline_is_armed_before_cloud_init_ends_and_at_every_start(
    box: Ec2Box,
) -> None:
    hard = 20
    guests = Guests(box.aws)
    began = time.monotonic()
    (one,) = await guests.launch(
        on_poweroff="stop", user_data=guests.user_data(DismantlePolicy(hard=hard))
    )
    show = "systemctl show --value -p {} {}"
    told = await guests.run(
        one,
        "; ".join(
            [
                show.format("ActiveEnterTimestampMonotonic", "dayfly-deadline"),
                show.format("ExecMainExitTimestampMonotonic", "cloud-init"),
                show.format("ActiveEnterTimestampMonotonic", "ssh"),
            ]
        ),
    )
    armed, initialised, reachable = (int(line) for line in told.stdout.split())
    assert 0 < armed < initialised < reachable
    await guests.until(one, "stopped", within=hard + DOWN + 5)
    assert time.monotonic() - began > hard - 1
    began = time.monotonic()
    await guests.call("start_instances", InstanceIds=[one])
    await guests.until(one, "running")
    await guests.until(one, "stopped", within=hard + DOWN + 5)
    assert time.monotonic() - began > hard - 1, "it counts from this start"


async def test_when_client_and_master_are_dead_the_workers_own_deadline_ends_it(
    warm_box: Ec2Box,
) -> None:
    hard = 30
    async with program(1000, 1.0, hard_dismantle_timeout=hard) as client:
        await eventually(lambda: bool(client.came), within=60)
        began = time.monotonic()  # of the job, at most some seconds ago
        client.signal(signal.SIGKILL)
        (master,) = warm_box.instances("master", "running")
        warm_box.machines.crash(master.id)
    workers = [life.id for life in warm_box.instances("worker", "running")]
    assert len(workers) == 2
    aws = warm_box.aws
    await eventually(
        lambda: {aws.state(each) for each in workers} == {"terminated"},
        within=hard + SLACK + DOWN,
    )
    assert time.monotonic() - began > hard - 10, "not before"
    assert not aws.count("TerminateInstances"), "by themselves"


async def test_after_the_soft_timer_the_workers_are_gone_and_the_master_can_be_started_again(
    warm_box: Ec2Box,
) -> None:
    aws, soft = warm_box.aws, 2.0
    keys = {"config": warm_box.config, "progress": False, "max_workers": 2}

    def at_rest() -> bool:
        (master,) = warm_box.instances("master")
        workers = {aws.state(life.id) for life in warm_box.instances("worker")}
        return workers == {"terminated"} and aws.state(master.id) == "stopped"

    async with FunctionExecutor(soft_dismantle_timeout=soft, **keys) as ex:  # type: ignore[arg-type]
        assert await ex.map(square, range(4)) == [0, 1, 4, 9]
    took = await eventually(at_rest, within=soft + 2 * DOWN)
    print(f"at rest {took:.1f} s after the job, with a soft timer of {soft:g} s")
    async with FunctionExecutor(**keys) as ex:  # type: ignore[arg-type]
        assert await ex.map(square, range(2)) == [0, 1]
    assert len(warm_box.instances("master")) == 1
