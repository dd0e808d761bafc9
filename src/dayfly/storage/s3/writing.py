"""Objects are written: whole or not at all, the large ones in parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from dayfly.errors import DayflyError, ObjectExistsError, ObjectNotFoundError
from dayfly.storage.s3.bucket import Bucket
from dayfly.storage.s3.parts import LARGE, abreast, each_of, parts_of
from dayfly.storage.s3.seam import TRIES
from dayfly.storage.s3.words import RefusedError

#: The metadata by which a put knows its own object again. An answer may get lost on its way:
#: the put is repeated, and meets what it wrote itself.
_MARK: Final = "dayfly-put"
#: Two puts with a condition met.
_MET: Final = "ConditionalRequestConflict"
_TAKEN: Final = "PreconditionFailed"
_ENDED: Final = "NoSuchUpload"
#: What S3 wants to hear again of each part that it has stored.
_PART: Final = {"ETag", "ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA256"}
#: Seconds that clearing up after a failed upload may take.
_CLEARING: Final = 10.0


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written.

    Attributes:
        size: Bytes in all.
        read: Reads the bytes from one position up to another.
    """

    size: int
    read: Callable[[int, int], Awaitable[bytes]]


async def put(bucket: Bucket, key: str, source: Source, *, if_absent: bool) -> None:
    """Write an object.

    Raises:
        ObjectExistsError: ``if_absent`` was asked and the key is taken.
    """
    mark = bucket.entropy.hex(32)
    condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
    how = _put_parts if source.size >= LARGE else _put_whole
    for attempt in range(1, TRIES + 1):
        try:
            await how(bucket, key, source, condition, mark)
        except RefusedError as error:
            if error.code in (_TAKEN, _ENDED) and await _is_ours(bucket, key, mark):
                return
            if error.code == _TAKEN:
                raise ObjectExistsError(
                    f"object {key!r} exists already (bucket {(await bucket.place()).location})",
                    cause=error.cause,
                ) from error
            if error.code != _MET or attempt == TRIES:
                raise
            await bucket.pause(attempt)
        else:
            return


async def _put_whole(
    bucket: Bucket, key: str, source: Source, condition: dict[str, Any], mark: str
) -> None:
    marked: dict[str, Any] = {"Metadata": {_MARK: mark}} if condition else {}
    body = await source.read(0, source.size)
    await bucket.call("put_object", key, body=body, writes=True, **condition, **marked)


async def _put_parts(
    bucket: Bucket, key: str, source: Source, condition: dict[str, Any], mark: str
) -> None:
    upload = await _begin(bucket, key, mark)
    stored: list[dict[str, Any]] = []

    async def put_part(numbered: tuple[int, tuple[int, int]]) -> None:
        number, (start, stop) = numbered
        async with bucket.gate:
            body = await source.read(start, stop)
            answer = await bucket.call(
                "upload_part", key, body=body, UploadId=upload, PartNumber=number
            )
        said = {name: answer[name] for name in answer if name in _PART}
        stored.append({"PartNumber": number, **said})

    try:
        parts = enumerate(parts_of(0, source.size), start=1)
        await each_of(parts, abreast(source.size), put_part)
        stored.sort(key=lambda part: int(part["PartNumber"]))
        await bucket.call(
            "complete_multipart_upload",
            key,
            UploadId=upload,
            MultipartUpload={"Parts": stored},
            **condition,
        )
    except BaseException as error:
        await _abort(bucket, key, upload, error)
        raise


async def _begin(bucket: Bucket, key: str, mark: str) -> str:
    """Begin an upload; one that is cancelled meanwhile is not left behind."""
    beginning = asyncio.ensure_future(
        bucket.call("create_multipart_upload", key, writes=True, Metadata={_MARK: mark})
    )
    try:
        upload: str = (await asyncio.shield(beginning))["UploadId"]
    except asyncio.CancelledError as error:
        try:
            async with asyncio.timeout(_CLEARING):
                upload = (await beginning)["UploadId"]
        except (TimeoutError, DayflyError):
            raise error from None  # nothing was begun, as far as can be told
        await _abort(bucket, key, upload, error)
        raise
    return upload


async def _abort(bucket: Bucket, key: str, upload: str, error: BaseException) -> None:
    """Clear away the parts of an upload that failed by ``error``."""
    try:
        async with asyncio.timeout(_CLEARING):
            await bucket.call("abort_multipart_upload", key, UploadId=upload)
    except (TimeoutError, DayflyError) as left:
        if isinstance(left, RefusedError) and left.code == _ENDED:
            return
        name = (await bucket.place()).location
        error.add_note(
            "its parts lie there until they are cleared away: aws s3api abort-multipart-upload "
            f"--bucket {name} --key {key} --upload-id {upload}"
        )


async def _is_ours(bucket: Bucket, key: str, mark: str) -> bool:
    try:
        there = await bucket.call("head_object", key)
    except (RefusedError, ObjectNotFoundError):
        return False  # who may not look takes it for another's
    return bool(there.get("Metadata", {}).get(_MARK) == mark)
