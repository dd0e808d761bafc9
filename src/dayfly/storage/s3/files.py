"""The user's own files, read and written in parts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from dayfly.errors import StorageError
from dayfly.storage.s3.writing import Source
from dayfly.storage.userfiles import users_file


@contextlib.asynccontextmanager
async def opened(path: str | Path) -> AsyncIterator[Source]:
    """A file as the source of an object.

    Raises:
        StorageError: It cannot be read, or changes meanwhile.
    """
    with users_file("read", path):
        file = await asyncio.to_thread(Path(path).open, "rb", buffering=0)
    with file:
        descriptor = file.fileno()

        def pread(start: int, stop: int) -> bytes:
            with users_file("read", path):
                data = b"".join(_all_of(descriptor, start, stop))
            if len(data) != stop - start:
                raise StorageError(
                    f"the file {path} could not be read",
                    cause="it became shorter while it was being read",
                    hint=f"ls -l {path}",
                )
            return data

        async def read(start: int, stop: int) -> bytes:
            return await asyncio.to_thread(pread, start, stop)

        yield Source(size=os.fstat(descriptor).st_size, read=read)


def _all_of(descriptor: int, start: int, stop: int) -> Iterator[bytes]:
    # One system call reads 2 GiB at most, and less on some file systems.
    while start < stop and (piece := os.pread(descriptor, stop - start, start)):
        yield piece
        start += len(piece)


class Target:
    """A file that is written elsewhere and then put in its place, whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f".dayfly-{secrets.token_hex(8)}.part")
        self._descriptor = -1

    async def write(self, position: int, data: bytes) -> None:
        """Write a part."""
        await asyncio.to_thread(self._write, position, data)

    async def finish(self) -> None:
        """Put the file in its place."""
        with users_file("written", self._path):
            await asyncio.to_thread(self._part.replace, self._path)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._part.unlink(missing_ok=True)

    def _write(self, position: int, data: bytes) -> None:
        with users_file("written", self._path):
            if self._descriptor < 0:
                # Not before the first data: an object that is not there leaves no trace.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                self._descriptor = os.open(self._part, flags, 0o666)
            rest = memoryview(data)
            while rest:
                written = os.pwrite(self._descriptor, rest, position)
                position, rest = position + written, rest[written:]
