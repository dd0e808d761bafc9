"""What only a real account can tell: printed at the end, and held against what dayfly takes it for.

Where a test fails, the table that it names is what to correct.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aioboto3
import pytest
from botocore.exceptions import ClientError

from dayfly.cloud.ec2.reactions import REACTIONS, Kind
from tests.real_aws.apart import ROPE, default_network
from tests.real_aws.own import image, state, tagged, until
from tests.real_aws.run import Run, client

#: Dry runs at once: more than any bucket is known to hold.
BURST = 130


def code_of(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


def words_of(error: ClientError) -> str:
    told = error.response
    status = told["ResponseMetadata"]["HTTPStatusCode"]
    return f"{status} {told['Error']['Code']}: {told['Error']['Message'][:300]}"


async def parameters(run: Run, **more: Any) -> dict[str, Any]:
    network = await default_network(run)
    return {
        "ImageId": await image(run),
        "InstanceType": "t3.micro",
        "MinCount": 1,
        "MaxCount": 1,
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": network.subnet_id[0],
                "AssociatePublicIpAddress": True,
            }
        ],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "UserData": ROPE,
        "TagSpecifications": tagged(run, "instance", "facts"),
        **more,
    }


SPOT = {"InstanceMarketOptions": {"MarketType": "spot"}}


async def test_a_spot_instance_that_is_told_to_stop_refuses(run: Run) -> None:
    """Look at ``reactions.py``, and at ``instances/changing.py`` for the words."""
    async with client(run, "ec2") as ec2:
        launched = await ec2.run_instances(**await parameters(run, **SPOT))
        spot = launched["Instances"][0]["InstanceId"]
        try:
            await until(run, ec2, spot, "running")
            with pytest.raises(ClientError) as refused:
                await ec2.stop_instances(InstanceIds=[spot])
        finally:
            await ec2.terminate_instances(InstanceIds=[spot])
            await until(run, ec2, spot, "terminated")
    run.measured(f"stopping a one-time spot instance: {words_of(refused.value)}")
    assert code_of(refused.value) == "UnsupportedOperation"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("InstanceType", "t3.nope"),
        ("InstanceType", "t4g.micro"),  # of another architecture than the image
        ("ImageId", "ami-00000000000000000"),
        ("IamInstanceProfile", {"Name": "dayfly-there-is-no-such-profile"}),
        ("KeyName", "dayfly-there-is-no-such-key"),
    ],
)
async def test_a_launch_with_a_wrong_parameter_is_known_for_a_matter_of_configuration(
    run: Run, key: str, value: Any
) -> None:
    """Look at ``reactions.py``: an unknown code would be tried again, or told badly."""
    async with client(run, "ec2") as ec2:
        with pytest.raises(ClientError) as refused:
            await ec2.run_instances(**await parameters(run, **{key: value}), DryRun=True)
    run.measured(f"launch with {key}={value}: {words_of(refused.value)}")
    code = code_of(refused.value)
    if code == "DryRunOperation":
        return  # a dry run does not look at that: the fact is the answer
    assert REACTIONS[code].kind in {Kind.CONFIG, Kind.ABSENT, Kind.UNFIT, Kind.NEW_PROFILE}


async def test_how_a_launch_becomes_known(run: Run) -> None:
    """Look at ``Listing`` for the lag, at ``view.py`` for the addresses.

    One instance gives no quantiles; they want a fleet, which the cap forbids.
    """
    async with client(run, "ec2") as ec2:
        began = time.monotonic()
        launched = await ec2.run_instances(**await parameters(run))
        answered = time.monotonic() - began
        born = launched["Instances"][0]
        mine = born["InstanceId"]
        try:

            async def by_id() -> bool:
                try:
                    await ec2.describe_instances(InstanceIds=[mine])
                except ClientError as error:
                    if code_of(error) == "InvalidInstanceID.NotFound":
                        return False
                    raise
                return True

            async def by_tag() -> bool:
                filters = [
                    *({"Name": f"tag:{k}", "Values": [v]} for k, v in run.mark.items()),
                    {"Name": "instance-state-name", "Values": ["pending", "running"]},
                ]
                told = (await ec2.describe_instances(Filters=filters))["Reservations"]
                return mine in {i["InstanceId"] for each in told for i in each["Instances"]}

            known = await asyncio.gather(*(first(each) for each in (by_id, by_tag)))
            await until(run, ec2, mine, "running")
            up = time.monotonic() - began
            (told,) = (await ec2.describe_instances(InstanceIds=[mine]))["Reservations"]
            public = told["Instances"][0].get("PublicIpAddress", "")
        finally:
            await ec2.terminate_instances(InstanceIds=[mine])
            ended = await until(run, ec2, mine, "terminated")
    run.measured(
        f"launch: answered in {answered:.1f} s, known by id {known[0]:.1f} s and by tag"
        f" {known[1]:.1f} s after the answer, running {up:.1f} s after the call, terminated in"
        f" {ended:.1f} s; private address in the answer: {'PrivateIpAddress' in born}, public:"
        f" {'PublicIpAddress' in born}, public when running: {bool(public)}"
    )
    assert born["PrivateIpAddress"]
    assert public or run.emulated


async def test_a_token_is_remembered_also_when_its_instance_has_ended(run: Run) -> None:
    """Look at ``launch/outcomes.py``: a rerun of a launch counts on this."""
    async with client(run, "ec2") as ec2:
        same = await parameters(run, ClientToken=f"{run.settings.run}-{secrets.token_hex(4)}")
        (first,) = (await ec2.run_instances(**same))["Instances"]
        mine = first["InstanceId"]
        try:
            (again,) = (await ec2.run_instances(**same))["Instances"]
            assert again["InstanceId"] == mine
            with pytest.raises(ClientError) as other:
                await ec2.run_instances(**{**same, "InstanceType": "t3.small"})
            run.measured(f"a token with other parameters: {words_of(other.value)}")
        finally:
            await ec2.terminate_instances(InstanceIds=[mine])
            await until(run, ec2, mine, "terminated")
        kind, fact = await replayed(ec2, same, mine)
    run.measured(f"a token whose instance has ended: {fact}")
    assert kind is Kind.ENDED
    assert code_of(other.value) == "IdempotentParameterMismatch"


async def replayed(ec2: Any, same: dict[str, Any], mine: str) -> tuple[Kind, str]:
    """What comes of a launch that is said again: what dayfly takes it for, and EC2's words."""
    try:
        (ghost,) = (await ec2.run_instances(**same))["Instances"]
    except ClientError as error:
        return REACTIONS[code_of(error)].kind, words_of(error)
    if ghost["InstanceId"] == mine:
        return Kind.ENDED, f"the same one, {await state(ec2, mine)}"
    await ec2.terminate_instances(InstanceIds=[ghost["InstanceId"]])
    return Kind.OTHER, "another one was launched"


