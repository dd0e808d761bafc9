"""The least that each party must be allowed, as IAM documents made from the table of operations.

A managed policy may have 6,144 characters, white space not counted (IAM's quotas); statements
with the same resources and conditions are therefore one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from dayfly.cloud.ec2.iam.operations import OPERATIONS, On, Operation, Right, When, Who
from dayfly.cloud.ec2.partitions import canonical, ec2_principal, partition
from dayfly.config.sections import Ec2Section
from dayfly.model import ExecMode, Tag

#: For whom a policy can be made; an ``instance`` is master and worker in one role.
Holder: TypeAlias = Literal["client", "master", "worker", "instance"]
HOLDERS: Final = ("client", "master", "worker", "instance")

#: Where objects of ours lie: as in ``dayfly.storage.keys``, which this room cannot see; a test
#: holds them equal.
_ROOT: Final = "dayfly/"
#: The second part is whose they are (``dayfly.storage.scoped``).
_IN, _OUT, _JOBS = f"{_ROOT}*/in/", f"{_ROOT}*/out/", f"{_ROOT}*/jobs/"
_ENVIRONMENTS = f"{_ROOT}*/env/"

_PARTIES: Final[Mapping[Holder, tuple[Who, ...]]] = {
    "client": ("client",),
    "master": ("master",),
    "worker": ("worker",),
    "instance": ("master", "worker"),
}
_REQUESTED: Final = {"StringEquals": {f"aws:RequestTag/{Tag.MANAGED}": "true"}}
_TAGGED: Final = {"StringEquals": {f"aws:ResourceTag/{Tag.MANAGED}": "true"}}

#: An operator, then a key, then what it must be.
Conditions: TypeAlias = Mapping[str, Mapping[str, str | list[str]]]
Statement: TypeAlias = dict[str, Any]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What the documents are about.

    Attributes:
        account: Its number.
        bucket: Its name.
        derived: dayfly has chosen that name, and makes the bucket.
        region: Empty for all regions.
    """

    account: str
    bucket: str
    section: Ec2Section
    derived: bool = True
    region: str = ""

    @property
    def partition(self) -> str:
        """Of AWS: China and the US government have their own."""
        return partition(self.region)

    @property
    def own_network(self) -> bool:
        """Whether the whole network is dayfly's to make."""
        section = self.section
        return not (section.vpc_id or section.subnet_id or section.security_group_id)

    @property
    def subnets(self) -> tuple[str, ...]:
        """Those that were given."""
        given = self.section.subnet_id
        return tuple(filter(None, (given,) if isinstance(given, str) else given))

    def ec2(self, *names: str, account: str | None = None) -> list[str]:
        """ARNs of things of EC2 in this account, unless they are another's."""
        owner = self.account if account is None else account
        return [f"arn:{self.partition}:ec2:{self.region or '*'}:{owner}:{name}" for name in names]

    def s3(self, *prefixes: str) -> list[str]:
        """ARNs of objects."""
        return [f"arn:{self.partition}:s3:::{self.bucket}/{prefix}*" for prefix in prefixes]


def policy(holder: Holder, place: Place) -> dict[str, Any]:
    """The document that grants a holder what it needs in a place, and no more."""
    rights = [
        right for operation in OPERATIONS for right in operation.rights if applies(right, place)
    ]
    return document(_statements([r for r in rights if r.who in _PARTIES[holder]], place))


def missing(operation: Operation, place: Place, action: str = "") -> dict[str, Any]:
    """The document that a client lacks who may not call an operation.

    Args:
        operation: Its row of the table.
        place: Where.
        action: The one action of it that was denied, where that is known.
    """
    rights = [r for r in operation.rights if r.who == "client" and applies(r, place)]
    named = [right for right in rights if right.action == action]
    return document(_statements(named or rights, place))


