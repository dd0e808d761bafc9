"""Which call a request is: service, action and parameters, read from what was sent."""

from __future__ import annotations

import functools
import io
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from moto.core.model import ServiceModel
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.utils import get_service_model

#: The services that speak forms, by the name in the credential scope -> moto's and botocore's.
_FORMS = {"ec2", "iam", "sts"}
#: The longest body that is looked into; objects are not kept.
_LONGEST = 1 << 20

#: S3's actions by method and by what is in the query string; the first match wins.
_OBJECT_ACTIONS = {
    "GET": [("uploadId", "ListParts"), ("tagging", "GetObjectTagging"), ("", "GetObject")],
    "HEAD": [("", "HeadObject")],
    "PUT": [("partNumber", "UploadPart"), ("tagging", "PutObjectTagging"), ("", "PutObject")],
    "POST": [("uploads", "CreateMultipartUpload"), ("uploadId", "CompleteMultipartUpload")],
    "DELETE": [("uploadId", "AbortMultipartUpload"), ("", "DeleteObject")],
}
_BUCKET_ACTIONS = {
    "GET": [
        ("location", "GetBucketLocation"),
        ("tagging", "GetBucketTagging"),
        ("encryption", "GetBucketEncryption"),
        ("publicAccessBlock", "GetPublicAccessBlock"),
        ("policy", "GetBucketPolicy"),
        ("lifecycle", "GetBucketLifecycleConfiguration"),
        ("versioning", "GetBucketVersioning"),
        ("versions", "ListObjectVersions"),
        ("uploads", "ListMultipartUploads"),
        ("", "ListObjectsV2"),
    ],
    "HEAD": [("", "HeadBucket")],
    "PUT": [
        ("tagging", "PutBucketTagging"),
        ("encryption", "PutBucketEncryption"),
        ("publicAccessBlock", "PutPublicAccessBlock"),
        ("policy", "PutBucketPolicy"),
        ("lifecycle", "PutBucketLifecycleConfiguration"),
        ("versioning", "PutBucketVersioning"),
        ("ownershipControls", "PutBucketOwnershipControls"),
        ("", "CreateBucket"),
    ],
    "POST": [("delete", "DeleteObjects")],
    "DELETE": [("", "DeleteBucket")],
}


@dataclass
class Call:
    """One request, as it was asked and as it was answered.

    Attributes:
        service: By botocore's name: ``ec2``, ``s3``, ``ssm``, ``sts``, ``iam``, ``service-quotas``.
        action: ``RunInstances``, ``PutObject``...
        params: By the names of the service's model. For S3: ``Bucket``, ``Key`` and what the
            query string has.
        at: When it came, in seconds of the monotonic clock.
        code: The error's code; empty while there is none.
        status: Of the answer; 0 while there is none.
        hung_up: Whether the connection was cut instead of an answer.
        caller: The access key.
        region: That it was signed for.
    """

    service: str
    action: str
    params: dict[str, Any]
    at: float
    code: str = ""
    status: int = 0
    hung_up: bool = False
    caller: str = field(default="", repr=False)
    region: str = field(default="", repr=False)


def recognise(environ: dict[str, Any], at: float) -> Call:
    """Read a request; its body is put back for whoever comes next."""
    scope = re.search(
        r"Credential=([^/,]+)/\d+/([^/,]+)/([^/,]+)/", environ.get("HTTP_AUTHORIZATION", "")
    )
    caller, region, service = scope.groups() if scope else ("", "", "s3")
    call = functools.partial(Call, at=at, caller=caller, region=region)
    if target := environ.get("HTTP_X_AMZ_TARGET", ""):
        name = {"servicequotas": "service-quotas"}.get(service, service)
        return call(name, target.rpartition(".")[2], json.loads(_body(environ) or b"{}"))
    if service in _FORMS:
        form = dict(parse_qsl(_body(environ).decode(), keep_blank_values=True))
        action = form.get("Action", "")
        return call(service, action, _parameters(service, action, form))
    return call(service, *_of_s3(environ))


def _body(environ: dict[str, Any]) -> bytes:
    """Read a small body and put it back."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > _LONGEST:
        return b""
    body: bytes = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _parameters(service: str, action: str, form: dict[str, str]) -> dict[str, Any]:
    """A form's fields as the model nests them: ``TagSpecification.1.Tag.1.Key`` and so on."""
    model: ServiceModel = get_service_model(service)
    if action not in model.operation_names:
        return dict(form)
    protocol = "ec2" if service == "ec2" else "query"
    parser = PROTOCOL_PARSERS[protocol](model.operation_model(action), map_type=dict)
    request: Any = {
        "method": "POST",
        "values": form,
        "headers": {},
        "body": b"",
        "url_path": "/",
        "url_params": {},
    }
    parsed: dict[str, Any] = parser.parse(request)
    return parsed


def _of_s3(environ: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    raw = environ.get("RAW_URI", environ.get("PATH_INFO", "/")).partition("?")[0]
    bucket, _, key = raw.lstrip("/").partition("/")
    params: dict[str, Any] = {"Bucket": bucket, **query}
    method = environ["REQUEST_METHOD"]
    if not bucket:
        return "ListBuckets", {}
    if key:
        params["Key"] = unquote(key)
        if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
            return "CopyObject", params
    for field_, name in (
        ("HTTP_IF_NONE_MATCH", "IfNoneMatch"),
        ("HTTP_RANGE", "Range"),
        ("HTTP_X_AMZ_EXPECTED_BUCKET_OWNER", "ExpectedBucketOwner"),
    ):
        if field_ in environ:
            params[name] = environ[field_]
    table = _OBJECT_ACTIONS if key else _BUCKET_ACTIONS
    for marker, action in table.get(method, []):
        if not marker or marker in query:
            return action, params
    return f"{method} {'object' if key else 'bucket'}", params
