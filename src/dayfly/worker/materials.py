"""What calls are made of: functions, chunks of items and local modules, fetched from storage."""

from __future__ import annotations

import asyncio
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from weakref import WeakValueDictionary

import msgspec

from dayfly import errors
from dayfly.storage.base import Storage
from dayfly.wire import messages as m

#: Where local modules are unpacked.
MODULES = "/var/lib/dayfly/modules"
#: Bytes of chunks that are kept for further spans of the same chunks.
CACHE = 128 * 1024 * 1024


class Materials:
    """The way to storage; what many spans share is fetched once.

    Args:
        storage: The cluster's.
        directory: Where local modules are unpacked.
    """

    def __init__(self, storage: Storage, directory: Path) -> None:
        self._storage = storage
        self._directory = directory
        self._chunks: OrderedDict[str, list[bytes]] = OrderedDict()
        self._weight = 0
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._unpacking = asyncio.Lock()

    async def function(self, payload: m.Payload) -> bytes:
        """A job's function, header and pickle.

        Raises:
            StorageError: It cannot be had; the error names the key.
        """
        return await self._storage.get_object(payload.key) if payload.key else payload.data

    async def items(self, span: m.Span, key: str, chunk_start: int) -> Sequence[bytes]:
        """The pickled items of a span within a chunk.

        Raises:
            StorageError: The chunk cannot be had, or is none; the error names the key.
        """
        chunk = await self._chunk(key)
        items = chunk[span.start - chunk_start : span.stop - chunk_start]
        if len(items) != span.stop - span.start:
            raise errors.StorageError(
                f"{key} holds {len(chunk)} items from {chunk_start} on,"
                f" not {span.start} to {span.stop}"
            )
        return items

    async def modules(self, key: str) -> str:
        """The directory of a job's local modules, unpacked when it is not there yet.

        Raises:
            StorageError: The archive cannot be had, or is none; the error names the key.
        """
        if not key:
            return ""
        target = self._directory / PurePosixPath(key).stem
        async with self._unpacking:
            if not target.exists():
                data = await self._storage.get_object(key)
                try:
                    await asyncio.to_thread(_unpack, data, target)
                except (zipfile.BadZipFile, OSError) as error:
                    raise errors.StorageError(
                        f"{key} cannot be unpacked to {target}", cause=str(error)
                    ) from error
        return str(target)

    def forget(self, prefix: str) -> None:
        """Drop the chunks below a prefix."""
        for key in [key for key in self._chunks if key.startswith(prefix)]:
            self._weight -= sum(map(len, self._chunks.pop(key)))

    async def _chunk(self, key: str) -> list[bytes]:
        async with self._fetching.setdefault(key, asyncio.Lock()):
            if key not in self._chunks:
                self._chunks[key] = await self._fetch(key)
                self._weight += sum(map(len, self._chunks[key]))
        self._chunks.move_to_end(key)
        chunk = self._chunks[key]
        while self._weight > CACHE and len(self._chunks) > 1:
            self._weight -= sum(map(len, self._chunks.popitem(last=False)[1]))
        return chunk

    async def _fetch(self, key: str) -> list[bytes]:
        try:
            return m.CHUNK.decode(await self._storage.get_object(key))
        except msgspec.MsgspecError as error:
            raise errors.StorageError(f"{key} is not a chunk of items", cause=str(error)) from error


def _unpack(data: bytes, target: Path) -> None:
    """Unpack an archive; the target is there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        archive = Path(scratch) / "archive.zip"
        archive.write_bytes(data)
        unpacked = Path(scratch) / "modules"
        unpacked.mkdir()
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(unpacked)
        unpacked.rename(target)
