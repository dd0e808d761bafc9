"""What storage keeps of environments: which files each has, and the files themselves.

A VM is sent URLs, each good for one file and for a time, so that it needs neither credentials nor
anything of dayfly to fetch them. What storage does not have yet comes from the index where the
lock found it, and is left in storage for the next VM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec

from dayfly.environment.lock import Answer, File, Lock
from dayfly.environment.order import FileOrder, Interpreters, Order, Source
from dayfly.errors import ObjectNotFoundError, StorageError
from dayfly.storage import keys
from dayfly.storage.base import Storage

#: Seconds for which a VM may use the URLs that it was sent: those of a role's credentials end
#: with these, which is up to an hour later.
LENT: Final = 3600.0
_UVS_OWN: Final = Interpreters()
#: Files that are stored at once.
_UPLOADS: Final = 4

Kept = TypeVar("Kept", Lock, Answer, File)


class Stock:
    """The environments of one owner.

    Args:
        storage: Where they are kept.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def find(self, key: str) -> Lock | None:
        """The lock of an environment, if it was made before.

        Raises:
            StorageError: It cannot be read.
        """
        return await self._read(keys.lock(key), Lock)

    async def keep(self, lock: Lock, files: Mapping[str, Path] = MappingProxyType({})) -> None:
        """Store a lock, after those of its files that no index has.

        Args:
            lock: It is complete: from now on its key stands for these files.
            files: Where they are, by their SHA-256.
        """
        slots = asyncio.Semaphore(_UPLOADS)

        async def store(sha256: str, path: Path) -> None:
            async with slots:
                await self._storage.upload_file(path, keys.wheel(sha256))

        async with asyncio.TaskGroup() as tasks:
            for sha256, path in files.items():
                tasks.create_task(store(sha256, path))
        await self._storage.put_object(keys.lock(lock.key), msgspec.json.encode(lock))

    async def recall(self, wish: str) -> Answer | None:
        """What was found out of a wish, by its key, if it was asked before."""
        return await self._read(keys.wish(wish), Answer)

    async def remember(self, wish: str, answer: Answer) -> None:
        """Store what was found out; its lock is kept already."""
        await self._storage.put_object(keys.wish(wish), msgspec.json.encode(answer))

    async def find_python(self, build: str) -> File | None:
        """A build of Python, if it was kept before."""
        return await self._read(keys.python(build), File)

    async def keep_python(self, build: str, file: File, path: Path) -> None:
        """Store a build of Python.

        Args:
            build: By what it is to be found.
            file: What it is.
            path: Where it is.
        """
        await self._storage.upload_file(path, keys.wheel(file.sha256))
        await self._storage.put_object(keys.python(build), msgspec.json.encode(file))

    async def order(
        self,
        lock: Lock,
        *,
        name: str,
        check: tuple[str, ...] = (),
        interpreters: Interpreters = _UVS_OWN,
        index: tuple[str, ...] = (),
        deposit: bool = True,
    ) -> Order:
        """What the kit is to be told on a VM, with URLs that are as secret as what they open.

        Args:
            lock: Of the environment; one of its files is uv.
            name: What people call it.
            check: Modules that must be importable in the end.
            interpreters: Where a Python comes from that the VM lacks, and the lock too.
            index: URLs of package indexes, with the passwords that the files' own URLs lack.
            deposit: Whether the VM leaves in storage what it had to fetch elsewhere.
        """
        files = [await self._file(file, index=index, deposit=deposit) for file in lock.files]
        uv = next(file for file in files if file.package == "uv")
        if lock.interpreter is not None:
            archive = await self._file(lock.interpreter, index=index, deposit=deposit)
            interpreters = msgspec.structs.replace(interpreters, archive=archive)
        return Order(
            key=lock.key,
            name=name,
            python=lock.python,
            uv=uv,
            files=tuple(file for file in files if file is not uv),
            check=check,
            interpreters=interpreters,
        )

    async def _read(self, key: str, type: type[Kept]) -> Kept | None:  # noqa: A002
        try:
            data = await self._storage.get_object(key)
        except ObjectNotFoundError:
            return None
        try:
            return msgspec.json.decode(data, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{key} in storage is not what dayfly has left there",
                cause=str(error),
                hint="dayfly clean --all, then run the program again: it stores it anew",
            ) from error

    async def _file(self, file: File, *, index: tuple[str, ...], deposit: bool) -> FileOrder:
        from dayfly.environment.indexes import authorized

        key = keys.wheel(file.sha256)
        sources = [Source(name="storage", url=await self._storage.lend(key, "get", seconds=LENT))]
        if file.url:
            sources.append(Source(name="index", url=authorized(file.url, index)))
        leave = deposit and bool(file.url)
        return FileOrder(
            package=file.package,
            version=file.version,
            filename=file.filename,
            sha256=file.sha256,
            size=file.size,
            sources=tuple(sources),
            deposit=await self._storage.lend(key, "put", seconds=LENT) if leave else "",
        )
