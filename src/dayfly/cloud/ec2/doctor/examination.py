"""Would a fleet run here? Asked before anything is launched, by ``dayfly doctor``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from dayfly.cloud.base import Finding
from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.doctor.permitted import try_all, untried
from dayfly.cloud.ec2.doctor.trials import Scene, dry_runs, reads
from dayfly.cloud.ec2.doctor.usage import tags_of, usage
from dayfly.cloud.ec2.doctor.verdicts import (
    Fleet,
    Prices,
    finding,
    of_error,
    of_images,
    of_network,
    of_prices,
    of_quota,
    of_type,
    of_zones,
)
from dayfly.cloud.ec2.iam.policies import Place
from dayfly.cloud.ec2.launch.images import Image, find_image
from dayfly.cloud.ec2.launch.instancetypes import TypeFacts, find_types
from dayfly.cloud.ec2.launch.quotas import code_of, name_of
from dayfly.cloud.ec2.network.ensuring import Network, find_network
from dayfly.cloud.ec2.prices import find_prices
from dayfly.config.sections import Ec2Section
from dayfly.errors import DayflyError
from dayfly.model import ExecMode, Tag

Answer = TypeVar("Answer")

#: The instances that quotas count. Source: the EC2 user guide, "On-Demand Instance quotas".
_COUNTED: Final = ["pending", "running"]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out; our error stands where something could not be.

    Attributes:
        images: By architecture.
        instances: All of the account that quotas count, as EC2 describes them.
        offered: Instance type -> the zones that have it.
        limits: Quota -> vCPUs.
        prices: Of the workers.
        master_prices: Of the master.
    """

    types: dict[str, TypeFacts] | DayflyError
    images: Mapping[str, Image | DayflyError]
    network: Network | DayflyError | None
    instances: list[dict[str, Any]] | DayflyError
    offered: dict[str, list[str]] | DayflyError
    limits: Mapping[str, float | DayflyError]
    prices: Prices | DayflyError
    master_prices: Prices | DayflyError

    @property
    def place(self) -> Network | None:
        """The network, if it is there."""
        return None if isinstance(self.network, DayflyError) else self.network


async def examine(api: Ec2Api, section: Ec2Section, workers: int) -> list[Finding]:
    """Look whether a fleet can be had, launching nothing.

    What could not be looked at is a finding too; nothing raises but defects.

    Args:
        api: The account and the region.
        section: What is asked for.
        workers: How many, beside the master.
    """
    caller = await _tried(api.aws.caller())
    if isinstance(caller, DayflyError):
        return [of_error("credentials", caller, "wrong")]
    found = [finding("credentials", "ok", f"{caller.arn} in {api.region}")]
    place = Place(account=caller.account, bucket="", section=section, region=api.region)
    if section.exec_mode is ExecMode.CONSUME:
        return found + await _examine_consumed(api, place)
    ours = {Tag.MANAGED.value: "true", Tag.OWNER.value: f"{caller.name}@{caller.account}"}
    fleet = Fleet(section=section, workers=workers)
    facts = await look(api, fleet, ours[Tag.OWNER])
    probes, later = dry_runs(api, place, _scene(section, facts, ours))
    permissions = await try_all(api, place, [*reads(api, place), *probes])
    return [*found, *judge(fleet, facts, ours), *permissions, *untried(later)]


async def look(api: Ec2Api, fleet: Fleet, owner: str) -> Facts:
    """Find out what there is, all at once."""
    section = fleet.section
    (types, images), network, instances, offered, prices, master, *limits = await asyncio.gather(
        _types_and_images(api, fleet),
        _tried(find_network(api, section, owner)),
        _tried(_running(api)),
        _tried(_offered(api, fleet.types)),
        _tried(
            find_prices(api, section.worker_instance_types, spot=section.request_spot_instances)
        ),
        _tried(find_prices(api, [section.master_instance_type], spot=False)),
        *(_tried(_limit(api, quota)) for quota in fleet.quotas),
    )
    return Facts(
        types=types,
        images=images,
        network=network,
        instances=instances,
        offered=offered,
        limits=dict(zip(fleet.quotas, limits, strict=True)),
        prices=prices,
        master_prices=master,
    )


