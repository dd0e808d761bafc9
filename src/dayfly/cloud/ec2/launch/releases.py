"""What widespread images have, by their names and makers."""

from __future__ import annotations

from typing import Final

import msgspec

from dayfly.cloud.ec2.partitions import canonical
from dayfly.environment.lock import Platform

#: The accounts of Debian and of Amazon Linux, in AWS at large. Source: each project's page of
#: images on EC2. Names alone prove nothing: anybody may have put another Python in a copy.
_MAKERS: Final = frozenset({"136693071363", "137112412989"})


class Release(msgspec.Struct, frozen=True):
    """A release of a distribution.

    Attributes:
        glibc: Version of its C library.
        python: Minor version of its ``python3``.
    """

    glibc: tuple[int, int]
    python: str


#: What the names of their images hold -> the release.
#: Source: the distributions' package indexes (packages libc6 or glibc, and python3).
_RELEASES: Final = {
    "ubuntu-jammy-22.04": Release((2, 35), "3.10"),
    "ubuntu-noble-24.04": Release((2, 39), "3.12"),
    "debian-11": Release((2, 31), "3.9"),
    "debian-12": Release((2, 36), "3.11"),
    "debian-13": Release((2, 41), "3.13"),
    "al2023-ami": Release((2, 34), "3.9"),
}


def _release(name: str) -> Release | None:
    return next((release for part, release in _RELEASES.items() if part in name), None)


def platform_of(architecture: str, name: str = "") -> Platform:
    """What compiled packages can rely on.

    Args:
        architecture: By EC2's name.
        name: Of the image; of an unknown one little is expected.
    """
    release = _release(name)
    return Platform(
        architecture="aarch64" if architecture == "arm64" else "x86_64",
        glibc=release.glibc if release else (2, 28),
    )


def python_of(name: str, owner: str, region: str) -> str:
    """The minor version of an image's Python; empty where nobody can say.

    Args:
        name: Of the image.
        owner: The account that has published it.
        region: Where.
    """
    release = _release(name)
    makers = {canonical(region), *_MAKERS}
    return release.python if release and owner in makers else ""
