"""``python -m dayfly.master``: the master's service."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from dayfly import guest, parts
from dayfly.bootstrap import read_package
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.errors import ConfigError, DayflyError
from dayfly.master.app import serving
from dayfly.master.hub import Hub
from dayfly.master.installer import SshInstaller
from dayfly.master.journal import Journal
from dayfly.master.logbook import Logbook
from dayfly.master.recovery import recover
from dayfly.master.vm import LinuxVm
from dayfly.model import MasterConfig

log = logging.getLogger("dayfly.master")


def read_config(path: Path) -> MasterConfig:
    """Read the service's configuration.

    Raises:
        ConfigError: It cannot be read, or is not one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=MasterConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"the master's configuration {path} cannot be read",
            cause=str(error),
            hint="run any job: the client installs the master anew",
        ) from error


async def serve(config: MasterConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        DayflyError: The journal or the storage cannot be opened, or the journal broke.
    """
    clock, entropy = SystemClock(), SystemEntropy()
    vm = LinuxVm(clock)
    state = guest.path("/var/lib/dayfly")
    launched = max(config.instance.launched_at, vm.first_start())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    storage = parts.open_storage(config.storage)
    journal = Journal(state / "journal.sqlite")
    logbook = Logbook(state / "logs")
    hub = Hub(
        config,
        launched=clock.monotonic() - max(0.0, clock.now() - launched),
        journal=journal,
        logbook=logbook,
        storage=storage,
        installer=SshInstaller(
            parts.open_shell(), config, read_package, clock=clock, entropy=entropy
        ),
        vm=vm,
        clock=clock,
    )
    try:
        recover(hub)
        hub.start()
        async with serving(hub, host=config.host, port=config.port):
            guest.ready()
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


def main() -> int:
    """Run the service; returns its exit status."""
    guest.log_at("info")
    try:
        config = read_config(guest.path("/etc/dayfly/master.json"))
        guest.log_at(config.log_level)
        asyncio.run(serve(config))
    except DayflyError as error:
        log.error("%s", error)  # noqa: TRY400  # its words are for people, a trace is not
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
