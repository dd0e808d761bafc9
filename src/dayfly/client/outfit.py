"""What this client's VMs are given: dayfly's own interpreter, and the functions' packages.

Both are found out before anything is launched. What was found out once is in storage, by a key
that says all that it depends on: the next program asks no package index, nor uv. Where images have
all that is needed, what finds it out is not even imported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from dayfly.client.ground import Ground, python
from dayfly.environment.lock import File, Lock, Missing
from dayfly.environment.order import Interpreters, Order
from dayfly.errors import EnvironmentSyncError
from dayfly.model import ExecMode
from dayfly.parts import Parts
from dayfly.phases import CLIENT
from dayfly.stock import Stock

if TYPE_CHECKING:
    from dayfly.client.inquiry import Inquiry
    from dayfly.environment.capture import Capture, Installed
    from dayfly.environment.pythons import Wish

log = logging.getLogger(__name__)

Wished = TypeVar("Wished")
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
        recalled: Another program found that out, and it may be otherwise by now.
    """

    key: str = ""
    installed: tuple[Installed, ...] = ()
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()
    recalled: bool = False

    def admit(self, imports: Collection[str]) -> tuple[str, ...]:
        """Refuse a job whose function imports what the workers cannot be given.

        Args:
            imports: Full names of modules.

        Returns:
            What is to be told of the rest.

        Raises:
            EnvironmentSyncError: It needs one of them.
        """
        if not self.missing:
            return self.warnings
        from dayfly.environment.needs import check

        return (*self.warnings, *check(imports, self.installed, self.missing))


