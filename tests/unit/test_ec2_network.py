"""The network: what was given is used as it is, what was not is made once and found again."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from dayfly.cloud.ec2.clean.inventory import inventory
from dayfly.cloud.ec2.network import rules
from dayfly.cloud.ec2.network.caller import public_address
from dayfly.cloud.ec2.network.ensuring import Network, ensure_network, find_network
from dayfly.cloud.ec2.network.given import check_subnets
from dayfly.cloud.ec2.network.making import lots
from dayfly.config.sections import Ec2Section
from dayfly.errors import ApiError, ConfigError
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.unit.ec2_mortal import OURS, OWNER, HurriedClock, KilledError, Mortal, client
from tests.unit.ec2_support import new_api

__all__ = ["aws"]

HOME = "203.0.113.7"
PLAIN = Ec2Section()
#: One subnet: fewer calls, and so fewer gaps between them.
SMALL = Ec2Section(subnet_cidr_block="10.7.1.0/24")
WHOLE = {
    "vpc": 1,
    "internet-gateway": 1,
    "route-table": 1,
    "vpc-endpoint": 1,
    "security-group": 1,
}


async def ensure(
    api: Mortal,
    section: Ec2Section = PLAIN,
    *,
    owner: str = OWNER,
    caller: str = "alice@laptop",
    address: str = HOME,
) -> Network:
    async def source() -> str:
        return address

    return await ensure_network(api, section, owner, caller=caller, source=source)


async def parts(api: Mortal) -> Counter[str]:
    return Counter(resource.kind for resource in await inventory(api, OWNER))


async def rules_in(api: Mortal, group: str) -> set[tuple[int, str, str]]:
    answer = await api.call("describe_security_groups", GroupIds=[group])
    found = rules.rules_of(answer["SecurityGroups"][0])
    return {(rule.port, rule.source, rule.description) for rule in found}


def changes(aws: EmulatedAws) -> list[str]:
    """The calls that changed something."""
    return [call.action for call in aws.calls if not call.action.startswith("Describe")]


async def check_whole(api: Mortal, network: Network, subnets: int = 6) -> None:
    """The network is there once, and complete."""
    assert await parts(api) == {**WHOLE, "subnet": subnets}
    assert len({subnet.zone for subnet in network.subnets}) == subnets
    assert all(subnet.public is True for subnet in network.subnets)
    mine = [{"Name": "vpc-id", "Values": [network.vpc]}]
    gateways = await api.call("describe_internet_gateways")
    (gateway,) = [
        gateway["InternetGatewayId"]
        for gateway in gateways["InternetGateways"]
        if any(each["VpcId"] == network.vpc for each in gateway["Attachments"])
    ]
    tables = (await api.call("describe_route_tables", Filters=mine))["RouteTables"]
    (table,) = [table for table in tables if table["Tags"]]
    ways = {route.get("DestinationCidrBlock"): route.get("GatewayId") for route in table["Routes"]}
    assert ways["0.0.0.0/0"] == gateway
    assert {each.get("SubnetId") for each in table["Associations"]} == {
        subnet.id for subnet in network.subnets
    }
    endpoints = (await api.call("describe_vpc_endpoints", Filters=mine))["VpcEndpoints"]
    assert [each["RouteTableIds"] for each in endpoints] == [[table["RouteTableId"]]]
    assert await rules_in(api, network.security_group) == {
        (22, f"{HOME}/32", "dayfly: alice@laptop"),
        (22, network.security_group, "dayfly"),
        (8080, network.security_group, "dayfly"),
    }


# -- our own --


async def test_a_network_is_made_once_and_then_two_listings_tell(aws: EmulatedAws) -> None:
    async with client() as api:
        assert await find_network(api, PLAIN, OWNER) is None
        api.said.clear()
        made = await ensure(api)
        assert len(api.said) == 29
        await check_whole(api, made)
    async with client() as elsewhere:  # another machine of the same user
        before = changes(aws)
        assert await ensure(elsewhere) == made
        assert sorted(elsewhere.said) == ["describe_security_groups", "describe_subnets"]
        assert await find_network(elsewhere, PLAIN, OWNER) == made
        assert changes(aws) == before


async def test_everything_is_tagged_in_the_call_that_makes_it(aws: EmulatedAws) -> None:
    async with client() as api:
        await ensure(api, Ec2Section(tags={"team": "blue"}))
    creations = [call for call in aws.calls if "TagSpecifications" in call.params]
    born = {call.action for call in aws.calls if call.action.startswith("Create")}
    assert born - {call.action for call in creations} == {"CreateRoute"}  # part of its table
    for call in creations:
        (said,) = call.params["TagSpecifications"]
        tags = {tag["Key"]: tag["Value"] for tag in said["Tags"]}
        assert tags.items() >= {**OURS, "team": "blue", "dayfly:network": "zones"}.items()
    assert aws.count("CreateTags") == 0


async def test_a_block_that_was_given_is_the_only_subnet(aws: EmulatedAws) -> None:
    async with client() as api:
        small = await ensure(api, SMALL)
        await check_whole(api, small, subnets=1)
        (vpc,) = (await api.call("describe_vpcs", VpcIds=[small.vpc]))["Vpcs"]
        (subnet,) = (await api.call("describe_subnets", SubnetIds=[small.subnets[0].id]))["Subnets"]
        assert (vpc["CidrBlock"], subnet["CidrBlock"]) == ("10.7.0.0/16", "10.7.1.0/24")
        plain = await ensure(api)  # another description, another network
        assert plain.vpc != small.vpc
        assert await ensure(api, SMALL) == small


async def test_each_owner_has_a_network_of_his_own(aws: EmulatedAws) -> None:
    async with client() as api:
        mine = await ensure(api, SMALL)
        his = await ensure(api, SMALL, owner="bob@123456789012", caller="bob@desk")
        assert his.vpc != mine.vpc
        assert await ensure(api, SMALL) == mine


@pytest.mark.thorough
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_at_any_change_and_run_again_nothing_is_doubled(
    aws: EmulatedAws, after: bool
) -> None:
    async with client() as shared:
        for die in range(1, 30):
            aws.reset()
            try:
                await ensure(Mortal(shared.aws, die=die, after=after), SMALL)
                break
            except KilledError:
                pass
            again = Mortal(shared.aws)
            network = await ensure(again, SMALL)
            await check_whole(again, network, subnets=1)
            again.said.clear()
            assert await ensure(again, SMALL) == network
            assert len(again.said) == 2
    assert die == 11, "one more than its changes"


@pytest.mark.thorough
@pytest.mark.parametrize("die", range(2, 20, 4))
async def test_killed_among_the_zones_and_run_again_each_has_one_subnet(
    aws: EmulatedAws, die: int
) -> None:
    async with client(die=die, after=True) as api:
        with pytest.raises(KilledError):
            await ensure(api)
    async with client() as again:
        await check_whole(again, await ensure(again))


@pytest.mark.parametrize(
    "action",
    [
        "CreateVpc",
        "CreateSubnet",
        "CreateInternetGateway",
        "AttachInternetGateway",
        "CreateRoute",
        "AssociateRouteTable",
        "CreateSecurityGroup",
        "AuthorizeSecurityGroupIngress",
    ],
)
async def test_a_call_that_was_done_and_never_answered_is_not_done_twice(
    aws: EmulatedAws, action: str
) -> None:
    aws.hang_up_next(action, after=True)
    async with client() as api:
        await check_whole(api, await ensure(api, SMALL), subnets=1)


async def test_clients_that_come_at_once_share_one_network(aws: EmulatedAws) -> None:
    class Slower(HurriedClock):
        rate = 5

    async with client(clock=Slower()) as one, client(clock=Slower()) as two:
        async with client(clock=Slower()) as three:
            networks = await asyncio.gather(*(ensure(api, SMALL) for api in (one, two, three)))
        assert networks[0] == networks[1] == networks[2]
        await check_whole(one, networks[0], subnets=1)


async def test_who_slept_while_others_agreed_gives_its_vpc_up(aws: EmulatedAws) -> None:
    class Sleeper(Mortal):
        async def call(
            self, operation: str, *, service: str = "ec2", **parameters: Any
        ) -> dict[str, Any]:
            if operation == "create_vpc" and not theirs:
                async with client() as other:
                    theirs.append(await ensure(other, SMALL))
                await self.clock.sleep(60.0)
            return await super().call(operation, service=service, **parameters)

    theirs: list[Network] = []
    async with client() as api:
        sleeper = Sleeper(api.aws)
        assert await ensure(sleeper, SMALL) == theirs[0]
        assert aws.count("CreateVpc") == 2
        await check_whole(api, theirs[0], subnets=1)


async def test_a_full_quota_says_what_to_do(aws: EmulatedAws) -> None:
    aws.fail_next("CreateVpc", "VpcLimitExceeded", times=9)
    async with client() as api:
        with pytest.raises(ApiError, match="name a network of yours in vpc_id or subnet_id"):
            await ensure(api)


def test_a_zone_keeps_its_block() -> None:
    zones = ["a", "b", "c"]
    blocks = {lot["AvailabilityZone"]: lot["CidrBlock"] for lot in lots(zones, [])}
    assert blocks == {"a": "10.0.0.0/20", "b": "10.0.16.0/20", "c": "10.0.32.0/20"}
    have = [{"AvailabilityZone": "b", "CidrBlock": "10.0.0.0/20"}]
    blocks = {lot["AvailabilityZone"]: lot["CidrBlock"] for lot in lots(zones, have)}
    assert blocks == {"a": "10.0.16.0/20", "c": "10.0.32.0/20"}
    assert lots(["b"], have) == []


# -- who is let in --


async def test_a_caller_that_has_moved_is_let_in_from_there_only(aws: EmulatedAws) -> None:
    async with client() as api:
        group = (await ensure(api, SMALL)).security_group
        await ensure(api, SMALL, caller="alice@desk", address="198.51.100.1")
        api.said.clear()
        await ensure(api, SMALL, address="192.0.2.9")
        assert api.said[2:] == [
            "authorize_security_group_ingress",
            "revoke_security_group_ingress",
        ]
        assert await rules_in(api, group) == {
            (22, "192.0.2.9/32", "dayfly: alice@laptop"),
            (22, "198.51.100.1/32", "dayfly: alice@desk"),
            (22, group, "dayfly"),
            (8080, group, "dayfly"),
        }


async def test_a_group_that_is_full_of_callers_of_other_days_takes_in_one_more(
    aws: EmulatedAws,
) -> None:
    async with client() as api:
        group = (await ensure(api, SMALL)).security_group
        for number in (1, 2):
            host = f"198.51.100.{number}"
            await ensure(api, SMALL, caller=f"runner@{number}", address=host)
        full = "RulesPerSecurityGroupLimitExceeded"
        aws.fail_next("AuthorizeSecurityGroupIngress", full, message="The maximum is 60")
        await ensure(api, SMALL, caller="runner@3", address="192.0.2.9")
        assert await rules_in(api, group) == {
            (22, "192.0.2.9/32", "dayfly: runner@3"),
            (22, group, "dayfly"),
            (8080, group, "dayfly"),
        }
        # Nothing is left to take away: the group is full of somebody else's rules.
        aws.fail_next("AuthorizeSecurityGroupIngress", full, times=2)
        with pytest.raises(ApiError, match=full):
            await ensure(api, SMALL, caller="runner@4", address="192.0.2.10")


async def test_of_a_network_that_was_given_whole_the_public_subnets_are_used() -> None:
    def subnet(name: str, *, public: bool) -> dict[str, Any]:
        return {
            "SubnetId": name,
            "VpcId": "vpc-1",
            "AvailabilityZone": "us-east-1a",
            "State": "available",
            "MapPublicIpOnLaunch": public,
        }

    async def used(*subnets: dict[str, Any]) -> list[str]:
        section = Ec2Section(vpc_id="vpc-1")
        api = new_api(lambda operation, parameters: {})
        found = await check_subnets(api, section, "vpc-1", list(subnets))
        return [each["SubnetId"] for each in found]

    private, public = subnet("subnet-1", public=False), subnet("subnet-2", public=True)
    # The master must be reached from here; by a private address it is from within only.
    assert await used(private, public) == ["subnet-2"]
    assert await used(private) == ["subnet-1"]


async def test_ssh_comes_from_where_the_user_says(
    aws: EmulatedAws, caplog: pytest.LogCaptureFixture
) -> None:
    async def nobody() -> str:
        raise AssertionError("the address was given")

    section = Ec2Section(
        subnet_cidr_block="10.7.1.0/24",
        ssh_cidr=("203.0.113.0/24", "2001:db8::/48", "0.0.0.0/0"),
        ssh_port=2222,
    )
    async with client() as api:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                network = await ensure_network(api, section, OWNER, caller="a@b", source=nobody)
        group = network.security_group
        assert await rules_in(api, group) == {
            *((2222, cidr, "dayfly: a@b") for cidr in section.ssh_cidr),
            (2222, group, "dayfly"),
            (8080, group, "dayfly"),
        }
    assert aws.count("AuthorizeSecurityGroupIngress") == 1
    assert "0.0.0.0/0 lets SSH in from the whole Internet" in caplog.text


async def test_an_unknown_address_is_told_before_anything_is_made(aws: EmulatedAws) -> None:
    async def nobody_knows() -> str:
        raise ConfigError("the address is not known")

    async with client() as api:
        with pytest.raises(ConfigError, match="the address is not known"):
            await ensure_network(api, SMALL, OWNER, caller="alice@laptop", source=nobody_knows)
        assert changes(aws) == []
        made = await ensure(api, SMALL)
        # Who was let in before stays so.
        again = await ensure_network(api, SMALL, OWNER, caller="alice@laptop", source=nobody_knows)
        assert again == made
        with pytest.raises(ConfigError, match="the address is not known"):
            await ensure_network(api, SMALL, OWNER, caller="alice@train", source=nobody_knows)


def test_a_caller_of_any_name_has_a_mark() -> None:
    assert rules.mark("al'ice@höst") == "dayfly: al-ice@h-st"
    assert len(rules.mark("x" * 300)) == 255


async def test_the_service_is_never_open_to_the_world(aws: EmulatedAws) -> None:
    async with client() as api:
        group = (await ensure(api, SMALL)).security_group
        assert {source for port, source, _ in await rules_in(api, group) if port == 8080} == {group}


# -- what was given --


class Given:
    """A user's own network, with two subnets, and a group."""

    vpc: str
    subnets: list[str]
    group: str


