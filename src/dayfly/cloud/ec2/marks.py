"""How what is ours is marked in the account, and found again by these marks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from dayfly.config.sections import Ec2Section
from dayfly.model import Tag

#: On every part of a network of ours: which of the owner's networks it belongs to.
NETWORK: Final = "dayfly:network"

#: As botocore takes and gives them.
Told = Mapping[str, Any]
Filters = list[dict[str, Any]]


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """The tags of a network's parts.

    Attributes:
        owner: Whose it is.
        network: Which one: its one block of addresses, the id of the VPC that was given, or
            ``zones``.
        extra: Tags of the user's own.
    """

    owner: str
    network: str
    extra: dict[str, str]

    @classmethod
    def of(cls, section: Ec2Section, owner: str, vpc: str = "") -> Labels:
        """The labels of the network that a section describes.

        Args:
            section: The keys.
            owner: Whose it is.
            vpc: The VPC that was given, if any.
        """
        network = vpc or section.subnet_cidr_block or "zones"
        return cls(owner=owner, network=network, extra=section.tags)

    def tagged(self, kind: str, name: str) -> Filters:
        """The ``TagSpecifications`` of a call that makes one thing.

        Args:
            kind: By EC2's name: ``vpc``, ``subnet``...
            name: What people see in the console.
        """
        tags = self.extra | {
            Tag.NAME.value: name,
            Tag.MANAGED.value: "true",
            Tag.OWNER.value: self.owner,
            NETWORK: self.network,
        }
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        return [{"ResourceType": kind, "Tags": pairs}]

    def filters(self, **more: str) -> Filters:
        """The ``Filters`` that find them again.

        Args:
            **more: Further filters, with underscores for hyphens: ``vpc_id="vpc-1"``.
        """
        return [*ours(self.owner, **more), matching(f"tag:{NETWORK}", self.network)]


def ours(owner: str, **more: str) -> Filters:
    """The ``Filters`` that find all that is an owner's.

    Args:
        owner: Whose.
        **more: Further filters, with underscores for hyphens.
    """
    return [
        matching(f"tag:{Tag.MANAGED.value}", "true"),
        matching(f"tag:{Tag.OWNER.value}", owner),
        *(matching(name.replace("_", "-"), value) for name, value in more.items()),
    ]


def matching(name: str, *values: str) -> dict[str, Any]:
    """One of ``Filters``."""
    return {"Name": name, "Values": list(values)}


def tags_of(told: Told) -> dict[str, str]:
    """The tags of a thing that EC2 told of."""
    return {tag["Key"]: tag.get("Value", "") for tag in told.get("Tags", ())}
