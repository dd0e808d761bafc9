"""Whether calls are permitted: those that only read are made, the others are run dry.

A dry run (``DryRun=True``) asks EC2 for its permission and changes nothing; it is answered by the
error ``DryRunOperation`` where the call would be allowed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from dayfly.aws.errors import Denial, denial_of
from dayfly.cloud.base import Finding
from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.iam.operations import OPERATIONS, Operation
from dayfly.cloud.ec2.iam.policies import Place, missing
from dayfly.errors import ApiError, DayflyError, DeniedError

#: The answer to a dry run that would have been allowed.
ALLOWED: Final = "DryRunOperation"

_BY_NAME: Final = {operation.name: operation for operation in OPERATIONS}
#: Calls under way at once.
_AT_ONCE: Final = 10


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One call to try.

    Attributes:
        operation: Its row in the table.
        call: Makes it.
        what: It in words, where the operation's name does not say enough.
        needed: Jobs cannot run without it; else only ``clean`` and the like.
        foreign: It is tried on something that is not what jobs will use, so that a denial may
            be for that reason alone; said in words.
    """

    operation: str
    call: Callable[[], Awaitable[object]]
    what: str = ""
    needed: bool = True
    foreign: str = ""


class Tried(msgspec.Struct, frozen=True):
    """What came of a probe: no error where it is allowed."""

    probe: Probe
    error: DayflyError | None = None


async def try_all(api: Ec2Api, place: Place, probes: Sequence[Probe]) -> list[Finding]:
    """Try calls, at once, and tell what is missing."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(probe: Probe) -> Tried:
        async with gate:
            return await attempt(probe)

    tried = await asyncio.gather(*map(one, probes))
    found = [granted([each.probe for each in tried if each.error is None])]
    for each in tried:
        if isinstance(each.error, DeniedError):
            found.append(denied(each.probe, await decode(api, each.error), place))
        elif each.error is not None:
            found.append(failed(each.probe, each.error))
    # The master and the workers most often lack the same.
    return list({(each.detail, each.hint): each for each in reversed(found)}.values())[::-1]


async def attempt(probe: Probe) -> Tried:
    """Make one call."""
    try:
        await probe.call()
    except ApiError as error:
        return Tried(probe, None if error.code == ALLOWED else error)
    except DayflyError as error:
        return Tried(probe, error)
    return Tried(probe)


async def decode(api: Ec2Api, error: DeniedError) -> Denial:
    """Which right a refused call lacks, as EC2 tells those who may know."""
    denial = denial_of(error)
    if not denial.encoded:
        return denial
    try:
        answer = await api.call(
            "decode_authorization_message", service="sts", EncodedMessage=denial.encoded
        )
    except DayflyError:
        return denial  # few may decode; the message itself may say enough
    return read_decoded(str(answer.get("DecodedMessage", "")), denial)


def read_decoded(text: str, denial: Denial) -> Denial:
    """The action and the resource in a decoded authorization message, over what is known."""
    try:
        context: Any = json.loads(text).get("context", {})
        action, resource = str(context.get("action", "")), str(context.get("resource", ""))
    except (ValueError, AttributeError):
        return denial
    return msgspec.structs.replace(
        denial, action=action or denial.action, resource=resource or denial.resource
    )


def denied(probe: Probe, denial: Denial, place: Place) -> Finding:
    """A permission that is missing, with the statement that grants it."""
    operation = _BY_NAME[probe.operation]
    detail = f"denied: {denial.action or api_name(operation)}"
    if denial.resource:
        detail += f" on {denial.resource}"
    # Of what does not depend on the place a denial is a denial.
    if probe.foreign and re.search(r"^$|:(subnet|security-group)/", denial.resource):
        return Finding(
            what=f"permission to {name_of(probe)}",
            verdict="warning",
            detail=f"{detail}; that may be because {probe.foreign}",
            hint="look again when that is made",
        )
    lacking = json.dumps(missing(operation, place, denial.action), indent=2)
    return Finding(
        what=f"permission to {name_of(probe)}",
        verdict="wrong" if probe.needed else "warning",
        detail=f"{detail}; dayfly {operation.why} by it",
        hint=f"attach this policy to the credentials' user or role:\n{lacking}",
    )


def failed(probe: Probe, error: DayflyError) -> Finding:
    """A call that was refused, and not for want of a permission."""
    answered = isinstance(error, ApiError) and error.status < 500
    if isinstance(error, ApiError) and probe.foreign:
        # An account may have no default network.
        answered = answered and not error.code.startswith("VPC")
    return Finding(
        what=f"trying {name_of(probe)}",
        verdict="wrong" if answered and probe.needed else "warning",
        detail=f"{error.what}: {error.cause}" if error.cause else error.what,
        hint=error.hint,
    )


def untried(names: Sequence[str]) -> list[Finding]:
    """Permissions that nothing can be asked about yet."""
    if not names:
        return []
    return [
        Finding(
            what="permissions that could not be tried",
            verdict="warning",
            detail=f"{', '.join(api_name(_BY_NAME[name]) for name in names)}: "
            "what they are for does not exist yet",
            hint="dayfly doctor --policy client prints the policy that grants them; look again "
            "after the first dayfly hello",
        )
    ]


def name_of(probe: Probe) -> str:
    """What a probe tries, in words."""
    name = api_name(_BY_NAME[probe.operation])
    return f"{name} ({probe.what})" if probe.what else name


def api_name(operation: Operation) -> str:
    """An operation as AWS writes it: ``RunInstances``."""
    return "".join(word.capitalize() for word in operation.name.split("_"))


def granted(probes: Sequence[Probe]) -> Finding:
    """What may be called."""
    names = ", ".join(map(name_of, probes))
    return Finding(
        what="permissions",
        verdict="ok",
        detail=f"{len(probes)} granted: {names}" if probes else "none of those tried",
    )
