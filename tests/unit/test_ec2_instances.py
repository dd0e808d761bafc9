"""What is told of instances on EC2, and done to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from dayfly.cloud.ec2.cloud import Ec2Cloud
from dayfly.cloud.ec2.instances import listing, terminating
from dayfly.cloud.ec2.instances.view import view
from dayfly.errors import CloudError, ConfigError, InstanceNotFoundError
from dayfly.model import ALIVE, UP, Instance, InstanceSpec, InstanceState, Tag
from tests.aws.clouds import ec2_cloud, given_network
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.embedded import eventually

__all__ = ["aws"]

S = InstanceState
NOBODY = "i-00000000000000000"


def spec(**more: Any) -> InstanceSpec:
    told: dict[str, Any] = {
        "role": "worker",
        "instance_types": ["t3.micro"],
        "on_poweroff": "terminate",
        "user_data": "",
        "tags": {"Name": "w"},
    }
    return InstanceSpec(**told | more)


@pytest.fixture
async def cloud(aws: EmulatedAws) -> AsyncIterator[Ec2Cloud]:
    cloud = ec2_cloud(given_network(aws))
    yield cloud
    await cloud.aclose()


async def launch(cloud: Ec2Cloud, count: int = 1, name: str = "t", **more: Any) -> list[Instance]:
    return (await cloud.launch(spec(**more), count, token=name)).instances


async def until(cloud: Ec2Cloud, ids: list[str], state: InstanceState) -> None:
    async def there() -> bool:
        return len(await cloud.list(ids=ids, states=[state])) == len(ids)

    await eventually(there, f"{ids} to be {state}")


# -- how EC2 tells it --


def told(**more: Any) -> dict[str, Any]:
    return {
        "InstanceId": "i-1",
        "InstanceType": "t3.micro",
        "State": {"Name": "running"},
        "LaunchTime": datetime(2026, 1, 1, tzinfo=UTC),
        "PrivateIpAddress": "10.0.0.7",
        "PublicIpAddress": "198.51.100.7",
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "Tags": [{"Key": "Name", "Value": "w"}, {"Key": Tag.HOURLY.value, "Value": "0.0104"}],
    } | more


def test_an_instance_is_read_from_what_ec2_tells() -> None:
    assert view(told(InstanceLifecycle="spot"), ssh_port=2222) == Instance(
        id="i-1",
        instance_type="t3.micro",
        state=S.RUNNING,
        tags={"Name": "w", Tag.HOURLY.value: "0.0104"},
        launched_at=datetime(2026, 1, 1, tzinfo=UTC).timestamp(),
        address="198.51.100.7",
        private_address="10.0.0.7",
        ssh_port=2222,
        zone="us-east-1a",
        spot=True,
        hourly=0.0104,
    )


def test_an_instance_without_a_public_address_is_reached_at_its_private_one() -> None:
    assert view(told(PublicIpAddress=None)).address == "10.0.0.7"
    # Until it runs a public one may come, and the private one may be a machine of the caller's own.
    pending = view(told(State={"Name": "pending"}, PublicIpAddress=None))
    assert (pending.address, pending.inner_address) == ("", "10.0.0.7")
    assert view(told(State={"Name": "pending"})).address == "198.51.100.7"
    empty = view({"InstanceId": "i-1", "State": {"Name": "pending"}})
    assert (empty.address, empty.private_address, empty.hourly) == ("", "", None)


@pytest.mark.parametrize(
    ("state", "more", "reason"),
    [
        ("running", {"StateReason": {"Code": "x", "Message": "of a stop before"}}, ""),
        (
            "stopped",
            {
                "StateReason": {
                    "Code": "Client.UserInitiatedShutdown",
                    "Message": "Client.UserInitiatedShutdown: User initiated shutdown",
                }
            },
            "Client.UserInitiatedShutdown: User initiated shutdown",
        ),
        (
            "terminated",
            {"StateReason": {"Code": "Server.SpotInstanceTermination", "Message": "taken back"}},
            "Server.SpotInstanceTermination: taken back",
        ),
        ("terminated", {"StateReason": {"Code": "Server.InternalError"}}, "Server.InternalError"),
        (
            "terminated",
            {"StateTransitionReason": "User initiated (2026-01-01 00:00:00 GMT)"},
            "User initiated (2026-01-01 00:00:00 GMT)",
        ),
    ],
)
def test_why_an_instance_left_running(state: str, more: dict[str, Any], reason: str) -> None:
    assert view(told(State={"Name": state}, **more)).state_reason == reason


# -- listing --


async def test_those_who_ask_the_same_at_once_ask_ec2_once(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    await launch(cloud)
    answers = await asyncio.gather(*(cloud.list(tags={"Name": "w"}, states=UP) for _ in range(50)))
    assert all(len(answer) == 1 for answer in answers)
    assert aws.count("DescribeInstances") == 1


async def test_one_who_asked_the_same_and_left_does_not_take_the_answer_with_him(
    cloud: Ec2Cloud,
) -> None:
    await launch(cloud)
    first = asyncio.create_task(cloud.list())
    second = asyncio.create_task(cloud.list())
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 1


async def test_what_was_changed_is_seen_by_the_next_who_ask(cloud: Ec2Cloud) -> None:
    (instance,) = await launch(cloud)
    before = asyncio.create_task(cloud.list(ids=[instance.id]))
    await asyncio.sleep(0)
    await cloud.tag([instance.id], {"colour": "red"})
    (now,) = await cloud.list(ids=[instance.id])
    assert now.tags["colour"] == "red"
    await before


async def test_a_question_by_many_ids_is_asked_in_parts(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    (instance,) = await launch(cloud)
    many = [f"i-{number:017x}" for number in range(450)]
    assert [i.id for i in await cloud.list(ids=[*many, instance.id])] == [instance.id]
    assert aws.count("DescribeInstances") == 3
    assert await cloud.list(ids=[]) == []
    assert await cloud.list(states=[]) == []
    assert aws.count("DescribeInstances") == 3


async def test_a_tag_with_wildcards_finds_itself_only(cloud: Ec2Cloud) -> None:
    await launch(cloud, name="a", tags={"job": "one"})
    (star,) = await launch(cloud, name="b", tags={"job": "o*"})
    assert [i.id for i in await cloud.list(tags={"job": "o*"})] == [star.id]


async def test_an_instance_that_is_not_listed_yet_is_pending(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    aws.lag = 30.0
    (instance,) = await launch(cloud)
    for asked in ({}, {"ids": [instance.id]}, {"tags": {"Name": "w"}, "states": ALIVE}):
        (found,) = await cloud.list(**asked)
        assert (found.id, found.state) == (instance.id, S.PENDING)
    assert await cloud.list(states=[S.RUNNING]) == []
    assert await cloud.list(tags={"Name": "other"}) == []

    aws.advance(30.0)
    (found,) = await cloud.list(ids=[instance.id])
    assert found.state is S.RUNNING


async def test_an_instance_that_ended_before_it_was_ever_listed_is_not_called_pending(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    aws.fail_late(1)
    (instance,) = await launch(cloud)
    aws.advance(5.0)
    assert await cloud.list(tags={"Name": "w"}, states=ALIVE) == []
    assert (await cloud.list(ids=[instance.id]))[0].state is S.TERMINATED


async def test_after_a_minute_absence_means_that_it_is_gone(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "YOUNG", 0.05)
    aws.lag = 30.0
    await launch(cloud)
    await asyncio.sleep(0.1)
    assert await cloud.list() == []


# -- ending --


async def test_an_instance_that_ec2_does_not_know_yet_is_ended_all_the_same(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminating, "_PAUSE", 0.05)
    aws.lag = 0.3
    instances = await launch(cloud, 3)
    await cloud.terminate([NOBODY, *(i.id for i in instances)])
    assert not aws.instances("pending", "running")
    assert {i.state for i in await cloud.list()} <= {S.SHUTTING_DOWN, S.TERMINATED}


async def test_many_are_ended_by_few_calls_though_some_are_unknown(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    instances = await launch(cloud, 20)
    unknown = [f"i-{number:017x}" for number in range(600)]
    mixed = [*unknown[:300], *(i.id for i in instances), *unknown[300:]]
    await cloud.terminate(mixed)
    assert not aws.instances("pending", "running")
    assert aws.count("TerminateInstances") <= 4
    await cloud.terminate([])
    assert aws.count("TerminateInstances") <= 4


async def test_an_answer_that_names_nobody_is_halved_until_it_does(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    instances = await launch(cloud, 6)
    aws.fail_next("TerminateInstances", "InvalidInstanceID.NotFound", times=3, message="some")
    await cloud.terminate([i.id for i in instances])
    assert not aws.instances("pending", "running")


# -- starting, stopping, tags --


async def test_one_whose_zone_has_no_room_is_told_to_wait_or_to_be_replaced(
    cloud: Ec2Cloud, aws: EmulatedAws
) -> None:
    (instance,) = await launch(cloud)
    aws.fail_next("StartInstances", "InsufficientInstanceCapacity")
    with pytest.raises(CloudError, match="no such instances there now") as caught:
        await cloud.start([instance.id])
    assert "again in some minutes" in caught.value.hint
    assert aws.count("StartInstances") == 1


async def test_one_that_is_still_stopping_cannot_be_started(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    aws.stopping = 30.0
    (instance,) = await launch(cloud)
    await until(cloud, [instance.id], S.RUNNING)
    await cloud.stop([instance.id])
    with pytest.raises(CloudError, match=f"{instance.id} is stopping"):
        await cloud.start([instance.id])


async def test_a_race_that_is_over_is_tried_again(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    (instance,) = await launch(cloud)
    await until(cloud, [instance.id], S.RUNNING)
    await cloud.stop([instance.id])
    await until(cloud, [instance.id], S.STOPPED)
    aws.fail_next("StartInstances", "IncorrectInstanceState")
    await cloud.start([instance.id])
    await until(cloud, [instance.id], S.RUNNING)


async def test_stopping_a_spot_instance_says_why_not(cloud: Ec2Cloud) -> None:
    (instance,) = await launch(cloud, spot=True)
    await until(cloud, [instance.id], S.RUNNING)
    with pytest.raises(CloudError, match="one-time spot instance cannot be stopped") as caught:
        await cloud.stop([instance.id])
    assert instance.id in str(caught.value)


async def test_many_are_tagged_by_one_call_per_thousand(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    instances = await launch(cloud, 30)
    await cloud.tag([i.id for i in instances], {Tag.EXPIRES_AT: "5"})
    assert aws.count("CreateTags") == 1
    assert {i.tags[Tag.EXPIRES_AT] for i in await cloud.list()} == {"5"}


# -- the user's own VM --


async def test_a_vm_that_a_poweroff_would_delete_is_not_consumed(cloud: Ec2Cloud) -> None:
    (deletes,) = await launch(cloud, name="a")
    (stops,) = await launch(cloud, name="b", on_poweroff="stop")
    (spot,) = await launch(cloud, name="c", spot=True)
    await cloud.check_consumable(stops)
    with pytest.raises(ConfigError, match="would delete it") as caught:
        await cloud.check_consumable(deletes)
    assert (
        f"aws ec2 modify-instance-attribute --region us-east-1 --instance-id {deletes.id} "
        "--instance-initiated-shutdown-behavior stop"
    ) in str(caught.value)
    with pytest.raises(ConfigError, match="spot instance"):
        await cloud.check_consumable(spot)
    ghost = Instance(id=NOBODY, instance_type="t3.micro", state=S.RUNNING, tags={}, launched_at=0)
    with pytest.raises(InstanceNotFoundError, match=NOBODY):
        await cloud.check_consumable(ghost)


# -- the rest --


async def test_the_cloud_says_who_and_where_it_is(cloud: Ec2Cloud, aws: EmulatedAws) -> None:
    assert (cloud.name, cloud.region, cloud.pace) == ("aws_ec2", "us-east-1", 1.0)
    assert (await cloud.owner()).endswith(f"@{aws.account}")


async def test_prices_are_by_type(cloud: Ec2Cloud) -> None:
    for spot in (True, False):
        prices = await cloud.prices(["t3.micro", "m5.large"], spot=spot)
        assert set(prices) == {"t3.micro", "m5.large"}
        assert all(price.hourly for price in prices.values())


async def test_the_latest_console_is_read_where_there_is_one(
    cloud: Ec2Cloud,
    aws: EmulatedAws,
) -> None:
    (instance,) = await launch(cloud)
    aws.consoles[instance.id] = "hello"
    aws.fail_next("GetConsoleOutput", "UnsupportedOperation")
    assert await cloud.console(instance.id) == "hello"
    assert aws.count("GetConsoleOutput") == 2
