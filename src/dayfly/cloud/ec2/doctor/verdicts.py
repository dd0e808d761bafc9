"""What the facts about an account mean for a fleet, as findings: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from dayfly.cloud.base import Finding
from dayfly.cloud.ec2.doctor.usage import Usage, purse
from dayfly.cloud.ec2.launch.images import Image
from dayfly.cloud.ec2.launch.instancetypes import TypeFacts
from dayfly.cloud.ec2.launch.quotas import code_of, name_of
from dayfly.cloud.ec2.network.ensuring import Network
from dayfly.config.sections import Ec2Section
from dayfly.errors import ConfigError, DayflyError, DeniedError
from dayfly.model import Price

Verdict: TypeAlias = Literal["ok", "warning", "wrong"]
Prices: TypeAlias = Mapping[tuple[str, str], Price]

_QUOTAS: Final = "https://console.aws.amazon.com/servicequotas/home/services/ec2/quotas"

# Source: the EC2 user guide, "Burstable performance instances".
_T2: Final = (
    "only the first 100 launches of an account in 24 hours get CPU credits to start with; the "
    "others run at a fraction of their vCPUs until they have earned some"
)
_BURSTS: Final = (
    "a burstable type: as spot it falls to a fraction of its vCPUs when its credits are spent, "
    "on-demand it bills what it bursts above them"
)


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        section: The configuration.
        workers: How many, beside one master.
    """

    section: Ec2Section
    workers: int

    @property
    def types(self) -> tuple[str, ...]:
        """Every instance type, the master's first."""
        section = self.section
        return tuple(dict.fromkeys([section.master_instance_type, *section.worker_instance_types]))

    @property
    def quotas(self) -> tuple[str, ...]:
        """The quotas that it counts against."""
        section = self.section
        markets = [section.request_spot_instances]
        if section.request_spot_instances and section.on_demand_fallback:
            markets.append(False)
        found = [purse(t, spot=spot) for spot in markets for t in section.worker_instance_types]
        return tuple(dict.fromkeys([*found, purse(section.master_instance_type, spot=False)]))


def finding(what: str, verdict: Verdict, detail: str, hint: str = "") -> Finding:
    """One of them."""
    return Finding(what=what, verdict=verdict, detail=detail, hint=hint)


def of_error(what: str, error: DayflyError, verdict: Verdict = "warning") -> Finding:
    """What could not be looked at; a defect of the configuration is always wrong."""
    if isinstance(error, DeniedError):
        return finding(what, verdict, "not known: a permission is missing, see below")
    detail = f"{error.what}: {error.cause}" if error.cause else error.what
    return finding(what, "wrong" if isinstance(error, ConfigError) else verdict, detail, error.hint)


def of_images(images: Mapping[str, Image | DayflyError]) -> list[Finding]:
    """The images that VMs start from, by architecture."""
    return [
        of_error(f"image for {architecture}", image, "wrong")
        if isinstance(image, DayflyError)
        else finding(f"image for {architecture}", "ok", f"{image.id} {image.name}".rstrip())
        for architecture, image in images.items()
    ]


def of_type(fleet: Fleet, fact: TypeFacts) -> Finding:
    """One instance type: what it is, and what bursts and spot mean for it."""
    section, name = fleet.section, fact.name
    worker = name in section.worker_instance_types
    market = section.request_spot_instances
    what = f"instance type {name}"
    detail = f"{fact.vcpus} vCPU, {fact.memory / 1024:g} GiB, {fact.architecture}"
    if worker and market and not fact.spot:
        elsewhere = section.on_demand_fallback or len(section.worker_instance_types) > 1
        return finding(
            what,
            "warning" if elsewhere else "wrong",
            f"{detail}; it is not to be had as spot",
            "name another one in worker_instance_type, or set request_spot_instances: False",
        )
    if name.startswith("t2."):
        key = "worker_instance_type" if worker else "master_instance_type"
        size = name.partition(".")[2]
        return finding(what, "warning", f"{detail}; {_T2}", f"{key}: t3.{size}")
    if worker and fact.burstable:
        hint = "for long computations a type of fixed performance, such as m5.large or c5.large"
        return finding(what, "warning", f"{detail}; {_BURSTS}", hint)
    return finding(what, "ok", detail)