class Outfitter:
    """Finds out, once for a session, what its VMs are given.

    Args:
        parts: The cloud whose VMs these are, the storage, the configuration.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stock = Stock(parts.storage)
        self._captured: dict[str, asyncio.Task[Capture]] = {}
        self._builds: dict[Wish, asyncio.Task[File]] = {}
        self._locks: dict[Ground, asyncio.Task[Lock]] = {}
        self._packages: dict[Ground, asyncio.Task[Packages]] = {}
        self._told: set[str] = set()

    @cached_property
    def _inquiry(self) -> Inquiry:
        from dayfly.client.inquiry import Inquiry

        index = self._parts.config.compute.package_index
        return Inquiry(self._stock, index, timeline=self._parts.timeline)

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
        from dayfly.environment.indexes import indexes

        return indexes(self._parts.config.compute.package_index).urls

    async def ours(self, instance_type: str) -> Lock | None:
        """The interpreter for dayfly's own services; ``None``: the image has all that they need.

        Raises:
            EnvironmentSyncError: It cannot be had for such VMs.
        """
        if self._parts.config.compute.environment == "image":
            return None
        ground = await self._ground(instance_type)
        return await _once(self._locks, ground, self._find_ours)

    async def order(self, instance_type: str) -> Order | None:
        """How a VM comes by that interpreter; see :meth:`ours`."""
        lock = await self.ours(instance_type)
        if lock is None:
            return None
        return await self._stock.order(
            lock, name="dayfly", interpreters=self.interpreters, index=self.index
        )

    async def functions(self, packages: str, *, deposit: bool) -> Order | None:
        """How a worker comes by the interpreter of functions.

        Args:
            packages: Key of its lock; empty: the workers' own runtime.
            deposit: Whether the worker leaves in storage what that lacks.
        """
        lock = await self._stock.find(packages) if packages else None
        if lock is None:
            return None
        return await self._stock.order(
            lock,
            name=packages[:8],
            interpreters=self.interpreters,
            index=self.index,
            deposit=deposit,
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
            EnvironmentSyncError: It imports what the workers cannot be given, or they cannot be
                given this Python, or what dayfly itself needs.
        """
        compute = self._parts.config.compute
        types = {instance_type}
        if compute.exec_mode is not ExecMode.CONSUME:
            types.add(compute.master_instance_type)
        # All that the VMs need is found out before any of them is launched.
        packages, _ = await asyncio.gather(
            self.packages(instance_type), asyncio.gather(*map(self.ours, types))
        )
        try:
            texts = packages.admit(imports)
        except EnvironmentSyncError:
            if not packages.recalled:
                raise
            # Nobody is refused by hearsay: an index may have it by now.
            packages = await self.packages(instance_type, anew=True)
            texts = packages.admit(imports)
        fresh = tuple(text for text in texts if text not in self._told)
        self._told.update(fresh)
        return packages.key, fresh

    async def packages(self, instance_type: str, *, anew: bool = False) -> Packages:
        """The functions' packages.

        Args:
            instance_type: Of the workers.
            anew: Whether to ask, though another program has.

        Raises:
            EnvironmentSyncError: They cannot be found out.
        """
        if self._parts.config.compute.packages in {"image", "none"}:
            return Packages()
        ground = await self._ground(instance_type)
        if anew:
            self._packages.pop(ground, None)

        async def find(ground: Ground) -> Packages:
            return await self._find_packages(ground, anew=anew)

        return await _once(self._packages, ground, find)

    async def _ground(self, instance_type: str) -> Ground:
        """What VMs of a type are given their packages on.

        Raises:
            EnvironmentSyncError: Their image lacks this Python, and it cannot be had for them.
        """
        cloud = self._parts.cloud
        with self._parts.timeline.during(CLIENT, "platform looked up"):
            platform = await cloud.platform(instance_type)
            has = await cloud.python(instance_type)
        if has in {"", python()}:
            return Ground(platform)
        mirror = self._parts.config.compute.python_mirror
        from dayfly.environment.pythons import Wish

        lacking = Wish(python=python(), platform=platform, instead=has, mirror=mirror)
        build = await _once(self._builds, lacking, self._inquiry.build)
        return Ground(platform, build)

    async def _capture(self) -> Capture:
        from dayfly.environment.capture import capture

        async def read(_: str) -> Capture:
            with self._parts.timeline.during(CLIENT, "packages read"):
                return await asyncio.to_thread(capture)

        return await _once(self._captured, "", read)

    async def _find_ours(self, ground: Ground) -> Lock:
        from dayfly.client.inquiry import uv_itself
        from dayfly.environment.needs import check

        found = await self._capture()
        wanted = [*_closure(found.installed, OURS), uv_itself()]
        answer, recalled = await self._inquiry.installed(wanted, ground)
        if answer.missing and recalled:
            answer, _ = await self._inquiry.installed(wanted, ground, anew=True)
        if answer.missing:
            check(OURS, wanted, answer.missing)
        return answer.lock

    async def _find_packages(self, ground: Ground, *, anew: bool) -> Packages:
        from dayfly.client.inquiry import uv_itself

        compute = self._parts.config.compute
        found = await self._capture()
        if compute.environment != "auto":
            also = [one for one in found.installed if one.pin.name == RUNNERS]
            path = _path(compute.environment)
            lock = await self._inquiry.required(path, [*also, uv_itself()], ground)
            return Packages(key=lock.key)
        answer, recalled = await self._inquiry.installed(
            [*found.installed, uv_itself()], ground, extra=self._extra, anew=anew
        )
        return Packages(
            key=answer.lock.key,
            installed=found.installed,
            missing=answer.missing,
            warnings=(*found.warnings, *answer.warnings),
            recalled=recalled,
        )

    @property
    def _extra(self) -> tuple[str, ...]:
        return tuple(getattr(self._parts.config.compute, "extra_python_packages", ()))


async def _once(
    tasks: dict[Wished, asyncio.Task[Found]],
    wished: Wished,
    find: Callable[[Wished], Coroutine[object, object, Found]],
) -> Found:
    """What was found out before, or is being; what failed is tried again."""
    task = tasks.get(wished)
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        task = tasks[wished] = asyncio.ensure_future(find(wished))
    return await asyncio.shield(task)


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _closure(installed: Sequence[Installed], roots: Sequence[str]) -> list[Installed]:
    """Some distributions, with all that they require."""
    from dayfly.environment.capture import dependencies

    by_name = {one.pin.name: one for one in installed}
    pending = [name for name in roots if name in by_name]
    found: dict[str, Installed] = {}
    while pending:
        name = pending.pop()
        if name in by_name and name not in found:
            found[name] = by_name[name]
            pending += dependencies(by_name[name])
    return [found[name] for name in sorted(found)]