@pytest.fixture
async def given(aws: EmulatedAws) -> Given:
    given = Given()
    async with client() as api:
        vpc = await api.call("create_vpc", CidrBlock="172.16.0.0/16")
        given.vpc = vpc["Vpc"]["VpcId"]
        given.subnets = [
            (
                await api.call(
                    "create_subnet",
                    VpcId=given.vpc,
                    CidrBlock=f"172.16.{number}.0/24",
                    AvailabilityZone=f"us-east-1{zone}",
                )
            )["Subnet"]["SubnetId"]
            for number, zone in enumerate("ba")
        ]
        group = await api.call(
            "create_security_group", GroupName="mine", Description="mine", VpcId=given.vpc
        )
        given.group = group["GroupId"]
    aws.calls.clear()
    return given


async def test_all_given_nothing_is_altered_and_two_listings_tell(
    aws: EmulatedAws, given: Given
) -> None:
    async def nobody() -> str:
        raise AssertionError("the group is the user's")

    section = Ec2Section(
        vpc_id=given.vpc, subnet_id=tuple(given.subnets), security_group_id=given.group
    )
    async with client() as api:
        network = await ensure_network(api, section, OWNER, caller="a@b", source=nobody)
        assert len(api.said) == 2
        assert await find_network(api, section, OWNER) == network
    assert (network.vpc, network.security_group) == (given.vpc, given.group)
    assert [subnet.id for subnet in network.subnets] == given.subnets  # in the order given
    assert [subnet.zone for subnet in network.subnets] == ["us-east-1b", "us-east-1a"]
    assert {subnet.public for subnet in network.subnets} == {None}
    assert changes(aws) == []


