"""Which wheel a VM takes, by the tags in its filename (PEP 425, PEP 600)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Final

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from dayfly.environment.lock import Platform

#: The glibc of older names, by PEP 600; the last two are of x86_64 alone.
_LEGACY: Final = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
#: The oldest glibc that has wheels, by PEP 600.
_OLDEST: Final = {"x86_64": 5, "aarch64": 17}


def best(filenames: Iterable[str], platform: Platform, python: str) -> str | None:
    """The wheel that an installer on the VM would take; ``None`` where none of them fits.

    Args:
        filenames: Of wheels of one version of one package; anything else is passed over.
        platform: Of the VM.
        python: Minor version: ``3.11``.
    """
    ranks = _ranks(platform, python)
    fitting = []
    for filename in filenames:
        try:
            _, _, build, tags = parse_wheel_filename(filename)
        except InvalidWheelFilename:
            continue
        rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
        if rank is not None:
            # A higher build number is a repair of the same version.
            fitting.append((rank, -build[0] if build else 1, filename))
    return min(fitting)[2] if fitting else None


@functools.lru_cache(maxsize=8)
def _ranks(platform: Platform, python: str) -> dict[Tag, int]:
    major, minor = map(int, python.split("."))
    platforms = list(_platforms(platform))
    tags = [
        *cpython_tags((major, minor), abis=[f"cp{major}{minor}"], platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _platforms(platform: Platform) -> Iterator[str]:
    major, newest = platform.glibc
    for minor in range(newest, _OLDEST[platform.architecture] - 1, -1):
        yield f"manylinux_{major}_{minor}_{platform.architecture}"
        if (major, minor) in _LEGACY:
            yield f"{_LEGACY[major, minor]}_{platform.architecture}"
    yield f"linux_{platform.architecture}"
