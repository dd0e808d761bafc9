"""What EC2 says of instance types: vCPUs, memory, processors."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

import msgspec

from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.marks import Told, matching
from dayfly.errors import ApiError, ConfigError, DeniedError

#: Names that one call takes. Source: DescribeInstanceTypes in the API reference.
_MOST: Final = 100


class TypeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One instance type.

    Attributes:
        architecture: By EC2's name: ``x86_64`` or ``arm64``.
        burstable: Whether it lives on CPU credits (the T families).
        spot: Whether it is sold as spot.
        memory: MiB.
    """

    name: str
    vcpus: int
    architecture: str
    burstable: bool
    spot: bool
    memory: int


#: What this process knows, by (region, name). These facts never change.
_known: dict[tuple[str, str], TypeFacts] = {}


def forget() -> None:
    """Ask again."""
    _known.clear()


async def find_types(
    api: Ec2Api, names: Sequence[str], *, key: str = "worker_instance_type"
) -> dict[str, TypeFacts]:
    """The facts of some instance types, by one call for those that are not known yet.

    Args:
        api: Where.
        names: Which.
        key: Of the configuration, that they stand in.

    Raises:
        ConfigError: There is no such type in the region.
    """
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if (api.region, name) not in _known]
    for start in range(0, len(missing), _MOST):
        for facts in await _ask(api, missing[start : start + _MOST], key):
            _known[api.region, facts.name] = facts
    return {name: _known[api.region, name] for name in wanted}


async def _ask(api: Ec2Api, names: list[str], key: str) -> list[TypeFacts]:
    cause = ""
    try:
        answer = await api.call("describe_instance_types", InstanceTypes=names)
        found = [_facts(told) for told in answer["InstanceTypes"]]
    except ApiError as error:
        # A name that no type can have is an InvalidParameterValue.
        if error.code not in ("InvalidInstanceType", "InvalidParameterValue"):
            raise
        found, cause = [], error.cause
    if {facts.name for facts in found} >= set(names):
        return found
    try:
        offered = await _offered(api)
    except DeniedError:  # only the hint needs it
        offered = []
    described = {facts.name for facts in found}
    unknown = [name for name in names if name not in {*offered, *described}] or names
    near = [name for each in unknown for name in difflib.get_close_matches(each, offered, n=3)]
    raise ConfigError(
        f"[aws_ec2] {key}: there is no {' and no '.join(unknown)} in {api.region}",
        cause=cause,
        hint=f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else f"correct {key}",
    )


async def _offered(api: Ec2Api) -> list[str]:
    return sorted(
        [
            offer["InstanceType"]
            async for page in api.pages(
                "describe_instance_type_offerings",
                LocationType="region",
                Filters=[matching("location", api.region)],
                MaxResults=1000,
            )
            for offer in page["InstanceTypeOfferings"]
        ]
    )


def _facts(told: Told) -> TypeFacts:
    architectures = told["ProcessorInfo"]["SupportedArchitectures"]
    return TypeFacts(
        name=told["InstanceType"],
        vcpus=told["VCpuInfo"]["DefaultVCpus"],
        # Older x86 types list i386 beside it.
        architecture="x86_64" if "x86_64" in architectures else architectures[0],
        burstable=bool(told.get("BurstablePerformanceSupported")),
        spot="spot" in told.get("SupportedUsageClasses", ()),
        memory=told["MemoryInfo"]["SizeInMiB"],
    )
