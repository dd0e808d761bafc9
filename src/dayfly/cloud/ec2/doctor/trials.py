"""The calls by which ``doctor`` tries the client's permissions.

Whether a call is permitted depends on what it is about: on its tags, its network, its role. So
launches are run dry with the parameters of real ones, and alterations on things of ours; what
does not exist yet cannot be asked about, and is told so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.doctor.permitted import Probe
from dayfly.cloud.ec2.doctor.usage import purse
from dayfly.cloud.ec2.iam.operations import OPERATIONS, When
from dayfly.cloud.ec2.iam.policies import Place, applies
from dayfly.cloud.ec2.launch.images import Image
from dayfly.cloud.ec2.launch.pools import Batch, Pool
from dayfly.cloud.ec2.launch.quotas import code_of
from dayfly.cloud.ec2.launch.recipe import Recipe, pack_user_data, parameters, volumes
from dayfly.cloud.ec2.network.ensuring import Network
from dayfly.config.sections import Ec2Section
from dayfly.model import ExecMode, InstanceSpec, Role, Tag

Call: TypeAlias = Callable[[], Awaitable[object]]

#: What jobs can do without.
_SPARE: Final = frozenset({When.CLEAN, When.DOCTOR, When.IMAGE})
#: Who may not call it finds the image by its name.
_SPARED: Final = "get_parameter"
#: One of those that :mod:`dayfly.cloud.ec2.launch.images` reads.
_UBUNTU: Final = (
    "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id"
)
_OURS: Final = {Tag.MANAGED.value: "true"}


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What is there to try calls on.

    Attributes:
        section: The configuration.
        images: By instance type.
        burstable: Instance types with CPU credits.
        network: Where VMs are launched; ``None``: not made yet.
        instance: One of ours, or the one to consume; empty: there is none.
    """

    section: Ec2Section
    images: Mapping[str, Image] = {}
    burstable: tuple[str, ...] = ()
    network: Network | None = None
    instance: str = ""


def reads(api: Ec2Api, place: Place) -> list[Probe]:
    """The calls that only read, as small as they can be."""
    one = [{"Name": "instance-type", "Values": ["t3.micro"]}]
    calls: dict[str, Call] = {
        "describe_images": lambda: api.call("describe_images", Owners=["self"], MaxResults=5),
        "describe_instance_types": lambda: api.call("describe_instance_types", Filters=one),
        "describe_instance_type_offerings": lambda: api.call(
            "describe_instance_type_offerings", Filters=one
        ),
        "describe_spot_price_history": lambda: api.call(
            "describe_spot_price_history", MaxResults=5
        ),
        "describe_instances": lambda: api.call("describe_instances", MaxResults=5),
        "describe_vpcs": lambda: api.call("describe_vpcs", MaxResults=5),
        "describe_subnets": lambda: api.call("describe_subnets", MaxResults=5),
        "describe_security_groups": lambda: api.call("describe_security_groups", MaxResults=5),
        "describe_internet_gateways": lambda: api.call("describe_internet_gateways", MaxResults=5),
        "describe_route_tables": lambda: api.call("describe_route_tables", MaxResults=5),
        "describe_vpc_endpoints": lambda: api.call("describe_vpc_endpoints", MaxResults=5),
        "describe_availability_zones": lambda: api.call("describe_availability_zones"),
        "describe_volumes": lambda: api.call("describe_volumes", MaxResults=5),
        "describe_network_interfaces": lambda: api.call(
            "describe_network_interfaces", MaxResults=5
        ),
        "describe_spot_instance_requests": lambda: api.call(
            "describe_spot_instance_requests", MaxResults=5
        ),
        "get_parameter": lambda: api.call("get_parameter", service="ssm", Name=_UBUNTU),
        "get_service_quota": lambda: api.call(
            "get_service_quota",
            service="service-quotas",
            ServiceCode="ec2",
            QuotaCode=code_of(purse("t3.medium", spot=True)),
        ),
        "describe_launch_templates": lambda: api.call("describe_launch_templates", MaxResults=5),
        "describe_key_pairs": lambda: api.call("describe_key_pairs"),
        "describe_snapshots": lambda: api.call(
            "describe_snapshots", OwnerIds=["self"], MaxResults=5
        ),
    }
    return [
        Probe(operation=name, call=calls[name], needed=bool(whens - _SPARE) and name != _SPARED)
        for name, whens in _wanted(calls, place).items()
    ]


