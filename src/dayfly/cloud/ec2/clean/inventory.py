"""Everything of ours that exists, from EC2's own listings: one per kind, all at once, by tag.

Not from the tagging service, which lists what it was told of some time ago: this is the proof
that nothing is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

from dayfly.cloud.base import Resource
from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.marks import Filters, Told, matching, ours, tags_of
from dayfly.cloud.ec2.persistence import together
from dayfly.model import InstanceState, Tag

#: Spot requests in other states hold nothing.
_OPEN: Final = ("open", "active")
#: What a listing may still show for a while.
_GONE: Final = ("deleting", "deleted", "failed")


class Found(Resource, frozen=True, kw_only=True):
    """A resource with what its removal must know.

    Attributes:
        busy: It is in use by another, or on its way out: only waiting helps.
        ties: What must be undone first: the VPCs that a gateway is attached to, the
            associations of a route table.
    """

    busy: bool = False
    ties: tuple[str, ...] = ()


async def inventory(api: Ec2Api, owner: str, kinds: Collection[str] | None = None) -> list[Found]:
    """What is an owner's, terminated instances excepted.

    Args:
        api: Where.
        owner: Whose.
        kinds: Which kinds, by EC2's names; ``None``: all.
    """
    mine = ours(owner)
    listed = await together(
        *(
            _gather(listing(api, mine))
            for kind, listing in _LISTINGS.items()
            if kinds is None or kind in kinds
        )
    )
    return [resource for found in listed for resource in found]


async def _gather(listing: AsyncIterator[Found]) -> list[Found]:
    return [resource async for resource in listing]


def _found(
    kind: str,
    id_: str,
    told: Told,
    *details: str,
    busy: bool = False,
    ties: tuple[str, ...] = (),
) -> Found:
    said = [tags_of(told).get(Tag.NAME, ""), *details]
    detail = ", ".join(part for part in said if part)
    return Found(kind=kind, id=id_, detail=detail, busy=busy, ties=ties)


async def _instances(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    there = [state.value for state in InstanceState if state is not InstanceState.TERMINATED]
    filters = [*mine, matching("instance-state-name", *there)]
    async for page in api.pages("describe_instances", Filters=filters):
        for reservation in page["Reservations"]:
            for told in reservation["Instances"]:
                state = told["State"]["Name"]
                yield _found(
                    "instance",
                    told["InstanceId"],
                    told,
                    state,
                    told.get("PublicIpAddress") or told.get("PrivateIpAddress") or "",
                    busy=state == InstanceState.SHUTTING_DOWN,
                )


async def _spot_requests(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    filters = [*mine, matching("state", *_OPEN)]
    async for page in api.pages("describe_spot_instance_requests", Filters=filters):
        for told in page["SpotInstanceRequests"]:
            yield _found(
                "spot-instances-request", told["SpotInstanceRequestId"], told, told["State"]
            )


async def _volumes(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_volumes", Filters=mine):
        for told in page["Volumes"]:
            if told["State"] not in _GONE:
                state = told["State"]
                size = f"{told['Size']} GiB"
                busy = state not in ("available", "error")
                yield _found("volume", told["VolumeId"], told, size, state, busy=busy)


async def _interfaces(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_network_interfaces", Filters=mine):
        for told in page["NetworkInterfaces"]:
            tagged = {"Tags": told.get("TagSet", ())}  # its own word for it
            status = told.get("Status", "")
            yield _found(
                "network-interface",
                told["NetworkInterfaceId"],
                tagged,
                status,
                busy=status != "available",
            )


async def _launch_templates(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_launch_templates", Filters=mine):
        for told in page["LaunchTemplates"]:
            yield _found("launch-template", told["LaunchTemplateId"], told)


async def _images(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages(
        "describe_images", Owners=["self"], Filters=mine, IncludeDeprecated=True
    ):
        for told in page["Images"]:
            yield _found("image", told["ImageId"], told, told["State"])


async def _snapshots(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_snapshots", OwnerIds=["self"], Filters=mine):
        for told in page["Snapshots"]:
            yield _found("snapshot", told["SnapshotId"], told, f"{told['VolumeSize']} GiB")


async def _groups(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_security_groups", Filters=mine):
        for told in page["SecurityGroups"]:
            yield _found("security-group", told["GroupId"], told, told["VpcId"])


async def _key_pairs(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_key_pairs", Filters=mine):
        for told in page["KeyPairs"]:
            # By its name, as people and ssh_key_name say it; a region has it once.
            yield _found("key-pair", told["KeyName"], told, told["KeyPairId"])


async def _endpoints(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_vpc_endpoints", Filters=mine):
        for told in page["VpcEndpoints"]:
            if told["State"].lower() not in _GONE:
                yield _found("vpc-endpoint", told["VpcEndpointId"], told, told["ServiceName"])


async def _subnets(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_subnets", Filters=mine):
        for told in page["Subnets"]:
            yield _found("subnet", told["SubnetId"], told, told["CidrBlock"])


async def _route_tables(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_route_tables", Filters=mine):
        for told in page["RouteTables"]:
            ties = tuple(
                each["RouteTableAssociationId"]
                for each in told.get("Associations", ())
                if not each.get("Main")
            )
            yield _found("route-table", told["RouteTableId"], told, told["VpcId"], ties=ties)


async def _gateways(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_internet_gateways", Filters=mine):
        for told in page["InternetGateways"]:
            ties = tuple(each["VpcId"] for each in told.get("Attachments", ()))
            yield _found("internet-gateway", told["InternetGatewayId"], told, *ties, ties=ties)


async def _vpcs(api: Ec2Api, mine: Filters) -> AsyncIterator[Found]:
    async for page in api.pages("describe_vpcs", Filters=mine):
        for told in page["Vpcs"]:
            yield _found("vpc", told["VpcId"], told, told["CidrBlock"])


_LISTINGS: Final[dict[str, Callable[[Ec2Api, Filters], AsyncIterator[Found]]]] = {
    "instance": _instances,
    "spot-instances-request": _spot_requests,
    "volume": _volumes,
    "network-interface": _interfaces,
    "launch-template": _launch_templates,
    "image": _images,
    "snapshot": _snapshots,
    "security-group": _groups,
    "key-pair": _key_pairs,
    "vpc-endpoint": _endpoints,
    "subnet": _subnets,
    "route-table": _route_tables,
    "internet-gateway": _gateways,
    "vpc": _vpcs,
}
#: Every kind of thing that dayfly has ever made.
KINDS: Final = frozenset(_LISTINGS)
