"""Which files fulfil a wish for packages, or for a Python: storage remembers it, or uv is asked.

What was found out once is in storage, by a key that says all that it depends on: the next program
asks no package index, nor uv.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dayfly.client.ground import Ground, python
from dayfly.environment.capture import Installed
from dayfly.environment.lock import Answer, File, Lock, Pin
from dayfly.environment.pythons import Wish, fetched
from dayfly.environment.requirements import resolve_requirements, wish_of
from dayfly.environment.resolve import resolve, wish
from dayfly.phases import CLIENT, Timeline
from dayfly.stock import Stock


class Inquiry:
    """Finds out.

    Args:
        stock: What storage keeps of environments.
        index: URLs of package indexes; empty: see :mod:`dayfly.environment.indexes`.
        timeline: Where it is told what took how long.
    """

    def __init__(self, stock: Stock, index: Sequence[str], *, timeline: Timeline) -> None:
        self._stock = stock
        self._index = index
        self._timeline = timeline

    async def build(self, wished: Wish) -> File:
        """A build of Python, which is in storage from now on.

        Raises:
            EnvironmentSyncError: It cannot be had.
        """
        known = await self._stock.find_python(wished.name)
        if known is None:
            with self._timeline.during(CLIENT, "Python fetched"):
                async with fetched(wished) as (known, path):
                    await self._stock.keep_python(wished.name, known, path)
        return known

    async def installed(
        self,
        installed: Sequence[Installed],
        ground: Ground,
        *,
        extra: Sequence[str] = (),
        anew: bool = False,
    ) -> tuple[Answer, bool]:
        """The wheels of what is installed here.

        Args:
            installed: All of it, or a part.
            ground: What the VMs have.
            extra: Requirements on top.
            anew: Whether to ask, though another program has.

        Returns:
            What came of it, and whether it was remembered.

        Raises:
            EnvironmentSyncError: It cannot be found out.
        """
        platform, index = ground.platform, self._index
        wished = wish(installed, platform, python(), index=index, extra=extra)
        with self._timeline.during(CLIENT, "packages looked up"):
            known = None if anew else await self._stock.recall(wished.key)
        if known is not None:
            return await self._fitted(wished.key, known, ground), True
        with self._timeline.during(CLIENT, "packages resolved"):
            result = await resolve(
                installed, platform, python(), folder=_wheels(), index=index, extra=extra
            )
        lock = msgspec.structs.replace(result.lock, interpreter=ground.build)
        with self._timeline.during(CLIENT, "packages stored"):
            await self._stock.keep(lock, result.repacked)
        answer = Answer(lock=lock, missing=result.missing, warnings=result.warnings)
        await self._stock.remember(wished.key, answer)
        return answer, False

    async def required(self, path: Path, also: Sequence[Installed], ground: Ground) -> Lock:
        """The wheels of what a file of the user's says.

        Args:
            path: Of the file.
            also: Distributions of here that there must be besides.
            ground: What the VMs have.

        Raises:
            EnvironmentSyncError: They cannot be had.
        """
        platform, index = ground.platform, self._index
        pins = tuple(one.pin for one in also)
        wished = await asyncio.to_thread(wish_of, path, platform, python(), index=index)
        wished = msgspec.structs.replace(wished, pins=pins)
        with self._timeline.during(CLIENT, "packages looked up"):
            known = await self._stock.recall(wished.key)
        if known is not None:
            return (await self._fitted(wished.key, known, ground)).lock
        with self._timeline.during(CLIENT, "packages resolved"):
            result = await resolve_requirements(path, platform, python(), index=index, also=pins)
        lock = msgspec.structs.replace(result.lock, interpreter=ground.build)
        await self._stock.keep(lock, result.repacked)
        await self._stock.remember(wished.key, Answer(lock=lock))
        return lock

    async def _fitted(self, key: str, answer: Answer, ground: Ground) -> Answer:
        """An answer that was found for VMs that had another Python, or another mirror."""
        if ground.build is None or answer.lock.interpreter == ground.build:
            return answer
        lock = msgspec.structs.replace(answer.lock, interpreter=ground.build)
        answer = msgspec.structs.replace(answer, lock=lock)
        await self._stock.keep(lock)
        await self._stock.remember(key, answer)
        return answer


def uv_itself() -> Installed:
    """uv, which installs all else on the VM."""
    found = importlib.metadata.distribution("uv")
    place = Path(str(found.locate_file("")))
    info = place / f"uv-{found.version}.dist-info"
    return Installed(pin=Pin(name="uv", version=found.version), place=place, info=info)


def _wheels() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "dayfly" / "wheels"
