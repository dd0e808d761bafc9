"""A network of dayfly's own, made step by step, each found by its tags before it is made.

The security group comes last: where it is, all else is, and two listings (subnets, groups) tell.

EC2 has nothing that makes a VPC once, so the clients of one owner agree by waiting: whoever
found no VPC makes one, waits until every VPC that was made for the same reason is listed, and
goes on only if its own has the lowest id; whoever found one waits for its maker. Within a VPC,
most parts cannot be made twice: a block of addresses, a name, an attachment is taken once.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.marks import Labels, Told, matching
from dayfly.cloud.ec2.persistence import together
from dayfly.config.sections import Ec2Section
from dayfly.errors import ApiError, ConfigError

log = logging.getLogger(__name__)

#: The addresses of a network, and of each of its subnets (4,091 usable ones).
NETWORK: Final = ipaddress.ip_network("10.0.0.0/16")
SUBNET_PREFIX: Final = 20
#: Zones that get a subnet; no more than a launch will ever try.
MOST_ZONES: Final = 6
EVERYWHERE: Final = "0.0.0.0/0"
#: Seconds within which a VPC is made by one who has found none, or is given up.
GRACE: Final = 4.0
#: Seconds until all VPCs that were made so are listed.
SETTLE: Final = 5.0
#: Seconds that another client has for a network, before it is taken for dead.
TAKEOVER: Final = 15.0
#: Seconds between looks at what the other one does.
LOOK: Final = 2.0

_LIMITS: Final = frozenset(
    {"VpcLimitExceeded", "InternetGatewayLimitExceeded", "SubnetLimitExceeded"}
)


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What instances are launched into, as EC2 tells of it.

    Attributes:
        subnets: All of one VPC.
        group: The security group.
    """

    subnets: list[Told]
    group: Told


Look = Callable[[], Awaitable[Ground | None]]


async def make_network(api: Ec2Api, section: Ec2Section, owner: str, look: Look) -> Ground:
    """Make the network of an owner, or what is missing of it.

    Args:
        api: Where.
        section: Of the configuration.
        owner: Whose.
        look: Finds it when it is complete.
    """
    labels = Labels.of(section, owner)
    block = section.subnet_cidr_block
    network = ipaddress.ip_network(block).supernet(new_prefix=16) if block else NETWORK
    try:
        while True:
            vpc, made = await _claim_vpc(api, labels, str(network))
            if not made:
                ready = await _wait_for_others(api, look)
                if ready is not None:
                    return ready
                left = await _vpcs(api, labels)
                if not left:
                    continue
                vpc = min(left)
            subnets = await _lay(api, section, labels, vpc)
            return Ground(subnets=subnets, group=await make_group(api, labels, vpc))
    except ApiError as error:
        if error.code in _LIMITS:
            error.hint = "name a network of yours in vpc_id or subnet_id, or have the quota raised"
        raise


async def make_group(api: Ec2Api, labels: Labels, vpc: str) -> Told:
    """Make the security group in a VPC; the name is taken once."""
    made = await api.call(
        "create_security_group",
        GroupName=f"dayfly {labels.owner}"[:255],
        Description="dayfly: SSH from its users, everything else within",
        VpcId=vpc,
        TagSpecifications=labels.tagged("security-group", "dayfly"),
    )
    return {"GroupId": made["GroupId"], "VpcId": vpc, "IpPermissions": []}


async def _vpcs(api: Ec2Api, labels: Labels) -> set[str]:
    return {
        vpc["VpcId"]
        async for page in api.pages("describe_vpcs", Filters=labels.filters())
        for vpc in page["Vpcs"]
    }


