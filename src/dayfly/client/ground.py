"""What is known of VMs before they are given packages."""

from __future__ import annotations

import sys

import msgspec

from dayfly.environment.lock import File, Platform
from dayfly.errors import UsageError


class Ground(msgspec.Struct, frozen=True):
    """What VMs have before they are given anything.

    Attributes:
        platform: Theirs.
        build: A build of this Python, where their image is known to lack it.
    """

    platform: Platform
    build: File | None = None


def python() -> str:
    """This interpreter's minor version: what functions are pickled for."""
    if sys.implementation.name != "cpython":
        raise UsageError(
            f"VMs cannot be given {sys.implementation.name}",
            hint="run this program with CPython, or set environment: image",
        )
    return f"{sys.version_info.major}.{sys.version_info.minor}"
