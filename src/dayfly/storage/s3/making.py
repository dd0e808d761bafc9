"""A bucket is made: once in its life, whoever is first."""

from __future__ import annotations

import logging
from typing import Any, Final

from dayfly.errors import ApiError, DeniedError
from dayfly.model import Tag
from dayfly.storage.s3.seam import TRIES, Door
from dayfly.storage.s3.words import NO_BUCKET, foreign, refused

log = logging.getLogger(__name__)

#: Days after which S3 itself clears away the parts of an upload whose sender was killed.
_UNFINISHED: Final = 7
#: The one region that must not be named. Source: the S3 API reference, CreateBucket.
_UNNAMED: Final = "us-east-1"
#: Another request about this bucket is under way, or the bucket is not known everywhere yet.
_AGAIN: Final = {"OperationAborted", NO_BUCKET}

#: S3 has closed new buckets to the public, and encrypted them, by itself since 2023; the first
#: of these only says so where an account has switched that off.
_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "put_public_access_block": {
        "PublicAccessBlockConfiguration": {
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        }
    },
    "put_bucket_tagging": {"Tagging": {"TagSet": [{"Key": str(Tag.MANAGED), "Value": "true"}]}},
    "put_bucket_lifecycle_configuration": {
        "LifecycleConfiguration": {
            "Rules": [
                {
                    "ID": "dayfly-unfinished-uploads",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _UNFINISHED},
                }
            ]
        }
    },
}


async def make(bucket: Door) -> None:
    """Make the bucket, closed to the public and tagged as ours.

    Raises:
        StorageError: The name is somebody else's, or S3 refuses.
    """
    where = (
        {}
        if bucket.region == _UNNAMED
        else {"CreateBucketConfiguration": {"LocationConstraint": bucket.region}}
    )
    place = await bucket.place()
    try:
        await _patiently(bucket, "create_bucket", where)
    except ApiError as error:
        if error.code == "BucketAlreadyOwnedByYou":
            return  # another client of ours was first, and sets it up
        if error.code == "BucketAlreadyExists":
            raise foreign(
                "create_bucket", place.location, "", place.account, error.cause
            ) from error
        raise refused(error, "create_bucket", place.location, "") from error
    for operation, settings in _SETTINGS.items():
        try:
            await _patiently(bucket, operation, settings)
        except DeniedError as error:
            log.warning("%s", error)  # the bucket serves without
        except ApiError as error:
            raise refused(error, operation, place.location, "") from error


async def _patiently(bucket: Door, operation: str, parameters: dict[str, Any]) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            await bucket.send(operation, **parameters)
        except ApiError as error:
            if error.code not in _AGAIN or attempt == TRIES:
                raise
            await bucket.pause(attempt)
        else:
            return
