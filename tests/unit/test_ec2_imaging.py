"""Images on EC2: made once whatever happens, listed whole, deleted with their snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dayfly.baked import Contents, MachineImage, Mark
from dayfly.cloud.ec2.clean.inventory import inventory
from dayfly.cloud.ec2.imaging import Ec2Imaging
from dayfly.cloud.ec2.launch import images
from dayfly.cloud.ec2.launch.images import find_chosen, find_image
from dayfly.config.sections import Ec2Section
from dayfly.environment.lock import Platform
from dayfly.errors import CloudError, ConfigError
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.unit.ec2_mortal import OURS, OWNER, Mortal, client, launch

__all__ = ["aws"]

CONTENTS = Contents(kit="k", packages="p", platform="x86_64-manylinux_2_31", python="3.11")


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    images.forget()
    yield
    images.forget()


def imaging(api: Mortal, owner: str = OWNER, target_ami: str = "") -> Ec2Imaging:
    async def name() -> str:
        return owner

    return Ec2Imaging(api, Ec2Section(target_ami=target_ami), name)


def tags(build: str = "b1", owner: str = OWNER) -> dict[str, str]:
    ours = {**OURS, "dayfly:owner": owner, "Name": "mine", Mark.BUILD.value: build}
    return CONTENTS.tags | ours


async def builder(api: Mortal, aws: EmulatedAws) -> str:
    (instance,) = await launch(api, aws)
    while aws.state(instance) != "running":
        await asyncio.sleep(0.01)
    return instance


async def make(
    api: Mortal, aws: EmulatedAws, build: str = "b1", owner: str = OWNER
) -> MachineImage:
    instance = await builder(api, aws)
    return await imaging(api).create(instance, f"mine-{build}", tags(build, owner), "about it")


async def test_an_image_is_listed_with_what_it_holds_and_deleted_with_its_snapshots(
    aws: EmulatedAws,
) -> None:
    async with client() as api:
        made = await make(api, aws)
        (listed,) = await imaging(api).images()
        assert listed == await imaging(api).look(made.id)
        assert (listed.id, listed.name, listed.state) == (made.id, "mine", "available")
        assert (listed.size, listed.owner, listed.platform) == (8, OWNER, Platform(glibc=(2, 31)))
        assert len(await inventory(api, OWNER, {"image", "snapshot"})) == 2
        await imaging(api).delete(listed)
        await imaging(api).delete(listed)
        assert await inventory(api, OWNER, {"image", "snapshot"}) == []
        assert await imaging(api).look(made.id) is None


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_call_that_is_not_answered_makes_one_image(aws: EmulatedAws, after: bool) -> None:
    async with client() as api:
        instance = await builder(api, aws)
        aws.hang_up_next("CreateImage", after=after)
        made = await imaging(api).create(instance, "mine-b1", tags(), "about it")
        assert [one.id for one in await imaging(api).images()] == [made.id]


async def test_what_ec2_refuses_is_told_at_once(aws: EmulatedAws) -> None:
    async with client() as api:
        instance = await builder(api, aws)
        aws.deny("ec2:CreateImage")
        with pytest.raises(CloudError, match="CreateImage"):
            await imaging(api).create(instance, "mine-b1", tags(), "about it")
        assert aws.count("CreateImage") == 1


async def test_a_snapshot_whose_image_is_gone_is_listed_and_deleted(aws: EmulatedAws) -> None:
    async with client() as api:
        made, kept = await make(api, aws, "b1"), await make(api, aws, "b2")
        await api.call("deregister_image", ImageId=made.id)  # and its client was killed here
        left = [one for one in await imaging(api).images() if one.broken]
        assert [(one.name, one.state) for one in left] == [("mine", "remains")]
        await imaging(api).delete(left[0])
        assert [one.id for one in await imaging(api).images()] == [kept.id]
        assert len(await inventory(api, OWNER, {"image", "snapshot"})) == 2


async def test_the_snapshots_of_an_image_that_is_being_made_are_no_remains(
    aws: EmulatedAws,
) -> None:
    async with client() as api:
        aws.world.on_image = lambda *_: None
        await make(api, aws)
        assert [one.state for one in await imaging(api).images()] == ["pending"]


async def test_others_images_are_listed_only_when_asked_for(aws: EmulatedAws) -> None:
    async with client() as api:
        his = await make(api, aws, owner="bob@123456789012")
        assert await imaging(api).images() == []
        (found,) = await imaging(api).images(everybody=True)
        assert (found.id, found.owner) == (his.id, "bob@123456789012")


async def test_what_runs_from_an_image_is_told(aws: EmulatedAws) -> None:
    async with client() as api:
        made = await make(api, aws)
        assert await imaging(api).users(made) == []
        pairs = [{"Key": "Name", "Value": "dayfly-worker-1"}]
        answer = await api.call(
            "run_instances",
            ImageId=made.id,
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": pairs}],
        )
        (user,) = await imaging(api).users(made)
        assert user.startswith(f"dayfly-worker-1 ({answer['Instances'][0]['InstanceId']}, ")


async def test_target_ami_is_an_id_or_the_name_of_an_image_of_the_accounts_own(
    aws: EmulatedAws,
) -> None:
    async with client() as api:
        await make(api, aws, "b1")
        await asyncio.sleep(1.0)  # EC2's dates have seconds
        newest = await make(api, aws, "b2")
        for name in ("mine", newest.id):
            found = await find_image(api, name, "x86_64")
            assert (found.id, found.platform) == (newest.id, Platform(glibc=(2, 31)))
            given = await imaging(api, target_ami=name).given()
            assert given is not None
            assert given.id == newest.id
        assert await imaging(api, target_ami=aws.image).given() is None
        assert await imaging(api).given() is None


async def test_nobody_elses_image_is_taken_by_its_name(aws: EmulatedAws) -> None:
    ubuntu = "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20250516"
    async with client() as api:
        with pytest.raises(ConfigError, match="there is no image ubuntu/images") as caught:
            await find_image(api, ubuntu, "x86_64")
        assert "the account's own images only" in caught.value.cause


async def test_an_image_that_was_chosen_and_is_gone_is_nobodys_fault(aws: EmulatedAws) -> None:
    async with client() as api:
        made = await make(api, aws)
        chosen = await find_chosen(api, made.id, "x86_64")
        assert chosen is not None
        assert await find_chosen(api, made.id, "arm64") is None
        await imaging(api).delete(made)
        assert await find_chosen(api, made.id, "x86_64") is None


async def test_a_name_is_looked_for_page_by_page() -> None:
    # Two builds of a name may be there at once, while the older one is being replaced.
    pages: list[dict[str, Any]] = [
        {"ImageId": "ami-1", "State": "available", "CreationDate": "2026-01-01T00:00:00.000Z"},
        {"ImageId": "ami-2", "State": "pending", "CreationDate": "2026-01-02T00:00:00.000Z"},
    ]
    assert min(pages, key=images._preference)["ImageId"] == "ami-1"