async def _claim_vpc(api: Ec2Api, labels: Labels, block: str) -> tuple[str, bool]:
    """The VPC that all clients of the owner agree on, and whether it is this one's to fill."""
    clock = api.clock
    while True:
        asked = clock.monotonic()
        listed = await _vpcs(api, labels)
        if listed:
            return min(listed), False
        answer = await api.call(
            "create_vpc", CidrBlock=block, TagSpecifications=labels.tagged("vpc", "dayfly")
        )
        made: str = answer["Vpc"]["VpcId"]
        if clock.monotonic() - asked > GRACE and await _vpcs(api, labels) - {made}:
            # The others may have agreed before they could see this one.
            await api.call("delete_vpc", VpcId=made)
            await clock.sleep(api.entropy.fraction() * SETTLE)
            continue
        await clock.sleep(SETTLE)
        agreed = min(await _vpcs(api, labels) | {made})
        if agreed == made:
            return made, True
        await api.call("delete_vpc", VpcId=made)
        return agreed, False


async def _wait_for_others(api: Ec2Api, look: Look) -> Ground | None:
    """The network once its maker is done; ``None``: the maker is taken for dead."""
    by = api.clock.monotonic() + TAKEOVER
    api.told("another client is making the network; waiting for it")
    while api.clock.monotonic() < by:
        ground = await look()
        if ground is not None:
            return ground
        await api.clock.sleep(LOOK)
    return None


async def _lay(api: Ec2Api, section: Ec2Section, labels: Labels, vpc: str) -> list[Told]:
    """Everything in a VPC that the group is the end of; returns the subnets."""
    subnets, gateway, table = await together(
        _ensure_subnets(api, section, labels, vpc),
        _ensure_gateway(api, labels, vpc),
        _ensure_table(api, labels, vpc),
    )
    route_table = table["RouteTableId"]
    associated = {each.get("SubnetId") for each in table.get("Associations", ())}
    await together(
        _ensure_route(api, table, gateway),
        _ensure_endpoint(api, labels, vpc, route_table),
        *(
            api.call("associate_route_table", RouteTableId=route_table, SubnetId=subnet["SubnetId"])
            for subnet in subnets
            if subnet["SubnetId"] not in associated
        ),
    )
    return list(subnets)


async def _ensure_subnets(api: Ec2Api, section: Ec2Section, labels: Labels, vpc: str) -> list[Told]:
    have: list[Told] = [
        subnet
        async for page in api.pages("describe_subnets", Filters=labels.filters(vpc_id=vpc))
        for subnet in page["Subnets"]
    ]
    block = section.subnet_cidr_block
    if not block:
        lacking = lots(await _zones(api), have)
    elif not have:
        lacking = [{"AvailabilityZone": await _best_zone(api, section), "CidrBlock": block}]
    else:
        lacking = []
    made = await together(
        *(
            api.call(
                "create_subnet",
                VpcId=vpc,
                TagSpecifications=labels.tagged("subnet", f"dayfly {lot['AvailabilityZone']}"),
                **lot,
            )
            for lot in lacking
        )
    )
    return sorted(
        [*have, *(answer["Subnet"] for answer in made)],
        key=lambda subnet: str(subnet["AvailabilityZone"]),
    )


async def _zones(api: Ec2Api) -> list[str]:
    answer = await api.call(
        "describe_availability_zones",
        Filters=[matching("state", "available"), matching("zone-type", "availability-zone")],
    )
    return sorted(zone["ZoneName"] for zone in answer["AvailabilityZones"])[:MOST_ZONES]


async def _best_zone(api: Ec2Api, section: Ec2Section) -> str:
    """The zone that has most of the instance types: no zone of a region has all there are.

    Raises:
        ConfigError: None has any.
    """
    types = dict.fromkeys([section.master_instance_type, *section.worker_instance_types])
    offers = Counter(
        [
            str(offer["Location"])
            async for page in api.pages(
                "describe_instance_type_offerings",
                LocationType="availability-zone",
                Filters=[matching("instance-type", *types)],
            )
            for offer in page["InstanceTypeOfferings"]
        ]
    )
    if not offers:
        raise ConfigError(
            f"[aws_ec2] worker_instance_type: no zone of {api.region} has {', '.join(types)}",
            hint="correct worker_instance_type and master_instance_type",
        )
    return min(offers, key=lambda zone: (-offers[zone], zone))


