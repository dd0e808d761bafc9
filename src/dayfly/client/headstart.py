"""Workers are given their packages by the client while their master is still on its way.

What takes longest on a bare VM needs nothing of the master. It does the same later, for all of its
workers, and finds done what was done here: so nothing that fails here matters.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from dayfly import provision
from dayfly.client.cluster import Cluster
from dayfly.client.outfit import Outfitter
from dayfly.environment.order import Order
from dayfly.errors import DayflyError
from dayfly.model import Access, Instance, JobSpec
from dayfly.parts import Parts
from dayfly.phases import AHEAD, BOOT, OWN, Steps

log = logging.getLogger(__name__)

#: Workers that are given one: more would ask the package index all at once.
MOST: Final = 8
#: Seconds for a worker to answer: one without a public address never does.
PATIENCE: Final = 60.0


class HeadStart:
    """Installs packages.

    Args:
        parts: The cloud whose VMs these are.
        access: The cluster's keys.
        cluster: Its instances.
        outfitter: Knows what they are given.
    """

    def __init__(
        self, parts: Parts, access: Access, cluster: Cluster, outfitter: Outfitter
    ) -> None:
        self._parts = parts
        self._access = access
        self._cluster = cluster
        self._outfitter = outfitter

    async def give(self, spec: JobSpec, workers: Sequence[Instance]) -> None:
        """Do what can be done for workers that were just launched.

        Args:
            spec: The job that they are for.
            workers: All of them; a few are enough for first outcomes.
        """
        began = self._parts.clock.monotonic()
        try:
            orders = await self._orders(spec, deposit=True)
            others = await self._orders(spec, deposit=False)
        except DayflyError as error:
            log.info("no head start: %s", error)
            return
        if orders:
            # One of them leaves in storage what the next start is to find there.
            given = zip(workers[:MOST], [orders] + [others] * MOST, strict=False)
            await asyncio.gather(*(self._install(each, what, began) for each, what in given))

    async def _orders(self, spec: JobSpec, *, deposit: bool) -> dict[str, Order]:
        """What is to be had, by what it is called in front of its steps."""
        ours = await self._outfitter.order(spec.instance_types[0])
        functions = await self._outfitter.functions(spec.packages, deposit=deposit)
        found = {AHEAD: ours, AHEAD + OWN: functions}
        return {what: order for what, order in found.items() if order is not None}

    async def _install(self, worker: Instance, orders: dict[str, Order], began: float) -> None:
        parts = self._parts
        deadline = began + PATIENCE
        try:
            worker = await self._cluster.bring_up(worker, deadline)
            connection = await provision.reach(
                parts.shell,
                provision.target_of(worker, self._access, parts.config.compute.ssh_username),
                deadline=deadline,
                clock=parts.clock,
                entropy=parts.entropy,
            )
            try:
                parts.timeline.add(worker.id, AHEAD + BOOT, began)
                for what, order in orders.items():
                    steps = Steps(parts.timeline, worker.id, what)
                    await provision.install_ahead(connection, order, steps)
            finally:
                await connection.aclose()
        except DayflyError as error:
            log.info("no head start for %s: %s", worker.id, error)
