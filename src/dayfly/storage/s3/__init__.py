"""Storage in a bucket of S3."""

from dayfly.storage.s3.storage import S3Storage

__all__ = ["S3Storage"]
