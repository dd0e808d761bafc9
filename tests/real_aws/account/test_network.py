"""The network that dayfly makes: whole, closed to the world, found again, and gone."""

from __future__ import annotations

import ipaddress
from typing import Any

from dayfly.config import load
from dayfly.model import Tag
from dayfly.parts import open_parts
from tests.real_aws import listing
from tests.real_aws.run import Run, client, command

KINDS = {"vpc", "subnet", "internet-gateway", "route-table", "security-group", "vpc-endpoint"}


async def made(run: Run) -> list[tuple[str, str]]:
    """Let this machine in, and list what there is then."""
    async with open_parts(load(run.config)) as parts:
        await parts.cloud.admit()
        return sorted((each.kind, each.id) for each in await parts.cloud.inventory())


async def test_a_network_is_made_found_again_by_another_program_and_removed(run: Run) -> None:
    first = await made(run)
    assert {kind for kind, _ in first} == KINDS
    assert await made(run) == first, "the second program made nothing"
    tagged = await listing.left(run.region, owner=run.owner, run=run.settings.run)
    run.measured(f"network: {len(first)} things by dayfly's listing: {first}")
    # A rule of a security group has tags of its own, and is gone with its group.
    assert {each for each in tagged if not each.startswith("security-group-rule")} == {
        f"{kind} {id_}" for kind, id_ in first
    }
    cleaned = command("clean", "--all")
    assert cleaned.exit_code == 0, cleaned.output


async def test_ssh_is_let_in_from_here_alone_and_the_masters_port_from_the_group_alone(
    run: Run,
) -> None:
    groups = [id_ for kind, id_ in await made(run) if kind == "security-group"]
    async with client(run, "ec2") as ec2:
        (group,) = (await ec2.describe_security_groups(GroupIds=groups))["SecurityGroups"]
    port = run.config["aws_ec2"].get("ssh_port", 22)
    rules: list[dict[str, Any]] = group["IpPermissions"]
    assert {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in rules} == {
        ("tcp", port, port),
        ("tcp", 8080, 8080),
    }
    for rule in rules:
        assert not rule.get("Ipv6Ranges")
        assert not rule.get("PrefixListIds")
        assert {pair["GroupId"] for pair in rule["UserIdGroupPairs"]} <= {group["GroupId"]}
        for allowed in rule["IpRanges"]:
            assert rule["FromPort"] == port, f"{allowed} reaches port {rule['FromPort']}"
            here = ipaddress.ip_network(allowed["CidrIp"])
            assert here.prefixlen == 32 or here.is_loopback
    assert {tag["Key"] for tag in group["Tags"]} >= {Tag.MANAGED, Tag.OWNER, *run.mark}


async def test_the_subnets_reach_s3_within_the_network(run: Run) -> None:
    found = await made(run)
    subnets = {id_ for kind, id_ in found if kind == "subnet"}
    (endpoint,) = [id_ for kind, id_ in found if kind == "vpc-endpoint"]
    async with client(run, "ec2") as ec2:
        (told,) = (await ec2.describe_vpc_endpoints(VpcEndpointIds=[endpoint]))["VpcEndpoints"]
        assert told["ServiceName"] == f"com.amazonaws.{run.region}.s3"
        tables = told["RouteTableIds"]
        listed = (await ec2.describe_route_tables(RouteTableIds=tables))["RouteTables"]
    joined = {each.get("SubnetId") for table in listed for each in table["Associations"]}
    assert subnets <= joined
