"""What a job needs on this VM before its first call: brought once, and refused once."""

from __future__ import annotations

import asyncio

from dayfly.errors import EnvironmentFailedError
from dayfly.wire import messages as m
from dayfly.worker.environments import Environments
from dayfly.worker.materials import Materials
from dayfly.worker.pool import PoolJob


class Openings:
    """Opens jobs.

    Args:
        environments: Where functions find their packages.
        materials: The way to functions and modules.
    """

    def __init__(self, environments: Environments, materials: Materials) -> None:
        self._environments = environments
        self._materials = materials
        self._under_way: dict[str, asyncio.Lock] = {}
        self._open: dict[str, PoolJob] = {}
        self._refused: dict[str, EnvironmentFailedError] = {}

    def at_once(self, brief: m.JobBrief) -> PoolJob | None:
        """A job for which nothing has to be brought."""
        interpreter = self._environments.known(brief.packages, brief.system)
        if interpreter is None or brief.function.key or brief.modules:
            return None
        return _opened(brief, brief.function.data, "", interpreter)

    async def open(self, brief: m.JobBrief) -> PoolJob:
        """A job, with all that it needs on this VM.

        Raises:
            EnvironmentFailedError: It cannot have that here; said again without another try.
            DayflyError: Something else cannot be had; another try may succeed.
        """
        # Several spans wait for the same function: it is fetched once.
        turn = self._under_way.setdefault(brief.id, asyncio.Lock())
        async with turn:
            if (refused := self._refused.get(brief.id)) is not None:
                raise refused
            if (known := self._open.get(brief.id)) is not None:
                return known
            try:
                interpreter = await self._environments.bring(brief.packages, brief.system)
            except EnvironmentFailedError as error:
                if self._under_way.get(brief.id) is turn:  # not forgotten meanwhile
                    self._refused[brief.id] = error
                raise
            function = await self._materials.function(brief.function)
            modules = await self._materials.modules(brief.modules)
            opened = _opened(brief, function, modules, interpreter)
            if self._under_way.get(brief.id) is turn:
                self._open[brief.id] = opened
            return opened

    def forget(self, job: str) -> None:
        """A job is over."""
        self._under_way.pop(job, None)
        self._open.pop(job, None)
        self._refused.pop(job, None)


def _opened(brief: m.JobBrief, function: bytes, modules: str, interpreter: str) -> PoolJob:
    return PoolJob(
        id=brief.id,
        function=function,
        modules=modules,
        interpreter=interpreter,
        timeout=brief.timeout,
        environment=brief.environment,
        reserved=brief.reserved,
    )
