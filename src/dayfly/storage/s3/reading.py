"""Objects are read: what breaks is taken up where it broke, and never from another version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final

from dayfly.aws.errors import in_our_words
from dayfly.errors import CloudError, StorageError
from dayfly.storage.s3.bucket import Bucket
from dayfly.storage.s3.parts import LARGE, abreast, each_of, parts_of
from dayfly.storage.s3.seam import TRIES
from dayfly.storage.s3.words import RefusedError, undone

#: Bytes taken from the network at a time.
_BLOCK: Final = 1 << 20
#: S3 says so of a range that begins where the object has ended.
_BEYOND: Final = "InvalidRange"
_REPLACED: Final = "PreconditionFailed"


class Reading:
    """One version of an object, read from ``start`` up to ``stop``.

    Args:
        bucket: Where it lies.
        key: Its key.
        start: The first byte.
        stop: The byte after the last; ``None`` for the object's end.
        version: Its ETag; empty for the version that is there now.

    Attributes:
        length: How many bytes there are to read.
        version: The ETag of what is read.
    """

    def __init__(
        self, bucket: Bucket, key: str, start: int = 0, stop: int | None = None, version: str = ""
    ) -> None:
        self.key = key
        self.start = start
        self.length = 0
        self.version = version
        self._bucket = bucket
        self._at = start
        self._stop = stop
        self._body: Any = None
        self._breaks = 0
        self._what = ""

    async def __aenter__(self) -> Reading:
        try:
            self.length = await self._open()
        except RefusedError as error:
            if error.code != _BEYOND:
                raise
        self._stop = self.start + self.length
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection, unless everything has been read."""
        if self._body is not None:
            self._body.close()
            self._body = None

    async def read(self, most: int) -> bytes:
        """The next bytes, ``most`` at most; empty at the end.

        Raises:
            StorageError: The object was replaced meanwhile, came damaged, or breaks again and
                again.
        """
        while self._body is not None:
            try:
                with in_our_words(self._what):
                    piece: bytes = await self._body.read(most)
            except CloudError as error:
                await self._take_up(error)
                continue
            if piece:
                self._at += len(piece)
                self._breaks = 0
            else:
                self._body = None
            return piece
        return b""

    async def exactly(self, count: int) -> list[bytes]:
        """The next ``count`` bytes in pieces; fewer only at the end."""
        pieces = []
        while count and (piece := await self.read(min(count, _BLOCK))):
            pieces.append(piece)
            count -= len(piece)
        return pieces

    async def rest(self) -> bytes:
        """All that is left."""
        # One byte more, and the end has been seen, where what came is held against its checksum.
        return await joined(await self.exactly(self.length + 1))

    async def _open(self) -> int:
        more: dict[str, Any] = {}
        if self._at or self._stop is not None:
            last = "" if self._stop is None else self._stop - 1
            more["Range"] = f"bytes={self._at}-{last}"
        if self.version:
            more["IfMatch"] = self.version
        try:
            answer = await self._bucket.call("get_object", self.key, **more)
        except RefusedError as error:
            if error.code != _REPLACED:
                raise
            raise StorageError(
                error.what,
                cause=f"it was replaced while it was being read; {error.cause}",
                hint="read it again",
            ) from error
        self._what = undone("get_object", (await self._bucket.place()).location, self.key)
        self._body = answer["Body"]
        self.version = answer["ETag"]
        length: int = answer["ContentLength"]
        return length

    async def _take_up(self, error: CloudError) -> None:
        self.close()
        left = self.start + self.length - self._at
        if not left:
            raise StorageError(error.what, cause=f"it came damaged; {error.cause}") from error
        self._breaks += 1
        if self._breaks == TRIES:
            raise StorageError(
                error.what,
                cause=f"it broke {TRIES} times without a byte, {left} bytes before the end; "
                f"{error.cause}",
                hint=error.hint,
            ) from error
        await self._bucket.pause(self._breaks)
        await self._open()


async def joined(pieces: list[bytes]) -> bytes:
    """The pieces as one; a large one is put together beside the loop, where it is not locked."""
    if len(pieces) > 1 and sum(map(len, pieces)) > _BLOCK:
        return await asyncio.to_thread(b"".join, pieces)
    return b"".join(pieces)


async def read_all(
    bucket: Bucket,
    key: str,
    start: int,
    stop: int | None,
    deliver: Callable[[int, bytes], Awaitable[None]],
) -> None:
    """Read an object or a range of it, a large one in parts, and several of them at once.

    Args:
        bucket: Where it lies.
        key: Its key.
        start: The first byte.
        stop: The byte after the last; ``None`` for the object's end.
        deliver: Is given each part and its position, counted from ``start``, in any order.
    """
    async with Reading(bucket, key, start, stop) as reading:
        if reading.length < LARGE:
            await deliver(0, await reading.rest())
            return

    async def read_part(span: tuple[int, int]) -> None:
        async with (
            bucket.gate,
            Reading(bucket, key, start + span[0], start + span[1], reading.version) as part,
        ):
            await deliver(span[0], await part.rest())

    await each_of(parts_of(0, reading.length), abreast(reading.length), read_part)
