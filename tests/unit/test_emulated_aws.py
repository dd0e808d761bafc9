"""The emulated AWS itself: what it adds to moto is what EC2 does."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from tests.aws.emulator import Call, EmulatedAws, HungUpError
from tests.aws.fixtures import aws, shared
from tests.aws.images import CANONICAL, ubuntu
from tests.aws.world import Birth

__all__ = ["aws"]

ClientError: Any = importlib.import_module("botocore.exceptions").ClientError
HTTPClientError: Any = importlib.import_module("botocore.exceptions").HTTPClientError


@pytest.fixture(scope="module")
def client() -> Iterator[Callable[[str], Any]]:
    """Clients that say everything once."""
    session = importlib.import_module("botocore.session").get_session()
    config = importlib.import_module("botocore.config").Config(
        retries={"total_max_attempts": 1}, proxies={}
    )
    made: dict[str, Any] = {}

    def make(service: str) -> Any:
        if service not in made:
            made[service] = session.create_client(
                service,
                region_name=EmulatedAws.region,
                endpoint_url=shared().endpoint,
                aws_access_key_id="AKIAEMULATED00000000",
                aws_secret_access_key="emulated",
                config=config,
            )
        return made[service]

    yield make
    for each in made.values():
        each.close()


class Ec2:
    """EC2 as the tests speak to it."""

    def __init__(self, aws: EmulatedAws, client: Any) -> None:
        self.aws = aws
        self.client = client

    def run(self, least: int = 1, most: int = 0, **more: Any) -> list[dict[str, Any]]:
        wanted = {
            "ImageId": self.aws.image,
            "InstanceType": "t3.medium",
            "MinCount": least,
            "MaxCount": most or least,
        }
        instances: list[dict[str, Any]] = self.client.run_instances(**wanted | more)["Instances"]
        return instances

    def one(self, **more: Any) -> str:
        return str(self.run(**more)[0]["InstanceId"])

    def list(self, **asked: Any) -> list[dict[str, Any]]:
        found = self.client.describe_instances(**asked)["Reservations"]
        return [instance for each in found for instance in each["Instances"]]

    def show(self, instance_id: str) -> dict[str, Any]:
        return self.list(InstanceIds=[instance_id])[0]

    def until(self, instance_id: str, state: str) -> dict[str, Any]:
        end = time.monotonic() + 5
        while (found := self.show(instance_id))["State"]["Name"] != state:
            assert time.monotonic() < end, f"{found['State']['Name']}, not {state}"
            time.sleep(0.01)
        return found


@pytest.fixture
def ec2(aws: EmulatedAws, client: Callable[[str], Any]) -> Ec2:
    aws.pending = aws.stopping = aws.shutting_down = 0.0
    return Ec2(aws, client("ec2"))


SPOT: dict[str, Any] = {"InstanceMarketOptions": {"MarketType": "spot"}}


def refusal(call: Callable[..., Any], *args: Any, **asked: Any) -> tuple[str, int]:
    """The code and the status of an error."""
    with pytest.raises(ClientError) as caught:
        call(*args, **asked)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def tagged(*kinds: str) -> list[dict[str, Any]]:
    tags = [{"Key": "dayfly:managed", "Value": "true"}]
    return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


# Launching


def test_a_launch_gives_as_many_instances_as_there_are_up_to_the_maximum(ec2: Ec2) -> None:
    assert len(ec2.run(1, 7)) == 7
    ec2.aws.capacity("t3.medium", left=3)
    assert len(ec2.run(2, 7)) == 3
    assert refusal(ec2.run, 1, 7) == ("InsufficientInstanceCapacity", 500)
    assert refusal(ec2.run, 7, 1) == ("InvalidParameterValue", 400)


def test_a_pool_is_a_type_in_a_zone_in_a_market(ec2: Ec2) -> None:
    subnets = ec2.aws.subnets()
    ec2.aws.capacity("t3.medium", "us-east-1a", spot=True, left=0)
    with_a: dict[str, Any] = {"SubnetId": subnets["us-east-1a"]}
    with_b: dict[str, Any] = {"SubnetId": subnets["us-east-1b"]}
    assert refusal(ec2.run, **with_a, **SPOT) == ("InsufficientInstanceCapacity", 500)
    ec2.run(**with_a)
    ec2.run(**with_b, **SPOT)
    ec2.run(**with_a, **SPOT, InstanceType="t3.large")
    ec2.aws.capacity("t3.medium", "us-east-1a", spot=True, left=None)
    ec2.run(**with_a, **SPOT)


def test_capacity_comes_back_with_what_is_ended_but_not_with_what_is_interrupted(ec2: Ec2) -> None:
    ec2.aws.capacity(left=1)
    first = ec2.one(**SPOT)
    ec2.client.terminate_instances(InstanceIds=[first])
    second = ec2.one(**SPOT)
    ec2.aws.interrupt(second)
    assert refusal(ec2.run, **SPOT)[0] == "InsufficientInstanceCapacity"


def test_the_same_token_gives_the_same_instances_as_they_are_now(ec2: Ec2) -> None:
    first = ec2.run(1, 3, ClientToken="one")
    ec2.client.stop_instances(InstanceIds=[first[0]["InstanceId"]])
    again = ec2.run(1, 3, ClientToken="one")
    assert [each["InstanceId"] for each in again] == [each["InstanceId"] for each in first]
    assert again[0]["State"]["Name"] in ("stopping", "stopped")
    assert refusal(ec2.run, 1, 4, ClientToken="one") == ("IdempotentParameterMismatch", 400)
    assert len(ec2.list()) == 3


def test_a_token_is_one_of_its_zone_where_a_zone_is_named(ec2: Ec2) -> None:
    subnets = ec2.aws.subnets()
    first = ec2.one(ClientToken="one", SubnetId=subnets["us-east-1a"])
    other = ec2.one(ClientToken="one", SubnetId=subnets["us-east-1b"])
    assert first != other
    assert ec2.one(ClientToken="one", SubnetId=subnets["us-east-1a"]) == first


def test_a_token_whose_instances_have_all_ended_launches_nothing(ec2: Ec2) -> None:
    first = ec2.run(2, ClientToken="one")
    ec2.client.terminate_instances(InstanceIds=[first[0]["InstanceId"]])
    assert len(ec2.run(2, ClientToken="one")) == 2
    ec2.client.terminate_instances(InstanceIds=[first[1]["InstanceId"]])
    assert refusal(ec2.run, 2, ClientToken="one") == ("IdempotentInstanceTerminated", 400)


def test_two_calls_with_one_token_at_once_are_one_launch(ec2: Ec2) -> None:
    subnet = ec2.aws.subnets()["us-east-1a"]
    brought: list[set[str]] = []

    def run() -> None:
        found = ec2.run(1, 20, ClientToken="one", SubnetId=subnet)
        brought.append({each["InstanceId"] for each in found})

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert brought == [brought[0]] * 4
    assert len(ec2.list()) == 20


def test_everything_that_a_launch_makes_is_tagged_from_birth(ec2: Ec2) -> None:
    kinds = ("instance", "volume", "network-interface", "spot-instances-request")
    instance = ec2.run(TagSpecifications=tagged(*kinds), **SPOT)[0]
    told = [{"Key": "dayfly:managed", "Value": "true"}]
    filters = [{"Name": "tag:dayfly:managed", "Values": ["true"]}]
    (volume,) = ec2.client.describe_volumes(Filters=filters)["Volumes"]
    (nic,) = ec2.client.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
    (request,) = ec2.client.describe_spot_instance_requests(Filters=filters)["SpotInstanceRequests"]
    assert instance["Tags"] == volume["Tags"] == nic["TagSet"] == request["Tags"] == told
    assert refusal(ec2.run, TagSpecifications=tagged("nonsense"))[0] == "InvalidParameterValue"
    unfit = tagged("spot-instances-request")
    assert refusal(ec2.run, TagSpecifications=unfit)[0] == "InvalidParameterValue"


def test_an_instance_shows_what_it_was_launched_with(ec2: Ec2) -> None:
    instance = ec2.run(
        IamInstanceProfile={"Name": ec2.aws.role},
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        NetworkInterfaces=[
            {
                "DeviceIndex": 0,
                "SubnetId": ec2.aws.subnets()["us-east-1b"],
                "AssociatePublicIpAddress": False,
            }
        ],
        ClientToken="one",
    )[0]
    shown = ec2.show(instance["InstanceId"])
    assert shown["IamInstanceProfile"]["Arn"].endswith(f"instance-profile/{ec2.aws.role}")
    assert shown["MetadataOptions"]["HttpTokens"] == "required"
    assert shown["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
    assert shown["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert shown["ClientToken"] == "one"
    assert "PublicIpAddress" not in shown
    assert "PublicIpAddress" in ec2.show(ec2.one())


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "nonsense"}, "InvalidAMIID.Malformed"),
        ({"ImageId": ubuntu("arm64")}, "Unsupported"),
        ({"InstanceType": "t4g.medium"}, "Unsupported"),
        ({"InstanceType": "t9.huge"}, "InvalidParameterValue"),
        ({"Placement": {"AvailabilityZone": "us-east-1e"}}, "Unsupported"),
        ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
        ({"UserData": "x" * 16385}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"InstanceType": "m5.large", "CreditSpecification": {"CpuCredits": "standard"}}, ""),
        ({**SPOT, "InstanceInitiatedShutdownBehavior": "stop"}, ""),
        (
            {
                "InstanceMarketOptions": {
                    "MarketType": "spot",
                    "SpotOptions": {"MaxPrice": "0.0001"},
                }
            },
            "SpotMaxPriceTooLow",
        ),
        (
            {
                "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 4}}],
            },
            "InvalidBlockDeviceMapping",
        ),
    ],
)
def test_what_cannot_be_is_refused(ec2: Ec2, asked: dict[str, Any], code: str) -> None:
    expected = (code or "InvalidParameterCombination", 400)
    assert refusal(ec2.run, **asked) == expected
    assert ec2.list() == []


def test_quotas_are_counted_in_vcpus_per_market(ec2: Ec2) -> None:
    ec2.aws.quota_on_demand, ec2.aws.quota_spot = 4, 2
    assert refusal(ec2.run, 1, 3) == ("VcpuLimitExceeded", 400)
    assert len(ec2.run(1, 2)) == 2
    assert refusal(ec2.run) == ("VcpuLimitExceeded", 400)
    first = ec2.one(**SPOT)
    assert refusal(ec2.run, **SPOT) == ("MaxSpotInstanceCountExceeded", 400)
    ec2.client.terminate_instances(InstanceIds=[first])
    ec2.until(first, "terminated")
    ec2.run(**SPOT)


def test_the_quotas_can_be_asked_for(ec2: Ec2, client: Callable[[str], Any]) -> None:
    ec2.aws.quota_on_demand = 5
    quotas = client("service-quotas")
    asked = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-1216C47A")
    assert asked["Quota"]["Value"] == 5.0
    assert refusal(quotas.get_service_quota, ServiceCode="ec2", QuotaCode="L-NONE") == (
        "NoSuchResourceException",
        400,
    )


def test_a_subnet_runs_out_of_addresses(ec2: Ec2) -> None:
    subnet = ec2.aws.subnets()["us-east-1a"]
    ec2.aws.free_addresses(subnet, 2)
    (shown,) = ec2.client.describe_subnets(SubnetIds=[subnet])["Subnets"]
    assert shown["AvailableIpAddressCount"] == 2
    ids = [each["InstanceId"] for each in ec2.run(2, SubnetId=subnet)]
    assert refusal(ec2.run, SubnetId=subnet)[0] == "InsufficientFreeAddressesInSubnet"
    ec2.client.terminate_instances(InstanceIds=ids)
    ec2.until(ids[-1], "terminated")
    ec2.run(2, SubnetId=subnet)


def test_a_dry_run_tells_what_would_be_and_does_nothing(ec2: Ec2) -> None:
    assert refusal(ec2.run, DryRun=True) == ("DryRunOperation", 412)
    assert refusal(ec2.client.create_vpc, CidrBlock="10.0.0.0/16", DryRun=True) == (
        "DryRunOperation",
        412,
    )
    ec2.aws.deny("ec2:RunInstances")
    assert refusal(ec2.run, DryRun=True) == ("UnauthorizedOperation", 403)
    assert ec2.list() == []
    assert len(ec2.client.describe_vpcs()["Vpcs"]) == 1


# Life


def test_an_instance_goes_through_its_states_on_the_clock(ec2: Ec2) -> None:
    ec2.aws.pending, ec2.aws.stopping, ec2.aws.shutting_down = 5, 60, 30
    instance = ec2.one()
    pending = ec2.show(instance)
    assert pending["State"] == {"Code": 0, "Name": "pending"}
    assert "PrivateIpAddress" in pending
    assert "PublicIpAddress" not in pending
    ec2.aws.advance(5)
    assert ec2.show(instance)["State"] == {"Code": 16, "Name": "running"}
    assert "PublicIpAddress" in ec2.show(instance)
    ec2.client.stop_instances(InstanceIds=[instance])
    assert ec2.show(instance)["State"]["Name"] == "stopping"
    assert refusal(ec2.client.start_instances, InstanceIds=[instance])[0] == (
        "IncorrectInstanceState"
    )
    ec2.aws.advance(60)
    stopped = ec2.show(instance)
    assert stopped["State"]["Name"] == "stopped"
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert "PublicIpAddress" not in stopped
    answer = ec2.client.start_instances(InstanceIds=[instance])["StartingInstances"]
    assert answer[0]["CurrentState"]["Name"] == "pending"
    ec2.client.terminate_instances(InstanceIds=[instance])
    assert ec2.show(instance)["State"]["Name"] == "shutting-down"
    ec2.aws.advance(30)
    assert ec2.show(instance)["State"]["Name"] == "terminated"
    ec2.aws.advance(3600)
    assert ec2.list() == []


def test_what_has_ended_cannot_be_started_or_stopped(ec2: Ec2) -> None:
    instance = ec2.one()
    ec2.client.terminate_instances(InstanceIds=[instance])
    for change in (ec2.client.start_instances, ec2.client.stop_instances):
        assert refusal(change, InstanceIds=[instance]) == ("IncorrectInstanceState", 400)
    ec2.client.terminate_instances(InstanceIds=[instance])


def test_one_unknown_id_keeps_all_instances_of_a_call_as_they_are(ec2: Ec2) -> None:
    instance = ec2.one()
    ids = [instance, "i-0123456789abcdef0"]
    for call in (ec2.client.terminate_instances, ec2.client.describe_instances):
        assert refusal(call, InstanceIds=ids) == ("InvalidInstanceID.NotFound", 400)
    assert ec2.show(instance)["State"]["Name"] == "running"


def test_a_new_instance_is_not_known_everywhere_at_once(ec2: Ec2) -> None:
    ec2.aws.lag = 20
    instance = ec2.one(ClientToken="one")
    assert ec2.list() == []
    tags = [{"Key": "a", "Value": "b"}]
    assert refusal(ec2.show, instance)[0] == "InvalidInstanceID.NotFound"
    assert refusal(ec2.client.create_tags, Resources=[instance], Tags=tags)[0] == (
        "InvalidInstanceID.NotFound"
    )
    assert ec2.one(ClientToken="one") == instance
    ec2.aws.advance(20)
    assert ec2.show(instance)["State"]["Name"] == "running"


def test_a_poweroff_inside_does_what_the_launch_said(ec2: Ec2) -> None:
    stays = ec2.one()
    goes = ec2.one(InstanceInitiatedShutdownBehavior="terminate")
    for instance, state in ((stays, "stopped"), (goes, "terminated")):
        ec2.aws.guest_poweroff(instance)
        shown = ec2.until(instance, state)
        assert shown["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_a_late_failure_says_why(ec2: Ec2) -> None:
    ec2.aws.fail_late(1, "Server.InsufficientInstanceCapacity", "no room")
    doomed, fine = (each["InstanceId"] for each in ec2.run(2))
    assert ec2.until(doomed, "terminated")["StateReason"] == {
        "Code": "Server.InsufficientInstanceCapacity",
        "Message": "Server.InsufficientInstanceCapacity: no room",
    }
    assert ec2.show(fine)["State"]["Name"] == "running"


def test_volumes_and_interfaces_go_with_the_instance_unless_told_otherwise(ec2: Ec2) -> None:
    data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 10, "Encrypted": True}}
    instance = ec2.one(BlockDeviceMappings=[data])
    shown = {x["DeviceName"]: x["Ebs"] for x in ec2.show(instance)["BlockDeviceMappings"]}
    assert shown["/dev/sda1"]["DeleteOnTermination"] is True
    assert shown["/dev/sdf"]["DeleteOnTermination"] is False
    ec2.client.terminate_instances(InstanceIds=[instance])
    ec2.until(instance, "terminated")
    (left,) = ec2.client.describe_volumes()["Volumes"]
    assert (left["State"], left["Encrypted"]) == ("available", True)
    assert ec2.client.describe_network_interfaces()["NetworkInterfaces"] == []


# Spot


def test_a_spot_instance_has_a_request_and_cannot_be_stopped(ec2: Ec2) -> None:
    instance = ec2.run(**SPOT)[0]
    name, request = instance["InstanceId"], instance["SpotInstanceRequestId"]
    assert instance["InstanceLifecycle"] == "spot"
    (shown,) = ec2.client.describe_spot_instance_requests(SpotInstanceRequestIds=[request])[
        "SpotInstanceRequests"
    ]
    assert (shown["InstanceId"], shown["State"]) == (name, "active")
    assert refusal(ec2.client.stop_instances, InstanceIds=[name])[0] == "UnsupportedOperation"
    ec2.client.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])
    filters = [{"Name": "state", "Values": ["open", "active"]}]
    found = ec2.client.describe_spot_instance_requests(Filters=filters)
    assert found["SpotInstanceRequests"] == []
    assert ec2.show(name)["State"]["Name"] == "running"


def test_an_interrupted_spot_instance_says_so(ec2: Ec2) -> None:
    instance = ec2.one(**SPOT)
    ec2.aws.interrupt(instance)
    shown = ec2.until(instance, "terminated")
    assert shown["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    (request,) = ec2.client.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert request["State"] == "closed"
    assert request["Status"]["Code"] == "instance-terminated-no-capacity"


def test_spot_prices_differ_by_zone_and_are_below_those_on_demand(ec2: Ec2) -> None:
    asked = {"InstanceTypes": ["t3.medium"], "ProductDescriptions": ["Linux/UNIX"]}
    history = ec2.client.describe_spot_price_history(**asked)["SpotPriceHistory"]
    prices = {each["AvailabilityZone"]: float(each["SpotPrice"]) for each in history}
    assert set(prices) == {f"us-east-1{zone}" for zone in "abcdf"}
    assert len(set(prices.values())) == 5
    assert all(0.005 < price < 0.0416 for price in prices.values())


# Listing


def test_instances_are_listed_in_pages_of_instances(ec2: Ec2) -> None:
    ids = [each["InstanceId"] for each in ec2.run(1, 12)]
    first = ec2.client.describe_instances(MaxResults=5)
    assert [len(each["Instances"]) for each in first["Reservations"]] == [5]
    # What ends between two pages does not shift the next one.
    ec2.aws.world.lives.pop(ids[0])
    second = ec2.client.describe_instances(MaxResults=10, NextToken=first["NextToken"])
    assert [x["InstanceId"] for x in second["Reservations"][0]["Instances"]] == ids[5:]
    assert "NextToken" not in second
    assert refusal(ec2.list, MaxResults=3)[0] == "InvalidParameterValue"
    assert refusal(ec2.list, MaxResults=5, InstanceIds=ids[1:])[0] == (
        "InvalidParameterCombination"
    )


def test_instances_are_filtered_as_in_ec2(ec2: Ec2) -> None:
    spot = ec2.one(**SPOT, ClientToken="spot", TagSpecifications=tagged("instance"))
    other = ec2.one(ClientToken="other")
    gone = ec2.one()
    ec2.client.terminate_instances(InstanceIds=[gone])

    def found(**filters: list[str]) -> list[str]:
        named = {"tag": "tag:dayfly:managed", "any": "tag-key"}
        asked = [
            {"Name": named.get(key, key.replace("_", "-")), "Values": values}
            for key, values in filters.items()
        ]
        return [each["InstanceId"] for each in ec2.list(Filters=asked)]

    assert found(tag=["true"]) == [spot]
    assert found(tag=["t*"], instance_state_name=["pending", "running"]) == [spot]
    assert found(any=["dayfly:*"]) == [spot]
    assert found(client_token=["other", "nobody"]) == [other]
    assert found(instance_lifecycle=["spot"]) == [spot]
    assert set(found(instance_state_name=["shutting-down", "terminated"])) == {gone}
    assert refusal(found, nonsense=["x"]) == ("InvalidParameterValue", 400)


def test_the_console_says_what_the_test_put_there(ec2: Ec2) -> None:
    instance = ec2.one()
    assert ec2.client.get_console_output(InstanceId=instance).get("Output", "") == ""
    ec2.aws.consoles[instance] = "ssh-ed25519 AAAA <host>"
    output = ec2.client.get_console_output(InstanceId=instance)["Output"]
    assert output == "ssh-ed25519 AAAA <host>"


def test_an_image_of_an_instance_is_launched_once_it_is_available(ec2: Ec2) -> None:
    instance = ec2.one()
    ec2.until(instance, "running")
    copied: list[Any] = []
    ec2.aws.world.on_image = lambda *told: copied.append(told)
    asked = {"InstanceId": instance, "Name": "mine", "NoReboot": True}
    tags = tagged("image", "snapshot")
    made = ec2.client.create_image(**asked, TagSpecifications=tags)["ImageId"]
    (image,) = ec2.client.describe_images(Owners=["self"])["Images"]
    assert (image["ImageId"], image["State"]) == (made, "pending")
    assert image["Tags"] == tags[0]["Tags"]
    (device,) = image["BlockDeviceMappings"]
    assert ec2.aws.tags(device["Ebs"]["SnapshotId"]) == {"dayfly:managed": "true"}
    ((source, pending, reboot),) = copied
    assert (source, pending.id, reboot) == (instance, made, False)
    assert refusal(ec2.run, ImageId=made) == ("InvalidAMIID.Unavailable", 400)
    pending.state = "available"
    assert ec2.one(ImageId=made)
    assert refusal(ec2.client.create_image, **asked) == ("InvalidAMIName.Duplicate", 400)
    gone = {**asked, "Name": "other"}
    ec2.client.terminate_instances(InstanceIds=[instance])
    ec2.until(instance, "terminated")
    assert refusal(ec2.client.create_image, **gone) == ("IncorrectState", 400)


def test_ubuntu_is_found_by_its_parameter_and_by_its_owner(
    ec2: Ec2, client: Callable[[str], Any]
) -> None:
    name = "/aws/service/canonical/ubuntu/server/22.04/stable/current/arm64/hvm/ebs-gp2/ami-id"
    value = client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    filters = [
        {"Name": "name", "Values": ["ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-arm64-server-*"]},
        {"Name": "architecture", "Values": ["arm64"]},
    ]
    images = ec2.client.describe_images(Owners=[CANONICAL], Filters=filters)["Images"]
    newest = max(images, key=lambda image: str(image["CreationDate"]))
    assert len(images) > 1
    assert newest["ImageId"] == value
    assert newest["RootDeviceName"] == "/dev/sda1"
    assert newest["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 8


# Network


def test_a_network_in_use_is_not_deleted(ec2: Ec2) -> None:
    vpc = ec2.client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.client.create_subnet(
        VpcId=vpc, CidrBlock="10.0.0.0/20", AvailabilityZone="us-east-1a"
    )["Subnet"]["SubnetId"]
    gateway = ec2.client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.client.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    group = ec2.client.create_security_group(GroupName="dayfly", Description="-", VpcId=vpc)
    group_id = group["GroupId"]
    nic = {
        "DeviceIndex": 0,
        "SubnetId": subnet,
        "Groups": [group_id],
        "AssociatePublicIpAddress": True,
    }
    instance = ec2.one(NetworkInterfaces=[nic])

    deletions: list[tuple[Callable[..., Any], dict[str, str]]] = [
        (ec2.client.delete_security_group, {"GroupId": group_id}),
        (ec2.client.detach_internet_gateway, {"InternetGatewayId": gateway, "VpcId": vpc}),
        (ec2.client.delete_subnet, {"SubnetId": subnet}),
        (ec2.client.delete_vpc, {"VpcId": vpc}),
    ]
    for delete, asked in deletions:
        assert refusal(delete, **asked) == ("DependencyViolation", 400)
    ec2.client.terminate_instances(InstanceIds=[instance])
    ec2.until(instance, "terminated")
    for delete, asked in deletions:
        delete(**asked)
    assert len(ec2.client.describe_vpcs()["Vpcs"]) == 1


def test_a_group_that_another_one_names_is_not_deleted(ec2: Ec2) -> None:
    (vpc,) = ec2.client.describe_vpcs()["Vpcs"]
    ids = [
        ec2.client.create_security_group(GroupName=name, Description="-", VpcId=vpc["VpcId"])[
            "GroupId"
        ]
        for name in ("one", "two")
    ]
    rule = {
        "IpProtocol": "tcp",
        "FromPort": 22,
        "ToPort": 22,
        "UserIdGroupPairs": [{"GroupId": ids[0]}],
    }
    for group in ids:
        ec2.client.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    assert refusal(ec2.client.delete_security_group, GroupId=ids[0])[0] == "DependencyViolation"
    ec2.client.delete_security_group(GroupId=ids[1])
    ec2.client.delete_security_group(GroupId=ids[0])


def test_a_group_of_another_network_is_refused(ec2: Ec2) -> None:
    vpc = ec2.client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    group = ec2.client.create_security_group(GroupName="far", Description="-", VpcId=vpc)
    assert refusal(ec2.run, SecurityGroupIds=[group["GroupId"]])[0] == "InvalidParameter"


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("vpc", {"CidrBlock": "10.0.0.0/16"}),
        ("internet-gateway", {}),
        ("subnet", {"CidrBlock": "172.31.128.0/20"}),
        ("route-table", {}),
        ("security-group", {"GroupName": "dayfly", "Description": "-"}),
        ("vpc-endpoint", {"ServiceName": "com.amazonaws.us-east-1.s3"}),
    ],
)
def test_a_network_is_tagged_from_birth_and_found_by_tag(
    ec2: Ec2, kind: str, asked: dict[str, Any]
) -> None:
    (vpc,) = ec2.client.describe_vpcs()["Vpcs"]
    where = {} if kind in ("vpc", "internet-gateway") else {"VpcId": vpc["VpcId"]}
    noun = kind.replace("-", "_")
    getattr(ec2.client, f"create_{noun}")(**asked, **where, TagSpecifications=tagged(kind))
    filters = [{"Name": "tag:dayfly:managed", "Values": ["true"]}]
    answer = getattr(ec2.client, f"describe_{noun}s")(Filters=filters)
    found = next(value for value in answer.values() if isinstance(value, list))
    assert [each["Tags"] for each in found] == [tagged(kind)[0]["Tags"]]


def test_a_network_has_one_gateway_and_a_subnet_one_table(ec2: Ec2) -> None:
    vpc = {"VpcId": ec2.client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]}
    subnet = ec2.client.create_subnet(**vpc, CidrBlock="10.0.0.0/20")["Subnet"]["SubnetId"]
    gateways = [
        ec2.client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        for _ in range(2)
    ]
    tables = [ec2.client.create_route_table(**vpc)["RouteTable"]["RouteTableId"] for _ in range(2)]
    service = {"ServiceName": "com.amazonaws.us-east-1.s3", "RouteTableIds": tables[:1]}
    ec2.client.attach_internet_gateway(**vpc, InternetGatewayId=gateways[0])
    ec2.client.associate_route_table(RouteTableId=tables[0], SubnetId=subnet)
    ec2.client.associate_route_table(RouteTableId=tables[0], SubnetId=subnet)
    ec2.client.create_vpc_endpoint(**vpc, **service)
    attach = ec2.client.attach_internet_gateway
    assert refusal(attach, **vpc, InternetGatewayId=gateways[1])[0] == "InvalidParameterValue"
    associate = ec2.client.associate_route_table
    assert refusal(associate, RouteTableId=tables[1], SubnetId=subnet)[0] == (
        "Resource.AlreadyAssociated"
    )
    assert refusal(ec2.client.create_vpc_endpoint, **vpc, **service)[0] == "RouteAlreadyExists"
    assert refusal(ec2.client.delete_route_table, RouteTableId=tables[0])[0] == (
        "DependencyViolation"
    )
    ec2.client.delete_subnet(SubnetId=subnet)
    ec2.client.delete_route_table(RouteTableId=tables[0])


# What goes wrong


def test_the_buckets_throttle_and_refill(ec2: Ec2) -> None:
    ec2.aws.throttle = True
    for _ in range(5):
        ec2.run()
    assert refusal(ec2.run) == ("RequestLimitExceeded", 503)
    ec2.aws.advance(0.5)
    ec2.run()
    ec2.aws.throttle = False
    ec2.run(1, 100)


def test_a_burst_of_a_thousand_empties_the_bucket_of_instances(ec2: Ec2) -> None:
    ec2.aws.throttle = True
    take = ec2.aws.world.buckets.admit
    for second in range(10):
        assert take("RunInstances", {"MaxCount": 100}, second)
    assert not take("RunInstances", {"MaxCount": 100}, 11)
    assert take("RunInstances", {"MaxCount": 10}, 12)


def test_a_denial_names_the_permission_in_an_encoded_message(
    ec2: Ec2, client: Callable[[str], Any]
) -> None:
    ec2.aws.deny("iam:PassRole")
    ec2.run()
    with pytest.raises(ClientError) as caught:
        ec2.run(IamInstanceProfile={"Name": ec2.aws.role})
    error = caught.value.response["Error"]
    assert error["Code"] == "UnauthorizedOperation"
    encoded = error["Message"].rpartition("Encoded authorization failure message: ")[2]
    decoded = client("sts").decode_authorization_message(EncodedMessage=encoded)
    told = json.loads(decoded["DecodedMessage"])
    assert told["context"]["action"] == "iam:PassRole"
    ec2.aws.allow("iam:PassRole")
    ec2.run(IamInstanceProfile={"Name": ec2.aws.role})
    ec2.aws.deny("ec2:CreateTags")
    assert refusal(ec2.run, TagSpecifications=tagged("instance"))[0] == "UnauthorizedOperation"
    ec2.aws.deny("s3:*")
    assert refusal(client("s3").list_buckets) == ("AccessDenied", 403)
    ec2.aws.deny("ssm:GetParameter")
    assert refusal(client("ssm").get_parameter, Name="x") == ("AccessDeniedException", 400)


def test_faults_come_before_or_after_the_deed(ec2: Ec2) -> None:
    ec2.aws.fail_next("RunInstances", "InternalError")
    assert refusal(ec2.run) == ("InternalError", 500)
    assert ec2.list() == []
    ec2.aws.fail_next("RunInstances", "Unavailable", after=True)
    assert refusal(ec2.run) == ("Unavailable", 503)
    assert len(ec2.list()) == 1
    ec2.run()


def test_a_connection_is_cut_before_or_after_the_deed(ec2: Ec2) -> None:
    for after in (False, True):
        ec2.aws.hang_up_next("RunInstances", after)
        with pytest.raises(HTTPClientError):
            ec2.run()
        assert len(ec2.list()) == int(after)
    assert [call.hung_up for call in ec2.aws.calls if call.action == "RunInstances"] == [True] * 2


def test_another_region_is_refused_not_mixed_up(ec2: Ec2) -> None:
    session = importlib.import_module("botocore.session").get_session()
    elsewhere = session.create_client("ec2", region_name="eu-central-1")
    try:
        assert refusal(elsewhere.describe_vpcs) == ("OptInRequired", 403)
    finally:
        elsewhere.close()


def test_every_call_is_recorded_and_can_be_hooked(ec2: Ec2, client: Callable[[str], Any]) -> None:
    heard: list[tuple[str, str]] = []

    def hook(call: Call, moment: Literal["before", "after"]) -> None:
        heard.append((call.action, moment))
        if call.action == "DescribeVpcs" and moment == "after":
            raise HungUpError

    ec2.aws.on_call = hook
    ec2.one(TagSpecifications=tagged("instance"))
    s3 = client("s3")
    s3.create_bucket(Bucket="ours")
    s3.put_object(Bucket="ours", Key="a/b c", Body=b"x")
    assert refusal(s3.get_object, Bucket="ours", Key="nothing")[0] == "NoSuchKey"
    with pytest.raises(HTTPClientError):
        ec2.client.describe_vpcs()
    calls = ec2.aws.calls
    assert [(call.service, call.action, call.code) for call in calls] == [
        ("ec2", "RunInstances", ""),
        ("s3", "CreateBucket", ""),
        ("s3", "PutObject", ""),
        ("s3", "GetObject", "NoSuchKey"),
        ("ec2", "DescribeVpcs", ""),
    ]
    assert calls[0].params["TagSpecifications"] == tagged("instance")
    assert calls[2].params["Key"] == "a/b c"
    assert ec2.aws.count("PutObject") == 1
    assert heard == [(call.action, moment) for call in calls for moment in ("before", "after")]


# S3


def test_of_many_first_writers_one_wins(ec2: Ec2, client: Callable[[str], Any]) -> None:
    s3 = client("s3")
    s3.create_bucket(Bucket="ours")
    codes: list[str] = []

    def put() -> None:
        try:
            s3.put_object(Bucket="ours", Key="first", Body=b"x", IfNoneMatch="*")
            codes.append("")
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["", *["PreconditionFailed"] * 7]


def test_a_bucket_of_somebody_else_is_told_by_its_owner_only(
    ec2: Ec2, client: Callable[[str], Any]
) -> None:
    s3 = client("s3")
    ec2.aws.add_foreign_bucket("theirs")
    s3.put_object(Bucket="theirs", Key="a", Body=b"x")
    owner = {"ExpectedBucketOwner": ec2.aws.account}
    assert refusal(s3.head_bucket, Bucket="theirs", **owner) == ("403", 403)
    assert refusal(s3.put_object, Bucket="theirs", Key="a", Body=b"x", **owner)[0] == (
        "AccessDenied"
    )
    assert refusal(s3.create_bucket, Bucket="theirs") == ("BucketAlreadyExists", 409)


# Machines


class Shadows:
    """Machines that are but a state each."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.births: list[Birth] = []
        self.broken = False

    def launch(self, births: list[Birth]) -> dict[str, str]:
        if self.broken:
            raise OSError("no more processes")
        self.births += births
        self.known |= {birth.id: "pending" for birth in births}
        return {birth.id: f"127.1.0.{n}" for n, birth in enumerate(births, 1)}

    def start(self, ids: Any) -> None:
        self.known |= dict.fromkeys(ids, "running")

    def stop(self, ids: Any) -> None:
        self.known |= dict.fromkeys(ids, "stopping")

    def terminate(self, ids: Any) -> None:
        self.known |= dict.fromkeys(ids, "terminated")

    def states(self) -> dict[str, str]:
        return dict(self.known)

    def console(self, instance_id: str) -> str:
        return f"console of {instance_id}"


