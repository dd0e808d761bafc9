"""Uploads in parts, as S3 takes them.

moto's parts fall over each other when one arrives while its upload is aborted, and it knows no
answer for an upload that has ended.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import S3Backend
from moto.s3.responses import S3Response

_LOCK = threading.RLock()
_METHODS = ("upload_part", "complete_multipart_upload", "abort_multipart_upload")


@functools.cache
def install() -> None:
    """Put this in the place of moto's methods, for this process."""
    S3Response._key_response = _in_turn(S3Response._key_response)  # type: ignore[method-assign]
    for name in _METHODS:
        setattr(S3Backend, name, _if_begun(getattr(S3Backend, name)))


def _in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def replaced(*given: Any, **named: Any) -> Any:
        with _LOCK:
            return method(*given, **named)

    return replaced


def _if_begun(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def replaced(backend: Any, bucket_name: str, multipart_id: str, *given: Any) -> Any:
        if multipart_id not in backend.get_bucket(bucket_name).multiparts:
            raise NoSuchUpload(upload_id=multipart_id)
        return method(backend, bucket_name, multipart_id, *given)

    return replaced
