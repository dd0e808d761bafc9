"""What a launch will cost, told before it, and refused where ``max_cost`` forbids it."""

from __future__ import annotations

import logging

from dayfly.cost import Estimate, Share, check_cap, estimate
from dayfly.errors import CloudError
from dayfly.model import ExecMode, JobSpec, Price
from dayfly.parts import Parts

log = logging.getLogger(__name__)


async def estimate_note(
    parts: Parts, spec: JobSpec, *, launch: int, warm: int = 0, master_up: bool = False
) -> str:
    """Reckon what a job's VMs will cost; nothing is launched yet.

    Args:
        parts: The cloud that is asked for prices, and the configuration.
        spec: The job.
        launch: Workers that are to be launched for it.
        warm: Workers that are up and can serve it.
        master_up: Whether the master need not be started.

    Returns:
        A line for the user: ``4 x t3.medium spot + master t2.micro: $0.19 per hour; ...``.
        Empty where nothing is launched, and where nothing is paid.

    Raises:
        ConfigError: ``max_cost`` is less than the launch alone costs, or no price is known.
        CloudError: The cloud could not be asked.
    """
    if not launch and master_up and spec.max_cost is None:
        return ""
    found = await reckon(parts, spec, launch=launch, warm=warm, master_up=master_up)
    check_cap(found, spec.max_cost)
    # Whoever set no cap on a backend that is free need not read that its price is unknown.
    paid = found.per_hour or (not found.known and parts.config.dayfly.backend == "aws_ec2")
    return str(found) if paid and (launch or not master_up) else ""


async def note_if_known(
    parts: Parts, spec: JobSpec, *, launch: int, warm: int, master_up: bool
) -> str:
    """See :func:`estimate_note`; a cloud that does not tell its prices keeps no job from it."""
    try:
        return await estimate_note(parts, spec, launch=launch, warm=warm, master_up=master_up)
    except CloudError as error:
        log.info("no estimate: %s", error)
        return ""


async def reckon(
    parts: Parts, spec: JobSpec, *, launch: int, warm: int, master_up: bool
) -> Estimate:
    """See :func:`estimate_note`."""
    compute = parts.config.compute
    if spec.mode is ExecMode.CONSUME:
        price = Price(hourly=None, source="dayfly did not launch it")
        name = spec.instance_types[0]
        own = Share(role="master", count=1, instance_type=name, price=price, starts=not master_up)
        return estimate([own], spec.policy, start_timeout=compute.start_timeout)
    spot = compute.request_spot_instances
    fallback = spot and getattr(compute, "on_demand_fallback", False)
    master = compute.master_instance_type
    listed = {master, *(spec.instance_types if fallback or not spot else ())}
    on_demand = await parts.cloud.prices(listed, spot=False)
    by_spot = await parts.cloud.prices(spec.instance_types, spot=True) if spot else {}
    prices = [(by_spot if spot else on_demand)[name] for name in spec.instance_types]
    if fallback:
        prices += [on_demand[name] for name in spec.instance_types]
    shares = [
        Share(
            role="worker",
            count=count,
            instance_type=spec.instance_types[0],
            price=prices[0],
            others=tuple(prices[1:]),
            spot=spot,
            starts=starts,
        )
        for count, starts in ((launch, True), (warm, False))
    ]
    shares.append(
        Share(
            role="master",
            count=1,
            instance_type=master,
            price=on_demand[master],
            starts=not master_up,
        )
    )
    return estimate(shares, spec.policy, start_timeout=compute.start_timeout)
