"""What is done to instances that exist, and what EC2 says where that cannot be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from dayfly.cloud.ec2.api import Ec2Api, meaning, message_of
from dayfly.cloud.ec2.instances.listing import YOUNG, Listing
from dayfly.cloud.ec2.reactions import Kind
from dayfly.errors import ApiError, CloudError, ConfigError, InstanceNotFoundError
from dayfly.model import UP, Instance, InstanceState

#: Ids per call. Source: the EC2 API reference.
_IDS: Final = 1000
#: Seconds between two attempts at what EC2 does not know yet.
_PAUSE: Final = 2.0


async def start(api: Ec2Api, listing: Listing, ids: Sequence[str]) -> None:
    """See :meth:`dayfly.cloud.base.Cloud.start`."""
    for some in _parts(ids):
        try:
            await api.call("start_instances", InstanceIds=some)
        except ApiError as error:
            await _explain("start", listing, some, error, fine={*UP, InstanceState.STOPPED})
            # Its state changed between the call and the look, for the better.
            await api.call("start_instances", InstanceIds=some)
        listing.changed()


async def stop(api: Ec2Api, listing: Listing, ids: Sequence[str]) -> None:
    """See :meth:`dayfly.cloud.base.Cloud.stop`."""
    stoppable = {*UP, InstanceState.STOPPING, InstanceState.STOPPED}
    for some in _parts(ids):
        try:
            await api.call("stop_instances", InstanceIds=some)
        except ApiError as error:
            await _explain("stop", listing, some, error, fine=stoppable)
            await api.call("stop_instances", InstanceIds=some)
        listing.changed()


async def tag(api: Ec2Api, listing: Listing, ids: Sequence[str], tags: Mapping[str, str]) -> None:
    """See :meth:`dayfly.cloud.base.Cloud.tag`."""
    told = [{"Key": str(key), "Value": value} for key, value in sorted(tags.items())]
    deadline = api.clock.monotonic() + YOUNG
    for some in _parts(ids):
        while True:
            try:
                await api.call("create_tags", Resources=some, Tags=told)
            except ApiError as error:
                if meaning(error).kind is not Kind.ABSENT:
                    raise
                if not listing.young(some) or api.clock.monotonic() > deadline:
                    raise _absent("tag", some, error) from error
                await api.clock.sleep(_PAUSE)
            else:
                break
        listing.changed()


async def console(api: Ec2Api, instance_id: str) -> str:
    """See :meth:`dayfly.cloud.base.Cloud.console`."""
    try:
        answer = await api.call("get_console_output", InstanceId=instance_id, Latest=True)
    except ApiError as error:
        if meaning(error).kind is Kind.ABSENT:
            raise _absent("read the console of", [instance_id], error) from error
        if not error.code.startswith(("Unsupported", "InvalidParameter")):
            raise
        # Only types of the Nitro system have the latest.
        answer = await api.call("get_console_output", InstanceId=instance_id)
    return str(answer.get("Output") or "")


async def check_consumable(api: Ec2Api, instance: Instance) -> None:
    """See :meth:`dayfly.cloud.base.Cloud.check_consumable`."""
    if instance.spot:
        raise ConfigError(
            f"the VM {instance.id} cannot be consumed: it is a spot instance",
            cause="EC2 ends and deletes a one-time spot instance where it would stop another one",
            hint="give an on-demand instance in aws_ec2.instance_id",
        )
    try:
        answer = await api.call(
            "describe_instance_attribute",
            InstanceId=instance.id,
            Attribute="instanceInitiatedShutdownBehavior",
        )
    except ApiError as error:
        if meaning(error).kind is Kind.ABSENT:
            raise _absent("consume", [instance.id], error) from error
        raise
    if answer.get("InstanceInitiatedShutdownBehavior", {}).get("Value") == "terminate":
        raise ConfigError(
            f"the VM {instance.id} cannot be consumed: a poweroff in it would delete it",
            cause="its shutdown behaviour (InstanceInitiatedShutdownBehavior) is terminate",
            hint=f"aws ec2 modify-instance-attribute --region {api.region} "
            f"--instance-id {instance.id} --instance-initiated-shutdown-behavior stop",
        )


async def _explain(
    doing: str,
    listing: Listing,
    ids: list[str],
    error: ApiError,
    *,
    fine: set[InstanceState],
) -> None:
    """Raise what the user can work with; return where the call may be said again."""
    if meaning(error).kind is Kind.ABSENT:
        raise _absent(doing, ids, error) from error
    if meaning(error).kind is Kind.DRY:
        # Its disk ties it to its zone: only waiting helps, or another VM.
        error.hint = "try again in some minutes; dayfly clean --all makes way for one elsewhere"
    if error.code not in (
        "IncorrectInstanceState",
        "UnsupportedOperation",
        "IncorrectSpotRequestState",
    ):
        raise error
    listing.changed()
    found = await listing.find(ids=ids)
    if doing == "stop" and (spot := [i.id for i in found if i.spot]):
        raise CloudError(
            f"{', '.join(spot)}: a one-time spot instance cannot be stopped, only terminated",
            cause=error.cause,
            hint="request_spot_instances: False for VMs that are to keep their disks",
        ) from error
    if wrong := [f"{i.id} is {i.state}" for i in found if i.state not in fine]:
        raise CloudError(
            f"EC2 does not {doing} it: {', '.join(wrong)}", cause=error.cause
        ) from error
    if error.code != "IncorrectInstanceState":
        raise error


def _absent(doing: str, ids: list[str], error: ApiError) -> InstanceNotFoundError:
    """EC2 knows one of them not, and did nothing."""
    named = re.findall(r"i-[0-9a-f]+", message_of(error)) or ids
    return InstanceNotFoundError(
        f"EC2 cannot {doing} {', '.join(dict.fromkeys(named))}: it knows no such instance",
        cause=error.cause,
        hint="dayfly worker list",
    )


def _parts(ids: Sequence[str]) -> list[list[str]]:
    wanted = list(dict.fromkeys(ids))
    return [wanted[begin : begin + _IDS] for begin in range(0, len(wanted), _IDS)]
