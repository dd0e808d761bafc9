"""What this client's VMs are given: dayfly's own interpreter, and the functions' packages.

Both are found out before anything is launched. What was found out once is in storage, by a key
that says all that it depends on: the next program asks no package index, nor uv.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from dayfly.environment.capture import Capture, Installed, capture, dependencies
from dayfly.environment.indexes import indexes
from dayfly.environment.lock import Lock, Missing, Pin, Platform
from dayfly.environment.needs import check
from dayfly.environment.order import Interpreters, Order
from dayfly.environment.requirements import resolve_requirements, wish_of
from dayfly.environment.resolve import resolve, wish
from dayfly.errors import UsageError
from dayfly.parts import Parts
from dayfly.stock import Stock

log = logging.getLogger(__name__)

Found = TypeVar("Found")

#: What the master and the agents import that is not dayfly's own. (boto3 is an extra of a
#: requirement of aioboto3's.)
OURS: Final = ("aioboto3", "aiohttp", "asyncssh", "boto3", "cloudpickle", "msgspec")
#: The runner's one need, whatever the user's own environment has.
RUNNERS: Final = "cloudpickle"


class Packages(msgspec.Struct, frozen=True, kw_only=True):
    """What functions run in.

    Attributes:
        key: Of its lock; empty: the workers' own runtime.
        installed: What this program has.
        missing: What the workers cannot be given.
        warnings: What might not work there.
    """

    key: str = ""
    installed: tuple[Installed, ...] = ()
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()

    def admit(self, imports: Collection[str]) -> tuple[str, ...]:
        """Refuse a job whose function imports what the workers cannot be given.

        Args:
            imports: Full names of modules.

        Returns:
            What is to be told of the rest.

        Raises:
            EnvironmentSyncError: It needs one of them.
        """
        return (*self.warnings, *check(imports, self.installed, self.missing))


class Outfitter:
    """Finds out, once for a session, what its VMs are given.

    Args:
        parts: The cloud whose VMs these are, the storage, the configuration.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stock = Stock(parts.storage)
        self._locks: dict[Platform, asyncio.Task[Lock]] = {}
        self._packages: dict[Platform, asyncio.Task[Packages]] = {}
        self._told: set[str] = set()

    @property
    def interpreters(self) -> Interpreters:
        """Where a VM takes a Python from that its image lacks."""
        mirror = self._parts.config.compute.python_mirror
        if mirror.endswith(".json"):
            return Interpreters(downloads=mirror)
        return Interpreters(mirror=mirror)

    @property
    def index(self) -> tuple[str, ...]:
        """Where packages come from, with passwords."""
        return indexes(self._parts.config.compute.package_index).urls

    async def ours(self, instance_type: str) -> Lock | None:
        """The interpreter for dayfly's own services; ``None``: the image has all that they need.

        Raises:
            EnvironmentSyncError: It cannot be had for such VMs.
        """
        if self._parts.config.compute.environment == "image":
            return None
        platform = await self._parts.cloud.platform(instance_type)
        return await _once(self._locks, platform, self._find_ours)

    async def order(self, instance_type: str) -> Order | None:
        """How a VM comes by that interpreter; see :meth:`ours`."""
        lock = await self.ours(instance_type)
        if lock is None:
            return None
        return await self._stock.order(
            lock, name="dayfly", check=OURS, interpreters=self.interpreters, index=self.index
        )

    async def admit(
        self, instance_type: str, imports: Collection[str]
    ) -> tuple[str, tuple[str, ...]]:
        """What a job's functions run in.

        Args:
            instance_type: Of its workers.
            imports: Full names of the modules that its function imports.

        Returns:
            The key of the lock, empty for the workers' own runtime; and what the user should
            read, once.

        Raises:
            EnvironmentSyncError: It imports what the workers cannot be given.
        """
        packages = await self.packages(instance_type)
        fresh = tuple(text for text in packages.admit(imports) if text not in self._told)
        self._told.update(fresh)
        return packages.key, fresh

    async def packages(self, instance_type: str) -> Packages:
        """The functions' packages.

        Raises:
            EnvironmentSyncError: They cannot be found out.
        """
        if self._parts.config.compute.environment in {"image", "none"}:
            return Packages()
        platform = await self._parts.cloud.platform(instance_type)
        return await _once(self._packages, platform, self._find_packages)

    async def _find_ours(self, platform: Platform) -> Lock:
        found = await asyncio.to_thread(capture)
        wanted = [*_closure(found.installed, OURS), _uv()]
        lock, missing, _ = await self._resolved(wanted, platform)
        if missing:
            check(OURS, wanted, missing)
        return lock

    async def _find_packages(self, platform: Platform) -> Packages:
        compute = self._parts.config.compute
        found = await asyncio.to_thread(capture)
        if compute.environment != "auto":
            lock = await self._required(found, platform)
            return Packages(key=lock.key)
        lock, missing, warnings = await self._resolved(
            [*found.installed, _uv()], platform, extra=self._extra
        )
        return Packages(
            key=lock.key,
            installed=found.installed,
            missing=missing,
            warnings=(*found.warnings, *warnings),
        )

    @property
    def _extra(self) -> tuple[str, ...]:
        return tuple(getattr(self._parts.config.compute, "extra_python_packages", ()))

    async def _resolved(
        self, installed: Sequence[Installed], platform: Platform, *, extra: Sequence[str] = ()
    ) -> tuple[Lock, tuple[Missing, ...], tuple[str, ...]]:
        index = self._parts.config.compute.package_index
        wished = wish(installed, platform, python(), index=index, extra=extra)
        known = await self._stock.find(wished.key)
        if known is not None:
            return known, (), ()
        result = await resolve(
            installed, platform, python(), folder=_wheels(), index=index, extra=extra
        )
        # A wish that was not fulfilled is looked into again by the next program.
        alias = "" if result.missing else wished.key
        await self._stock.keep(result.lock, result.repacked, alias=alias)
        return result.lock, result.missing, result.warnings

    async def _required(self, found: Capture, platform: Platform) -> Lock:
        """What a file of the user's says, and what the runner and the installation need."""
        compute = self._parts.config.compute
        path, index = _path(compute.environment), compute.package_index
        also = (*(one.pin for one in found.installed if one.pin.name == RUNNERS), _uv().pin)
        wished = await asyncio.to_thread(wish_of, path, platform, python(), index=index)
        wished = msgspec.structs.replace(wished, pins=also)
        known = await self._stock.find(wished.key)
        if known is None:
            result = await resolve_requirements(path, platform, python(), index=index, also=also)
            known = result.lock
            await self._stock.keep(known, result.repacked, alias=wished.key)
        return known


