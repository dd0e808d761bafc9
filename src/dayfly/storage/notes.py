"""What is written down before it is done, so that whoever does it again does the same."""

from __future__ import annotations

from collections.abc import Iterable

from dayfly.errors import ObjectExistsError, ObjectNotFoundError
from dayfly.storage import keys
from dayfly.storage.base import Storage


class StorageNotes:
    """Notes about launches, in storage (:class:`dayfly.cloud.base.Notes`).

    A note's name is ``<token of the launch>/<name>``. They hold user-data, and so lie where
    the roles of the VMs cannot read.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def claim(self, name: str, note: bytes) -> bytes:
        """Write a note unless one of this name is there; returns the one that is there then."""
        key = _key(name)
        while True:
            try:
                await self._storage.put_object(key, note, if_absent=True)
            except ObjectExistsError:
                if (found := await self.read(name)) is not None:
                    return found
            else:
                return note

    async def read(self, name: str) -> bytes | None:
        """Read a note; ``None`` where there is none."""
        try:
            return await self._storage.get_object(_key(name))
        except ObjectNotFoundError:
            return None

    async def names(self) -> dict[str, float]:
        """The notes that there are: name -> when it was written, in seconds since the epoch."""
        prefix = keys.launch("").removesuffix("/")
        return {
            found.key.removeprefix(prefix): found.modified
            async for found in self._storage.list_objects(prefix)
        }

    async def forget(self, names: Iterable[str]) -> None:
        """Delete notes."""
        await self._storage.delete_objects([_key(name) for name in names])


def _key(name: str) -> str:
    token, _, rest = name.partition("/")
    return keys.launch(token) + rest