def of_zones(
    fleet: Fleet, offered: Mapping[str, Sequence[str]], network: Network | None
) -> list[Finding]:
    """Which zones have the types, among those of the network if there is one."""
    section = fleet.section
    ours = {subnet.zone for subnet in network.subnets} if network else None
    found = []
    for name in fleet.types:
        zones = set(offered.get(name, ()))
        fit = sorted(zones if ours is None else zones & ours)
        if fit:
            found.append(finding(f"zones of {name}", "ok", ", ".join(fit)))
            continue
        there = ", ".join(sorted(zones))
        lone = name == section.master_instance_type or len(section.worker_instance_types) == 1
        found.append(
            finding(
                f"zones of {name}",
                "wrong" if lone else "warning",
                f"none of {', '.join(sorted(ours or ())) or 'the region'} has it",
                f"give a subnet in {there}" if there else "choose another type or region",
            )
        )
    return found


def of_network(fleet: Fleet, network: Network | None, up: int) -> Finding:
    """Whether the network has addresses for the fleet.

    Args:
        fleet: What is asked for.
        network: Where; ``None``: not made yet.
        up: VMs of the fleet that have their addresses already.
    """
    if network is None:
        return finding("network", "ok", "not there yet; made and tagged at the first launch")
    free = sum(subnet.free for subnet in network.subnets)
    need = max(0, fleet.workers + 1 - up)
    zones = ", ".join(sorted({subnet.zone for subnet in network.subnets}))
    count = f"{len(network.subnets)} subnet{'s' if len(network.subnets) > 1 else ''}"
    detail = f"{network.vpc}, {count} in {zones}, {free:,} addresses free"
    if free >= need:
        return finding("network", "ok", detail)
    return finding(
        "network",
        "warning" if free else "wrong",
        f"{detail}; {fleet.workers:,} workers and the master need {need:,} more",
        "give larger subnets, or more of them, in subnet_id; or lower max_workers",
    )


def of_quota(
    fleet: Fleet, quota: str, limit: float, types: Mapping[str, TypeFacts], used: Usage
) -> Finding:
    """A quota against what the fleet needs of it, as the number of workers that fit."""
    section, what = fleet.section, f"quota {name_of(quota)}"
    spot = quota.startswith("spot/")
    alone = spot == section.request_spot_instances
    master = 0
    if purse(section.master_instance_type, spot=False) == quota:
        master = types[section.master_instance_type].vcpus
    each = 0
    if alone or section.on_demand_fallback:
        # The type that is preferred among those that count against it.
        counted = (t for t in section.worker_instance_types if purse(t, spot=spot) == quota)
        each = next((types[name].vcpus for name in counted), 0)
    others = used.others.get(quota, 0)
    free, need = int(limit) - others, master + fleet.workers * each
    detail = f"{int(limit):,} vCPUs, {others:,} of them used by others; the fleet needs {need:,}"
    if need <= free:
        return finding(what, "ok", detail)
    fit = max(0, free - master) // each if each else 0
    if each:
        detail += f": {fit:,} of {fleet.workers:,} workers fit"
    none_runs = free < master or (alone and not fit and len(fleet.quotas) <= 2)
    hint = f"request {need + others:,} at {_QUOTAS}/{code_of(quota)}"
    if fit:
        hint += f", or set max_workers: {fit}"
    return finding(what, "wrong" if none_runs else "warning", detail, hint)


def of_prices(fleet: Fleet, workers: Prices, master: Prices) -> Finding:
    """What the fleet costs by the hour, and at the worst."""
    section = fleet.section
    name, each = _first(section.worker_instance_types, workers)
    _, one = _first((section.master_instance_type,), master)
    if each.hourly is None or one.hourly is None:
        why = each.source if each.hourly is None else one.source
        return finding("price", "warning", f"nobody knows what {name} costs here: {why}")
    total = fleet.workers * each.hourly + one.hourly
    worst = total * section.hard_dismantle_timeout / 3600
    market = "spot" if section.request_spot_instances else "on-demand"
    detail = (
        f"{fleet.workers:,} x {name} {market} at ${each.hourly:.4f} and the master: "
        f"${total:,.2f} an hour, ${worst:,.2f} if all run into hard_dismantle_timeout "
        f"(an estimate, {each.source})"
    )
    if section.max_cost is not None and worst > section.max_cost:
        return finding(
            "price", "warning", f"{detail}; max_cost ends a job at ${section.max_cost:g}"
        )
    return finding("price", "ok", detail)


def _first(names: Iterable[str], prices: Prices) -> tuple[str, Price]:
    """The first type that has a price, else the first and why it has none."""
    known = [(name, prices[name, ""]) for name in names if (name, "") in prices]
    priced = [(name, price) for name, price in known if price.hourly is not None]
    return (priced or known)[0]