async def _once(
    tasks: dict[Platform, asyncio.Task[Found]],
    platform: Platform,
    find: Callable[[Platform], Coroutine[object, object, Found]],
) -> Found:
    """What was found out before, or is being; what failed is tried again."""
    task = tasks.get(platform)
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        task = tasks[platform] = asyncio.ensure_future(find(platform))
    return await asyncio.shield(task)


def python() -> str:
    """This interpreter's minor version: what functions are pickled for."""
    if sys.implementation.name != "cpython":
        raise UsageError(
            f"VMs cannot be given {sys.implementation.name}",
            hint="run this program with CPython, or set environment: image",
        )
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _closure(installed: Sequence[Installed], roots: Sequence[str]) -> list[Installed]:
    """Some distributions, with all that they require."""
    by_name = {one.pin.name: one for one in installed}
    pending, found = [name for name in roots if name in by_name], dict[str, Installed]()
    while pending:
        name = pending.pop()
        if name in by_name and name not in found:
            found[name] = by_name[name]
            pending += dependencies(by_name[name])
    return [found[name] for name in sorted(found)]


def _uv() -> Installed:
    """Uv itself, which installs all else on the VM."""
    found = importlib.metadata.distribution("uv")
    place = Path(str(found.locate_file("")))
    info = place / f"uv-{found.version}.dist-info"
    return Installed(pin=Pin(name="uv", version=found.version), place=place, info=info)


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _wheels() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "dayfly" / "wheels"
