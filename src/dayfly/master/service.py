"""The master's service, put together and run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from dayfly.clock import Clock
from dayfly.guest import Vm
from dayfly.master.hub import Hub
from dayfly.master.installer import Installer
from dayfly.master.journal import Journal
from dayfly.master.logbook import Logbook
from dayfly.master.recovery import recover
from dayfly.model import MasterConfig
from dayfly.storage.base import Storage

log = logging.getLogger(__name__)


async def serve(
    config: MasterConfig,
    *,
    storage: Storage,
    journal: Journal,
    logbook: Logbook,
    installer: Installer,
    vm: Vm,
    clock: Clock,
    listen: Callable[[Hub], AbstractAsyncContextManager[object]],
    stop: asyncio.Event,
) -> None:
    """Serve until ``stop`` is set, and close what was handed in.

    Args:
        config: The service's own.
        storage: The cluster's.
        journal: What a restart must know.
        logbook: Function logs.
        installer: Makes VMs workers.
        vm: The VM that the service runs on.
        clock: Where time comes from.
        listen: Lets callers in, for as long as its context is open.
        stop: Ends the service.

    Raises:
        DayflyError: The journal broke.
    """
    booted = vm.armed()
    launched = max(config.instance.launched_at, booted)
    hub = Hub(
        config,
        launched=clock.monotonic() - max(0.0, clock.now() - launched),
        journal=journal,
        logbook=logbook,
        storage=storage,
        installer=installer,
        vm=vm,
        clock=clock,
        journal_name=f"{config.instance.id} {booted:.3f}",
    )
    try:
        recover(hub)
        hub.start()
        async with listen(hub):
            vm.ready()
            log.info("serving at %s:%d", config.host, config.port)
            stopped = asyncio.create_task(stop.wait())
            ends: list[asyncio.Future[Any]] = [stopped, hub.broken]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if hub.broken.done():
                hub.broken.result()
    finally:
        await hub.aclose()
        vm.close()
        logbook.close()
        journal.close()
        await storage.aclose()
    log.info("ended")
