"""The seam to object storage: one page that every form keeps to, and the user's own API.

Keys are ``/``-separated UTF-8 without empty, ``.`` or ``..`` parts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from dayfly.model import StorageConfig


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An object without its data.

    Attributes:
        size: Bytes.
        modified: Seconds since the epoch.
    """

    key: str
    size: int
    modified: float


class Storage(Protocol):
    """Where functions, arguments, large outcomes and the user's own objects lie.

    Every method may raise :class:`~dayfly.errors.StorageError`, which names the key.
    """

    @property
    def name(self) -> str:
        """The storage's name in the configuration."""
        ...

    async def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Store an object, whole or not at all.

        Raises:
            ObjectExistsError: ``if_absent`` was asked and the key is taken.
        """
        ...

    async def get_object(self, key: str, *, byte_range: tuple[int, int] | None = None) -> bytes:
        """Read an object, or its bytes from ``byte_range[0]`` up to ``byte_range[1]``.

        Raises:
            ObjectNotFoundError: No object has this key.
        """
        ...

    def stream_object(self, key: str, *, chunk_size: int = 1 << 20) -> AsyncIterator[bytes]:
        """Read an object piece by piece.

        Raises:
            ObjectNotFoundError: No object has this key.
        """
        ...

    async def head_object(self, key: str) -> ObjectInfo:
        """Describe an object.

        Raises:
            ObjectNotFoundError: No object has this key.
        """
        ...

    def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects whose key begins with ``prefix``, by key."""
        ...

    def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys that begin with ``prefix``, in order."""
        ...

    async def delete_object(self, key: str) -> None:
        """Delete an object; one that is gone already is not an error."""
        ...

    async def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are gone already are not an error."""
        ...

    async def upload_file(self, path: str | Path, key: str) -> None:
        """Store a file's content under ``key``."""
        ...

    async def download_file(self, key: str, path: str | Path) -> None:
        """Write an object's content to ``path``, whole or not at all."""
        ...

    async def lend(self, key: str, verb: Literal["get", "put"], *, seconds: float) -> str:
        """A URL by which whoever has it may read, or write, this one object for a time.

        It is made without asking anybody, and is as secret as what it opens.

        Args:
            key: Of an object, which need not exist.
            verb: What may be done: by HTTP's method of that name, or to the file of a ``file:``.
            seconds: For how long; at most 7 days, and never longer than the lender's credentials.
        """
        ...

    async def locate(self) -> StorageConfig:
        """The storage as a VM must know it to open it; makes a bucket that is missing."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
