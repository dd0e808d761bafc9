"""What an account holds of ours, asked of AWS without a line of dayfly's code."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import aioboto3

from tests.real_aws.settings import TEST_TAG

#: States of what is listed still for a while after its end.
_GONE = {"terminated", "closed", "cancelled", "failed", "deleted", "deleting"}

#: Where it can be seen whether a thing that has tags exists still: the operation, the filter
#: (empty: all are listed), the list in the answer and the id in it.
_SEEN = {
    "instance": ("describe_instances", "instance-id", "Reservations", "InstanceId"),
    "spot-instances-request": (
        "describe_spot_instance_requests",
        "spot-instance-request-id",
        "SpotInstanceRequests",
        "SpotInstanceRequestId",
    ),
    "volume": ("describe_volumes", "volume-id", "Volumes", "VolumeId"),
    "network-interface": (
        "describe_network_interfaces",
        "network-interface-id",
        "NetworkInterfaces",
        "NetworkInterfaceId",
    ),
    "security-group": ("describe_security_groups", "group-id", "SecurityGroups", "GroupId"),
    "vpc-endpoint": ("describe_vpc_endpoints", "", "VpcEndpoints", "VpcEndpointId"),
    "subnet": ("describe_subnets", "subnet-id", "Subnets", "SubnetId"),
    "route-table": ("describe_route_tables", "route-table-id", "RouteTables", "RouteTableId"),
    "internet-gateway": (
        "describe_internet_gateways",
        "internet-gateway-id",
        "InternetGateways",
        "InternetGatewayId",
    ),
    "vpc": ("describe_vpcs", "vpc-id", "Vpcs", "VpcId"),
}


async def left(region: str, *, owner: str, run: str) -> list[str]:
    """What carries the owner's tag or the run's, by ``ec2:DescribeTags``, and still exists.

    All kinds of EC2's things are in that one listing, those among them that dayfly would not
    think of; tags may outlive what they are on, so each kind that is known is looked at too.
    """
    session = aioboto3.Session(region_name=region)
    async with session.client("ec2") as ec2:
        marked: dict[str, set[str]] = {}
        for key, value in (("dayfly:owner", owner), (TEST_TAG, run)):
            filters = [{"Name": "key", "Values": [key]}, {"Name": "value", "Values": [value]}]
            async for page in ec2.get_paginator("describe_tags").paginate(Filters=filters):
                for tag in page["Tags"]:
                    kind, id_ = tag["ResourceType"], tag["ResourceId"]
                    if id_.startswith("sir-"):  # which AWS's own pages call by two names
                        kind = "spot-instances-request"
                    marked.setdefault(kind, set()).add(id_)
        for kind in marked.keys() & _SEEN.keys():
            marked[kind] = await _alive(ec2, kind, marked[kind])
    return sorted(f"{kind} {id_}" for kind, ids in marked.items() for id_ in ids)


async def _alive(ec2: Any, kind: str, ids: set[str]) -> set[str]:
    operation, name, listed, id_ = _SEEN[kind]
    filters = [{"Name": name, "Values": sorted(ids)}] if name else []
    found = (await getattr(ec2, operation)(Filters=filters))[listed]
    if kind == "instance":
        found = [instance for each in found for instance in each["Instances"]]
    return ids & {each[id_] for each in found if _state(each) not in _GONE}


def _state(told: dict[str, Any]) -> str:
    state = told.get("State", "")
    return str(state["Name"] if isinstance(state, dict) else state).lower()


async def instances(region: str, run: str = "*") -> dict[str, dict[str, Any]]:
    """All instances of a run, or of any, that are not terminated, as EC2 tells of them."""
    session = aioboto3.Session(region_name=region)
    async with session.client("ec2") as ec2:
        filters = [{"Name": f"tag:{TEST_TAG}", "Values": [run]}]
        pages = ec2.get_paginator("describe_instances").paginate(Filters=filters)
        return {
            each["InstanceId"]: each
            async for page in pages
            for reservation in page["Reservations"]
            for each in reservation["Instances"]
            if each["State"]["Name"] != "terminated"
        }


async def terminate(region: str, ids: Collection[str]) -> None:
    """End instances, whosesoever they are."""
    if ids:
        session = aioboto3.Session(region_name=region)
        async with session.client("ec2") as ec2:
            await ec2.terminate_instances(InstanceIds=list(ids))


async def objects(region: str, bucket: str, prefix: str = "") -> list[str] | None:
    """The keys in a bucket; ``None``: there is no such bucket."""
    session = aioboto3.Session(region_name=region)
    async with session.client("s3") as s3:
        try:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return [each["Key"] async for page in pages for each in page.get("Contents", ())]
        except s3.exceptions.NoSuchBucket:
            return None


async def delete_bucket(region: str, bucket: str) -> None:
    """Delete a bucket that is empty."""
    session = aioboto3.Session(region_name=region)
    async with session.client("s3") as s3:
        await s3.delete_bucket(Bucket=bucket)
