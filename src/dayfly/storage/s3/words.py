"""What S3 refuses, in storage's words: which object, why, and what to do next."""

from __future__ import annotations

from enum import Enum
from typing import Final

from dayfly.aws.errors import NEVER_SENT, denial_of
from dayfly.errors import ApiError, DeniedError, ObjectNotFoundError, StorageError

#: What each request does to its object, and the permission that it needs.
#: Source: the S3 user guide, "Required permissions for Amazon S3 API operations".
OPERATIONS: Final = {
    "abort_multipart_upload": ("written", "s3:AbortMultipartUpload"),
    "complete_multipart_upload": ("written", "s3:PutObject"),
    "create_bucket": ("made", "s3:CreateBucket"),
    "create_multipart_upload": ("written", "s3:PutObject"),
    "delete_object": ("deleted", "s3:DeleteObject"),
    "delete_objects": ("deleted", "s3:DeleteObject"),
    "get_object": ("read", "s3:GetObject"),
    "head_bucket": ("looked at", "s3:ListBucket"),
    "head_object": ("read", "s3:GetObject"),
    "list_buckets": ("listed", "s3:ListAllMyBuckets"),
    "list_objects_v2": ("listed", "s3:ListBucket"),
    "put_bucket_lifecycle_configuration": ("set up", "s3:PutLifecycleConfiguration"),
    "put_bucket_tagging": ("tagged", "s3:PutBucketTagging"),
    "put_object": ("written", "s3:PutObject"),
    "put_public_access_block": ("closed to the public", "s3:PutBucketPublicAccessBlock"),
    "upload_part": ("written", "s3:PutObject"),
}

NO_BUCKET: Final = "NoSuchBucket"
_NOT_THERE: Final = {"NoSuchKey", "404"}
_READS: Final = {"get_object", "head_object"}
_HINTS: Final = {
    "TooManyBuckets": "aws s3 ls; delete a bucket, or have the quota raised",
    "InvalidBucketName": "give aws_s3.storage_bucket: 3 to 63 small letters, digits and hyphens",
    "SlowDown": "run it again in a minute",
    "KMS.DisabledException": "enable the key that the bucket is encrypted with",
    "InvalidObjectState": "have the object restored from its archive: aws s3api restore-object",
    NEVER_SENT: "give aws_s3.storage_bucket: 3 to 63 small letters, digits and hyphens",
}


class Ours(Enum):
    """Whether a bucket belongs to the account, as far as can be told."""

    YES = "yes"
    NO = "no"
    PERHAPS = "perhaps"


class RefusedError(StorageError):
    """S3 answered with an error code.

    Args:
        what: See :class:`~dayfly.errors.DayflyError`.
        code: S3's own.
        cause: See :class:`~dayfly.errors.DayflyError`.
        hint: See :class:`~dayfly.errors.DayflyError`.
    """

    def __init__(self, what: str, *, code: str, cause: str = "", hint: str = "") -> None:
        super().__init__(what, cause=cause, hint=hint)
        self.code = code


def undone(operation: str, bucket: str, key: str) -> str:
    """What could not be done."""
    verb, _ = OPERATIONS[operation]
    if key:
        return f"object {key!r} could not be {verb} (bucket {bucket})"
    return f"the bucket {bucket} could not be {verb}"


def refused(error: ApiError, operation: str, bucket: str, key: str) -> StorageError:
    """S3's refusal, but for a denial, which :func:`denied` tells."""
    if error.code in _NOT_THERE and operation in _READS:
        return not_there(bucket, key, error.cause)
    if error.code == NO_BUCKET:
        return RefusedError(
            undone(operation, bucket, key),
            code=error.code,
            cause=f"there is no bucket {bucket}; {error.cause}",
            hint="dayfly storage list; the bucket is made by the next client that writes",
        )
    return RefusedError(
        undone(operation, bucket, key),
        code=error.code,
        cause=error.cause,
        hint=_HINTS.get(error.code, error.hint),
    )


def not_there(bucket: str, key: str, cause: str) -> ObjectNotFoundError:
    """There is no such object."""
    folder = key.rpartition("/")[0]
    return ObjectNotFoundError(
        f"there is no object {key!r} (bucket {bucket})",
        cause=cause,
        hint=f"dayfly storage list {folder}".rstrip(),
    )


def denied(
    error: DeniedError, operation: str, region: str, bucket: str, key: str, ours: Ours
) -> StorageError:
    """A denial: the permission that lacks, unless the bucket is somebody else's.

    Args:
        error: What S3 said.
        operation: What was asked.
        region: Of the bucket.
        bucket: Its name.
        key: Of the object; empty where the bucket as a whole was meant.
        ours: Whether the bucket belongs to the account.
    """
    said = denial_of(error)
    _, action = OPERATIONS[operation]
    action = said.action or action
    resource = said.resource or arn(operation, region, bucket, key)
    cause = f"{action} on {resource} is not allowed"
    hint = f"allow {action} on {resource}; dayfly doctor prints the statement"
    if said.why:
        cause += f", {said.why}"
    elif ours is Ours.PERHAPS:
        cause += ", or the bucket belongs to somebody else"
        hint += "; a bucket of your own: aws_s3.storage_bucket"
    if operation in _READS:
        cause += " (so says S3 also of an object that is not there, without s3:ListBucket)"
    return RefusedError(
        undone(operation, bucket, key),
        code=error.code,
        cause=f"{cause}; {error.cause}",
        hint=hint,
    )


def foreign(operation: str, bucket: str, key: str, account: str, cause: str) -> StorageError:
    """The bucket is somebody else's."""
    return RefusedError(
        undone(operation, bucket, key),
        code="ForeignBucket",
        cause=f"the bucket {bucket} belongs to somebody else, and not to the account "
        f"{account or 'in use'}: nothing is read from there or written to it; {cause}",
        hint="give aws_s3.storage_bucket: a bucket of this account, or a name that is free",
    )


def arn(operation: str, region: str, bucket: str, key: str) -> str:
    """The name of what a request needs its permission on."""
    partition = "aws"
    for beginning in ("cn", "us-gov"):
        if region.startswith(f"{beginning}-"):
            partition = f"aws-{beginning}"
    if operation == "list_buckets":
        return "*"
    if operation == "delete_objects":
        key = "*"
    return f"arn:{partition}:s3:::{bucket}" + (f"/{key}" if key else "")
