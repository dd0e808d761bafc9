"""Launching on EC2: what is said in the call, what is done when EC2 does not give it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from dayfly.aws.session import Aws
from dayfly.clock import SystemClock
from dayfly.cloud.ec2.cloud import Ec2Cloud
from dayfly.cloud.ec2.launch.pools import DRY_FOR
from dayfly.cloud.ec2.launch.recipe import USER_DATA, pack_user_data, volumes
from dayfly.cloud.ec2.launch.waves import Wave
from dayfly.cloud.ec2.limits import Limits
from dayfly.config.sections import Ec2Section
from dayfly.errors import CapacityError, CloudError, ConfigError, DeniedError
from dayfly.model import ALIVE, InstanceSpec, InstanceState, Launch, Tag
from tests.aws.clouds import ec2_cloud, given_network, own_network
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.aws.notes import MemoryNotes
from tests.embedded import eventually
from tests.unit.ec2_support import TurnedClock

__all__ = ["aws"]

T3 = "t3.micro"
Told = list[str]


def workers(*types: str, **more: Any) -> InstanceSpec:
    told: dict[str, Any] = {
        "role": "worker",
        "instance_types": list(types or (T3,)),
        "on_poweroff": "terminate",
        "user_data": "#cloud-config\n{}\n",
        "tags": {"Name": "w", Tag.MANAGED.value: "true"},
        "spot": True,
    }
    return InstanceSpec(**told | more)


class Later(SystemClock):
    """A clock of some minutes later."""

    def now(self) -> float:
        return super().now() + 2 * DRY_FOR


class Region:
    """The emulated region with clients in it."""

    def __init__(self, emulated: EmulatedAws, account: Aws) -> None:
        self.aws = emulated
        self.account = account
        self.notes = MemoryNotes()
        self.told: Told = []

    def section(self, zones: int = 2, **keys: Any) -> Ec2Section:
        subnets = tuple(list(self.aws.subnets().values())[:zones])
        return given_network(self.aws, subnet_id=subnets, **keys)

    def cloud(self, zones: int = 2, *, turned: bool = False, **keys: Any) -> Ec2Cloud:
        """A client; its clock turns by itself where waiting would be long."""
        return ec2_cloud(
            self.section(zones, **keys),
            self.notes,
            account=self.account,
            clock=TurnedClock() if turned else None,
            told=self.told.append,
        )

    def zones(self) -> list[str]:
        return list(self.aws.subnets())

    def launches(self) -> list[dict[str, Any]]:
        """The parameters of every RunInstances call."""
        return [call.params for call in self.aws.calls if call.action == "RunInstances"]

    def alive(self) -> int:
        return len(self.aws.instances("pending", "running"))


@pytest.fixture
async def region(aws: EmulatedAws) -> AsyncIterator[Region]:
    account = Aws(aws.region)
    yield Region(aws, account)
    await account.aclose()


def pools_of(launch: Launch) -> set[tuple[str, bool, str]]:
    return {(i.instance_type, i.spot, i.zone) for i in launch.instances}


# -- what is said in the call --


async def test_all_that_an_instance_must_be_is_said_in_the_launch_call(region: Region) -> None:
    launch = await region.cloud(ssh_port=2222).launch(workers(), 3, token="t" * 70)

    (told,) = region.launches()
    assert (told["MinCount"], told["MaxCount"]) in [(1, 3), ("1", "3")]
    assert told["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert told["MetadataOptions"]["HttpTokens"] == "required"
    assert str(told["MetadataOptions"]["HttpPutResponseHopLimit"]) == "1"
    assert told["InstanceMarketOptions"]["SpotOptions"]["SpotInstanceType"] == "one-time"
    assert "MaxPrice" not in told["InstanceMarketOptions"]["SpotOptions"]
    assert told["CreditSpecification"]["CpuCredits"] == "standard"
    assert told["IamInstanceProfile"]["Name"] == region.aws.role
    assert base64.b64decode(told["UserData"]) == b"#cloud-config\n{}\n"
    assert len(told["ClientToken"]) == 64
    assert "KeyName" not in told
    (root,) = told["BlockDeviceMappings"]
    assert str(root["Ebs"]["Encrypted"]).lower() == "true"
    assert str(root["Ebs"]["DeleteOnTermination"]).lower() == "true"
    assert root["Ebs"]["VolumeType"] == "gp3"
    kinds = {each["ResourceType"]: each["Tags"] for each in told["TagSpecifications"]}
    assert set(kinds) == {"instance", "volume", "network-interface", "spot-instances-request"}
    assert {"Key": "dayfly:launch", "Value": "t" * 64} in kinds["volume"]
    assert region.aws.count("CreateTags") == 0

    for instance in launch.instances:
        assert instance.tags["Name"] == "w"
        assert instance.tags[Tag.LAUNCH] == "t" * 64
        assert instance.spot
        assert instance.ssh_port == 2222
        assert instance.service_port == 8080
        assert instance.private_address
        assert instance.zone in region.zones()
        assert instance.hourly == float(instance.tags[Tag.HOURLY]) > 0


async def test_on_demand_says_nothing_of_spot_and_a_fixed_type_nothing_of_credits(
    region: Region,
) -> None:
    spec = workers("m5.large", spot=False, on_poweroff="stop")
    await region.cloud(runtime="python:3.11").launch(spec, 1, token="t")
    (told,) = region.launches()
    assert "InstanceMarketOptions" not in told
    assert "CreditSpecification" not in told
    assert told["InstanceInitiatedShutdownBehavior"] == "stop"
    assert str(told["MetadataOptions"]["HttpPutResponseHopLimit"]) == "2"  # a container is one more
    kinds = {each["ResourceType"] for each in told["TagSpecifications"]}
    assert kinds == {"instance", "volume", "network-interface"}


async def test_tags_of_a_type_are_on_its_instances_only(region: Region) -> None:
    region.aws.capacity("m5.large", left=1)
    spec = workers("m5.large", T3, type_tags={"m5.large": {"p": "2"}, T3: {"p": "1"}})
    launch = await region.cloud().launch(spec, 2, token="t")
    assert {i.instance_type: i.tags["p"] for i in launch.instances} == {"m5.large": "2", T3: "1"}


async def test_types_of_both_architectures_have_each_its_image(region: Region) -> None:
    region.aws.capacity("t4g.micro", left=2)
    launch = await region.cloud().launch(workers("t4g.micro", T3), 5, token="t")
    assert {i.instance_type for i in launch.instances} == {"t4g.micro", T3}
    images = {told["InstanceType"]: told["ImageId"] for told in region.launches()}
    assert images["t4g.micro"] != images[T3]


def test_long_user_data_is_compressed_and_too_long_is_refused() -> None:
    assert base64.b64decode(pack_user_data("#cloud-config\n")) == b"#cloud-config\n"
    long = "#cloud-config\n" + "a" * 40_000
    packed = base64.b64decode(pack_user_data(long))
    assert len(packed) < USER_DATA
    assert gzip.decompress(packed).decode() == long
    assert pack_user_data(long) == pack_user_data(long)
    noise = "".join(hashlib.sha256(str(i).encode()).hexdigest() for i in range(2_000))
    with pytest.raises(ConfigError, match="too long") as caught:
        pack_user_data(noise)
    assert "16,384" in str(caught.value)


def test_volumes_are_the_users_and_an_encrypted_root_and_all_go_with_the_instance() -> None:
    root = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8, "VolumeType": "gp3",
            "Encrypted": True, "DeleteOnTermination": True}}  # fmt: skip
    assert volumes([], root_device="/dev/sda1", root_size=8) == [root]

    given = {"device_name": "/dev/sdf", "ebs": {"volume_size": 100, "delete_on_termination": False}}
    assert volumes([given], root_device="/dev/sda1", root_size=8) == [
        root,
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 100, "DeleteOnTermination": True}},
    ]

    larger = {"device_name": "/dev/sda1", "ebs": {"volume_size": 50, "kms_key_id": "k"}}
    (only,) = volumes([larger], root_device="/dev/sda1", root_size=8)
    assert only["Ebs"] == root["Ebs"] | {"VolumeSize": 50, "KmsKeyId": "k"}  # type: ignore[operator]
    scratch = {"device_name": "/dev/sdb", "virtual_name": "ephemeral0"}
    assert volumes([scratch], root_device="/dev/sda1", root_size=8)[-1] == {
        "DeviceName": "/dev/sdb",
        "VirtualName": "ephemeral0",
    }


# -- capacity --


def test_a_root_whose_size_the_image_does_not_tell_has_the_images_own() -> None:
    (root,) = volumes([], root_device="/dev/sda1", root_size=0)
    assert root["Ebs"] == {"VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}


async def test_what_one_zone_lacks_comes_from_the_next_and_the_report_says_so(
    region: Region,
) -> None:
    a, b = region.zones()[:2]
    for zone, left in ((a, 3), (b, 50)):
        region.aws.capacity(T3, zone, spot=True, left=left)
    launch = await region.cloud().launch(workers(), 10, token="t")
    assert len(launch.instances) == 10
    for short in launch.shortfalls:
        assert short.pool == f"{T3} spot in {a}"
        assert (short.asked, short.got, short.code) == (10, 3, "InsufficientInstanceCapacity")


async def test_an_exhausted_pool_is_asked_once(region: Region) -> None:
    a, b = region.zones()[:2]
    region.aws.capacity(T3, a, left=0)
    region.aws.capacity(T3, b, left=0)
    with pytest.raises(CapacityError):
        await region.cloud().launch(workers(), 1, token="t")
    assert region.aws.count("RunInstances") == 2


async def test_on_demand_takes_over_where_spot_is_dry_and_it_is_allowed(region: Region) -> None:
    region.aws.capacity(T3, spot=True, left=4)
    launch = await region.cloud().launch(workers(fallback=True), 10, token="t")
    assert sum(i.spot for i in launch.instances) == 4
    assert sum(not i.spot for i in launch.instances) == 6
    spot, on_demand = (
        next(i for i in launch.instances if i.spot is wanted) for wanted in (True, False)
    )
    assert on_demand.hourly is not None
    assert spot.hourly != on_demand.hourly


async def test_the_run_goes_with_what_came_when_that_is_the_minimum(region: Region) -> None:
    region.aws.capacity(T3, left=4)
    launch = await region.cloud().launch(workers(), 10, minimum=4, token="t")
    assert len(launch.instances) == 4
    assert {s.code for s in launch.shortfalls} == {"InsufficientInstanceCapacity"}


async def test_too_little_is_given_back_and_every_pool_is_named_with_its_reason(
    region: Region,
) -> None:
    region.aws.capacity(T3, left=4)
    region.aws.capacity("m5.large", left=0)
    with pytest.raises(CapacityError) as caught:
        await region.cloud().launch(workers(T3, "m5.large"), 10, minimum=5, token="t")
    a, b = region.zones()[:2]
    text = str(caught.value)
    for name in (T3, "m5.large"):
        for zone in (a, b):
            assert f"{name} spot in {zone}: InsufficientInstanceCapacity" in text
    assert "EC2 gave 4" in text
    assert region.alive() == 0

    # It is over: a rerun of the very launch has nothing, and launches nothing.
    region.aws.capacity(T3, left=None)
    again = await region.cloud().launch(workers(), 10, minimum=5, token="t")
    assert again.instances == []
    assert again.shortfalls
    assert region.alive() == 0


async def test_a_dry_pool_is_passed_over_for_three_minutes_by_later_launches(
    region: Region,
) -> None:
    cloud = region.cloud()
    region.aws.capacity(T3, spot=True, left=0)
    await cloud.launch(workers(fallback=True), 1, token="first")
    before = region.aws.count("RunInstances")
    launch = await cloud.launch(workers(fallback=True), 1, token="second")
    assert region.aws.count("RunInstances") == before + 1
    assert not launch.instances[0].spot


async def test_a_spot_quota_is_filled_and_on_demand_takes_the_rest(region: Region) -> None:
    region.aws.quota_spot = 14  # seven of two vCPUs
    launch = await region.cloud().launch(workers(fallback=True), 10, token="t")
    assert sum(i.spot for i in launch.instances) == 7
    assert len(launch.instances) == 10
    assert {s.code for s in launch.shortfalls} == {"MaxSpotInstanceCountExceeded"}


async def test_an_on_demand_quota_shrinks_the_launch_and_is_named(region: Region) -> None:
    region.aws.quota_on_demand = 10
    launch = await region.cloud().launch(workers(spot=False), 20, token="t")
    assert len(launch.instances) == 5

    with pytest.raises(CapacityError, match="L-1216C47A") as caught:
        await region.cloud().launch(workers(spot=False), 1, token="u")
    assert "VcpuLimitExceeded" in str(caught.value)


async def test_a_subnet_is_filled_and_then_dropped(region: Region) -> None:
    subnets = list(region.aws.subnets().values())[:2]
    region.aws.free_addresses(subnets[0], 3)
    launch = await region.cloud().launch(workers(), 8, token="t")
    assert len(launch.instances) == 8
    assert max(sum(i.zone == zone for i in launch.instances) for zone in region.zones()) <= 8

    region.aws.free_addresses(subnets[0], 0)
    region.aws.free_addresses(subnets[1], 0)
    with pytest.raises(CapacityError, match="subnet_id") as caught:
        await region.cloud().launch(workers(), 8, token="u")
    assert "InsufficientFreeAddressesInSubnet" in str(caught.value)


async def test_a_subnet_that_filled_up_meanwhile_is_dropped(region: Region) -> None:
    region.aws.fail_next("RunInstances", "InsufficientFreeAddressesInSubnet")
    launch = await region.cloud().launch(workers(), 2, token="t")
    assert len(launch.instances) == 2
    assert len({told["NetworkInterfaces"][0]["SubnetId"] for told in region.launches()}) == 2


async def test_a_zone_without_the_type_is_passed_over(region: Region) -> None:
    region.aws.fail_next(
        "RunInstances",
        "Unsupported",
        message="Your requested instance type (t3.micro) is not supported in your requested "
        "Availability Zone (us-east-1e).",
    )
    launch = await region.cloud().launch(workers(), 2, token="t")
    assert len(launch.instances) == 2
    assert [s.code for s in launch.shortfalls] == ["Unsupported"]


# -- what is wrong for good --


async def test_a_wrong_value_names_its_key_at_once_and_leaves_nothing(region: Region) -> None:
    with pytest.raises(ConfigError, match="ssh_key_name") as caught:
        await region.cloud(ssh_key_name="nobodys").launch(workers(), 250, token="t")
    assert "InvalidKeyPair.NotFound" in str(caught.value)
    assert region.alive() == 0
    assert region.aws.count("RunInstances") == 3  # one for each batch of the first wave
    # The next launch goes by the corrected configuration.
    assert (await region.cloud().launch(workers(), 1, token="u")).instances


async def test_one_batch_that_cannot_be_takes_the_others_with_it(region: Region) -> None:
    region.aws.fail_next("RunInstances", "InvalidSubnetID.NotFound")
    with pytest.raises(ConfigError, match="subnet_id"):
        await region.cloud().launch(workers(), 250, token="t")
    assert region.alive() == 0


async def test_a_missing_permission_is_said_and_not_tried_again(region: Region) -> None:
    region.aws.deny("ec2:RunInstances")
    with pytest.raises(DeniedError, match="ec2:RunInstances"):
        await region.cloud().launch(workers(), 1, token="t")
    assert region.aws.count("RunInstances") == 1


async def test_a_spot_instance_that_is_to_be_kept_is_refused(region: Region) -> None:
    with pytest.raises(ConfigError, match="one-time spot"):
        await region.cloud().launch(workers(on_poweroff="stop"), 1, token="t")
    assert region.aws.count("RunInstances") == 0


async def test_a_profile_that_was_just_made_is_waited_for_but_not_for_ever(region: Region) -> None:
    message = "Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance "
    region.aws.fail_next(
        "RunInstances", "InvalidParameterValue", times=3, message=message + "Profile name"
    )
    launch = await region.cloud(turned=True).launch(workers(), 1, token="t")
    assert len(launch.instances) == 1
    assert "does not know yet what was made just now" in region.told[0]

    cloud = region.cloud(turned=True, instance_role="nobodys")
    with pytest.raises(ConfigError, match="instance_role"):
        await cloud.launch(workers(), 1, token="u")
    assert region.alive() == 1


# -- bad luck --


@pytest.mark.parametrize("after", [False, True])
async def test_a_broken_connection_doubles_nothing(region: Region, after: bool) -> None:
    region.aws.hang_up_next("RunInstances", after=after)
    launch = await region.cloud(turned=True).launch(workers(), 5, token="t")
    assert len(launch.instances) == 5
    assert region.alive() == 5


@pytest.mark.parametrize("after", [False, True])
async def test_a_failure_of_ec2_doubles_nothing(region: Region, after: bool) -> None:
    region.aws.fail_next("RunInstances", "InternalError", 500, times=2, after=after)
    launch = await region.cloud(turned=True).launch(workers(), 5, token="t")
    assert len(launch.instances) == 5
    assert region.alive() == 5


async def test_a_launch_whose_outcome_stays_unknown_goes_on_by_its_token(region: Region) -> None:
    region.aws.fail_next("RunInstances", "InternalError", 500, times=100, after=True)
    with pytest.raises(CloudError):
        await region.cloud(turned=True).launch(workers(), 5, token="t")
    region.aws.world.faults.ordered.clear()
    launch = await region.cloud().launch(workers(), 5, token="t")
    assert len(launch.instances) == 5
    assert region.alive() == 5


async def test_a_throttled_launch_comes_late_but_whole(region: Region) -> None:
    region.aws.fail_next("RunInstances", "RequestLimitExceeded", 503, times=4)
    launch = await region.cloud(turned=True).launch(workers(), 5, token="t")
    assert len(launch.instances) == 5
    assert any("throttles RunInstances" in text for text in region.told)


async def test_a_launch_whose_instances_have_ended_is_not_made_anew(region: Region) -> None:
    cloud = region.cloud()
    first = await cloud.launch(workers(), 2, token="t")
    await cloud.terminate([i.id for i in first.instances])
    region.aws.advance(10)
    again = await region.cloud().launch(workers(), 2, token="t")
    assert {i.id for i in again.instances} == {i.id for i in first.instances}
    assert {i.state for i in again.instances} == {InstanceState.TERMINATED}

    # Nor when the last note was never written, and EC2 must tell.
    for name in [name for name in region.notes.kept if not name.endswith("wave-000")]:
        del region.notes.kept[name]
    again = await region.cloud().launch(workers(), 2, token="t")
    assert again.instances == []
    assert region.alive() == 0


async def test_two_programs_that_launch_at_once_share_what_came_when_pools_run_dry(
    region: Region,
) -> None:
    region.aws.capacity(T3, spot=True, left=130)
    launches = await asyncio.gather(
        *(region.cloud().launch(workers(fallback=True), 250, token="t") for _ in range(3))
    )
    assert len({frozenset(i.id for i in launch.instances) for launch in launches}) == 1
    assert len(launches[0].instances) == 250
    assert region.alive() == 250


async def test_a_rerun_goes_by_what_was_said_first(region: Region) -> None:
    first = await region.cloud().launch(workers(), 2, token="t")
    again = await region.cloud().launch(workers("m5.large"), 7, token="t")
    assert {i.id for i in again.instances} == {i.id for i in first.instances}


async def test_an_instance_that_fails_late_says_why(region: Region) -> None:
    region.aws.fail_late(1, "Server.InsufficientInstanceCapacity", "no capacity after all")
    cloud = region.cloud()
    launch = await cloud.launch(workers(), 1, token="t")
    region.aws.advance(5)
    (now,) = await cloud.list(ids=[launch.instances[0].id])
    assert now.state is InstanceState.TERMINATED
    assert now.state_reason == "Server.InsufficientInstanceCapacity: no capacity after all"


async def test_a_pool_that_was_dry_after_all_is_left_for_the_next(region: Region) -> None:
    region.aws.pending = 0
    region.aws.fail_late(1, "Server.InsufficientInstanceCapacity", "none left")
    cloud = region.cloud()
    (first,) = (await cloud.launch(workers(), 1, token="a")).instances

    async def ended() -> bool:
        return bool(await cloud.list(ids=[first.id], states=[InstanceState.TERMINATED]))

    await eventually(ended, "the first to end")
    (second,) = (await cloud.launch(workers(), 1, token="b")).instances
    assert second.zone != first.zone
    # It is listed for an hour, and rests for three minutes.
    await cloud.terminate([second.id])
    late = ec2_cloud(region.section(), region.notes, account=region.account, clock=Later())
    await late.list()
    (third,) = (await late.launch(workers(), 1, token="c")).instances
    assert third.zone == first.zone


async def test_a_launch_that_was_broken_off_long_ago_is_closed_and_not_gone_on_with(
    region: Region,
) -> None:
    region.aws.fail_next("RunInstances", "InternalError", 500, times=100, after=True)
    with pytest.raises(CloudError):
        await region.cloud(turned=True).launch(workers(), 5, token="t")
    region.aws.world.faults.ordered.clear()
    later = TurnedClock()
    later.time += 1000.0
    cloud = ec2_cloud(region.section(), region.notes, account=region.account, clock=later)
    before = region.aws.count("RunInstances")
    launch = await cloud.launch(workers(), 250, token="t")
    assert len(launch.instances) == 5  # of the calls that were heard
    assert region.aws.count("RunInstances") == before
    assert [i.id for i in (await cloud.launch(workers(), 9, token="t")).instances] == [
        i.id for i in launch.instances
    ]


async def test_a_launch_beyond_the_accounts_budget_brings_what_comes_within_a_minute(
    region: Region,
) -> None:
    limits = Limits()
    limits.take(region.aws.region, "run_instances", SystemClock().monotonic(), 1110)
    cloud = ec2_cloud(
        region.section(),
        region.notes,
        account=region.account,
        told=region.told.append,
        limits=limits,
    )
    launch = asyncio.create_task(cloud.launch(workers(), 500, token="t"))
    await eventually(lambda: len(region.told) > 1, "the user to be told")
    assert "launches now, the other" in region.told[0]
    assert "holds RunInstances back" in region.told[1]
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch

    (note,) = region.notes.kept.values()
    wave = msgspec.json.decode(note, type=Wave)
    (batch,) = wave.batches
    assert 10 <= batch.count < 20
    assert wave.shortfalls[0].code == "RequestLimitExceeded"
    # What was not said to EC2 has drawn nothing.
    assert limits.within(region.aws.region, 60.0, SystemClock().monotonic()) >= 10


# -- how many calls --


@pytest.mark.parametrize(
    ("count", "launches", "listings"), [(1, 1, 1), (10, 1, 1), (100, 1, 1), (1000, 10, 10)]
)
async def test_a_launch_takes_a_call_per_hundred_vms_and_nothing_more(
    region: Region, count: int, launches: int, listings: int
) -> None:
    region.aws.throttle = True  # EC2's own buckets are in force
    cloud = region.cloud(zones=3)
    launch = await cloud.launch(workers(), count, token="t")
    assert len(launch.instances) == count
    assert region.aws.count("RunInstances") == launches
    assert not [call.code for call in region.aws.calls if call.code]
    found = await cloud.list(tags={Tag.LAUNCH: "t"}, states=ALIVE)
    assert len(found) == count
    assert region.aws.count("DescribeInstances") <= listings
    others = [c.action for c in region.aws.calls if not c.action.endswith("Instances")]
    assert len(others) <= 9


async def test_a_cold_start_makes_its_network_and_a_warm_one_finds_it(region: Region) -> None:
    section = own_network(region.aws)
    cold = ec2_cloud(section, region.notes, account=region.account)
    launch = await cold.launch(workers(), 2, token="cold")
    assert all(i.private_address.startswith("10.0.") for i in launch.instances)
    assert not any(i.address for i in launch.instances)  # the public one comes later
    (told,) = region.launches()
    assert str(told["NetworkInterfaces"][0]["AssociatePublicIpAddress"]).lower() == "true"

    before = len(region.aws.calls)
    warm = ec2_cloud(section, region.notes, account=region.account)
    await warm.launch(workers(), 2, token="warm")
    actions = [call.action for call in region.aws.calls[before:]]
    # Types, image and prices are known to the process.
    assert sorted(actions) == ["DescribeSecurityGroups", "DescribeSubnets", "RunInstances"]

    before = len(region.aws.calls)
    await warm.launch(workers(), 2, token="again")
    assert [call.action for call in region.aws.calls[before:]] == ["RunInstances"]
