"""The whole system on EC2 and S3: an emulated account whose instances are really reached."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aioboto3
import pytest
from click.testing import CliRunner

from dayfly import FunctionExecutor, Job, errors
from dayfly.cli.root import dayfly
from dayfly.cloud.localhost.faults import Faults
from dayfly.model import Tag
from tests.acceptance.conftest import eventually
from tests.aws.emulator import EmulatedAws, Life
from tests.aws.machine_fixtures import Ec2Home

pytestmark = pytest.mark.timeout(90)
#: Each takes some ten seconds.
thorough = pytest.mark.thorough


def square(x: int) -> int:
    return x * x


def where(x: int) -> tuple[int, str]:
    return x, os.environ["DAYFLY_INSTANCE"]


def slow(x: int) -> int:
    import time

    time.sleep(0.3)
    return x


def executor(home: Ec2Home, **keys: Any) -> FunctionExecutor:
    return FunctionExecutor(config=home.config, progress=False, **{"max_workers": 2, **keys})


def workers(aws: EmulatedAws) -> list[Life]:
    return [i for i in aws.instances() if aws.tags(i.id).get(Tag.ROLE) == "worker"]


def masters(aws: EmulatedAws) -> list[Life]:
    return [i for i in aws.instances() if aws.tags(i.id).get(Tag.ROLE) == "master"]


async def test_a_map_runs_on_ec2_and_the_next_program_finds_its_machines(
    machines: Ec2Home,
) -> None:
    aws = machines.aws
    async with executor(machines) as first:
        assert await first.map(square, range(8)) == [x * x for x in range(8)]
    assert len(workers(aws)) == 2
    assert len(masters(aws)) == 1
    before = len(aws.calls)
    async with executor(machines) as second:
        assert await second.map(square, range(4)) == [0, 1, 4, 9]
    assert len(aws.instances()) == 3, "nothing was launched"
    ec2 = [call.action for call in aws.calls[before:] if call.service == "ec2"]
    # Looked at again where a busy machine took longer than a listing is trusted.
    assert ["DescribeInstances"] <= ec2 <= ["DescribeInstances"] * 2, ec2


async def test_every_instance_is_born_with_its_tags_and_its_end(machines: Ec2Home) -> None:
    async with executor(machines) as ex:
        await ex.map(square, range(4))
    for call in machines.aws.calls:
        if call.action != "RunInstances":
            continue
        tags = {
            (spec["ResourceType"], tag["Key"])
            for spec in call.params["TagSpecifications"]
            for tag in spec["Tags"]
        }
        for kind in ("instance", "volume", "network-interface"):
            assert {(kind, Tag.MANAGED), (kind, Tag.OWNER), (kind, Tag.EXPIRES_AT)} <= tags
        assert call.params["MetadataOptions"]["HttpTokens"] == "required"
        assert call.params["ClientToken"]
    roles = {machines.aws.tags(i.id)[Tag.ROLE]: i for i in machines.aws.instances()}
    assert roles["master"].on_poweroff == "stop"
    assert not roles["master"].spot
    assert roles["worker"].on_poweroff == "terminate"
    assert roles["worker"].spot


@thorough
async def test_create_mode_gives_its_workers_back(machines: Ec2Home) -> None:
    aws = machines.aws
    async with executor(machines, exec_mode="create") as ex:
        one = {vm for _, vm in await ex.map(where, range(4))}
        two = {vm for _, vm in await ex.map(where, range(4))}
    assert not one & two
    await eventually(lambda: all(aws.state(w.id) == "terminated" for w in workers(aws)))
    assert [aws.state(m.id) for m in masters(aws)] == ["running"]


@thorough
@pytest.mark.parametrize("stopped", [True, False])
async def test_consume_uses_the_users_own_instance_and_leaves_it_as_it_was(
    machines: Ec2Home, stopped: bool
) -> None:
    aws = machines.aws
    mine = await users_own_vm(machines, stopped=stopped)
    tags = aws.tags(mine)
    keys = {"exec_mode": "consume", "instance_id": mine, "soft_dismantle_timeout": 2}
    async with executor(machines, ssh_key_filename=str(machines.path / "key"), **keys) as ex:
        assert await ex.map(square, range(6)) == [x * x for x in range(6)]
    await eventually(lambda: aws.state(mine) == "stopped", within=30)
    assert len(aws.instances()) == 1
    assert aws.tags(mine) == tags
    assert not aws.count("TerminateInstances")


@thorough
async def test_an_instance_that_its_own_poweroff_would_delete_is_not_consumed(
    machines: Ec2Home,
) -> None:
    mine = await users_own_vm(machines, stopped=False, on_poweroff="terminate")
    keys = {"exec_mode": "consume", "instance_id": mine}
    async with executor(machines, ssh_key_filename=str(machines.path / "key"), **keys) as ex:
        with pytest.raises(errors.ConfigError, match="modify-instance-attribute"):
            await ex.map(square, range(2))


@thorough
async def test_soft_and_hard_timers_work_on_ec2(machines: Ec2Home) -> None:
    aws = machines.aws
    async with executor(machines, soft_dismantle_timeout=1.5) as ex:
        await ex.map(square, range(4))
    await eventually(lambda: all(aws.state(w.id) == "terminated" for w in workers(aws)), within=30)
    await eventually(lambda: aws.state(masters(aws)[0].id) == "stopped", within=30)
    async with executor(machines) as ex:
        assert await ex.map(square, range(2)) == [0, 1]
    assert len(masters(aws)) == 1, "it was started again"


@thorough
async def test_a_spot_interruption_costs_no_result(machines: Ec2Home) -> None:
    aws = machines.aws
    async with executor(machines) as ex:
        job = ex.map(slow, range(24))
        await eventually(lambda: job.progress.done > 2, within=40)
        aws.interrupt(workers(aws)[0].id)
        assert await job == list(range(24))


@thorough
async def test_a_type_that_is_sold_out_gives_way_to_the_next_and_the_user_is_told(
    machines: Ec2Home, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = machines.aws
    aws.capacity("t3.medium", left=0)
    aws.capacity("m5.large", spot=True, left=1)
    async with FunctionExecutor(
        config=machines.config,
        max_workers=2,
        worker_instance_type=["t3.medium", "m5.large"],
    ) as ex:
        assert await ex.map(square, range(4)) == [0, 1, 4, 9]
    assert [w.instance_type for w in workers(aws)] == ["m5.large"]
    told = capsys.readouterr().err
    assert "running with 1 of 2 workers" in told
    assert "t3.medium" in told
    assert "InsufficientInstanceCapacity" in told


@thorough
async def test_on_demand_stands_in_for_spot_where_the_user_allows_it(machines: Ec2Home) -> None:
    aws = machines.aws
    aws.capacity(spot=True, left=0)
    async with executor(machines, on_demand_fallback=True) as ex:
        assert await ex.map(square, range(4)) == [0, 1, 4, 9]
    assert [w.spot for w in workers(aws)] == [False, False]


@thorough
async def test_no_capacity_at_all_names_every_pool(machines: Ec2Home) -> None:
    machines.aws.capacity(spot=True, left=0)
    async with executor(machines) as ex:
        with pytest.raises(errors.NoWorkersError, match=r"t3\.medium") as failed:
            await ex.map(square, range(4))
    assert "on_demand_fallback" in str(failed.value)


@thorough
async def test_a_launch_that_fails_after_it_was_answered_is_replaced_at_once(
    machines: Ec2Home,
) -> None:
    aws = machines.aws
    async with executor(machines, max_workers=1) as ex:
        assert await ex.map(square, range(2)) == [0, 1]  # the master is up
        aws.fail_late(1, "Server.InsufficientInstanceCapacity", "none left")
        async with executor(machines, max_workers=1, exec_mode="create") as other:
            async with asyncio.timeout(40):
                assert await other.map(square, range(2)) == [0, 1]


@thorough
async def test_throttling_is_waited_out(machines: Ec2Home) -> None:
    aws = machines.aws
    aws.fail_next("RunInstances", "RequestLimitExceeded", times=2)
    aws.fail_next("DescribeInstances", "RequestLimitExceeded", times=2)
    async with executor(machines) as ex:
        assert await ex.map(square, range(4)) == [0, 1, 4, 9]
    assert len(aws.instances()) == 3


@thorough
async def test_workers_in_a_private_subnet_are_reached_through_the_master(
    machines: Ec2Home,
) -> None:
    aws = machines.aws
    async with executor(machines, subnet_id=private_subnet(aws)) as ex:
        assert await ex.map(square, range(4)) == [0, 1, 4, 9]


async def test_a_missing_permission_is_named(machines: Ec2Home) -> None:
    machines.aws.deny("ec2:RunInstances")
    async with executor(machines) as ex:
        with pytest.raises(errors.DayflyError, match="ec2:RunInstances"):
            await ex.map(square, range(4))
    assert not machines.aws.instances()


@pytest.mark.thorough
async def test_another_machine_of_the_same_user_lists_and_cleans(
    machines: Ec2Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = machines.aws
    async with executor(machines) as ex:
        await ex.map(square, range(4))
    monkeypatch.setenv("HOME", str(tmp_path))
    listed = await asyncio.to_thread(CliRunner().invoke, dayfly, ["worker", "list"])
    assert listed.output.count("dayfly-worker") == 2, listed.output
    jobs = await asyncio.to_thread(CliRunner().invoke, dayfly, ["job", "list"])
    assert "square" in jobs.output, jobs.output
    cleaned = await asyncio.to_thread(CliRunner().invoke, dayfly, ["clean", "--all"])
    assert cleaned.exit_code == 0, cleaned.output
    assert "nothing of ours is left" in cleaned.output
    assert all(i.state == "terminated" for i in aws.instances())


async def users_own_vm(home: Ec2Home, *, stopped: bool, on_poweroff: str = "stop") -> str:
    """An instance that the user made, with the user's own key."""
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")
    path = home.path / "key"
    path.write_bytes(key.export_private_key())
    path.chmod(0o600)
    public = key.export_public_key().decode().strip()
    session = aioboto3.Session(region_name=home.aws.region)
    async with session.client("ec2") as ec2:
        answer = await ec2.run_instances(
            ImageId=home.aws.image,
            InstanceType="t3.medium",
            MinCount=1,
            MaxCount=1,
            InstanceInitiatedShutdownBehavior=on_poweroff,
            IamInstanceProfile={"Name": home.aws.role},
            UserData=f'#cloud-config\nssh_authorized_keys: ["{public}"]\n',
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "mine"}]}
            ],
        )
        mine: str = answer["Instances"][0]["InstanceId"]
        await eventually(lambda: home.aws.state(mine) == "running")
        if stopped:
            await ec2.stop_instances(InstanceIds=[mine])
            await eventually(lambda: home.aws.state(mine) == "stopped")
    return mine


