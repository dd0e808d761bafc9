"""AWS's partitions: China and the US government have regions, accounts and names of their own."""

from __future__ import annotations

from typing import Final

#: Canonical's accounts, which publish Ubuntu's images. Source: Canonical, "Find Ubuntu images on
#: AWS"; names alone prove nothing, since anybody may publish an image of any name.
_CANONICAL: Final = {
    "aws": "099720109477",
    "aws-us-gov": "513442679011",
    "aws-cn": "837727238323",
}


def partition(region: str) -> str:
    """The partition of a region, as ARNs name it; an empty region is of AWS at large."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def canonical(region: str) -> str:
    """The account that publishes Ubuntu's images there."""
    return _CANONICAL[partition(region)]


def ec2_principal(region: str) -> str:
    """EC2's own name, as the one that a role is passed to."""
    return "ec2.amazonaws.com.cn" if partition(region) == "aws-cn" else "ec2.amazonaws.com"
