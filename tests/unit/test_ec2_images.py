"""Images and instance types: found by few calls, and refused by the names of the user's keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dayfly.cloud.ec2.launch import images, instancetypes
from dayfly.cloud.ec2.launch.images import find_image
from dayfly.cloud.ec2.launch.instancetypes import TypeFacts, find_types
from dayfly.cloud.ec2.launch.releases import python_of
from dayfly.errors import ApiError, ConfigError
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.aws.images import CANONICAL, SERIALS, ubuntu
from tests.unit.ec2_mortal import client
from tests.unit.ec2_support import new_api

__all__ = ["aws"]


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    images.forget()
    instancetypes.forget()
    yield
    images.forget()
    instancetypes.forget()


# -- images --


async def test_the_newest_ubuntu_is_found_by_its_parameter(aws: EmulatedAws) -> None:
    async with client() as api:
        image = await find_image(api, "", "x86_64")
        assert api.said == ["get_parameter", "describe_images"]
        assert (image.id, image.architecture) == (ubuntu(), "x86_64")
        assert python_of(image.name, image.owner, api.region) == "3.10"
        assert (image.root_device, image.min_root) == ("/dev/sda1", 8)
        assert await find_image(api, "", "x86_64") == image
        assert len(api.said) == 2
        arm = await find_image(api, "", "arm64")
        assert (arm.id, arm.architecture) == (ubuntu("arm64"), "arm64")
        await api.clock.sleep(3600.0)  # by then there may be a newer one
        await find_image(api, "", "x86_64")
        assert len(api.said) == 6


@pytest.mark.parametrize(
    ("name", "owner", "python"),
    [
        ("ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20250516", CANONICAL, "3.10"),
        ("ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-1", CANONICAL, "3.12"),
        ("debian-13-amd64-20250520-2118", "136693071363", "3.13"),
        ("my copy of ubuntu-jammy-22.04 with Python 3.11", "123456789012", ""),
        ("something else", CANONICAL, ""),
    ],
)
def test_the_python_of_an_image_is_known_by_its_name_and_its_maker(
    name: str, owner: str, python: str
) -> None:
    assert python_of(name, owner, "us-east-1") == python


async def test_without_its_parameter_ubuntu_is_found_by_its_maker_and_name(
    aws: EmulatedAws,
) -> None:
    aws.deny("ssm:GetParameter")
    async with client() as api:
        assert (await find_image(api, "", "x86_64")).id == ubuntu()
    (call,) = [call for call in aws.calls if call.action == "DescribeImages"]
    assert call.params["Owners"] == [CANONICAL]


async def test_a_parameter_that_names_nothing_is_passed_over(aws: EmulatedAws) -> None:
    aws.fail_next("DescribeImages", "InvalidAMIID.NotFound")
    async with client() as api:
        assert (await find_image(api, "", "arm64")).id == ubuntu("arm64")


@pytest.mark.parametrize(
    ("region", "owner"),
    [
        ("eu-south-2", "099720109477"),
        ("us-gov-west-1", "513442679011"),
        ("cn-north-1", "837727238323"),
    ],
)
async def test_ubuntu_is_canonicals_in_every_partition(region: str, owner: str) -> None:
    def answer(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if operation == "get_parameter":
            return {"Parameter": {"Value": "ami-1"}}
        mine = parameters["Owners"] == [owner]
        image = {"ImageId": "ami-1", "Architecture": "x86_64", "CreationDate": "2026"}
        return {"Images": [image] if mine else []}

    api = new_api(answer)
    api.region = region
    assert (await find_image(api, "", "x86_64")).id == "ami-1"


async def test_there_is_no_ubuntu_for_other_processors(aws: EmulatedAws) -> None:
    async with client() as api:
        with pytest.raises(ConfigError, match="no Ubuntu for x86_64_mac"):
            await find_image(api, "", "x86_64_mac")
    assert not aws.calls


async def test_a_given_image_takes_one_call(aws: EmulatedAws) -> None:
    older = ubuntu(serial=SERIALS[0])
    async with client() as api:
        assert (await find_image(api, older, "x86_64")).id == older
        assert api.said == ["describe_images"]
    (call,) = aws.calls
    assert call.params["IncludeDeprecated"] is True


async def test_an_image_for_other_processors_is_refused_by_both_keys(aws: EmulatedAws) -> None:
    async with client() as api:
        with pytest.raises(ConfigError, match="is for arm64 processors") as caught:
            await find_image(api, ubuntu("arm64"), "x86_64")
    assert "target_ami" in str(caught.value)
    assert "worker_instance_type" in str(caught.value)


async def test_an_image_that_is_not_there_is_refused_by_its_key(aws: EmulatedAws) -> None:
    async with client() as api:
        for _ in range(2):
            with pytest.raises(ConfigError, match="target_ami: there is no image ami-01234567"):
                await find_image(api, "ami-01234567", "x86_64")
        aws.fail_next("DescribeImages", "AuthorizationFailure")
        with pytest.raises(ApiError):
            await find_image(api, ubuntu(), "x86_64")


# -- instance types --


async def test_types_are_asked_for_by_one_call_and_once(aws: EmulatedAws) -> None:
    async with client() as api:
        found = await find_types(api, ["t3.medium", "c7g.large", "t3.medium", "t2.micro"])
        assert found["t3.medium"] == TypeFacts(
            name="t3.medium",
            vcpus=2,
            architecture="x86_64",
            burstable=True,
            spot=True,
            memory=4096,
        )
        assert (found["c7g.large"].architecture, found["c7g.large"].burstable) == ("arm64", False)
        assert found["t2.micro"].architecture == "x86_64"  # which can do i386 too
        assert list(found) == ["t3.medium", "c7g.large", "t2.micro"]
        assert await find_types(api, ["c7g.large"]) == {"c7g.large": found["c7g.large"]}
        assert api.said == ["describe_instance_types"]
        await find_types(api, ["c7g.large", "m5.large"])
    assert [call.params["InstanceTypes"] for call in aws.calls[1:]] == [["m5.large"]]


async def test_an_unknown_type_is_refused_with_those_that_are_near(aws: EmulatedAws) -> None:
    async with client() as api:
        with pytest.raises(ConfigError) as caught:
            await find_types(api, ["t3.medium", "t3.meduim"])
        told = str(caught.value)
        assert "[aws_ec2] worker_instance_type: there is no t3.meduim in us-east-1" in told
        assert "did you mean t3.medium or " in told
        with pytest.raises(ConfigError, match=r"\[aws_ec2\] master_instance_type: there is no zzz"):
            await find_types(api, ["zzz"], key="master_instance_type")
        aws.deny("ec2:DescribeInstanceTypeOfferings")
        with pytest.raises(ConfigError, match="there is no zzz in us-east-1"):
            await find_types(api, ["zzz"])
