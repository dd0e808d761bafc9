"""The embedded VM's service manager: what ``systemctl`` asks for, done.

Source: systemctl(1) for the verbs, their exit statuses and what they print.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from dayfly.cloud.localhost.machine import Machine
from dayfly.cloud.localhost.service import Service
from dayfly.cloud.localhost.units import Unit, parse_unit

_FOLDER = "/etc/systemd/system"
_AT_BOOT = "multi-user.target"


class UnitError(Exception):
    """A unit that cannot be used; the text is for whoever asked."""


class Services:
    """The units of a VM and what runs of them. One event loop's."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._folder = machine.inside(_FOLDER)
        self._wants = self._folder / f"{_AT_BOOT}.wants"
        self._units: dict[str, Unit] = {}
        self._services: dict[str, Service] = {}
        self._background: set[asyncio.Task[None]] = set()

    def reload(self) -> None:
        """Forget the unit files that were read: the next use reads them again."""
        self._units.clear()

    def get(self, name: str) -> Service:
        """A service by its unit's name.

        Raises:
            UnitError: There is no such unit, or it cannot be understood.
        """
        unit = self._unit(name)
        service = self._services.get(unit.name)
        if service is None:
            service = self._services[unit.name] = Service(self._machine, unit)
        service.unit = unit
        return service

    def known(self, name: str) -> Service | None:
        """A service that was used before; unlike :meth:`get` it reads nothing."""
        return self._services.get(_full(name))

    async def start(self, name: str) -> None:
        """Start a service; return when it is started.

        Raises:
            UnitError: It did not start.
        """
        service = self.get(name)
        failure = await service.start()
        if failure:
            raise UnitError(f"Job for {service.unit.name} failed: {failure}")

    def start_soon(self, name: str) -> None:
        """Start a service without waiting for it.

        Raises:
            UnitError: There is no such unit, or it cannot be understood.
        """
        self.get(name)
        task = asyncio.create_task(self._start_and_tell(name))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _start_and_tell(self, name: str) -> None:
        try:
            await self.start(name)
        except UnitError as error:
            self._machine.say(str(error))

    async def stop(self, name: str) -> None:
        """Stop a service; return when all of its processes are gone."""
        service = self.known(name) or self.get(name)
        await service.stop()

    async def restart(self, name: str) -> None:
        """Stop a service if it is up, then start it."""
        self.get(name)
        await self.stop(name)
        await self.start(name)

    def enable(self, name: str) -> None:
        """Have a service started at each boot.

        Raises:
            UnitError: It does not say when, or there is no such unit.
        """
        unit = self._unit(name)
        if not unit.wanted_by:
            raise UnitError(f"{unit.name} has no WantedBy= in [Install]: it cannot be enabled")
        self._wants.mkdir(parents=True, exist_ok=True)
        link = self._wants / unit.name
        if not link.is_symlink():
            link.symlink_to(Path("..") / unit.name)

    def disable(self, name: str) -> None:
        """Have a service started at boot no more."""
        (self._wants / _full(name)).unlink(missing_ok=True)

    def is_enabled(self, name: str) -> bool:
        """Whether a service is started at each boot."""
        return (self._wants / _full(name)).is_symlink()

    def start_enabled(self) -> None:
        """Start what is started at each boot."""
        if not self._wants.is_dir():
            return
        for link in sorted(self._wants.iterdir()):
            try:
                self.start_soon(link.name)
            except UnitError as error:
                self._machine.say(str(error))

    async def shut_down(self, grace: float) -> None:
        """Stop everything, at once, within ``grace`` seconds."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*(service.stop(grace) for service in self._services.values()))

    def _unit(self, name: str) -> Unit:
        name = _full(name)
        if name not in self._units:
            try:
                text = (self._folder / name).read_text()
                self._units[name] = parse_unit(name, text)
            except FileNotFoundError:
                raise UnitError(f"Unit {name} not found.") from None
            except (OSError, ValueError) as error:
                raise UnitError(f"Unit {name} has a bad unit file setting: {error}") from error
        return self._units[name]


def _full(name: str) -> str:
    return name if "." in name else f"{name}.service"