@pytest.mark.parametrize(
    "keys",
    [
        lambda given: {"vpc_id": given.vpc},
        lambda given: {"subnet_id": given.subnets[1]},
        lambda given: {"vpc_id": given.vpc, "subnet_id": given.subnets[1]},
    ],
    ids=["vpc", "subnet", "both"],
)
async def test_a_given_network_gets_a_group_of_ours_and_nothing_else(
    aws: EmulatedAws, given: Given, keys: Callable[[Given], dict[str, Any]]
) -> None:
    section = Ec2Section(**keys(given))
    async with client() as api:
        for die in range(1, 3):  # each gap in turn
            with pytest.raises(KilledError):
                await ensure(Mortal(api.aws, die=die, after=True), section)
            made = await ensure(api, section)
            assert made.vpc == given.vpc
            if die < 2:
                await api.call("delete_security_group", GroupId=made.security_group)
        api.said.clear()
        network = await ensure(api, section)
        assert len(api.said) == 2
        assert network.security_group != given.group
        assert await parts(api) == {"security-group": 1}
    assert set(changes(aws)) - {"DeleteSecurityGroup"} == {
        "CreateSecurityGroup",
        "AuthorizeSecurityGroupIngress",
    }
    for call in aws.calls:
        if call.action == "AuthorizeSecurityGroupIngress":
            assert call.params["GroupId"] != given.group


