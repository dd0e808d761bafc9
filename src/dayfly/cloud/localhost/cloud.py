"""The embedded cloud's API: what EC2 would do, done to records and supervisors on this machine.

No daemon stands behind it. Any process may use the same directory at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from dayfly.clock import Clock, Entropy
from dayfly.cloud.base import Finding, Resource
from dayfly.cloud.localhost.environment import user_name
from dayfly.cloud.localhost.faults import Faults, read_faults
from dayfly.cloud.localhost.plane import Plane
from dayfly.environment.lock import Platform, this_platform
from dayfly.errors import CloudError, ConfigError
from dayfly.model import Instance, InstanceSpec, InstanceState, Launch, Price

_MAX_PROCESSES = 128
#: Seconds that ``purge`` gives VMs for an orderly end, before it kills them.
_PURGE = 10.0
_LEAVING = frozenset({InstanceState.SHUTTING_DOWN, InstanceState.STOPPING})

_P = ParamSpec("_P")
_T = TypeVar("_T")


class LocalhostCloud:
    """The embedded cloud below one directory.

    Args:
        directory: Where all of it lies; made when first needed, for this user only.
        boot_time: Seconds from launch until a VM answers SSH, at least. It is pending for a
            quarter of it.
        clock: Time.
        entropy: Chance.
    """

    def __init__(
        self, directory: Path, *, boot_time: float = 0.0, clock: Clock, entropy: Entropy
    ) -> None:
        self.directory = directory.absolute()
        self._clock = clock
        self._entropy = entropy
        self._plane = Plane(self.directory, boot_time=boot_time, clock=clock, entropy=entropy)

    @property
    def name(self) -> str:  # noqa: D102
        return "localhost"

    @property
    def region(self) -> str:  # noqa: D102
        return ""

    @property
    def pace(self) -> float:  # noqa: D102
        return 0.1

    async def owner(self) -> str:  # noqa: D102
        return user_name()

    async def processes(self, instance_type: str) -> int:  # noqa: D102
        family, _, count = instance_type.partition(".")
        if family == "local" and count.isdecimal() and 1 <= int(count) <= _MAX_PROCESSES:
            return int(count)
        raise ConfigError(
            f"the embedded cloud has no instance type {instance_type!r}",
            cause=f"its types are local.1 to local.{_MAX_PROCESSES}, by their processes",
            hint=f"worker_instance_type: local.{min(os.cpu_count() or 1, _MAX_PROCESSES)}",
        )

    async def platform(self, instance_type: str) -> Platform:  # noqa: ARG002, D102
        return this_platform()

    async def python(self, instance_type: str) -> str:  # noqa: ARG002, D102
        return f"{sys.version_info.major}.{sys.version_info.minor}"

    async def launch(  # noqa: D102
        self, spec: InstanceSpec, count: int, *, minimum: int = 1, token: str
    ) -> Launch:
        for instance_type in spec.instance_types:
            await self.processes(instance_type)
        if spec.spot and spec.on_poweroff == "stop":
            raise CloudError(
                "a one-time spot instance cannot be stopped, and so not by its own shutdown",
                cause="InvalidParameterCombination, as on EC2",
            )
        return await _off_loop(self._plane.launch, spec, count, minimum, token)

    async def list(  # noqa: D102
        self,
        *,
        tags: Mapping[str, str] | None = None,
        ids: Collection[str] | None = None,
        states: Collection[InstanceState] | None = None,
    ) -> list[Instance]:
        records = await _off_loop(self._plane.records)
        wanted = (tags or {}).items()
        found = [
            record.instance
            for record in records
            if (ids is None or record.id in ids)
            and (states is None or record.state in states)
            and wanted <= record.instance.tags.items()
        ]
        return sorted(found, key=lambda instance: (instance.launched_at, instance.id))

    async def start(self, ids: Sequence[str]) -> None:  # noqa: D102
        await _off_loop(self._plane.start, ids)

    async def stop(self, ids: Sequence[str]) -> None:  # noqa: D102
        await _off_loop(self._plane.stop, ids)

    async def terminate(self, ids: Sequence[str]) -> None:  # noqa: D102
        await _off_loop(self._plane.terminate, ids)

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:  # noqa: D102
        await _off_loop(self._plane.tag, ids, tags)

    async def console(self, instance_id: str) -> str:  # noqa: D102
        return await _off_loop(self._plane.console, instance_id)

    @property
    def imaging(self) -> None:  # noqa: D102
        return None

    async def admit(self) -> None:  # noqa: D102
        pass  # the instances are on this machine

    async def check_consumable(self, instance: Instance) -> None:  # noqa: D102
        record = await _off_loop(self._plane.record, instance.id)
        if record.on_poweroff == "terminate":
            raise ConfigError(
                f"the VM {instance.id} cannot be consumed: a poweroff in it would delete it",
                cause="it was launched so that its own shutdown terminates it",
                hint="dayfly localhost run makes one that is stopped instead",
            )

    async def prices(  # noqa: D102
        self,
        instance_types: Collection[str],
        *,
        spot: bool,  # noqa: ARG002  # neither costs anything here
    ) -> dict[str, Price]:
        return dict.fromkeys(instance_types, Price(hourly=0.0, source="this machine is yours"))

    async def examine(self, workers: int) -> Sequence[Finding]:  # noqa: D102
        from dayfly.cloud.localhost.doctor import examine

        return await examine(self.directory, workers, self._entropy)

    async def aclose(self) -> None:  # noqa: D102
        pass  # each step opens and closes what it needs

    async def inventory(self) -> Sequence[Resource]:  # noqa: D102
        return await _off_loop(self._plane.inventory)

    async def purge(self) -> None:  # noqa: D102
        ours = await _off_loop(self._plane.end_ours)
        deadline = self._clock.monotonic() + _PURGE
        while any(instance.state in _LEAVING for instance in await self.list(ids=ours)):
            if self._clock.monotonic() >= deadline:
                break
            await self._clock.sleep(0.01)
        left = await _off_loop(self._plane.delete_ours)
        if left:
            raise CloudError(
                f"processes of the embedded cloud are left: {sorted(left)}",
                cause="they did not end by SIGKILL; they wait in the kernel",
                hint=f"ps -fp {','.join(map(str, sorted(left)))}",
            )

    async def faults(self) -> Faults:
        """The faults that were asked for, and are left."""
        return await _off_loop(read_faults, self.directory)

    async def set_faults(self, faults: Faults) -> None:
        """Ask for faults, in place of those that were asked for before."""
        await _off_loop(self._plane.set_faults, faults)

    async def interrupt(self, instance_id: str, *, notice: float = 120.0) -> None:
        """Take a spot instance back, as EC2 does; returns once it is announced.

        The notice lies on the VM in ``/run/spot-instance-action``, and reads as that of EC2's
        metadata service (``spot/instance-action``).

        Args:
            instance_id: Which one.
            notice: Seconds from the notice to the end.

        Raises:
            CloudError: It is no spot instance, or not running.
        """
        await _off_loop(self._plane.interrupt, instance_id, notice)


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise CloudError(
            "the embedded cloud could not be asked",
            cause=str(error),
            hint="a process that uses it seems to be suspended: ps -ef | grep dayfly",
        ) from error
    except OSError as error:
        raise CloudError("the embedded cloud could not be asked", cause=str(error)) from error


async def _off_loop(do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Do file work of some milliseconds beside the event loop, and map its errors."""
    with _in_our_words():
        return await asyncio.to_thread(do, *args, **kwargs)
