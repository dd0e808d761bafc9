"""What every message is made of."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Anything that is said."""


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes, inline or by their key in storage."""

    data: bytes = b""
    key: str = ""


class Span(msgspec.Struct, frozen=True, array_like=True, order=True):
    """The calls from ``start`` up to, not including, ``stop``."""

    start: int
    stop: int