async def test_a_given_group_names_the_network(aws: EmulatedAws, given: Given) -> None:
    async with client() as api:
        network = await ensure(api, Ec2Section(security_group_id=given.group))
        assert (network.vpc, network.security_group) == (given.vpc, given.group)
        assert [subnet.zone for subnet in network.subnets] == ["us-east-1a", "us-east-1b"]
        assert len(api.said) == 2
    assert changes(aws) == []


async def test_what_was_given_and_is_not_there_is_told_with_what_is(
    aws: EmulatedAws, given: Given
) -> None:
    async with client() as api:
        empty = (await api.call("create_vpc", CidrBlock="172.17.0.0/16"))["Vpc"]["VpcId"]
        default = next(iter(aws.subnets().values()))
        nowhere = "subnet-01234567"
        refusals: list[tuple[dict[str, Any], list[str]]] = [
            (
                {"subnet_id": (given.subnets[0], nowhere), "vpc_id": given.vpc},
                [f"[aws_ec2] subnet_id: there is no {nowhere} in us-east-1", given.subnets[1]],
            ),
            ({"subnet_id": nowhere}, [f"there is no {nowhere}", default]),
            ({"vpc_id": "vpc-01234567"}, ["[aws_ec2] vpc_id: there is no vpc-01234567", empty]),
            ({"vpc_id": empty}, [f"[aws_ec2] vpc_id: {empty} has no subnet"]),
            (
                {"vpc_id": given.vpc, "subnet_id": default},
                ["subnet_id and vpc_id do not belong together", default],
            ),
            (
                {"subnet_id": (given.subnets[0], default)},
                ["the subnets are of several VPCs", given.subnets[0], default],
            ),
            (
                {"security_group_id": "sg-01234567"},
                ["[aws_ec2] security_group_id: there is no sg-01234567", given.group],
            ),
            (
                {"security_group_id": given.group, "subnet_id": default},
                [f"{given.group} is of {given.vpc}, and the subnets are of "],
            ),
        ]
        aws.calls.clear()
        for keys, told in refusals:
            with pytest.raises(ConfigError) as caught:
                await ensure(api, Ec2Section(**keys))
            for part in told:
                assert part in str(caught.value)
            with pytest.raises(ConfigError):
                await find_network(api, Ec2Section(**keys), OWNER)
    assert changes(aws) == []


# -- the caller's address --


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def test_the_callers_address_is_asked_for() -> None:
    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=f"{HOME}\n")

    async with answering(tell) as url:
        assert await public_address(url) == HOME


async def test_what_is_no_address_is_not_taken_for_one() -> None:
    async def portal(request: web.Request) -> web.Response:
        return web.Response(text="<html>please log in</html>" * 100)

    async def broken(request: web.Request) -> web.Response:
        raise web.HTTPBadGateway

    async def silent(request: web.Request) -> web.Response:
        await gone.wait()
        raise web.HTTPBadGateway

    gone = asyncio.Event()
    for handler, told in (
        (silent, "did not answer within 0.05 s"),
        (portal, "which is no address"),
        (broken, "502"),
    ):
        async with answering(handler) as url:
            with pytest.raises(ConfigError, match="ssh_cidr") as caught:
                await public_address(url, deadline=0.05 if handler is silent else 5.0)
            assert told in str(caught.value)
            gone.set()
    with pytest.raises(ConfigError, match="ssh_cidr"):
        await public_address("http://127.0.0.1:1/")