def test_an_instance_is_where_its_machine_is(ec2: Ec2) -> None:
    shadows = Shadows()
    ec2.aws.machines = shadows
    instance = ec2.one(UserData="#cloud-config\n", InstanceInitiatedShutdownBehavior="stop")
    (birth,) = shadows.births
    assert (birth.id, birth.user_data, birth.on_poweroff) == (instance, "#cloud-config\n", "stop")
    assert ec2.show(instance)["State"]["Name"] == "pending"
    shadows.known[instance] = "running"
    shown = ec2.until(instance, "running")
    assert shown["PublicIpAddress"] == shown["PrivateIpAddress"] == "127.1.0.1"
    output = ec2.client.get_console_output(InstanceId=instance)["Output"]
    assert output == f"console of {instance}"

    ec2.client.stop_instances(InstanceIds=[instance])
    time.sleep(0.05)
    assert ec2.show(instance)["State"]["Name"] == "stopping"
    shadows.known[instance] = "stopped"
    ec2.until(instance, "stopped")
    ec2.client.start_instances(InstanceIds=[instance])
    ec2.until(instance, "running")

    shadows.known[instance] = "stopped"
    shown = ec2.until(instance, "stopped")
    assert shown["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    ec2.client.terminate_instances(InstanceIds=[instance])
    ec2.until(instance, "terminated")


def test_a_launch_whose_machines_cannot_be_made_leaves_nothing(ec2: Ec2) -> None:
    shadows = Shadows()
    shadows.broken = True
    ec2.aws.machines = shadows
    ec2.aws.capacity(left=1)
    assert refusal(ec2.run, ClientToken="one") == ("InternalError", 500)
    assert ec2.list() == []
    assert ec2.client.describe_volumes()["Volumes"] == []
    shadows.broken = False
    ec2.run(ClientToken="one")


# Speed


def test_a_hundred_instances_are_launched_in_a_moment_and_forgotten_in_less(ec2: Ec2) -> None:
    began = time.monotonic()
    ec2.run(1, 100, TagSpecifications=tagged("instance", "volume"))
    assert time.monotonic() - began < 2
    began = time.monotonic()
    ec2.aws.reset()
    assert time.monotonic() - began < 0.5
