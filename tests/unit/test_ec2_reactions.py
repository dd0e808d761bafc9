"""Every error of EC2 that we know has a reaction (the table of error codes)."""

from __future__ import annotations

import pytest

from dayfly.cloud.ec2.reactions import REACTIONS, Kind, reaction
from dayfly.config.sections import Ec2Section


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        # The pool is dry, though the first one looks like a failure of EC2's.
        ("InsufficientInstanceCapacity", 500, Kind.DRY),
        ("UnfulfillableCapacity", 500, Kind.DRY),
        ("InsufficientCapacity", 500, Kind.DRY),
        ("InsufficientFreeAddressesInSubnet", 400, Kind.SUBNET_FULL),
        ("SpotMaxPriceTooLow", 400, Kind.UNFIT),
        ("MaxSpotInstanceCountExceeded", 400, Kind.QUOTA),
        ("VcpuLimitExceeded", 400, Kind.QUOTA),
        ("InstanceLimitExceeded", 400, Kind.QUOTA),
        ("MaxFleetCountExceeded", 400, Kind.QUOTA),
        ("VolumeLimitExceeded", 400, Kind.QUOTA),
        ("RequestLimitExceeded", 503, Kind.THROTTLED),
        ("EC2ThrottledException", 503, Kind.THROTTLED),
        ("InternalError", 500, Kind.UNKNOWN),
        ("Unavailable", 503, Kind.UNKNOWN),
        ("ServiceUnavailable", 503, Kind.UNKNOWN),
        ("NobodyKnowsThis", 502, Kind.UNKNOWN),
        ("NobodyKnowsThis", 429, Kind.THROTTLED),
        ("NobodyKnowsThis", 400, Kind.OTHER),
        ("InvalidInstanceID.NotFound", 400, Kind.ABSENT),
        ("InvalidInstanceID.Malformed", 400, Kind.ABSENT),
        ("IncorrectInstanceState", 400, Kind.RACE),
        ("IdempotentParameterMismatch", 400, Kind.BUG),
        ("IdempotentInstanceTerminated", 400, Kind.ENDED),
        ("InvalidAMIID.NotFound", 400, Kind.CONFIG),
        ("InvalidAMIID.Malformed", 400, Kind.CONFIG),
        ("InvalidAMIID.Unavailable", 400, Kind.CONFIG),
        ("InvalidParameterValue", 400, Kind.CONFIG),
        ("InvalidSubnetID.NotFound", 400, Kind.CONFIG),
        ("InvalidGroup.NotFound", 400, Kind.CONFIG),
        ("InvalidKeyPair.NotFound", 400, Kind.CONFIG),
        ("Unsupported", 400, Kind.CONFIG),
        ("UnauthorizedOperation", 403, Kind.DENIED),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", 403, Kind.DENIED),
        ("OptInRequired", 401, Kind.ACCOUNT),
        ("PendingVerification", 400, Kind.ACCOUNT),
        ("Blocked", 403, Kind.ACCOUNT),
        ("AuthFailure", 401, Kind.ACCOUNT),
        ("ExpiredToken", 400, Kind.ACCOUNT),
        # A launch that fails late has the same causes.
        ("Server.InsufficientInstanceCapacity", 400, Kind.DRY),
        ("Server.InternalError", 400, Kind.UNKNOWN),
        ("Client.VolumeLimitExceeded", 400, Kind.QUOTA),
    ],
)
def test_a_code_has_its_reaction(code: str, status: int, kind: Kind) -> None:
    assert reaction(code, "", status).kind is kind


@pytest.mark.parametrize(
    ("code", "message", "kind", "key"),
    [
        (
            "InvalidParameterValue",
            (
                "Value (x) for parameter iamInstanceProfile.name is invalid. "
                "Invalid IAM Instance Profile name"
            ),
            Kind.NEW_PROFILE,
            "instance_role",
        ),
        (
            "InvalidParameterValue",
            (
                "The architecture 'x86_64' of the specified instance type does not match the "
                "architecture 'arm64' of the specified AMI."
            ),
            Kind.CONFIG,
            "target_ami",
        ),
        (
            "InvalidParameterValue",
            "Invalid value 't3.x' for InstanceType.",
            Kind.CONFIG,
            "worker_instance_type",
        ),
        (
            "InvalidParameterValue",
            "Volume of size 4GB is smaller than snapshot 'snap-1', expect size >= 8GB",
            Kind.CONFIG,
            "ebs_volumes",
        ),
        (
            "OptInRequired",
            "In order to use this AWS Marketplace product you need to accept terms and subscribe.",
            Kind.CONFIG,
            "target_ami",
        ),
        ("AuthFailure", "Not authorized for images: [ami-1]", Kind.CONFIG, "target_ami"),
        (
            "MissingParameter",
            "The request must contain the parameter size",
            Kind.CONFIG,
            "ebs_volumes",
        ),
        (
            "Unsupported",
            (
                "Your requested instance type (t3.micro) is not supported in your requested "
                "Availability Zone (us-east-1e)."
            ),
            Kind.UNFIT,
            "subnet_id",
        ),
        (
            "Unsupported",
            "The requested configuration is currently not supported.",
            Kind.CONFIG,
            "target_ami",
        ),
    ],
)
def test_a_code_of_many_meanings_is_told_apart_by_its_message(
    code: str, message: str, kind: Kind, key: str
) -> None:
    meant = reaction(code, message)
    assert meant.kind is kind
    assert key in meant.keys


@pytest.mark.parametrize("code", REACTIONS)
def test_a_reaction_says_what_it_means_and_names_keys_that_exist(code: str) -> None:
    meant = REACTIONS[code]
    assert meant.words
    assert set(meant.keys) <= set(Ec2Section.__struct_fields__)
    if meant.kind is Kind.CONFIG:
        assert meant.keys
    if meant.kind in (Kind.CONFIG, Kind.DENIED, Kind.ACCOUNT, Kind.BUG):
        assert meant.hint
    assert (meant.kind is Kind.QUOTA) == bool(meant.quota)
