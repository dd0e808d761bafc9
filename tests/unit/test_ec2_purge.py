"""What is ours is listed and removed, all of it; what is not ours stays as it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from dayfly.cloud.ec2.clean.inventory import KINDS, inventory
from dayfly.cloud.ec2.clean.purge import ORDER, purge
from dayfly.cloud.ec2.network.ensuring import ensure_network
from dayfly.config.sections import Ec2Section
from dayfly.errors import CloudError
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.unit.ec2_mortal import OURS, OWNER, KilledError, Mortal, client, launch

__all__ = ["aws"]

HIS = {"dayfly:managed": "true", "dayfly:owner": "bob@123456789012"}
THEIRS = {"Name": "the user's own"}


def tagged(kind: str, tags: dict[str, str]) -> list[dict[str, Any]]:
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": pairs}]


async def make_network(api: Mortal, owner: str = OWNER) -> dict[str, Any]:
    async def source() -> str:
        return "203.0.113.7"

    section = Ec2Section(subnet_cidr_block="10.7.1.0/24")
    network = await ensure_network(api, section, owner, caller="a@b", source=source)
    return {"SubnetId": network.subnets[0].id, "SecurityGroupIds": [network.security_group]}


async def make_everything(api: Mortal, aws: EmulatedAws, tags: dict[str, str]) -> None:
    """One thing of each kind, in a network of the owner's or in the default one."""
    place = await make_network(api, tags["dayfly:owner"]) if "dayfly:owner" in tags else {}
    subnet = place.get("SubnetId", next(iter(aws.subnets().values())))
    spot = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
    aws.pending = 0.0  # of one that is pending no image can be made
    (instance,) = await launch(api, aws, tags=tags, **place)
    await launch(api, aws, tags=tags, InstanceMarketOptions=spot, **place)
    volume = await api.call(
        "create_volume",
        AvailabilityZone="us-east-1a",
        Size=1,
        TagSpecifications=tagged("volume", tags),
    )
    await api.call(
        "create_network_interface",
        SubnetId=subnet,
        TagSpecifications=tagged("network-interface", tags),
    )
    await api.call(
        "create_launch_template",
        LaunchTemplateName=f"of {tags.get('dayfly:owner', 'nobody')}",
        LaunchTemplateData={"InstanceType": "t3.micro"},
        TagSpecifications=tagged("launch-template", tags),
    )
    await api.call(
        "create_snapshot",
        VolumeId=volume["VolumeId"],
        TagSpecifications=tagged("snapshot", tags),
    )
    await api.call(
        "create_image",
        InstanceId=instance,
        Name=f"of {tags.get('dayfly:owner', 'nobody')}",
        TagSpecifications=tagged("image", tags),
    )
    await api.call(
        "create_key_pair",
        KeyName=f"of {tags.get('dayfly:owner', 'nobody')}",
        TagSpecifications=tagged("key-pair", tags),
    )


def kinds(found: list[Any]) -> Counter[str]:
    return Counter(resource.kind for resource in found)


async def test_every_kind_is_listed_by_one_call_each(aws: EmulatedAws) -> None:
    async with client() as api:
        await make_everything(api, aws, OURS)
        api.said.clear()
        found = await inventory(api, OWNER)
        assert len(api.said) == len(KINDS) == 14
        assert set(kinds(found)) == KINDS
        assert {kind for group in ORDER for kind in group} == KINDS
        (vpc,) = [resource for resource in found if resource.kind == "vpc"]
        assert vpc.detail == "dayfly, 10.7.0.0/16"
        assert await inventory(api, "bob@123456789012") == []


async def test_all_of_ours_goes_and_nothing_else(aws: EmulatedAws) -> None:
    async with client() as api:
        await make_everything(api, aws, HIS)
        await make_everything(api, aws, THEIRS)
        his = await inventory(api, HIS["dayfly:owner"])
        theirs = {life.id for life in aws.instances()}
        groups = await api.call("describe_security_groups")
        await make_everything(api, aws, OURS)
        await purge(api, OWNER)
        assert await inventory(api, OWNER) == []
        assert await inventory(api, HIS["dayfly:owner"]) == his
        assert {life.id for life in aws.instances() if life.state == "running"} == theirs
        assert await api.call("describe_security_groups") | {"ResponseMetadata": {}} == groups | {
            "ResponseMetadata": {}
        }
        removed = [
            value
            for call in aws.calls
            if call.action.startswith(("Delete", "Terminate", "Detach", "Deregister", "Cancel"))
            for value in call.params.values()
        ]
        assert not {resource.id for resource in his} & {
            each for value in removed for each in (value if isinstance(value, list) else [value])
        }


