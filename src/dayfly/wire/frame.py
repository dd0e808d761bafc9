"""What every message is made of."""

from __future__ import annotations

from collections.abc import Iterable

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


def spans_of(indices: Iterable[int]) -> list[Span]:
    """The same calls as spans, in order."""
    found: list[Span] = []
    for index in sorted(indices):
        if found and found[-1].stop == index:
            found[-1] = Span(found[-1].start, index + 1)
        else:
            found.append(Span(index, index + 1))
    return found