def document(statements: Iterable[Statement]) -> dict[str, Any]:
    """Statements as a document of IAM."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def applies(right: Right, place: Place) -> bool:
    """Whether a configuration needs a right."""
    section = place.section
    launches = section.exec_mode is not ExecMode.CONSUME
    match right.when:
        case When.ALWAYS | When.CLEAN | When.DOCTOR:
            return True
        case When.LAUNCH | When.IMAGE:
            return launches
        case When.SPOT:
            return launches and section.request_spot_instances
        case When.KEY_PAIR:
            return launches and bool(section.ssh_key_name)
        case When.CONSUME:
            return not launches
        case When.NETWORK:
            return launches and place.own_network
        case When.GROUP:
            return launches and not section.security_group_id
        case When.BUCKET:
            return place.derived


def _statements(rights: Iterable[Right], place: Place) -> list[Statement]:
    """One statement for all actions on the same thing, in the order of their first."""
    merged: dict[str, tuple[list[str], list[str], Conditions]] = {}
    for right in rights:
        resources, conditions = _target(right.on, place)
        key = repr((resources, conditions))
        actions, *_ = merged.setdefault(key, ([], resources, conditions))
        if right.action not in actions:
            actions.append(right.action)
    return [_statement(*parts) for parts in merged.values()]


def _statement(actions: list[str], resources: list[str], conditions: Conditions) -> Statement:
    statement: Statement = {
        "Effect": "Allow",
        "Action": actions if len(actions) > 1 else actions[0],
        "Resource": resources if len(resources) > 1 else resources[0],
    }
    if conditions:
        statement["Condition"] = dict(conditions)
    return statement


def _target(on: On, place: Place) -> tuple[list[str], Conditions]:
    """What a right is granted on: ARNs, and under which conditions."""
    match on:
        case On.EVERYTHING:
            return ["*"], {}
        case On.UBUNTU:
            name = "parameter/aws/service/canonical/ubuntu/*"
            return [f"arn:{place.partition}:ssm:{place.region or '*'}::{name}"], {}
        case On.QUOTAS:
            where = f"{place.region or '*'}:{place.account}"
            return [f"arn:{place.partition}:servicequotas:{where}:ec2/*"], {}
        case On.ROLE | On.SPOT_ROLE:
            return _role(on, place)
        case On.BUCKET | On.LISTING | On.OBJECTS | On.IN | On.OUT | On.JOBS | On.ENVIRONMENTS:
            return _storage(on, place)
        case On.VPC | On.NEW_NETWORK | On.NEW_IN_NETWORK | On.NEW_GROUP | On.PLACE:
            return _network(on, place)
        case _:
            return _instances(on, place)


def _instances(on: On, place: Place) -> tuple[list[str], Conditions]:
    section = place.section
    match on:
        case On.NEW_INSTANCE:
            asked = {**_REQUESTED["StringEquals"], "ec2:MetadataHttpTokens": "required"}
            return place.ec2("instance/*"), {"StringEquals": asked}
        case On.NEW_PARTS:
            kinds = ["volume/*", "network-interface/*"]
            if section.request_spot_instances:
                kinds.append("spot-instances-request/*")
            return place.ec2(*kinds), _REQUESTED
        case On.IMAGE if section.target_ami and not section.target_ami.startswith("ami-"):
            return _instances(On.OUR_IMAGES, place)  # by its name, which only ours have
        case On.IMAGE if section.target_ami:
            return place.ec2(f"image/{section.target_ami}", account=""), {}
        case On.IMAGE:
            owners = ["amazon", canonical(place.region), place.account]
            return place.ec2("image/*", account=""), {"StringEquals": {"ec2:Owner": owners}}
        case On.SNAPSHOT:
            return place.ec2("snapshot/*", account=""), {}
        case On.KEY_PAIR:
            return place.ec2(f"key-pair/{section.ssh_key_name or '*'}"), {}
        case On.BIRTH:
            return place.ec2("*/*"), {"StringEquals": {"ec2:CreateAction": _creators(place)}}
        case On.OUR_INSTANCES:
            return place.ec2("instance/*"), _TAGGED
        case On.OUR_IMAGES:
            return place.ec2("image/*", "snapshot/*", account=""), _TAGGED
        case On.NEW_IMAGES:
            return place.ec2("image/*", "snapshot/*", account=""), _REQUESTED
        case On.BIRTH_OF_IMAGES:
            within = {"StringEquals": {"ec2:CreateAction": "CreateImage"}}
            return place.ec2("image/*", "snapshot/*", account=""), within
        case On.OUR_EXPIRY:
            only = {"ForAllValues:StringEquals": {"aws:TagKeys": [Tag.EXPIRES_AT.value]}}
            return place.ec2("instance/*"), {**_TAGGED, **only}
        case On.CONSUMED:
            return place.ec2(f"instance/{section.instance_id or '*'}"), {}
        case _:
            return place.ec2("*/*"), _TAGGED


def _creators(place: Place) -> list[str]:
    """The actions of IAM that tag what they make."""
    return [
        right.action.removeprefix("ec2:")
        for operation in OPERATIONS
        if any(each.on is On.BIRTH and applies(each, place) for each in operation.rights)
        for right in operation.rights[:1]
    ]


def _network(on: On, place: Place) -> tuple[list[str], Conditions]:
    section = place.section
    inside = ("subnet/*", "route-table/*", "vpc-endpoint/*", "security-group/*")
    match on:
        case On.NEW_NETWORK:
            return place.ec2("vpc/*", "internet-gateway/*"), _REQUESTED
        case On.NEW_GROUP if not place.own_network:
            return place.ec2("security-group/*"), _REQUESTED
        case On.NEW_IN_NETWORK | On.NEW_GROUP:
            return place.ec2(*inside), _REQUESTED
        case On.VPC if section.vpc_id:
            return place.ec2(f"vpc/{section.vpc_id}", account="*"), {}
        case On.VPC if not place.own_network:
            # The subnet's, whose id nobody has told us.
            return place.ec2("vpc/*", account="*"), {}
        case On.VPC:
            return _instances(On.OURS, place)
        case _:
            return _place(place)


def _place(place: Place) -> tuple[list[str], Conditions]:
    """Where VMs are launched into: what was given, by its id, else what carries our tag."""
    section = place.section
    subnets = [f"subnet/{subnet}" for subnet in place.subnets]
    groups = [f"security-group/{section.security_group_id}"] if section.security_group_id else []
    if subnets and groups:
        return place.ec2(*subnets, *groups, account="*"), {}
    if place.own_network:
        return place.ec2("subnet/*", "security-group/*"), _TAGGED
    within = place.ec2(f"vpc/{section.vpc_id or '*'}", account="*")[0]
    # Given and made stand side by side: the network that holds both bounds them.
    either = [*(subnets or ["subnet/*"]), *(groups or ["security-group/*"])]
    return place.ec2(*either, account="*"), {"ArnLike": {"ec2:Vpc": within}}


def _role(on: On, place: Place) -> tuple[list[str], Conditions]:
    iam = f"arn:{place.partition}:iam::{place.account}:role/"
    if on is On.ROLE:
        only = {"iam:PassedToService": ec2_principal(place.region)}
        return [iam + (place.section.instance_role or "*")], {"StringEquals": only}
    path = "aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
    return [iam + path], {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}}


def _storage(on: On, place: Place) -> tuple[list[str], Conditions]:
    bucket = [f"arn:{place.partition}:s3:::{place.bucket}"]
    match on:
        case On.BUCKET:
            return bucket, {}
        case On.LISTING:
            return bucket, {"StringLike": {"s3:prefix": f"{_ROOT}*"}}
        case On.IN:
            return place.s3(_IN), {}
        case On.OUT:
            return place.s3(_OUT), {}
        case On.JOBS:
            return place.s3(_JOBS), {}
        case On.ENVIRONMENTS:
            return place.s3(_ENVIRONMENTS), {}
        case _:
            return place.s3(_ROOT), {}