def private_subnet(aws: EmulatedAws) -> str:
    """A subnet whose instances get no public address."""
    zone, subnet = next(iter(aws.subnets().items()))
    aws.world.backend.subnets[zone][subnet].map_public_ip_on_launch = False
    return subnet


@thorough
async def test_a_vm_that_never_answers_is_ended_and_what_it_printed_is_told(
    machines: Ec2Home, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = machines.aws
    keys: dict[str, Any] = {"max_workers": 1, "start_timeout": 12}
    async with executor(machines, **keys) as ex:
        assert await ex.map(square, range(2)) == [0, 1]  # the master is up
    before = {w.id for w in workers(aws)}
    await machines.machines.cloud.set_faults(Faults(refuse_ssh=1))
    async with FunctionExecutor(config=machines.config, exec_mode="create", **keys) as ex:
        (silent,) = await first_new(aws, before, ex.map(square, range(2)))
    await eventually(lambda: aws.state(silent) == "terminated")
    assert f"{silent} never answered; its console ends" in capsys.readouterr().err


async def first_new(aws: EmulatedAws, before: set[str], job: Job[list[int]]) -> list[str]:
    """The first new worker, once the job has its results from others."""
    await eventually(lambda: {w.id for w in workers(aws)} > before)
    new = [w.id for w in workers(aws) if w.id not in before]
    assert await job == [0, 1]
    return new


async def test_a_cap_below_the_launch_alone_is_refused_before_anything_is_launched(
    machines: Ec2Home,
) -> None:
    async with executor(machines, max_cost=0.0001) as ex:
        with pytest.raises(errors.ConfigError, match="less than the launch alone costs"):
            await ex.map(square, range(4))
    assert not machines.aws.instances()


@thorough
@pytest.mark.timeout(150)
async def test_max_cost_cuts_a_job_and_keeps_what_is_done(machines: Ec2Home) -> None:
    # Each start is billed for a minute: a little more than that is reached a little later.
    async with executor(machines, max_workers=1, max_cost=0.00075) as ex:
        job = ex.map(slow, range(2000))
        with pytest.raises(errors.CostLimitError, match="max_cost"):
            await job
        assert job.progress.done > 10
        assert job.cost is not None
        assert 0.00075 <= job.cost < 0.0009
    await eventually(lambda: all(w.state == "terminated" for w in workers(machines.aws)))