def _wanted(names: Iterable[str], place: Place) -> dict[str, frozenset[When]]:
    """Which of the operations a configuration needs, and for what."""
    found = {}
    for operation in OPERATIONS:
        whens = frozenset(right.when for right in operation.rights if applies(right, place))
        if operation.name in names and whens:
            found[operation.name] = whens
    return found


def dry_runs(api: Ec2Api, place: Place, scene: Scene) -> tuple[list[Probe], list[str]]:
    """The calls that change something, and the names of those that there is nothing for yet."""
    if scene.section.exec_mode is ExecMode.CONSUME:
        probes = _on_instance(api, scene.instance)
        kept = {"start_instances", "stop_instances", "get_console_output"}
        probes = [probe for probe in probes if probe.operation in kept]
        attribute = "instanceInitiatedShutdownBehavior"
        probes.append(
            Probe(
                operation="describe_instance_attribute",
                call=lambda: api.call(
                    "describe_instance_attribute", InstanceId=scene.instance, Attribute=attribute
                ),
            )
        )
    else:
        probes = [*_launches(api, place, scene), *_on_network(api, place, scene)]
        if scene.instance:
            probes += _on_instance(api, scene.instance)
    return probes, _untried(place, scene, {probe.operation for probe in probes})


def _untried(place: Place, scene: Scene, tried: set[str]) -> list[str]:
    """What changes something and is not tried, although jobs will need it."""
    writes = [o.name for o in OPERATIONS if o.service == "ec2" and not o.name.startswith("desc")]
    spare = _SPARE | ({When.NETWORK, When.GROUP} if scene.network else frozenset())
    wanted = _wanted(writes, place)
    return [name for name, whens in wanted.items() if name not in tried and whens - spare]


def _launches(api: Ec2Api, place: Place, scene: Scene) -> list[Probe]:
    section = scene.section
    asked: list[tuple[Role, str, bool]] = [
        ("master", section.master_instance_type, False),
        ("worker", section.worker_instance_types[0], section.request_spot_instances),
    ]
    foreign = ""
    if scene.network is None and not place.subnets:
        foreign = "it was tried in the default network, for want of our own"

    def probe(role: Role, instance_type: str, spot: bool) -> Probe:
        told = launch(place, scene, role, instance_type, spot=spot)
        return Probe(
            operation="run_instances",
            call=lambda: api.call("run_instances", **told, DryRun=True),
            what=f"the {role}, {instance_type}{' as spot' if spot else ''}",
            foreign=foreign,
        )

    return [probe(*each) for each in asked if each[1] in scene.images]


def launch(
    place: Place, scene: Scene, role: Role, instance_type: str, *, spot: bool
) -> dict[str, Any]:
    """The parameters of a launch as a job would say them, as far as they can be known here."""
    section, image = scene.section, scene.images[instance_type]
    subnet = scene.network.subnets[0] if scene.network else None
    spec = InstanceSpec(
        role=role,
        instance_types=[instance_type],
        on_poweroff="terminate" if role == "worker" else "stop",
        user_data="",
        tags={**section.tags, **_OURS},
        spot=spot,
    )
    recipe = Recipe(
        spec=spec,
        user_data=pack_user_data(""),
        images={instance_type: image.id},
        volumes={
            instance_type: volumes(
                section.ebs_volumes, root_device=image.root_device, root_size=image.min_root
            )
        },
        burstable=list(scene.burstable),
        public={} if subnet is None or subnet.public is None else {subnet.id: subnet.public},
        security_group=scene.network.security_group if scene.network else "",
        own_network=False,
        profile=section.instance_role,
        key_name=section.ssh_key_name,
        hops=1,
        launch="doctor",
    )
    pool = Pool(
        instance_type=instance_type,
        spot=spot,
        subnet=subnet.id if subnet else "",
        zone=subnet.zone if subnet else "",
        family="",
        vcpus=1,
    )
    told = parameters(recipe, Batch(pool=pool, count=1), "")
    # A dry run is nothing that could be done twice.
    del told["ClientToken"]
    if subnet is None and place.subnets:
        told["NetworkInterfaces"] = [{"DeviceIndex": 0, "SubnetId": place.subnets[0]}]
    elif subnet is None:
        del told["NetworkInterfaces"]
    return told


