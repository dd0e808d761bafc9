"""One owner's part of a storage that others use too.

A bucket is shared by all users of an account, in all regions. What is dayfly's own lies below
``dayfly/<scope>/``, and is seen here as ``dayfly/``: nobody sees, reads by mistake or cleans away
what belongs to another's cluster. The user's own keys are left as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from dayfly.model import StorageConfig
from dayfly.storage import keys
from dayfly.storage.base import ObjectInfo, Storage


class ScopedStorage:
    """A storage whose ``dayfly/`` is one owner's (:class:`~dayfly.storage.base.Storage`).

    Args:
        storage: All of it.
        scope: Tells whose part this is; asked when it is first needed. Empty: all of it.
    """

    def __init__(self, storage: Storage, scope: Callable[[], Awaitable[str]]) -> None:
        self._storage = storage
        self._scope = scope
        self._root = ""

    @property
    def name(self) -> str:
        """See :class:`~dayfly.storage.base.Storage`."""
        return self._storage.name

    async def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """See :class:`~dayfly.storage.base.Storage`."""
        await self._storage.put_object(await self._whole(key), data, if_absent=if_absent)

    async def get_object(self, key: str, *, byte_range: tuple[int, int] | None = None) -> bytes:
        """See :class:`~dayfly.storage.base.Storage`."""
        return await self._storage.get_object(await self._whole(key), byte_range=byte_range)

    async def stream_object(self, key: str, *, chunk_size: int = 1 << 20) -> AsyncIterator[bytes]:
        """See :class:`~dayfly.storage.base.Storage`."""
        async for piece in self._storage.stream_object(
            await self._whole(key), chunk_size=chunk_size
        ):
            yield piece

    async def head_object(self, key: str) -> ObjectInfo:
        """See :class:`~dayfly.storage.base.Storage`."""
        found = await self._storage.head_object(await self._whole(key))
        return msgspec.structs.replace(found, key=key)

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """See :class:`~dayfly.storage.base.Storage`."""
        root = await self._own_root()
        async for found in self._storage.list_objects(await self._whole(prefix)):
            if not found.key.startswith(keys.ROOT):
                yield found
            elif found.key.startswith(root):
                yield msgspec.structs.replace(found, key=self._own(found.key))

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """See :class:`~dayfly.storage.base.Storage`."""
        async for found in self.list_objects(prefix):
            yield found.key

    async def delete_object(self, key: str) -> None:
        """See :class:`~dayfly.storage.base.Storage`."""
        await self._storage.delete_object(await self._whole(key))

    async def delete_objects(self, keys: Iterable[str]) -> None:
        """See :class:`~dayfly.storage.base.Storage`."""
        await self._storage.delete_objects([await self._whole(key) for key in keys])

    async def upload_file(self, path: str | Path, key: str) -> None:
        """See :class:`~dayfly.storage.base.Storage`."""
        await self._storage.upload_file(path, await self._whole(key))

    async def download_file(self, key: str, path: str | Path) -> None:
        """See :class:`~dayfly.storage.base.Storage`."""
        await self._storage.download_file(await self._whole(key), path)

    async def lend(self, key: str, verb: Literal["get", "put"], *, seconds: float) -> str:
        """See :class:`~dayfly.storage.base.Storage`."""
        return await self._storage.lend(await self._whole(key), verb, seconds=seconds)

    async def locate(self) -> StorageConfig:
        """See :class:`~dayfly.storage.base.Storage`; the scope is in it."""
        found = await self._storage.locate()
        return msgspec.structs.replace(found, scope=await self._scope())

    async def aclose(self) -> None:
        """See :class:`~dayfly.storage.base.Storage`."""
        await self._storage.aclose()

    async def _own_root(self) -> str:
        if not self._root:
            scope = await self._scope()
            self._root = f"{keys.ROOT}{scope}/" if scope else keys.ROOT
        return self._root

    async def _whole(self, key: str) -> str:
        """A key, or the beginning of one, as it is in the whole storage."""
        if not key.startswith(keys.ROOT):
            return key
        return await self._own_root() + key.removeprefix(keys.ROOT)

    def _own(self, key: str) -> str:
        return keys.ROOT + key.removeprefix(self._root)