async def test_an_empty_account_takes_one_look(aws: EmulatedAws) -> None:
    async with client() as api:
        await purge(api, OWNER)
        assert len(api.said) == 14


async def test_a_fleet_is_ended_by_few_calls(aws: EmulatedAws) -> None:
    async with client() as api:
        await launch(api, aws, 40, **await make_network(api))
        aws.calls.clear()
        await purge(api, OWNER)
    assert aws.count("TerminateInstances") == 1
    assert aws.count("DeleteVolume") == 0  # they went with their instances
    assert aws.count("DeleteNetworkInterface") == 0


@pytest.mark.thorough
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_at_any_change_the_next_one_goes_on(aws: EmulatedAws, after: bool) -> None:
    async with client() as shared:
        for die in range(1, 30):
            aws.reset()
            place = await make_network(shared)
            await launch(shared, aws, **place)
            try:
                await purge(Mortal(shared.aws, die=die, after=after), OWNER)
                break
            except KilledError:
                pass
            again = Mortal(shared.aws)
            if die % 3 == 0:  # the user goes on to work first
                assert await make_network(again)
            await purge(again, OWNER)
            assert await inventory(again, OWNER) == []
    assert die == 10, "one more than its changes"


async def test_what_lingers_is_waited_for(aws: EmulatedAws) -> None:
    async with client() as api:
        await launch(api, aws, **await make_network(api))
        for action in ("DeleteSecurityGroup", "DeleteSubnet", "DetachInternetGateway", "DeleteVpc"):
            aws.fail_next(action, "DependencyViolation", times=3)
        aws.fail_next("DeleteRouteTable", "InternalError", times=2)
        aws.hang_up_next("DeleteVpcEndpoints", after=True)
        await purge(api, OWNER)
        assert await inventory(api, OWNER) == []


async def test_what_cannot_go_is_named_and_goes_next_time(aws: EmulatedAws) -> None:
    async with client() as api:
        await make_everything(api, aws, OURS)
        aws.deny("ec2:DeleteVolume")
        aws.fail_next("DeleteKeyPair", "OperationNotPermitted", message="it is precious")
        with pytest.raises(CloudError) as caught:
            await purge(api, OWNER)
        told = str(caught.value)
        left = await inventory(api, OWNER)
        assert kinds(left) == {"volume": 1, "key-pair": 1}
        assert "2 things that dayfly made could not be removed" in told
        assert all(resource.id in told for resource in left)
        assert "UnauthorizedOperation" in told
        assert "OperationNotPermitted: it is precious" in told
        aws.allow("ec2:DeleteVolume")
        await purge(api, OWNER)
        assert await inventory(api, OWNER) == []


async def test_a_group_that_others_use_keeps_only_what_it_needs(
    aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dayfly.cloud.ec2.clean.purge.REST", 10.0)
    async with client() as api:
        place = await make_network(api)
        await launch(api, aws, tags=THEIRS, **place)  # the user's own instance in our network
        with pytest.raises(CloudError) as caught:
            await purge(api, OWNER)
        left = kinds(await inventory(api, OWNER))
        assert set(left) >= {"security-group", "subnet", "vpc"}
        assert "DependencyViolation" in str(caught.value)
        assert [life.state for life in aws.instances()] == ["running"]


async def test_an_instance_that_will_not_end_is_named(
    aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dayfly.cloud.ec2.clean.purge.INSTANCES", 10.0)
    async with client() as api:
        one, two = await launch(api, aws, 2, **await make_network(api))
        # A protected instance keeps the others of its call.
        aws.fail_next("TerminateInstances", "OperationNotPermitted", times=2)
        with pytest.raises(CloudError, match=f"{one}|{two}"):
            await purge(api, OWNER)
        aws.shutting_down = 1e6
        with pytest.raises(CloudError, match="shutting-down"):
            await purge(api, OWNER)
        assert aws.count("DeleteVpc") == 0
