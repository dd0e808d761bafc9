"""EC2's answers as XML, from values shaped like botocore's: what is there is written.

moto's own serializer asks an object for each of some sixty members of an instance, which takes
three milliseconds; a test with a thousand instances cannot wait for that.
"""

from __future__ import annotations

import base64
from datetime import datetime
from html import escape
from typing import Any

from moto.core.utils import get_service_model


def answer(operation: str, result: dict[str, Any]) -> str:
    """The body of an answer.

    Args:
        operation: ``DescribeInstances``.
        result: By the names of the operation's model; ``None`` is left out.
    """
    shape: Any = get_service_model("ec2").operation_model(operation).output_shape
    parts = [f'<{operation}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">']
    parts.append("<requestId>emulated</requestId>")
    _members(shape, result, parts)
    parts.append(f"</{operation}Response>")
    return "".join(parts)


def _members(shape: Any, value: dict[str, Any], parts: list[str]) -> None:
    members = shape.members
    for name, inner in value.items():
        if inner is not None:
            member = members[name]
            _element(member.serialization.get("name", name), member, inner, parts)


def _element(tag: str, shape: Any, value: Any, parts: list[str]) -> None:
    kind = shape.type_name
    parts.append(f"<{tag}>")
    if kind == "structure":
        _members(shape, value, parts)
    elif kind == "list":
        member = shape.member
        item = member.serialization.get("name", "item")
        for each in value:
            _element(item, member, each, parts)
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif isinstance(value, datetime):
        parts.append(value.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
    elif kind == "blob":
        parts.append(base64.b64encode(value).decode())
    else:
        parts.append(escape(str(value)))
    parts.append(f"</{tag}>")
