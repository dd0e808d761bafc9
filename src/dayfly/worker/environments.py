"""The interpreters that functions run in: each brought to this VM once, by the kit.

The kit is a process of its own, run as a bare VM runs it: the agent never imports, installs or
unpacks anything of the user's itself.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from dayfly import guest
from dayfly.environment import kit, system
from dayfly.environment.order import Interpreters, Order
from dayfly.environment.report import read
from dayfly.errors import DayflyError, EnvironmentFailedError
from dayfly.phases import OWN, STOCKED, SYSTEM, Steps, Timeline
from dayfly.stock import Stock
from dayfly.storage.base import Storage

log = logging.getLogger(__name__)

#: Seconds beyond the kit's own deadline.
_GRACE: Final = 10.0
#: Status of a script that has not ended, as timeout(1) has it.
_LATE: Final = 124
#: Seconds for which the master may be busy with putting the files into storage.
_PATIENCE: Final = 600.0


class Environments(Protocol):
    """Where functions find their packages."""

    def known(self, key: str, system: Sequence[str] = ()) -> str | None:
        """The interpreter of what is here already; that of no environment is ``""``.

        Args:
            key: Of the lock of the Python packages; empty: none are needed.
            system: Packages of the VM's system.
        """
        ...

    def stocked(self, key: str) -> None:
        """Storage has the files of an environment."""
        ...

    @property
    def told(self) -> str:
        """What functions run in, in words, for the logs of their jobs; empty: nothing to tell."""
        ...

    async def begin(self) -> None:
        """Do what can be done before there is a job.

        Raises:
            EnvironmentFailedError: It cannot; :meth:`bring` tries again.
        """
        ...

    async def bring(self, key: str, system: Sequence[str] = ()) -> str:
        """The interpreter of an environment, which is installed at the first need.

        Raises:
            EnvironmentFailedError: It cannot be had.
            StorageError: Storage cannot be asked for it.
        """
        ...


async def begin(environments: Environments, start_runners: Callable[[], None]) -> None:
    """Start the runners, once there is what they run in."""
    try:
        await environments.begin()
    except DayflyError as error:  # whoever sends calls is told too
        log.warning("%s", error)
    else:
        start_runners()


class KitEnvironments:
    """The form that installs.

    Args:
        storage: The cluster's.
        worker: This VM, as people know it.
        interpreters: Where a Python comes from that the VM lacks.
        timeline: Where it is told what took how long.
    """

    def __init__(
        self, storage: Storage, worker: str, interpreters: Interpreters, timeline: Timeline
    ) -> None:
        self._stock = Stock(storage)
        self._worker = worker
        self._interpreters = interpreters
        self._timeline = timeline
        self._known = {"": ""}
        self._system: set[str] = set()
        self._bringing: dict[str, asyncio.Lock] = {}
        self._stocked: dict[str, asyncio.Event] = {}

    #: See :class:`Environments`.
    told = ""

    def known(self, key: str, system: Sequence[str] = ()) -> str | None:
        """See :class:`Environments`."""
        return self._known.get(key) if self._system.issuperset(system) else None

    async def begin(self) -> None:
        """See :class:`Environments`."""

    def stocked(self, key: str) -> None:
        """See :class:`Environments`."""
        self._stocked.setdefault(key, asyncio.Event()).set()

    async def bring(self, key: str, system: Sequence[str] = ()) -> str:
        """See :class:`Environments`."""
        interpreter, _ = await asyncio.gather(self._bring(key), self._bring_system(system))
        return interpreter

    async def _bring(self, key: str) -> str:
        # Several jobs wait for the same one: it is installed once.
        async with self._bringing.setdefault(key, asyncio.Lock()):
            if key not in self._known:
                self._known[key] = await self._install(key)
            return self._known[key]

    async def _bring_system(self, packages: Sequence[str]) -> None:
        async with self._bringing.setdefault("apt", asyncio.Lock()):
            if not self._system.issuperset(packages):
                with self._timeline.during(self._worker, SYSTEM):
                    await self._install_system(packages)
                self._system.update(packages)

    async def _install_system(self, packages: Sequence[str]) -> None:
        # It has a deadline of its own, and is never cut off in the middle: dpkg would be broken.
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", system.script(packages)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(system.DEADLINE + _GRACE):
                output, _ = await process.communicate()
        except TimeoutError:
            output = b""
        failed = system.failure(
            _LATE if process.returncode is None else process.returncode,
            output.decode("utf-8", "replace"),
            packages,
            vm=self._worker,
            platform=_platform(),
        )
        if failed is not None:
            raise failed
        log.info("the system has %s", ", ".join(packages))

    async def _await_stock(self, stocked: asyncio.Event) -> None:
        """Wait until storage has the files; the master may be gone, and the index is asked then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                with self._timeline.during(self._worker, STOCKED):
                    await stocked.wait()

    async def _install(self, key: str) -> str:
        stocked = self._stocked.setdefault(key, asyncio.Event())
        # It is of an image, or from before a stop, or the client gives this VM a head start.
        if _is_begun(key) and not stocked.is_set():
            try:
                return await self._run_kit(key)
            except EnvironmentFailedError as error:
                # An index may say that it has no such file to whoever gives no password.
                if error.kind not in {"network", "file"}:
                    raise
                log.info("environment %s: storage is waited for: %s", key, error.what)
        await self._await_stock(stocked)
        return await self._run_kit(key)

    async def _run_kit(self, key: str) -> str:
        steps = Steps(self._timeline, self._worker, OWN)
        lock = await self._stock.find(key)
        if lock is None:
            raise EnvironmentFailedError(
                f"environment {key} is not in storage any more",
                stage="lock",
                kind="order",
                vm=self._worker,
                cause="somebody has deleted it since the job was submitted",
                hint="run the program again: it stores it again",
            )
        order = await self._stock.order(
            lock, name=key[:8], interpreters=self._interpreters, deposit=False
        )
        log.info("environment %s: %d packages for Python %s", key, len(order.files), lock.python)
        status, output, said = await _run(order, steps.hear)
        try:
            report = read(output, vm=self._worker, environment=key[:8], status=status, errors=said)
        except EnvironmentFailedError as error:
            error.platform = f"Python {lock.python}, {lock.platform.name}"
            raise
        for note in report.notes:
            log.warning("environment %s: %s", key, note)
        took = ", ".join(f"{step.step} {step.seconds:.1f} s" for step in report.steps)
        log.info("environment %s: there after %.1f s (%s)", key, report.seconds, took)
        return report.python


def _is_begun(key: str) -> bool:
    """Whether this disk has an environment, or is being given one: by an image or a head start."""
    return guest.path(f"/opt/dayfly/env/{key}").exists()


async def _run(order: Order, heard: Callable[[bytes], None]) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", kit.__name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(order.deadline + _GRACE):
            output, said = await _converse(process, order.encode(), heard)
    except TimeoutError:
        return None, "", f"it was still running after {order.deadline + _GRACE:.0f} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
    return process.returncode, output.decode("utf-8", "replace"), said.decode("utf-8", "replace")


async def _converse(
    process: asyncio.subprocess.Process, order: bytes, heard: Callable[[bytes], None]
) -> tuple[bytes, bytes]:
    """All that the kit prints, each line told as it comes."""
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018  # pipes
    said = asyncio.ensure_future(process.stderr.read())
    process.stdin.write(order)
    process.stdin.close()
    lines = []
    try:
        async for line in process.stdout:
            heard(line)
            lines.append(line)
        await process.wait()
        return b"".join(lines), await said
    finally:
        said.cancel()


def _platform() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.machine()}"
