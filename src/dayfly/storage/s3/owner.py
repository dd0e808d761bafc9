"""Whose is this bucket? S3 says of somebody else's only that access is denied."""

from __future__ import annotations

from dayfly.errors import CloudError, DeniedError
from dayfly.storage.s3.seam import Door
from dayfly.storage.s3.words import Ours


async def judge(bucket: Door) -> Ours:
    """Find out after a denial, by what the caller is allowed to ask."""
    place = await bucket.place()
    try:
        if await _may(bucket, checked=True):
            return Ours.YES
        if await _may(bucket, checked=False):
            return Ours.NO  # open to us, and another's
        mine = await bucket.send("list_buckets", Prefix=place.location, MaxBuckets=1000)
    except CloudError:
        return Ours.PERHAPS  # the denial is what matters; it is being told already
    names = [each["Name"] for each in mine.get("Buckets", [])]
    return Ours.YES if place.location in names else Ours.NO


async def _may(bucket: Door, *, checked: bool) -> bool:
    try:
        await bucket.send("head_bucket", checked=checked)
    except DeniedError:
        return False
    return True