def lots(zones: Sequence[str], have: Sequence[Told]) -> list[dict[str, str]]:
    """The subnets that are missing: zone and block of each.

    A zone has the block of its place in the order, so that two who see the same zones choose
    the same blocks; where that is taken, the first free one.
    """
    blocks = [str(block) for block in NETWORK.subnets(new_prefix=SUBNET_PREFIX)]
    own = dict(zip(zones, blocks, strict=False))
    served = {subnet["AvailabilityZone"] for subnet in have}
    taken = {subnet["CidrBlock"] for subnet in have}
    missing = [zone for zone in zones if zone not in served]
    reserved = {own[zone] for zone in missing}
    found = []
    for zone in missing:
        block = own[zone]
        if block in taken:
            block = next(free for free in blocks if free not in taken | reserved)
        taken.add(block)
        found.append({"AvailabilityZone": zone, "CidrBlock": block})
    return found


async def _ensure_gateway(api: Ec2Api, labels: Labels, vpc: str) -> str:
    """The Internet gateway, attached: a VPC has one at most."""
    unused = []
    async for page in api.pages("describe_internet_gateways", Filters=labels.filters()):
        for gateway in page["InternetGateways"]:
            attached = [each.get("VpcId") for each in gateway.get("Attachments", ())]
            if vpc in attached:
                return str(gateway["InternetGatewayId"])
            if not attached:
                unused.append(str(gateway["InternetGatewayId"]))
    if unused:
        chosen = min(unused)
    else:
        answer = await api.call(
            "create_internet_gateway",
            TagSpecifications=labels.tagged("internet-gateway", "dayfly"),
        )
        chosen = str(answer["InternetGateway"]["InternetGatewayId"])
    await api.call("attach_internet_gateway", InternetGatewayId=chosen, VpcId=vpc)
    return chosen


async def _ensure_table(api: Ec2Api, labels: Labels, vpc: str) -> Told:
    """The route table; not the VPC's main one, which has no tag and so is not ours to alter."""
    tables: list[Told] = [
        table
        async for page in api.pages("describe_route_tables", Filters=labels.filters(vpc_id=vpc))
        for table in page["RouteTables"]
    ]
    if tables:
        return min(tables, key=lambda table: str(table["RouteTableId"]))
    answer = await api.call(
        "create_route_table",
        VpcId=vpc,
        ClientToken=api.entropy.hex(32),
        TagSpecifications=labels.tagged("route-table", "dayfly"),
    )
    made: Told = answer["RouteTable"]
    return made


async def _ensure_route(api: Ec2Api, table: Told, gateway: str) -> None:
    for route in table.get("Routes", ()):
        if (route.get("DestinationCidrBlock"), route.get("GatewayId")) == (EVERYWHERE, gateway):
            return
    await api.call(
        "create_route",
        RouteTableId=table["RouteTableId"],
        DestinationCidrBlock=EVERYWHERE,
        GatewayId=gateway,
    )


async def _ensure_endpoint(api: Ec2Api, labels: Labels, vpc: str, table: str) -> None:
    """The way to S3 that costs nothing and needs no gateway."""
    async for page in api.pages("describe_vpc_endpoints", Filters=labels.filters(vpc_id=vpc)):
        for endpoint in page["VpcEndpoints"]:
            if endpoint["State"].lower() in ("pending", "available"):
                return
    await api.call(
        "create_vpc_endpoint",
        VpcEndpointType="Gateway",
        VpcId=vpc,
        ServiceName=f"com.amazonaws.{api.region}.s3",
        RouteTableIds=[table],
        ClientToken=api.entropy.hex(32),
        TagSpecifications=labels.tagged("vpc-endpoint", "dayfly"),
    )
