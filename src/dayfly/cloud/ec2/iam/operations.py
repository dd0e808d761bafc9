"""Every operation of AWS that dayfly's code calls, and the rights that each needs.

The policies (:mod:`dayfly.cloud.ec2.iam.policies`) are made from this table and a test holds it
equal to the calls in the source, so a right that nothing uses cannot stay, and none can be
missing.

Which resources and condition keys an action knows is stated by AWS's service authorization
reference for EC2, S3, IAM, SSM, STS and Service Quotas.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, TypeAlias

import msgspec

Who: TypeAlias = Literal["client", "master", "worker"]


class When(StrEnum):
    """For which configurations a right is needed."""

    ALWAYS = "always"
    #: VMs are launched: exec_mode create and reuse.
    LAUNCH = "launch"
    #: As spot.
    SPOT = "spot"
    #: ``ssh_key_name`` is given.
    KEY_PAIR = "key pair"
    #: exec_mode consume.
    CONSUME = "consume"
    #: The whole network is ours to make.
    NETWORK = "network"
    #: The security group is, be it in a network that was given.
    GROUP = "group"
    #: The name of the bucket is derived, so dayfly makes the bucket.
    BUCKET = "bucket"
    #: ``dayfly clean`` needs it, jobs do not.
    CLEAN = "clean"
    #: ``dayfly image build`` needs it, jobs do not.
    IMAGE = "image"
    #: ``dayfly doctor`` needs it, jobs do not.
    DOCTOR = "doctor"


class On(StrEnum):
    """What a right is granted on; its ARNs and conditions are in the policies."""

    #: No ARN can narrow it: it only reads.
    EVERYTHING = "everything"
    UBUNTU = "the parameters that name Ubuntu's images"
    QUOTAS = "EC2's quotas"
    NEW_INSTANCE = "an instance that is born tagged, with IMDSv2"
    NEW_PARTS = "volumes, interfaces and spot requests that are born tagged"
    IMAGE = "the image"
    SNAPSHOT = "snapshots that volumes are made from"
    PLACE = "the subnets and the security group"
    KEY_PAIR = "the key pair"
    ROLE = "the role of the VMs"
    SPOT_ROLE = "the role by which EC2 serves spot requests"
    BIRTH = "tags within a call that creates"
    #: ``*/*`` and not each kind: the action says the kind, the tag that it is ours.
    OURS = "what carries our tag"
    OUR_INSTANCES = "instances that carry our tag"
    OUR_EXPIRY = "one tag of instances that carry ours"
    #: Apart, because their ARNs name no account.
    OUR_IMAGES = "images and snapshots that carry our tag"
    NEW_IMAGES = "images and snapshots that are born tagged"
    BIRTH_OF_IMAGES = "tags within the call that creates an image"
    CONSUMED = "the one instance to consume"
    NEW_NETWORK = "a network that is born tagged"
    NEW_IN_NETWORK = "parts of a network that are born tagged"
    NEW_GROUP = "a security group that is born tagged"
    VPC = "the network"
    BUCKET = "the bucket"
    LISTING = "the bucket's listing below dayfly/"
    OBJECTS = "objects below dayfly/"
    IN = "objects below dayfly/*/in/"
    OUT = "objects below dayfly/*/out/"
    JOBS = "objects below dayfly/*/jobs/"
    ENVIRONMENTS = "objects below dayfly/*/env/"


class Right(msgspec.Struct, frozen=True):
    """One action of IAM on one kind of thing."""

    action: str
    on: On = On.EVERYTHING
    when: When = When.ALWAYS
    who: Who = "client"


class Operation(msgspec.Struct, frozen=True):
    """One call of the code.

    Attributes:
        service: Of boto: ``ec2``.
        name: Of boto's method: ``run_instances``.
        why: What dayfly calls it for.
        rights: All that the call needs; none for what everybody may.
    """

    service: str
    name: str
    why: str
    rights: tuple[Right, ...]


def _looks(name: str, why: str, *whens: When) -> Operation:
    """A call that lists: its right cannot be narrowed, and needs not be."""
    action = "".join(word.capitalize() for word in name.split("_"))
    rights = tuple(Right(f"ec2:{action}", when=when) for when in whens or (When.ALWAYS,))
    return Operation("ec2", name, why, rights)


def _born(name: str, why: str, on: On, parent: On | None, when: When) -> Operation:
    """A call that makes something tagged, within something that is there."""
    action = "ec2:" + "".join(word.capitalize() for word in name.split("_"))
    rights = [Right(action, on, when), Right("ec2:CreateTags", On.BIRTH, when)]
    if parent is not None:
        rights.append(Right(action, parent, when))
    return Operation("ec2", name, why, tuple(rights))


def _ours(name: str, why: str, *whens: When) -> Operation:
    """A call that alters or deletes what carries our tag."""
    action = "".join(word.capitalize() for word in name.split("_"))
    rights = tuple(Right(f"ec2:{action}", On.OURS, when) for when in whens)
    return Operation("ec2", name, why, rights)


def _writes(name: str, why: str, action: str = "PutObject") -> Operation:
    """A call that stores: the client anywhere of ours, VMs what they have to tell."""
    rights = (
        Right(f"s3:{action}", On.OBJECTS),
        Right(f"s3:{action}", On.JOBS, who="master"),
        Right(f"s3:{action}", On.ENVIRONMENTS, who="master"),
        Right(f"s3:{action}", On.OUT, who="worker"),
    )
    return Operation("s3", name, why, rights)


def _sets_up(name: str, why: str, action: str) -> Operation:
    """A call at the birth of a bucket."""
    return Operation("s3", name, why, (Right(f"s3:{action}", On.BUCKET, When.BUCKET),))


_LAUNCHES = Operation(
    "ec2",
    "run_instances",
    "launches the master and the workers",
    (
        Right("ec2:RunInstances", On.NEW_INSTANCE, When.LAUNCH),
        Right("ec2:RunInstances", On.NEW_PARTS, When.LAUNCH),
        Right("ec2:RunInstances", On.IMAGE, When.LAUNCH),
        Right("ec2:RunInstances", On.OUR_IMAGES, When.LAUNCH),
        Right("ec2:RunInstances", On.SNAPSHOT, When.LAUNCH),
        Right("ec2:RunInstances", On.PLACE, When.LAUNCH),
        Right("ec2:RunInstances", On.KEY_PAIR, When.KEY_PAIR),
        Right("ec2:CreateTags", On.BIRTH, When.LAUNCH),
        Right("iam:PassRole", On.ROLE, When.LAUNCH),
        Right("iam:CreateServiceLinkedRole", On.SPOT_ROLE, When.SPOT),
    ),
)


OPERATIONS: Final = (
    # -- who and where --
    Operation("sts", "get_caller_identity", "asks who is calling", ()),
    Operation(
        "ssm",
        "get_parameter",
        "finds the newest Ubuntu",
        (Right("ssm:GetParameter", On.UBUNTU, When.LAUNCH),),
    ),
    _looks("describe_images", "reads the image"),
    _looks("describe_instance_types", "reads vCPUs and architecture"),
    _looks("describe_spot_price_history", "estimates what spot instances cost"),
    # -- instances --
    _LAUNCHES,
    _looks("describe_instances", "sees what exists"),
    Operation(
        "ec2",
        "start_instances",
        "starts what is stopped",
        (
            Right("ec2:StartInstances", On.OUR_INSTANCES, When.LAUNCH),
            Right("ec2:StartInstances", On.CONSUMED, When.CONSUME),
        ),
    ),
    Operation(
        "ec2",
        "stop_instances",
        "stops the master, and workers whose disk is kept",
        (
            Right("ec2:StopInstances", On.OUR_INSTANCES, When.LAUNCH),
            Right("ec2:StopInstances", On.CONSUMED, When.CONSUME),
        ),
    ),
    Operation(
        "ec2",
        "terminate_instances",
        "ends workers that should have ended themselves; clean",
        (
            Right("ec2:TerminateInstances", On.OUR_INSTANCES, When.LAUNCH),
            Right("ec2:TerminateInstances", On.OUR_INSTANCES, When.CLEAN),
        ),
    ),
    Operation(
        "ec2",
        "create_tags",
        "puts off the day on which the sweep takes an instance",
        (Right("ec2:CreateTags", On.OUR_EXPIRY, When.LAUNCH),),
    ),
    Operation(
        "ec2",
        "get_console_output",
        "reads what a VM that never answers has printed",
        (
            Right("ec2:GetConsoleOutput", On.OUR_INSTANCES, When.LAUNCH),
            Right("ec2:GetConsoleOutput", On.CONSUMED, When.CONSUME),
        ),
    ),
    Operation(
        "ec2",
        "describe_instance_attribute",
        "reads whether a poweroff would delete the VM to consume",
        (Right("ec2:DescribeInstanceAttribute", On.CONSUMED, When.CONSUME),),
    ),
    Operation(
        "ec2",
        "create_image",
        "makes an image of a VM",
        (
            Right("ec2:CreateImage", On.OUR_INSTANCES, When.IMAGE),
            Right("ec2:CreateImage", On.NEW_IMAGES, When.IMAGE),
            Right("ec2:CreateTags", On.BIRTH_OF_IMAGES, When.IMAGE),
        ),
    ),
    # -- network --
    _looks("describe_vpcs", "finds the network"),
    _looks("describe_subnets", "finds the subnets and their free addresses"),
    _looks("describe_security_groups", "finds the security group"),
    _looks("describe_internet_gateways", "finds our network's gateway", When.NETWORK, When.CLEAN),
    _looks("describe_route_tables", "finds our network's routes", When.NETWORK, When.CLEAN),
    _looks("describe_vpc_endpoints", "finds our network's way to S3", When.NETWORK, When.CLEAN),
    _looks("describe_availability_zones", "one subnet goes to each zone", When.NETWORK),
    _born("create_vpc", "makes a network", On.NEW_NETWORK, None, When.NETWORK),
    _born("create_internet_gateway", "makes its gateway", On.NEW_NETWORK, None, When.NETWORK),
    _born("create_subnet", "makes its subnets", On.NEW_IN_NETWORK, On.OURS, When.NETWORK),
    _born("create_route_table", "makes its routes", On.NEW_IN_NETWORK, On.OURS, When.NETWORK),
    _born("create_vpc_endpoint", "leads to S3", On.NEW_IN_NETWORK, On.OURS, When.NETWORK),
    _born("create_security_group", "lets SSH in", On.NEW_GROUP, On.VPC, When.GROUP),
    _ours("attach_internet_gateway", "leads out", When.NETWORK),
    _ours("create_route", "leads out", When.NETWORK),
    _ours("associate_route_table", "leads out", When.NETWORK),
    _ours("authorize_security_group_ingress", "lets SSH in", When.GROUP),
    _ours("revoke_security_group_ingress", "when the caller's address changes", When.GROUP),
    # -- clean --
    _looks("describe_volumes", "finds what is left", When.CLEAN),
    _looks("describe_network_interfaces", "finds what is left", When.CLEAN),
    _looks("describe_spot_instance_requests", "finds what is left", When.CLEAN),
    _looks("describe_launch_templates", "finds what is left", When.CLEAN),
    _looks("describe_key_pairs", "finds what is left", When.CLEAN),
    _looks("describe_snapshots", "finds what is left", When.CLEAN),
    _ours("cancel_spot_instance_requests", "gives it back", When.CLEAN),
    _ours("delete_volume", "gives it back", When.CLEAN),
    _ours("delete_network_interface", "gives it back", When.CLEAN),
    _ours("delete_launch_template", "gives it back", When.CLEAN),
    _ours("delete_key_pair", "gives it back", When.CLEAN),
    Operation(
        "ec2",
        "deregister_image",
        "gives it back",
        (Right("ec2:DeregisterImage", On.OUR_IMAGES, When.CLEAN),),
    ),
    Operation(
        "ec2",
        "delete_snapshot",
        "gives it back",
        (Right("ec2:DeleteSnapshot", On.OUR_IMAGES, When.CLEAN),),
    ),
    _ours("delete_security_group", "gives it back", When.CLEAN),
    _ours("delete_vpc_endpoints", "gives it back", When.CLEAN),
    _ours("disassociate_route_table", "gives it back", When.CLEAN),
    _ours("delete_route_table", "gives it back", When.CLEAN),
    _ours("detach_internet_gateway", "gives it back", When.CLEAN),
    _ours("delete_internet_gateway", "gives it back", When.CLEAN),
    _ours("delete_subnet", "gives it back", When.CLEAN),
    # Also of two clients that make a network at the same time, the one that comes second.
    _ours("delete_vpc", "gives it back", When.CLEAN, When.NETWORK),
    # -- doctor --
    _looks(
        "describe_instance_type_offerings",
        "sees which zones have the type",
        When.DOCTOR,
        When.NETWORK,
    ),
    Operation(
        "service-quotas",
        "get_service_quota",
        "compares the fleet with the quota",
        (Right("servicequotas:GetServiceQuota", On.QUOTAS, When.DOCTOR),),
    ),
    Operation(
        "sts",
        "decode_authorization_message",
        "reads which right a refused call lacks",
        (Right("sts:DecodeAuthorizationMessage", when=When.DOCTOR),),
    ),
    # -- storage --
    _writes("put_object", "stores what is small"),
    _writes("create_multipart_upload", "begins to store what is large"),
    _writes("upload_part", "stores a part of it"),
    _writes("complete_multipart_upload", "makes the parts an object"),
    _writes("abort_multipart_upload", "leaves no parts of what failed", "AbortMultipartUpload"),
    Operation(
        "s3",
        "get_object",
        "reads",
        (
            Right("s3:GetObject", On.OBJECTS),
            Right("s3:GetObject", On.IN, who="worker"),
            Right("s3:GetObject", On.ENVIRONMENTS, who="master"),
            Right("s3:GetObject", On.ENVIRONMENTS, who="worker"),
        ),
    ),
    Operation(
        "s3",
        "head_object",
        "reads a size",
        (
            Right("s3:GetObject", On.OBJECTS),
            Right("s3:GetObject", On.ENVIRONMENTS, who="master"),
        ),
    ),
    Operation("s3", "list_objects_v2", "lists", (Right("s3:ListBucket", On.LISTING),)),
    Operation("s3", "delete_object", "gives it back", (Right("s3:DeleteObject", On.OBJECTS),)),
    Operation("s3", "delete_objects", "gives it back", (Right("s3:DeleteObject", On.OBJECTS),)),
    # After a denial only, whose cause they may tell; what they need is more than they are worth.
    Operation("s3", "head_bucket", "looks whose the bucket is", ()),
    Operation("s3", "list_buckets", "looks whose the bucket is", ()),
    _sets_up("create_bucket", "makes the bucket", "CreateBucket"),
    _sets_up("put_public_access_block", "closes it to the world", "PutBucketPublicAccessBlock"),
    _sets_up("put_bucket_tagging", "marks it as ours", "PutBucketTagging"),
    _sets_up(
        "put_bucket_lifecycle_configuration", "clears uploads away", "PutLifecycleConfiguration"
    ),
)
