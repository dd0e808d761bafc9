"""What a launch needs to know before its first call: found out all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.launch.images import Image, find_chosen, find_image
from dayfly.cloud.ec2.launch.instancetypes import TypeFacts, find_types
from dayfly.cloud.ec2.launch.pools import Outlook, Pool, order
from dayfly.cloud.ec2.launch.quotas import family
from dayfly.cloud.ec2.launch.recipe import Recipe, pack_user_data, volumes
from dayfly.cloud.ec2.launch.waves import Order
from dayfly.cloud.ec2.network.ensuring import Network, Subnet
from dayfly.cloud.ec2.persistence import together
from dayfly.cloud.ec2.prices import find_prices
from dayfly.config.sections import Ec2Section
from dayfly.errors import ConfigError
from dayfly.model import InstanceSpec, Price
from dayfly.runtimes import names_image

#: (spot, instance type, zone) -> price; the zone is empty where it does not matter.
Prices = Mapping[tuple[bool, str, str], Price]

#: Where the type of an instance is said.
_KEYS: Final = {
    "master": "master_instance_type",
    "worker": "worker_instance_type",
    "builder": "--instance-type",
}


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out.

    Attributes:
        types: Instance type -> what it is.
        images: Architecture -> image.
        prices: Of every market that will do.
    """

    types: dict[str, TypeFacts]
    images: dict[str, Image]
    prices: dict[tuple[bool, str, str], Price]


def markets(spec: InstanceSpec) -> tuple[bool, ...]:
    """The markets that will do, by preference: whether each is the spot market."""
    if not spec.spot:
        return (False,)
    return (True, False) if spec.fallback else (True,)


async def find_out(api: Ec2Api, section: Ec2Section, spec: InstanceSpec) -> Findings:
    """Ask what a launch needs of types, images and prices.

    Raises:
        ConfigError: There is no such type, or no image for one.
        CloudError: Somebody could not be asked.
    """

    async def images() -> tuple[dict[str, TypeFacts], dict[str, Image]]:
        types = await find_types(api, spec.instance_types, key=_KEYS[spec.role])
        wanted = sorted({types[name].architecture for name in spec.instance_types})
        found = await asyncio.gather(*(image(architecture) for architecture in wanted))
        return types, dict(zip(wanted, found, strict=True))

    async def image(architecture: str) -> Image:
        chosen = spec.image and await find_chosen(api, spec.image, architecture)
        return chosen or await find_image(api, section.target_ami, architecture)

    async def prices(spot: bool) -> dict[tuple[bool, str, str], Price]:
        found = await find_prices(api, spec.instance_types, spot=spot)
        return {(spot, name, zone): price for (name, zone), price in found.items()}

    (types, found), *priced = await together(images(), *(prices(spot) for spot in markets(spec)))
    return Findings(
        types=types,
        images=found,
        prices={key: price for some in priced for key, price in some.items()},
    )


def pools(spec: InstanceSpec, network: Network, findings: Findings) -> tuple[Pool, ...]:
    """The pools that will do, in order of preference.

    Raises:
        ConfigError: There is none.
    """
    found = [
        Pool(
            instance_type=name,
            spot=spot,
            subnet=subnet.id,
            zone=subnet.zone,
            family=family(name),
            vcpus=findings.types[name].vcpus,
            hourly=_hourly(findings.prices, spot, name, subnet.zone),
        )
        for spot in markets(spec)
        for name in spec.instance_types
        if findings.types[name].spot or not spot
        for subnet in _selling(findings.prices, spot, name, network)
    ]
    if not found:
        raise ConfigError(
            f"{', '.join(spec.instance_types)} cannot be had as spot instances",
            hint="request_spot_instances: False, or another aws_ec2.worker_instance_type",
        )
    return order(found)


def new_order(
    section: Ec2Section,
    spec: InstanceSpec,
    count: int,
    minimum: int,
    token: str,
    *,
    network: Network,
    findings: Findings,
) -> tuple[Order, Outlook]:
    """The order and the first outlook of a launch.

    Raises:
        ConfigError: The user-data is too long, or no pool will do.
    """
    if spec.spot and spec.on_poweroff == "stop":
        raise ConfigError(
            "a one-time spot instance cannot be stopped, and so not by its own shutdown",
            cause="delete_on_dismantle: False with request_spot_instances: True",
            hint="request_spot_instances: False to keep the disks",
        )
    choice = pools(spec, network, findings)
    images = {
        name: findings.images[findings.types[name].architecture] for name in spec.instance_types
    }
    recipe = Recipe(
        spec=msgspec.structs.replace(spec, user_data=""),
        user_data=pack_user_data(spec.user_data),
        images={name: image.id for name, image in images.items()},
        volumes={name: _volumes(section.ebs_volumes, image) for name, image in images.items()},
        burstable=[name for name in spec.instance_types if findings.types[name].burstable],
        public={s.id: s.public for s in network.subnets if s.public is not None},
        security_group=network.security_group,
        own_network=not (section.subnet_id and section.security_group_id),
        profile=section.instance_role,
        key_name=section.ssh_key_name,
        hops=2 if names_image(section.runtime) else 1,
        launch=token[:64],
    )
    outlook = Outlook(
        pools=choice,
        missing=count,
        enough=minimum,
        free={subnet.id: subnet.free for subnet in network.subnets},
    )
    return Order(count=count, minimum=minimum, recipe=recipe), outlook


def _volumes(given: Sequence[Mapping[str, Any]], image: Image) -> list[dict[str, Any]]:
    return volumes(given, root_device=image.root_device, root_size=image.min_root)


def _selling(prices: Prices, spot: bool, name: str, network: Network) -> Sequence[Subnet]:
    """The subnets whose zones sell a type, as far as the spot prices tell.

    EC2 refuses the others, and each refusal costs a call of few.
    """
    priced = [subnet for subnet in network.subnets if (spot, name, subnet.zone) in prices]
    return priced or network.subnets


def _hourly(prices: Prices, spot: bool, name: str, zone: str) -> str:
    price = prices.get((spot, name, zone)) or prices.get((spot, name, ""))
    return "" if price is None or price.hourly is None else f"{price.hourly:g}"
