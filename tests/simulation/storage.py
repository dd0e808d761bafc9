"""Simulated object storage: in memory, strongly consistent as S3 is, slow and at times failing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from dayfly.errors import ObjectExistsError, ObjectNotFoundError, StorageError
from dayfly.model import StorageConfig
from dayfly.storage.base import ObjectInfo
from dayfly.storage.filenames import check_key
from dayfly.storage.userfiles import users_file
from tests.simulation.process import EPOCH
from tests.simulation.surroundings import Immortal, Mortal, NoFaults, Strikes, heavy

#: Keys in a page of a listing.
PAGE = 1000

T = TypeVar("T")


class Stored(NamedTuple):
    """An object; ``modified`` is a date."""

    data: bytes
    modified: float


class StorageState:
    """The objects, shared by all who use them. Each step is taken at one instant.

    Args:
        loop: Its time is true time.
        stream: For how long things take.
        faults: Which misfortunes strike.
        epoch: The date at which the loop's time is 0.
        answer: Seconds from a question to its answer, most often.
        speed: Bytes per second.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: random.Random,
        faults: Strikes | None = None,
        *,
        epoch: float = EPOCH,
        answer: float = 0.03,
        speed: float = 50e6,
    ) -> None:
        self.loop = loop
        self.stream = stream
        self.faults: Strikes = faults or NoFaults()
        self.epoch = epoch
        self.answer = answer
        self.speed = speed
        self.objects: dict[str, Stored] = {}

    def put(self, key: str, data: bytes, *, if_absent: bool) -> None:
        if if_absent and key in self.objects:
            raise ObjectExistsError(f"object {key!r} exists already")
        self.objects[key] = Stored(data, self.epoch + self.loop.time())

    def get(self, key: str) -> Stored:
        found = self.objects.get(key)
        if found is None:
            raise ObjectNotFoundError(f"there is no object {key!r}", cause="NoSuchKey")
        return found

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        """The first objects below a prefix whose keys come after one, by key."""
        # Code points sort as their UTF-8 does.
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)[:PAGE]
        return [
            ObjectInfo(key=key, size=len(found.data), modified=found.modified)
            for key in keys
            for found in [self.objects[key]]
        ]


class SimStorage:
    """The simulated form of :class:`~dayfly.storage.base.Storage`, for one simulated process.

    Args:
        state: The objects.
        process: Whose calls these are; the dead call no more, and are told nothing.
    """

    def __init__(self, state: StorageState, process: Mortal | None = None) -> None:
        self._state = state
        self._process: Mortal = process or Immortal()

    @property
    def name(self) -> str:
        return "aws_s3"

    async def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        check_key(key)
        whole = bytes(data)

        def put() -> None:
            self._state.put(key, whole, if_absent=if_absent)
            if self._state.faults.strikes("storage ambiguous put"):
                raise _failed("written", key, "the answer was lost")

        await self._do("written", key, put, len(whole))

    async def get_object(self, key: str, *, byte_range: tuple[int, int] | None = None) -> bytes:
        check_key(key)
        start, stop = byte_range or (0, None)
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"byte_range {byte_range} of {key!r}: give 0 <= start <= stop")
        data = (await self._do("read", key, lambda: self._state.get(key))).data[start:stop]
        await self._carry(len(data))
        return data

    async def stream_object(self, key: str, *, chunk_size: int = 1 << 20) -> AsyncIterator[bytes]:
        check_key(key)
        if chunk_size < 1:
            raise ValueError(f"chunk_size {chunk_size} for {key!r}: give at least 1 byte")
        # What is being read stays what it was, whatever is put meanwhile.
        data = (await self._do("read", key, lambda: self._state.get(key))).data
        for start in range(0, len(data), chunk_size):
            if start and self._state.faults.strikes("storage error"):
                raise _failed("read", key, "the connection broke")
            piece = data[start : start + chunk_size]
            await self._carry(len(piece))
            yield piece

    async def head_object(self, key: str) -> ObjectInfo:
        check_key(key)
        found = await self._do("read", key, lambda: self._state.get(key))
        return ObjectInfo(key=key, size=len(found.data), modified=found.modified)

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        after = ""
        while True:
            page = await self._do("listed", prefix, partial(self._state.page, prefix, after))
            for found in page:
                yield found
            if len(page) < PAGE:
                return
            after = page[-1].key

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        async for found in self.list_objects(prefix):
            yield found.key

    async def delete_object(self, key: str) -> None:
        await self.delete_objects([key])

    async def delete_objects(self, keys: Iterable[str]) -> None:
        doomed = list(dict.fromkeys(keys))
        for key in doomed:
            check_key(key)
        for start in range(0, len(doomed), PAGE):
            some = doomed[start : start + PAGE]
            await self._do("deleted", some[0], partial(self._state.delete, some))

    async def upload_file(self, path: str | Path, key: str) -> None:
        check_key(key)
        with users_file("read", path):
            data = Path(path).read_bytes()
        await self.put_object(key, data)

    async def download_file(self, key: str, path: str | Path) -> None:
        data = await self.get_object(key)
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        with users_file("written", path):
            try:
                part.write_bytes(data)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    async def lend(self, key: str, verb: Literal["get", "put"], *, seconds: float) -> str:
        check_key(key)
        return f"simulated:{verb}:{key}"

    async def locate(self) -> StorageConfig:
        await self._do("found", "the bucket itself", lambda: None)
        return StorageConfig(
            kind="aws_s3",
            location="dayfly-123456789012-us-east-1",
            region="us-east-1",
            account="123456789012",
        )

    async def aclose(self) -> None:
        pass

    async def _do(self, verb: str, key: str, step: Callable[[], T], size: int = 0) -> T:
        """Travel there, do it at one instant unless that fails, and travel back."""
        faults = self._state.faults
        await self._travel()
        await self._carry(size)
        if faults.strikes("slow storage"):
            await self._wait(faults.amount("slow storage", 0.5, 60.0))
        if faults.strikes("storage error"):
            await self._wait(faults.amount("storage error", 0.05, 30.0))
            raise _failed(verb, key, "InternalError: We encountered an internal error")
        try:
            answer = step()
        except StorageError:
            await self._travel()
            raise
        await self._travel()
        return answer

    async def _carry(self, size: int) -> None:
        if size > 1 << 16:
            await self._wait(size / self._state.speed)

    async def _travel(self) -> None:
        await self._wait(heavy(self._state.stream, self._state.answer / 2.0))

    async def _wait(self, seconds: float) -> None:
        self._process.check()
        await asyncio.sleep(seconds)
        self._process.check()


def _failed(verb: str, key: str, cause: str) -> StorageError:
    return StorageError(f"object {key!r} could not be {verb}", cause=cause)
