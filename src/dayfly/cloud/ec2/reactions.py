"""EC2's error codes, and what each of them asks of us.

Source: the EC2 API reference, "Error codes for the Amazon EC2 API"; where a code is known to
mean something else than it says, the comment beside it tells.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec


class Kind(StrEnum):
    """What to do about an error."""

    #: The pool has no instances now: the next pool, and not this one for some minutes.
    DRY = "dry"
    #: This pool will never do: the next one.
    UNFIT = "unfit"
    #: The subnet has no free addresses: the other subnets.
    SUBNET_FULL = "subnet full"
    #: A quota of the account: shrink to fit, and say which one.
    QUOTA = "quota"
    #: Too fast: the same call again, later.
    THROTTLED = "throttled"
    #: Nobody knows whether it happened: the very same call again.
    UNKNOWN = "unknown"
    #: An instance profile that was made seconds ago: the same call again, for a minute.
    NEW_PROFILE = "new profile"
    #: Not known, or not yet.
    ABSENT = "absent"
    #: The state changed meanwhile: look again.
    RACE = "race"
    #: The launch happened, and what it launched has ended.
    ENDED = "ended"
    #: A key of the configuration must change.
    CONFIG = "config"
    #: A permission is missing.
    DENIED = "denied"
    #: The account or its credentials.
    ACCOUNT = "account"
    #: Ours to repair.
    BUG = "bug"
    #: Anything else: an error of its caller's.
    OTHER = "other"


class Reaction(msgspec.Struct, frozen=True, kw_only=True):
    """What one error code asks of us.

    Attributes:
        kind: What to do.
        words: What it means, for people.
        keys: The keys of section ``aws_ec2`` that it is about.
        hint: What the user should do next.
        quota: Which quota it is about: ``on-demand``, ``spot`` or ``volumes``.
    """

    kind: Kind
    words: str
    keys: tuple[str, ...] = ()
    hint: str = ""
    quota: str = ""


def _config(words: str, *keys: str, hint: str = "") -> Reaction:
    return Reaction(
        kind=Kind.CONFIG, words=words, keys=keys, hint=hint or f"correct {' or '.join(keys)}"
    )


def _quota(words: str, quota: str) -> Reaction:
    return Reaction(kind=Kind.QUOTA, words=words, quota=quota)


_DRY = Reaction(kind=Kind.DRY, words="EC2 has no such instances there now")
_THROTTLED = Reaction(
    kind=Kind.THROTTLED, words="the account calls EC2 faster than its rate limit allows"
)
_UNKNOWN = Reaction(kind=Kind.UNKNOWN, words="EC2 failed, and the outcome is not known")
_ON_DEMAND = _quota("the account's quota of on-demand vCPUs is used up", "on-demand")
_ABSENT = Reaction(kind=Kind.ABSENT, words="EC2 knows no such resource, or not yet")
_RACE = Reaction(kind=Kind.RACE, words="its state does not allow that now")
_TYPE = ("worker_instance_type", "master_instance_type")
_DENIED = Reaction(
    kind=Kind.DENIED,
    words="the credentials lack a permission",
    hint="dayfly doctor prints the statement that is missing",
)
_KEYS = Reaction(
    kind=Kind.ACCOUNT,
    words="the credentials are not valid, or not any more",
    hint="aws sts get-caller-identity",
)
_ACCOUNT = Reaction(
    kind=Kind.ACCOUNT,
    words="the account may not use EC2 now",
    hint="look at https://console.aws.amazon.com/support",
)

REACTIONS: Final[dict[str, Reaction]] = {
    # Capacity. The first one comes as HTTP 500, and yet it is an answer, no failure.
    "InsufficientInstanceCapacity": _DRY,
    "InsufficientHostCapacity": _DRY,
    "InsufficientReservedInstanceCapacity": _DRY,
    "InsufficientCapacity": _DRY,
    "UnfulfillableCapacity": _DRY,
    "InsufficientFreeAddressesInSubnet": Reaction(
        kind=Kind.SUBNET_FULL,
        words="the subnet has too few free addresses",
        keys=("subnet_id",),
        hint="give larger subnets, or more of them, in subnet_id",
    ),
    "SpotMaxPriceTooLow": Reaction(
        kind=Kind.UNFIT, words="the highest price that was offered is below the spot price"
    ),
    # Quotas.
    "MaxSpotInstanceCountExceeded": _quota("the account's quota of spot vCPUs is used up", "spot"),
    "VcpuLimitExceeded": _ON_DEMAND,
    "InstanceLimitExceeded": _ON_DEMAND,
    "MaxFleetCountExceeded": _ON_DEMAND,
    "VolumeLimitExceeded": _quota("the account's quota of volumes is used up", "volumes"),
    "MaxIOPSLimitExceeded": _quota("the account's quota of volumes is used up", "volumes"),
    # Too fast.
    "RequestLimitExceeded": _THROTTLED,
    "EC2ThrottledException": _THROTTLED,
    "Throttling": _THROTTLED,
    "ThrottlingException": _THROTTLED,
    "ThrottledException": _THROTTLED,
    "RequestThrottled": _THROTTLED,
    "RequestThrottledException": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
    "SlowDown": _THROTTLED,
    "BandwidthLimitExceeded": _THROTTLED,
    # Nobody knows.
    "InternalError": _UNKNOWN,
    "InternalFailure": _UNKNOWN,
    "InternalServerError": _UNKNOWN,
    "ServerInternal": _UNKNOWN,
    "Unavailable": _UNKNOWN,
    "ServiceUnavailable": _UNKNOWN,
    "RequestTimeout": _UNKNOWN,
    "RequestTimeoutException": _UNKNOWN,
    # States.
    "InvalidInstanceID.NotFound": _ABSENT,
    "InvalidInstanceID.Malformed": _ABSENT,
    "InvalidID": _ABSENT,
    "IncorrectInstanceState": _RACE,
    "IncorrectState": _RACE,
    "IdempotentInstanceTerminated": Reaction(
        kind=Kind.ENDED, words="it was launched before, and has been terminated since"
    ),
    "IdempotentParameterMismatch": Reaction(
        kind=Kind.BUG,
        words="one token was used for two different launches",
        hint="please report it, with the log at log_level: debug",
    ),
    # The configuration.
    "InvalidAMIID.NotFound": _config("there is no such image in the region", "target_ami"),
    "InvalidAMIID.Malformed": _config("an image's id looks like ami-0123...", "target_ami"),
    "InvalidAMIID.Unavailable": _config("the image is not there any more", "target_ami"),
    "InvalidSubnetID.NotFound": _config("there is no such subnet in the region", "subnet_id"),
    "InvalidSubnetId.NotFound": _config("there is no such subnet in the region", "subnet_id"),
    "InvalidSubnetID.Malformed": _config("a subnet's id looks like subnet-0123...", "subnet_id"),
    "InvalidSubnet": _config("the subnet cannot be used", "subnet_id"),
    "InvalidVpcID.NotFound": _config("there is no such network in the region", "vpc_id"),
    "InvalidVpcID.Malformed": _config("a network's id looks like vpc-0123...", "vpc_id"),
    "InvalidGroup.NotFound": _config("there is no such security group", "security_group_id"),
    "InvalidGroupId.Malformed": _config("a group's id looks like sg-0123...", "security_group_id"),
    "InvalidGroupID.Malformed": _config("a group's id looks like sg-0123...", "security_group_id"),
    "InvalidSecurityGroupID.NotFound": _config(
        "there is no such security group", "security_group_id"
    ),
    "InvalidKeyPair.NotFound": _config("there is no such key pair in the region", "ssh_key_name"),
    "InvalidIamInstanceProfileArn.Malformed": _config(
        "the role's name, not its ARN", "instance_role"
    ),
    "InvalidBlockDeviceMapping": _config("the volumes cannot be made so", "ebs_volumes"),
    "InvalidSnapshot.NotFound": _config("there is no such snapshot", "ebs_volumes"),
    "InvalidInstanceType": _config("there is no such instance type in the region", *_TYPE),
    "InvalidParameterValue": _config(
        "EC2 does not accept a value", "target_ami", *_TYPE, "ebs_volumes", "tags"
    ),
    "InvalidParameterCombination": _config(
        "EC2 does not accept these values together", "target_ami", *_TYPE, "ebs_volumes"
    ),
    "InvalidParameter": _config("EC2 does not accept a value", *_TYPE, "subnet_id", "target_ami"),
    "MissingParameter": _config("EC2 lacks a value", "ebs_volumes"),
    "VPCIdNotSpecified": _config(
        "the region has no default network, and none was given", "vpc_id", "subnet_id"
    ),
    "TagLimitExceeded": _config("a resource has at most 50 tags", "tags"),
    "Unsupported": _config("the region, or the image, does not support that", *_TYPE, "target_ami"),
    "UnsupportedOperation": _config("EC2 does not do that", *_TYPE, "target_ami"),
    # The account.
    "UnauthorizedOperation": _DENIED,
    "AccessDenied": _DENIED,
    "AccessDeniedException": _DENIED,
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": Reaction(
        kind=Kind.DENIED,
        words="the first spot instance of an account needs a role that may not be made",
        keys=("request_spot_instances",),
        hint="aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
    ),
    "AuthFailure": _KEYS,
    "ExpiredToken": _KEYS,
    "ExpiredTokenException": _KEYS,
    "RequestExpired": _KEYS,
    "InvalidClientTokenId": _KEYS,
    "UnrecognizedClientException": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "OptInRequired": _ACCOUNT,
    "PendingVerification": _ACCOUNT,
    "Blocked": _ACCOUNT,
}

#: A call that broke off.
NO_ANSWER: Final = _UNKNOWN
_OTHER = Reaction(kind=Kind.OTHER, words="")
_NEW_PROFILE = Reaction(
    kind=Kind.NEW_PROFILE,
    words="there is no such instance profile, or it was made seconds ago",
    keys=("instance_role",),
    hint="aws iam get-instance-profile --instance-profile-name NAME",
)
_NOT_IN_ZONE = Reaction(
    kind=Kind.UNFIT, words="the zone does not have this instance type", keys=(*_TYPE, "subnet_id")
)
_ARCHITECTURE = _config(
    "the image is not for the processor of this instance type", "target_ami", *_TYPE
)

#: Codes that mean different things: what their message says decides. The first that fits.
_MESSAGES: Final = (
    ("OptInRequired", r"(?i)marketplace", _config(
        "the image is sold on AWS Marketplace, and its terms have not been accepted", "target_ami",
        hint="accept them at the address above, or leave target_ami out")),
    ("AuthFailure", r"(?i)not authorized for images", _config(
        "the image is another account's, and not shared", "target_ami")),
    ("InvalidParameterValue", r"(?i)iam instance profile", _NEW_PROFILE),
    ("InvalidParameterValue", r"(?i)architecture", _ARCHITECTURE),
    (
        "InvalidParameterValue",
        r"(?i)instance ?type",
        _config("there is no such instance type in the region", *_TYPE),
    ),
    ("InvalidParameterValue", r"(?i)ssh key|keyname|key pair",
     _config("the key pair cannot be used", "ssh_key_name")),
    ("InvalidParameterValue", r"(?i)volume|device|iops|throughput|snapshot",
     _config("the volumes cannot be made so", "ebs_volumes")),
    ("Unsupported", r"(?i)availability zone", _NOT_IN_ZONE),
    ("Unsupported", r"(?i)architecture", _ARCHITECTURE),
    ("InvalidParameterCombination", r"(?i)availability zone", _NOT_IN_ZONE),
)  # fmt: skip


def reaction(code: str, message: str = "", status: int = 400) -> Reaction:
    """What an error of EC2 asks of us.

    Args:
        code: Such as ``InsufficientInstanceCapacity``, or the reason of an instance's end,
            ``Server.InsufficientInstanceCapacity``.
        message: What came with it.
        status: Of the HTTP answer; decides for a code that nobody knows.
    """
    code = code.removeprefix("Server.").removeprefix("Client.")
    for known, pattern, meant in _MESSAGES:
        if code == known and re.search(pattern, message):
            return meant
    if code in REACTIONS:
        return REACTIONS[code]
    if status == 429:
        return _THROTTLED
    return _UNKNOWN if status >= 500 else _OTHER
