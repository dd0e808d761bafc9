"""EC2's way to tell of an instance, as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dayfly.model import Instance, InstanceState, Tag


def view(told: Mapping[str, Any], *, ssh_port: int = 22) -> Instance:
    """Make an instance of an element of ``Instances`` in an answer of EC2.

    Args:
        told: As RunInstances and DescribeInstances tell it.
        ssh_port: Where its SSH server listens.
    """
    tags = {tag["Key"]: tag.get("Value", "") for tag in told.get("Tags", ())}
    private = told.get("PrivateIpAddress") or ""
    # Until it runs, a public address may still come; and another machine may have the private
    # one in the caller's own network.
    coming = told["State"]["Name"] == InstanceState.PENDING
    launched = told.get("LaunchTime")
    return Instance(
        id=told["InstanceId"],
        instance_type=told.get("InstanceType", ""),
        state=InstanceState(told["State"]["Name"]),
        tags=tags,
        launched_at=launched.timestamp() if launched else 0.0,
        address=told.get("PublicIpAddress") or ("" if coming else private),
        private_address=private,
        ssh_port=ssh_port,
        zone=told.get("Placement", {}).get("AvailabilityZone", ""),
        spot=told.get("InstanceLifecycle") == "spot",
        hourly=_dollars(tags.get(Tag.HOURLY, "")),
        state_reason=_reason(told),
    )


def _dollars(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # no tag, or somebody else's


def _reason(told: Mapping[str, Any]) -> str:
    """Why it left ``running``; EC2 keeps the reason of a stop for some time after a start."""
    if told["State"]["Name"] in (InstanceState.PENDING, InstanceState.RUNNING):
        return ""
    reason = told.get("StateReason") or {}
    code, message = reason.get("Code", ""), reason.get("Message", "")
    if not code:
        return str(told.get("StateTransitionReason") or "")
    # The message most often begins with the code.
    if message.startswith(code):
        return str(message)
    return f"{code}: {message}" if message else str(code)
