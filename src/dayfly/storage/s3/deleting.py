"""Objects are deleted, many with a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from dayfly.errors import StorageError
from dayfly.storage.s3.bucket import Bucket
from dayfly.storage.s3.parts import each_of
from dayfly.storage.s3.seam import TRIES
from dayfly.storage.s3.words import OPERATIONS, arn

#: Keys in a request. Source: the S3 API reference, DeleteObjects.
_BATCH: Final = 1000
#: Bytes of keys in a request: more than 1 MiB would be sent, and hashed, in one go.
_BYTES: Final = 512 * 1024
#: Requests at once: S3 counts every key, and slows down at 3,500 a second.
_AT_ONCE: Final = 3
#: S3 may do better the next time.
_AGAIN: Final = {"InternalError", "SlowDown", "ServiceUnavailable", "OperationAborted"}
#: How many refusals are told.
_TOLD: Final = 5


async def delete(bucket: Bucket, keys: Sequence[str]) -> None:
    """Delete objects.

    Raises:
        StorageError: Some could not be deleted; all others are.
    """
    refused: dict[str, tuple[str, str]] = {}

    async def delete_batch(batch: list[str]) -> None:
        for attempt in range(1, TRIES + 1):
            failed = await _delete_batch(bucket, batch)
            batch = [key for key, (code, _) in failed.items() if code in _AGAIN]
            refused.update({key: why for key, why in failed.items() if key not in batch})
            if not batch:
                return
            if attempt == TRIES:
                refused.update(failed)
                return
            await bucket.pause(attempt)

    await each_of(_batches(keys), _AT_ONCE, delete_batch)
    if refused:
        name = (await bucket.place()).location
        told = [
            f"{key!r}: {message or code} ({code})"
            for key, (code, message) in list(refused.items())[:_TOLD]
        ]
        more = f"; and {len(refused) - _TOLD} more" if len(refused) > _TOLD else ""
        raise StorageError(
            f"{len(refused)} of {len(keys)} objects could not be deleted (bucket {name})",
            cause="; ".join(told) + more,
            hint=f"allow {OPERATIONS['delete_objects'][1]} on "
            f"{arn('delete_objects', bucket.region, name, '')}, if that is it, and run it again",
        )


async def _delete_batch(bucket: Bucket, keys: list[str]) -> dict[str, tuple[str, str]]:
    """Delete objects; those that could not be, with code and message."""
    if len(keys) == 1:
        await bucket.call("delete_object", keys[0])
        return {}
    answer = await bucket.call(
        "delete_objects", Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
    )
    return {
        each["Key"]: (each.get("Code", ""), each.get("Message", ""))
        for each in answer.get("Errors", [])
    }


def _batches(keys: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for key in keys:
        if not _fits_xml(key):
            yield [key]
            continue
        length = len(escape(key).encode())
        if batch and (len(batch) == _BATCH or size + length > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += length
    if batch:
        yield batch


def _fits_xml(key: str) -> bool:
    """Whether XML can carry a key; one that it cannot goes in an address of its own.

    Source: XML 1.0, production 2 (Char), without what parsers change: line ends and tabs.
    """
    return all(" " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000" for c in key)
