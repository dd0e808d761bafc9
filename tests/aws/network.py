"""What of a network is in use and cannot be deleted, and what of it can be but once."""

from __future__ import annotations

from typing import Any

from tests.aws.refusals import Refusal
from tests.aws.world import World


def check_deletion(world: World, action: str, resource: str) -> None:
    """Refuse to delete what something else depends on.

    Raises:
        Refusal: ``DependencyViolation``.
    """
    reason = _DEPENDENTS[action](world, resource)
    if reason:
        raise Refusal("DependencyViolation", reason)


def check_creation(world: World, action: str, params: dict[str, Any]) -> None:
    """Refuse what a network has already.

    Raises:
        Refusal: Only one can be.
    """
    _RIVALS[action](world, params)


def _second_gateway(world: World, params: dict[str, Any]) -> None:
    vpc = params["VpcId"]
    for each in world.backend.internet_gateways.values():
        if each.vpc is not None and each.vpc.id == vpc and each.id != params["InternetGatewayId"]:
            message = f"Network {vpc} already has an internet gateway attached"
            raise Refusal("InvalidParameterValue", message)


def _second_table(world: World, params: dict[str, Any]) -> None:
    subnet = params.get("SubnetId")
    for table in world.backend.route_tables.values():
        if table.id != params["RouteTableId"] and subnet in table._associations.values():
            message = f"the specified association for route table {params['RouteTableId']} "
            raise Refusal(
                "Resource.AlreadyAssociated", message + "conflicts with an existing association"
            )


def _second_endpoint(world: World, params: dict[str, Any]) -> None:
    tables = set(params.get("RouteTableIds", []))
    for each in world.backend.vpc_end_points.values():
        shared = tables & set(each.route_table_ids or [])
        if each.state != "deleted" and each.service_name == params["ServiceName"] and shared:
            message = f"route table {shared.pop()} already has a route to {each.service_name}"
            raise Refusal("RouteAlreadyExists", message)


def forget_subnet(world: World, subnet_id: str) -> None:
    """Route tables let go of a subnet that is deleted, which moto's do not."""
    for table in world.backend.route_tables.values():
        for name in list(table._associations):
            if table._associations[name] == subnet_id:
                del table._associations[name]


def _of_group(world: World, group_id: str) -> str:
    backend = world.backend
    group = backend.get_security_group_from_id(group_id)
    if group is None:
        return ""
    if group.name == "default":
        raise Refusal(
            "CannotDelete",
            f'the specified group: "{group_id}" name: "default" cannot be deleted by a user',
        )
    used = any(group in nic.group_set for nic in backend.enis.values())
    named = any(
        (rule.source_group or {}).get("GroupId") == group_id
        for other in backend.groups[group.vpc_id].values()
        if other.id != group_id
        for rule in [*other.ingress_rules, *other.egress_rules]
    )
    return f"resource {group_id} has a dependent object" if used or named else ""


def _of_subnet(world: World, subnet_id: str) -> str:
    used = any(nic.subnet.id == subnet_id for nic in world.backend.enis.values())
    message = f"The subnet '{subnet_id}' has dependencies and cannot be deleted."
    return message if used else ""


def _of_vpc(world: World, vpc_id: str) -> str:
    backend = world.backend
    gateways = any(
        each.vpc is not None and each.vpc.id == vpc_id
        for each in backend.internet_gateways.values()
    )
    groups = any(group.name != "default" for group in backend.groups[vpc_id].values())
    endpoints = any(
        each.vpc_id == vpc_id and each.state != "deleted"
        for each in backend.vpc_end_points.values()
    )
    message = f"The vpc '{vpc_id}' has dependencies and cannot be deleted."
    return message if gateways or groups or endpoints else ""


def _of_gateway(world: World, vpc_id: str) -> str:
    public: list[Any] = [
        nic for nic in world.backend.enis.values() if nic.subnet.vpc_id == vpc_id and nic.public_ip
    ]
    message = f"Network {vpc_id} has some mapped public address(es). Please unmap those first."
    return message if public else ""


_DEPENDENTS = {
    "DeleteSecurityGroup": _of_group,
    "DeleteSubnet": _of_subnet,
    "DeleteVpc": _of_vpc,
    "DetachInternetGateway": _of_gateway,
}

_RIVALS = {
    "AttachInternetGateway": _second_gateway,
    "AssociateRouteTable": _second_table,
    "CreateVpcEndpoint": _second_endpoint,
}