def judge(fleet: Fleet, facts: Facts, ours: Mapping[str, str]) -> list[Finding]:
    """What the facts mean for the fleet.

    Args:
        fleet: What is asked for.
        facts: What there is.
        ours: The tags of the fleet's instances that are up already.
    """
    found = []
    if isinstance(facts.types, DayflyError):
        found.append(of_error("instance types", facts.types, "wrong"))
    else:
        found += [of_type(fleet, facts.types[name]) for name in fleet.types]
    found += of_images(facts.images)
    if isinstance(facts.offered, DayflyError):
        found.append(of_error("zones", facts.offered))
    else:
        found += of_zones(fleet, facts.offered, facts.place)
    instances: Sequence[Mapping[str, Any]] = ()
    if isinstance(facts.instances, DayflyError):
        found.append(of_error("what runs already", facts.instances, "wrong"))
    else:
        instances = facts.instances
    if isinstance(facts.network, DayflyError):
        found.append(of_error("network", facts.network, "wrong"))
    else:
        up = sum(ours.items() <= tags_of(instance).items() for instance in instances)
        found.append(of_network(fleet, facts.network, up))
    used = usage(instances, ours)
    for quota, limit in facts.limits.items():
        if isinstance(limit, DayflyError):
            found.append(of_error(f"quota {name_of(quota)}", limit))
        elif not isinstance(facts.types, DayflyError):
            found.append(of_quota(fleet, quota, limit, facts.types, used))
    if isinstance(facts.prices, DayflyError):
        return [*found, of_error("price", facts.prices)]
    if isinstance(facts.master_prices, DayflyError):
        return [*found, of_error("price", facts.master_prices)]
    return [*found, of_prices(fleet, facts.prices, facts.master_prices)]


async def _tried(asked: Awaitable[Answer]) -> Answer | DayflyError:
    """An answer, or our error in its place."""
    try:
        return await asked
    except DayflyError as error:
        return error


async def _types_and_images(
    api: Ec2Api, fleet: Fleet
) -> tuple[dict[str, TypeFacts] | DayflyError, dict[str, Image | DayflyError]]:
    """The types, and the image for each of their architectures."""
    types = await _tried(find_types(api, fleet.types))
    if isinstance(types, DayflyError):
        return types, {}
    kinds = list(dict.fromkeys(types[name].architecture for name in fleet.types))
    ami = fleet.section.target_ami
    images = await asyncio.gather(*(_tried(find_image(api, ami, kind)) for kind in kinds))
    return types, dict(zip(kinds, images, strict=True))


async def _running(api: Ec2Api) -> list[dict[str, Any]]:
    filters = [{"Name": "instance-state-name", "Values": _COUNTED}]
    return [
        instance
        async for page in api.pages("describe_instances", Filters=filters)
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    ]


async def _offered(api: Ec2Api, types: Sequence[str]) -> dict[str, list[str]]:
    zones: dict[str, list[str]] = {}
    async for page in api.pages(
        "describe_instance_type_offerings",
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": list(types)}],
    ):
        for offer in page["InstanceTypeOfferings"]:
            zones.setdefault(offer["InstanceType"], []).append(offer["Location"])
    return zones


async def _limit(api: Ec2Api, quota: str) -> float:
    answer = await api.call(
        "get_service_quota", service="service-quotas", ServiceCode="ec2", QuotaCode=code_of(quota)
    )
    return float(answer["Quota"]["Value"])


def _scene(section: Ec2Section, facts: Facts, ours: Mapping[str, str]) -> Scene:
    """What of the facts calls can be tried on."""
    types = {} if isinstance(facts.types, DayflyError) else facts.types
    images = {
        name: image
        for name, fact in types.items()
        if isinstance(image := facts.images[fact.architecture], Image)
    }
    instances = () if isinstance(facts.instances, DayflyError) else facts.instances
    # A spot instance cannot be stopped, whoever asks.
    mine = (
        i["InstanceId"]
        for i in instances
        if ours.items() <= tags_of(i).items() and i.get("InstanceLifecycle") != "spot"
    )
    return Scene(
        section=section,
        images=images,
        burstable=tuple(name for name, fact in types.items() if fact.burstable),
        network=facts.place,
        instance=next(mine, ""),
    )


async def _examine_consumed(api: Ec2Api, place: Place) -> list[Finding]:
    """The one VM that is the user's own."""
    name, what = place.section.instance_id, "the VM to consume"
    answer = await _tried(api.call("describe_instances", InstanceIds=[name]))
    if isinstance(answer, DayflyError):
        return [of_error(what, answer, "wrong")]
    told = [i for r in answer["Reservations"] for i in r["Instances"]]
    state = str(told[0]["State"]["Name"]) if told else "not there"
    if state in ("pending", "running", "stopping", "stopped"):
        seen = finding(what, "ok", f"{name} is {state}")
    else:
        seen = finding(what, "wrong", f"{name} is {state}", "name another one in instance_id")
    probes, later = dry_runs(api, place, Scene(section=place.section, instance=name))
    permissions = await try_all(api, place, [*reads(api, place), *probes])
    return [seen, *permissions, *untried(later)]
