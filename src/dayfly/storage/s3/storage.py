"""The S3 form of storage."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

from dayfly.aws.session import Aws
from dayfly.clock import Clock, Entropy, SystemClock, SystemEntropy
from dayfly.errors import ObjectNotFoundError, StorageError
from dayfly.model import StorageConfig
from dayfly.storage.base import ObjectInfo
from dayfly.storage.filenames import check_key
from dayfly.storage.s3 import deleting, reading, writing
from dayfly.storage.s3.bucket import Bucket
from dayfly.storage.s3.files import Target, opened
from dayfly.storage.s3.words import NO_BUCKET, RefusedError

_BLOCK: Final = 1 << 20


class S3Storage:
    """The S3 form of :class:`~dayfly.storage.base.Storage`.

    Nothing is asked before it is needed. A bucket that is missing holds nothing, and is made
    by the first write. Of several ``if_absent`` puts, wherever they come from, one wins.

    Args:
        aws: The account.
        bucket: Empty: ``dayfly-ACCOUNT-REGION``.
        account: Who must own the bucket; empty: the caller. Where bucket and account are given,
            as on a VM, nothing is asked first, and a bucket that is missing is not made.
        region: Of the bucket; empty: the account's.
        owns: Whether ``aclose`` closes ``aws`` too.
        clock: For waits before something is said again.
        entropy: For their jitter, and for the marks by which a put knows its object again.
    """

    def __init__(
        self,
        aws: Aws,
        bucket: str = "",
        *,
        account: str = "",
        region: str = "",
        owns: bool = False,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self._aws = aws
        self._owns = owns
        self._bucket = Bucket(
            aws,
            bucket,
            account=account,
            region=region,
            make=not (bucket and account),
            clock=clock or SystemClock(),
            entropy=entropy or SystemEntropy(),
        )

    @property
    def name(self) -> str:
        """``aws_s3``."""
        return "aws_s3"

    async def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Store an object, as :meth:`Storage.put_object` says; a large one in parts."""
        check_key(key)

        async def read(start: int, stop: int) -> bytes:
            return data[start:stop]

        source = writing.Source(size=len(data), read=read)
        await writing.put(self._bucket, key, source, if_absent=if_absent)

    async def get_object(self, key: str, *, byte_range: tuple[int, int] | None = None) -> bytes:
        """Read an object or a range of it; a range is cut at the object's end, like a slice."""
        check_key(key)
        start, stop = byte_range or (0, None)
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"byte_range {byte_range} of {key!r}: give 0 <= start <= stop")
        if start == stop:
            await self.head_object(key)  # S3 knows no empty range; the object must be there
            return b""
        parts: dict[int, bytes] = {}

        async def keep(position: int, data: bytes) -> None:
            parts[position] = data

        with self._missing(key):
            await reading.read_all(self._bucket, key, start, stop, keep)
        return await reading.joined([parts[position] for position in sorted(parts)])

    async def stream_object(self, key: str, *, chunk_size: int = _BLOCK) -> AsyncIterator[bytes]:
        """Read an object in pieces of ``chunk_size`` bytes, the last one excepted.

        A stream that breaks is taken up again where it broke, of the same version.
        """
        check_key(key)
        if chunk_size < 1:
            raise ValueError(f"chunk_size {chunk_size} for {key!r}: give at least 1 byte")
        with self._missing(key):
            async with reading.Reading(self._bucket, key) as stream:
                while chunk := await reading.joined(await stream.exactly(chunk_size)):
                    yield chunk

    async def head_object(self, key: str) -> ObjectInfo:
        """Describe an object."""
        check_key(key)
        with self._missing(key):
            try:
                there = await self._bucket.call("head_object", key)
            except RefusedError:
                # The answer to a HEAD has no body. What keeps us from reading says more.
                async with reading.Reading(self._bucket, key, 0, 1):
                    raise
        modified = there["LastModified"].timestamp()
        return ObjectInfo(key=key, size=there["ContentLength"], modified=modified)

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects under a prefix, a page of a thousand at a time.

        Other programs' objects whose names are no keys, such as ``folder/``, are passed over.
        """
        if not _begins_a_key(prefix):
            return
        more: dict[str, Any] = {"Prefix": prefix}
        while True:
            try:
                page = await self._bucket.call("list_objects_v2", **more)
            except RefusedError as error:
                if self._holds_nothing(error):
                    return
                raise
            for found in page.get("Contents", []):
                if _is_key(found["Key"]):
                    modified = found["LastModified"].timestamp()
                    yield ObjectInfo(key=found["Key"], size=found["Size"], modified=modified)
            if not page.get("IsTruncated"):
                return
            more["ContinuationToken"] = page["NextContinuationToken"]

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys under a prefix, a page of a thousand at a time."""
        async for info in self.list_objects(prefix):
            yield info.key

    async def delete_object(self, key: str) -> None:
        """Delete an object."""
        await self.delete_objects([key])

    async def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand with a request.

        Raises:
            StorageError: Some could not be deleted; all others are.
        """
        doomed = list(dict.fromkeys(keys))
        for key in doomed:
            check_key(key)
        try:
            await deleting.delete(self._bucket, doomed)
        except RefusedError as error:
            if not self._holds_nothing(error):
                raise

    async def upload_file(self, path: str | Path, key: str) -> None:
        """Store a file's content; of a large file some parts are in memory at a time.

        Raises:
            StorageError: The file cannot be read, or the object not be written.
        """
        check_key(key)
        async with opened(path) as source:
            await writing.put(self._bucket, key, source, if_absent=False)

    async def download_file(self, key: str, path: str | Path) -> None:
        """Write an object's content to a file.

        Raises:
            ObjectNotFoundError: No object has this key; the file is left as it was.
            StorageError: The file cannot be written.
        """
        check_key(key)
        with self._missing(key), Target(path) as target:
            await reading.read_all(self._bucket, key, 0, None, target.write)
            await target.finish()

    async def lend(self, key: str, verb: Literal["get", "put"], *, seconds: float) -> str:
        """A presigned URL.

        Source: the S3 user guide, "Sharing objects with presigned URLs".
        """
        check_key(key)
        return await self._bucket.sign(f"{verb}_object", key, seconds=seconds)

    async def locate(self) -> StorageConfig:
        """The bucket and its owner; makes it if it is missing."""
        await self._bucket.ensure()
        return await self._bucket.place()

    async def aclose(self) -> None:
        """Close the account's clients, if they are this storage's own."""
        if self._owns:
            await self._aws.aclose()

    def _holds_nothing(self, error: RefusedError) -> bool:
        return error.code == NO_BUCKET and self._bucket.makes

    @contextlib.contextmanager
    def _missing(self, key: str) -> Iterator[None]:
        """In a bucket that is still to be made there is no object."""
        try:
            yield
        except RefusedError as error:
            if not self._holds_nothing(error):
                raise
            raise ObjectNotFoundError(
                f"there is no object {key!r}", cause=error.cause, hint="dayfly storage list"
            ) from error


def _is_key(name: str) -> bool:
    try:
        check_key(name)
    except StorageError:
        return False
    return True


def _begins_a_key(prefix: str) -> bool:
    folder, slash, rest = prefix.rpartition("/")
    return _is_key(f"{folder}{slash}x") and (rest in {"", ".", ".."} or _is_key(prefix))
