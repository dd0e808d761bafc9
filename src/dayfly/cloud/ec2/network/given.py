"""What the configuration names: looked up, checked, and never altered."""

from __future__ import annotations

from collections.abc import Sequence

from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.marks import Filters, Told, matching
from dayfly.config.sections import Ec2Section
from dayfly.config.shapes import several
from dayfly.errors import ConfigError

#: Things that an error names, at the most.
TOLD = 10


async def list_subnets(api: Ec2Api, filters: Filters) -> list[Told]:
    """The subnets that some filters let through, as EC2 tells of them."""
    return [
        subnet
        async for page in api.pages("describe_subnets", Filters=filters)
        for subnet in page["Subnets"]
    ]


async def list_groups(api: Ec2Api, filters: Filters) -> list[Told]:
    """The security groups that some filters let through, as EC2 tells of them."""
    return [
        group
        async for page in api.pages("describe_security_groups", Filters=filters)
        for group in page["SecurityGroups"]
    ]


async def check_subnets(
    api: Ec2Api, section: Ec2Section, vpc: str, subnets: list[Told]
) -> list[Told]:
    """The subnets in the order that was given, if there are any to use.

    Where none were given, those of the network whose instances have public addresses, if any.

    Raises:
        ConfigError: One is missing, or of another VPC.
    """
    given = several(section.subnet_id)
    if not given:
        usable = [subnet for subnet in subnets if subnet.get("State") == "available"]
        if not usable:
            raise await _no_subnets(api, section, vpc)
        # By a private address the master is reached from within only.
        usable = [each for each in usable if each.get("MapPublicIpOnLaunch")] or usable
        return sorted(usable, key=lambda subnet: (subnet["AvailabilityZone"], subnet["SubnetId"]))
    by_id = {str(subnet["SubnetId"]): subnet for subnet in subnets}
    missing = [each for each in dict.fromkeys(given) if each not in by_id]
    if missing:
        there = await list_subnets(api, [matching("vpc-id", vpc)] if vpc else [])
        raise ConfigError(
            f"[aws_ec2] subnet_id: there is no {' and no '.join(missing)} in {api.region}",
            cause=_there("subnets", vpc, [_of_subnet(subnet) for subnet in there]),
            hint="correct subnet_id, or leave it out",
        )
    found = [by_id[each] for each in dict.fromkeys(given)]
    vpcs = {str(subnet["VpcId"]) for subnet in found}
    if vpc and vpcs != {vpc}:
        raise ConfigError(
            f"[aws_ec2] subnet_id and vpc_id do not belong together: not all is in {vpc}",
            cause="; ".join(_of_subnet(subnet) for subnet in found),
            hint="vpc_id may be left out: it is that of the subnets",
        )
    if len(vpcs) > 1:
        raise ConfigError(
            "[aws_ec2] subnet_id: the subnets are of several VPCs, whose instances could not "
            "reach each other",
            cause="; ".join(_of_subnet(subnet) for subnet in found),
            hint="give subnets of one VPC",
        )
    return found


async def _no_subnets(api: Ec2Api, section: Ec2Section, vpc: str) -> ConfigError:
    there = [
        each["VpcId"]
        async for page in api.pages("describe_vpcs", Filters=[])
        for each in page["Vpcs"]
    ]
    key = "vpc_id" if section.vpc_id else "security_group_id"
    if vpc not in there:
        return ConfigError(
            f"[aws_ec2] {key}: there is no {vpc} in {api.region}",
            cause=_there("VPCs", "", there),
            hint=f"correct {key}, or leave it out",
        )
    return ConfigError(
        f"[aws_ec2] {key}: {vpc} has no subnet, and is not altered",
        hint="make a subnet in it, or leave the key out",
    )


async def check_group(api: Ec2Api, group_id: str, groups: Sequence[Told], vpc: str) -> str:
    """The VPC of the group that was given.

    Raises:
        ConfigError: It is missing, or of another VPC.
    """
    if groups and vpc in ("", groups[0]["VpcId"]):
        return str(groups[0]["VpcId"])
    there = await list_groups(api, [matching("vpc-id", vpc)] if vpc else [])
    names = [f"{group['GroupId']} ({group['GroupName']})" for group in there]
    if not groups:
        what = f"there is no {group_id} in {api.region}"
    else:
        what = f"{group_id} is of {groups[0]['VpcId']}, and the subnets are of {vpc}"
    raise ConfigError(
        f"[aws_ec2] security_group_id: {what}",
        cause=_there("groups", vpc, names),
        hint="correct security_group_id, or leave it out",
    )


def _of_subnet(subnet: Told) -> str:
    return f"{subnet['SubnetId']} ({subnet['AvailabilityZone']}, {subnet['VpcId']})"


def _there(what: str, vpc: str, found: Sequence[str]) -> str:
    """What exists, as far as anybody would read it."""
    where = f" of {vpc}" if vpc else ""
    if not found:
        return f"there are no {what}{where} at all"
    more = f" and {len(found) - TOLD} more" if len(found) > TOLD else ""
    return f"the {what}{where} are {', '.join(found[:TOLD])}{more}"
