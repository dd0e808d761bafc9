"""Remove everything of ours, in order, until the listings show nothing.

Nothing here remembers: what there is, the listings say, so a purge that was cut short is
finished by the next one. The security group goes before the rest of a network, because its
presence says that the network is whole (:mod:`dayfly.cloud.ec2.network.making`); route tables go
before the gateways that they lead to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from dayfly.cloud.ec2.api import Ec2Api, meaning, message_of
from dayfly.cloud.ec2.clean.inventory import Found, inventory
from dayfly.cloud.ec2.persistence import together
from dayfly.cloud.ec2.reactions import Kind
from dayfly.errors import ApiError, CloudError

#: What goes before what.
ORDER: Final[tuple[frozenset[str], ...]] = (
    # An instance of a request that stands would be replaced.
    frozenset({"spot-instances-request"}),
    frozenset({"instance"}),
    frozenset(
        {"volume", "network-interface", "launch-template", "image", "key-pair", "vpc-endpoint"}
    ),
    frozenset({"snapshot", "security-group"}),
    frozenset({"subnet"}),
    frozenset({"route-table"}),
    frozenset({"internet-gateway"}),
    frozenset({"vpc"}),
)
#: Seconds for instances to be terminated, and for all the rest to go after that: interfaces
#: linger for minutes after their instances.
INSTANCES, REST = 300.0, 300.0
#: Seconds between looks.
LOOK: Final = 1.0
#: Instances that one call terminates; EC2's advice is no more than 1,000.
BATCH: Final = 500
#: Things that an error names, at the most.
TOLD: Final = 20

#: Kinds that nothing else depends on.
_ALONE: Final = frozenset(
    {"volume", "launch-template", "image", "snapshot", "key-pair", "spot-instances-request"}
)
#: Something else holds it still.
_HELD: Final = frozenset(
    {
        "DependencyViolation",
        "VolumeInUse",
        "InvalidNetworkInterface.InUse",
        "InvalidSnapshot.InUse",
        "IncorrectState",
        "IncorrectInstanceState",
    }
)
#: It is gone already, in codes that do not say NotFound.
_GONE: Final = frozenset(
    {
        "Gateway.NotAttached",
        "InvalidAMIID.Unavailable",
        "InvalidLaunchTemplateId.VersionNotFound",
    }
)


async def purge(api: Ec2Api, owner: str) -> None:
    """Remove all that is an owner's; returns when the listings show nothing.

    Raises:
        CloudError: Something is left; said again, it goes on from there.
    """
    await _Purge(api, owner).run()


class _Purge:
    def __init__(self, api: Ec2Api, owner: str) -> None:
        self._api = api
        self._owner = owner
        self._clock = api.clock
        self._by = 0.0
        #: Why a thing is still there, in EC2's words; by id.
        self._reasons: dict[str, str] = {}
        #: EC2 took the order to remove it.
        self._gone: set[str] = set()
        #: EC2 will not remove it, however long one waits: its kind, by id.
        self._refused: dict[str, str] = {}

    async def run(self) -> None:
        found = await inventory(self._api, self._owner)
        self._by = self._clock.monotonic() + INSTANCES
        ended = False
        while found:
            self._gone.clear()  # what is listed still is asked for once more
            for kinds in ORDER:
                done = await self._clear([each for each in found if each.kind in kinds])
                if "instance" in kinds and not done:
                    break  # all the rest depends on them
                if "instance" in kinds and not ended:
                    self._by, ended = self._clock.monotonic() + REST, True
            found = await inventory(self._api, self._owner)
            if self._is_hopeless() or all(each.id in self._refused for each in found):
                break
            await self._clock.sleep(LOOK)
        if found:
            raise self._error(found)

    def _is_hopeless(self) -> bool:
        """Whether waiting is of no use: it is late, or something stays that others depend on."""
        late = self._clock.monotonic() >= self._by
        return late or not _ALONE.issuperset(self._refused.values())

    async def _clear(self, found: Sequence[Found]) -> bool:
        """Remove things that do not depend on each other; whether all of them are gone."""
        hopeless, told = self._is_hopeless(), False
        while True:
            left = [each for each in found if each.id not in self._gone]
            free = [each for each in left if not each.busy and each.id not in self._refused]
            instances = [each.id for each in free if each.kind == "instance"]
            await together(
                *(
                    self._terminate(instances[start : start + BATCH])
                    for start in range(0, len(instances), BATCH)
                ),
                *(self._remove(each) for each in free if each.kind != "instance"),
            )
            self._reasons.update({each.id: each.detail for each in left if each.busy})
            left = [each for each in left if each.id not in self._gone]
            wanted = [each for each in left if each.id not in self._refused]
            if not wanted or hopeless or self._clock.monotonic() >= self._by:
                return not left
            if not told:
                counts = Counter(each.kind for each in wanted)
                kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
                self._api.told(f"waiting until EC2 lets go of {kinds}")
                told = True
            await self._clock.sleep(LOOK)
            found = await inventory(self._api, self._owner, {each.kind for each in wanted})

    async def _terminate(self, ids: Sequence[str]) -> None:
        """Begin to end instances; they are gone when they are not listed any more."""
        try:
            await self._api.call("terminate_instances", InstanceIds=list(ids))
        except CloudError as error:
            # One that cannot be terminated keeps all others of the call.
            if len(ids) > 1:
                half = len(ids) // 2
                await together(self._terminate(ids[:half]), self._terminate(ids[half:]))
            else:
                self._failed("instance", ids[0], error)
        else:
            self._reasons.update(dict.fromkeys(ids, "it is not terminated yet"))

    async def _remove(self, found: Found) -> None:
        try:
            await _delete(self._api, found)
        except CloudError as error:
            self._failed(found.kind, found.id, error)
        else:
            self._gone.add(found.id)
            self._reasons[found.id] = "it is deleted, and listed still"

    def _failed(self, kind: str, id_: str, error: CloudError) -> None:
        code, said = "", error.cause or error.what
        if isinstance(error, ApiError):
            code, said = error.code, f"{error.code}: {message_of(error)}"
        if _is_gone(code):
            self._gone.add(id_)
            self._reasons[id_] = "it is deleted, and listed still"
            return
        self._reasons[id_] = said
        held = code in _HELD or "currently in use" in said
        if not held and meaning(error).kind is not Kind.UNKNOWN:
            self._refused[id_] = kind

    def _error(self, found: Sequence[Found]) -> CloudError:
        lines = [
            f"{each.kind} {each.id} ({each.detail}): "
            + self._reasons.get(each.id, "its turn did not come")
            for each in found
        ]
        if len(lines) > TOLD:
            lines = [*lines[:TOLD], f"and {len(lines) - TOLD} more"]
        return CloudError(
            f"{len(found)} things that dayfly made could not be removed",
            cause="\n         ".join(lines),
            hint="dayfly clean --all again, which goes on from there",
        )


def _is_gone(code: str) -> bool:
    return code.endswith("NotFound") or code in _GONE


async def _untie(undoing: Awaitable[Any]) -> None:
    """Undo a tie, which may have gone with what it was tied to."""
    try:
        await undoing
    except ApiError as error:
        if not _is_gone(error.code):
            raise


async def _delete(api: Ec2Api, found: Found) -> None:
    """Remove one thing.

    Raises:
        ApiError: EC2 did not.
    """
    match found.kind:
        case "spot-instances-request":
            await api.call("cancel_spot_instance_requests", SpotInstanceRequestIds=[found.id])
        case "volume":
            await api.call("delete_volume", VolumeId=found.id)
        case "network-interface":
            await api.call("delete_network_interface", NetworkInterfaceId=found.id)
        case "launch-template":
            await api.call("delete_launch_template", LaunchTemplateId=found.id)
        case "image":
            await api.call("deregister_image", ImageId=found.id)
        case "snapshot":
            await api.call("delete_snapshot", SnapshotId=found.id)
        case "key-pair":
            await api.call("delete_key_pair", KeyName=found.id)
        case "vpc-endpoint":
            answer = await api.call("delete_vpc_endpoints", VpcEndpointIds=[found.id])
            for each in answer.get("Unsuccessful", ()):  # an error within an answer that is none
                told = each.get("Error", {})
                code = told.get("Code", "Unknown")
                raise ApiError(f"{found.id} stays", code=code, cause=told.get("Message", code))
        case "security-group":
            await api.call("delete_security_group", GroupId=found.id)
        case "subnet":
            await api.call("delete_subnet", SubnetId=found.id)
        case "route-table":
            for association in found.ties:
                await _untie(api.call("disassociate_route_table", AssociationId=association))
            await api.call("delete_route_table", RouteTableId=found.id)
        case "internet-gateway":
            for vpc in found.ties:
                await _untie(
                    api.call("detach_internet_gateway", InternetGatewayId=found.id, VpcId=vpc)
                )
            await api.call("delete_internet_gateway", InternetGatewayId=found.id)
        case "vpc":
            await api.call("delete_vpc", VpcId=found.id)