def _on_instance(api: Ec2Api, instance: str) -> list[Probe]:
    ids = [instance]
    later = [{"Key": Tag.EXPIRES_AT.value, "Value": "0"}]
    calls: dict[str, Call] = {
        "start_instances": lambda: api.call("start_instances", InstanceIds=ids, DryRun=True),
        "stop_instances": lambda: api.call("stop_instances", InstanceIds=ids, DryRun=True),
        "terminate_instances": lambda: api.call(
            "terminate_instances", InstanceIds=ids, DryRun=True
        ),
        "create_tags": lambda: api.call("create_tags", Resources=ids, Tags=later, DryRun=True),
        "get_console_output": lambda: api.call(
            "get_console_output", InstanceId=instance, DryRun=True
        ),
    }
    return [Probe(operation=name, call=call) for name, call in calls.items()]


def _on_network(api: Ec2Api, place: Place, scene: Scene) -> list[Probe]:
    if scene.network is None:
        calls = _making(api, scene.section)
    else:
        calls = _altering(api, place, scene.network)
    return [
        Probe(operation=name, call=calls[name], needed=bool(whens - _SPARE))
        for name, whens in _wanted(calls, place).items()
    ]


def _making(api: Ec2Api, section: Ec2Section) -> dict[str, Call]:
    def born(kind: str) -> list[dict[str, Any]]:
        tags = [{"Key": key, "Value": value} for key, value in _OURS.items()]
        return [{"ResourceType": kind, "Tags": tags}]

    calls: dict[str, Call] = {
        "create_vpc": lambda: api.call(
            "create_vpc", CidrBlock="10.0.0.0/16", TagSpecifications=born("vpc"), DryRun=True
        ),
        "create_internet_gateway": lambda: api.call(
            "create_internet_gateway", TagSpecifications=born("internet-gateway"), DryRun=True
        ),
    }
    if section.vpc_id:
        calls["create_security_group"] = lambda: api.call(
            "create_security_group",
            GroupName="dayfly-doctor",
            Description="dayfly doctor: never made",
            VpcId=section.vpc_id,
            TagSpecifications=born("security-group"),
            DryRun=True,
        )
    return calls


def _altering(api: Ec2Api, place: Place, network: Network) -> dict[str, Call]:
    if place.section.security_group_id:
        return {}  # what is given is never altered
    group = network.security_group
    # From nowhere: a block that documentation reserves (RFC 5737).
    rule = [
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22,
         "IpRanges": [{"CidrIp": "192.0.2.1/32"}]}
    ]  # fmt: skip
    calls: dict[str, Call] = {
        "authorize_security_group_ingress": lambda: api.call(
            "authorize_security_group_ingress", GroupId=group, IpPermissions=rule, DryRun=True
        ),
        "revoke_security_group_ingress": lambda: api.call(
            "revoke_security_group_ingress", GroupId=group, IpPermissions=rule, DryRun=True
        ),
        "delete_security_group": lambda: api.call(
            "delete_security_group", GroupId=group, DryRun=True
        ),
    }
    if place.own_network:
        calls["delete_subnet"] = lambda: api.call(
            "delete_subnet", SubnetId=network.subnets[0].id, DryRun=True
        )
        calls["delete_vpc"] = lambda: api.call("delete_vpc", VpcId=network.vpc, DryRun=True)
    return calls
