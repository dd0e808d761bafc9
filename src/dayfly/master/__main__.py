"""``python -m dayfly.master``: the master's service."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from functools import partial
from pathlib import Path

import msgspec

from dayfly import guest, parts
from dayfly.bootstrap import read_package
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.errors import ConfigError, DayflyError
from dayfly.master.app import serving
from dayfly.master.installer import SshInstaller
from dayfly.master.journal import Journal
from dayfly.master.logbook import Logbook
from dayfly.master.logins import Logins
from dayfly.master.service import serve
from dayfly.model import MasterConfig
from dayfly.stock import Stock

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


async def run(config: MasterConfig) -> None:
    """Serve on this VM until SIGTERM or SIGINT.

    Raises:
        DayflyError: The journal or the storage cannot be opened, or the journal broke.
    """
    clock, entropy = SystemClock(), SystemEntropy()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    state = guest.path("/var/lib/dayfly")
    storage = parts.open_storage(config.storage)
    await serve(
        config,
        storage=storage,
        journal=Journal(state / "journal.sqlite"),
        logbook=Logbook(state / "logs"),
        installer=SshInstaller(
            parts.open_shell(),
            config,
            read_package,
            clock=clock,
            entropy=entropy,
            stock=Stock(storage),
            logins=Logins(guest.path("/run/dayfly/logins")),
        ),
        vm=guest.LinuxVm(clock),
        clock=clock,
        listen=partial(serving, host=config.host, port=config.port),
        stop=stop,
    )


def never_pause() -> None:
    """Have the interpreter stop the loop as rarely, and for as short, as it can."""
    # A thread that is busy with files gives way to the loop ten times as soon as by default.
    sys.setswitchinterval(0.0005)
    # What is imported lasts, and so do the objects of each connection: looking for garbage among
    # those of a thousand workers takes 0.1 s, and by default that is done again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def main() -> int:
    """Run the service; returns its exit status."""
    guest.log_at("info")
    try:
        config = read_config(guest.path("/etc/dayfly/master.json"))
        guest.log_at(config.log_level)
        never_pause()
        asyncio.run(run(config))
    except DayflyError as error:
        log.error("%s", error)  # noqa: TRY400  # its words are for people, a trace is not
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