async def test_who_owns_the_image_in_the_words_of_a_policy(run: Run) -> None:
    """Look at ``iam/policies.py``, ``On.IMAGE``: the owners that the client's policy lets in."""
    ami = await image(run)
    async with client(run, "ec2") as ec2:
        (told,) = (await ec2.describe_images(ImageIds=[ami]))["Images"]
    owner, alias = told["OwnerId"], told.get("ImageOwnerAlias", "")
    run.measured(f"image {ami}: OwnerId {owner}, ImageOwnerAlias {alias!r}")
    if run.emulated:
        pytest.skip("the emulated IAM does not read conditions")
    allowed = {}
    for value in dict.fromkeys(filter(None, (owner, alias, "amazon"))):
        try:
            allowed[value] = await _launches_as(run, value)
        except ClientError as error:
            pytest.skip(f"needs a user's own keys, for a federation token: {words_of(error)}")
    run.measured(f"launches by ec2:Owner: {allowed}")
    assert allowed[owner] or allowed.get("amazon"), "the client's policy would refuse its image"


async def _launches_as(run: Run, owner: str) -> bool:
    """Whether someone may launch who may launch images of one owner only."""
    everything = {"Effect": "Allow", "Action": ["ec2:*", "ssm:*"], "Resource": "*"}
    others = {
        "Effect": "Deny",
        "Action": "ec2:RunInstances",
        "Resource": f"arn:aws:ec2:{run.region}::image/*",
        "Condition": {"StringNotEquals": {"ec2:Owner": owner}},
    }
    document = {"Version": "2012-10-17", "Statement": [everything, others]}
    asked = await parameters(run)
    async with client(run, "sts") as sts:
        keys = (await sts.get_federation_token(Name="dayfly-test", Policy=json.dumps(document)))[
            "Credentials"
        ]
    narrowed = aioboto3.Session(
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
        region_name=run.region,
    )
    async with narrowed.client("ec2") as ec2:
        with pytest.raises(ClientError) as answer:
            await ec2.run_instances(**asked, DryRun=True)
    return code_of(answer.value) == "DryRunOperation"


@pytest.mark.parametrize("operation", ["start_instances", "stop_instances", "terminate_instances"])
async def test_how_many_calls_come_through_at_once(run: Run, operation: str) -> None:
    """Look at ``limits.py``, the request buckets. Those of instances want a fleet to be seen."""
    if not run.settings.probe_limits:
        pytest.skip("DAYFLY_REAL_AWS_PROBE_LIMITS=1 lets it exhaust the account's rate limits")
    once = {"retries": {"total_max_attempts": 1}, "max_pool_connections": BURST}
    async with client(run, "ec2") as ec2, client(run, "ec2", **once) as hasty:
        launched = await ec2.run_instances(**await parameters(run))
        mine = launched["Instances"][0]["InstanceId"]
        try:
            await until(run, ec2, mine, "running")
            if run.emulated:
                run.emulated.throttle = True
            codes = await burst(lambda: getattr(hasty, operation)(InstanceIds=[mine], DryRun=True))
        finally:
            if run.emulated:
                run.emulated.throttle = False
            else:
                await asyncio.sleep(10)  # the bucket fills again
            await ec2.terminate_instances(InstanceIds=[mine])
            await until(run, ec2, mine, "terminated")
    through = sum(code != "RequestLimitExceeded" for code in codes)
    run.measured(f"{operation}: {through} of {BURST} dry runs at once came through: {set(codes)}")
    assert set(codes) <= {"DryRunOperation", "RequestLimitExceeded", "IncorrectInstanceState"}


async def burst(call: Callable[[], Awaitable[Any]]) -> list[str]:
    async def one() -> str:
        try:
            await call()
        except ClientError as error:
            return code_of(error)
        return "ok"

    return list(await asyncio.gather(*(one() for _ in range(BURST))))


async def first(known: Callable[[], Awaitable[bool]]) -> float:
    """Seconds until something is known, looked at four times a second."""
    began = time.monotonic()
    while not await known():
        assert time.monotonic() - began < 300
        await asyncio.sleep(0.25)
    return time.monotonic() - began
