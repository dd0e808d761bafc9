"""Faults on order: errors, cut connections and missing permissions."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

from tests.aws.calls import Call


class HungUpError(Exception):
    """Raised by an ``on_call`` hook: cut the connection here.

    Before the call it never happens; after it, it has, and nobody is told.
    """


@dataclass
class Fault:
    """What becomes of the next ``times`` calls of an action."""

    action: str
    code: str
    status: int
    message: str
    times: int
    after: bool
    hang_up: bool = False


@dataclass
class Faults:
    """The faults on order, and who may do what.

    Attributes:
        denied: ``RunInstances``, ``ec2:RunInstances`` or ``ec2:*``.
    """

    ordered: list[Fault] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)

    def take(self, call: Call) -> Fault | None:
        """The fault of this call, used up by it."""
        for fault in self.ordered:
            if fault.action in (call.action, f"{call.service}:{call.action}", "*"):
                fault.times -= 1
                if fault.times <= 0:
                    self.ordered.remove(fault)
                return fault
        return None

    def denial(self, call: Call) -> str:
        """The action of this call that the caller has no permission for, if any."""
        for action in needed(call):
            service, _, name = action.partition(":")
            if self.denied & {action, name, f"{service}:*", "*"}:
                return action
        return ""


def needed(call: Call) -> list[str]:
    """The permissions that a call needs, as IAM names them."""
    service = {"service-quotas": "servicequotas"}.get(call.service, call.service)
    action = {
        "ListObjectsV2": "ListBucket",
        "ListObjects": "ListBucket",
        "HeadObject": "GetObject",
        "HeadBucket": "ListBucket",
        "DeleteObjects": "DeleteObject",
        "CreateMultipartUpload": "PutObject",
        "UploadPart": "PutObject",
        "CompleteMultipartUpload": "PutObject",
        "AbortMultipartUpload": "AbortMultipartUpload",
    }.get(call.action, call.action)
    permissions = [f"{service}:{action}"]
    if service == "s3" and action != call.action:
        permissions.append(f"{service}:{call.action}")
    if call.service == "ec2" and not call.action.startswith("Describe"):
        if call.params.get("TagSpecifications"):
            permissions.append("ec2:CreateTags")
        if call.params.get("IamInstanceProfile"):
            permissions.append("iam:PassRole")
    return permissions


def refuse(call: Call, action: str, account: str) -> tuple[int, str, str]:
    """Status, code and message of a denial, in the words of the call's service."""
    who = f"arn:aws:iam::{account}:user/emulated"
    plain = (
        f"User: {who} is not authorized to perform: {action} on resource: * "
        "because no identity-based policy allows the action"
    )
    if call.service == "ec2":
        encoded = encode_message(action, who)
        message = (
            f"You are not authorized to perform this operation. {plain}. "
            f"Encoded authorization failure message: {encoded}"
        )
        return 403, "UnauthorizedOperation", message
    if call.service in ("ssm", "service-quotas"):
        return 400, "AccessDeniedException", plain
    return 403, "AccessDenied", plain


def encode_message(action: str, who: str) -> str:
    """A denial as EC2 encodes it; here anybody could read it."""
    told = {
        "allowed": False,
        "explicitDeny": False,
        "matchedStatements": {"items": []},
        "failures": {"items": []},
        "context": {"principal": {"arn": who}, "action": action, "resource": "*"},
    }
    return base64.urlsafe_b64encode(json.dumps(told).encode()).decode()


def decode_message(encoded: str) -> str | None:
    """What sts:DecodeAuthorizationMessage says; ``None``: that was no such message."""
    try:
        decoded = base64.urlsafe_b64decode(encoded.encode()).decode()
        json.loads(decoded)
    except ValueError:
        return None
    return decoded
