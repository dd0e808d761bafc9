"""What a machine image holds, as its tags say it, and whether it suits a job: values, without I/O.

An image is found by its tags alone, from any machine. It is made of one environment of dayfly's
own, one of the functions', and packages of the system; a VM that is launched from it finds them on
its disk. What it lacks is installed as on any other image, so choosing another one is never wrong,
only slower.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from dayfly.environment.lock import Platform

#: Characters of a tag's value. Source: the EC2 user guide, "Tag restrictions".
_VALUE: Final = 256
#: Stands for the functions' packages where they run in the VM's own runtime.
NONE: Final = "none"
#: Names of images that EC2 takes, with room for what makes each build's its own.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9()./'@_-]{2,115}")


class Mark(StrEnum):
    """The tags of an image and of its snapshots, beside those of all that is ours."""

    #: One build's own, by which snapshots are known to be an image's.
    BUILD = "dayfly:build"
    #: Key of the environment of dayfly's own services.
    KIT = "dayfly:kit"
    #: Key of the functions' packages, or ``none``.
    PACKAGES = "dayfly:packages"
    #: Packages of the system, in words, or their digest.
    APT = "dayfly:apt"
    PYTHON = "dayfly:python"
    PLATFORM = "dayfly:platform"
    #: What ``target_ami`` said when it was built.
    BASE = "dayfly:base"
    #: Of dayfly.
    VERSION = "dayfly:version"


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What an image holds, or what a job needs of one.

    Attributes:
        kit: Key of the environment of dayfly's own services.
        packages: Key of the functions' packages; empty, of a job: any will do.
        apt: Packages of the system.
        platform: As uv names it: ``x86_64-manylinux_2_35``.
        base: What ``target_ami`` says.
        python: Minor version: ``3.11``.
        version: Of dayfly.
    """

    kit: str
    packages: str = ""
    apt: tuple[str, ...] = ()
    platform: str = ""
    base: str = ""
    python: str = ""
    version: str = ""

    @property
    def tags(self) -> dict[str, str]:
        """As an image carries it."""
        return {
            Mark.KIT.value: self.kit,
            Mark.PACKAGES.value: self.packages or NONE,
            Mark.APT.value: _in_a_tag(self.apt),
            Mark.PLATFORM.value: self.platform,
            Mark.BASE.value: self.base,
            Mark.PYTHON.value: self.python,
            Mark.VERSION.value: self.version,
        }


class MachineImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that dayfly made, or what is left of one.

    Attributes:
        id: The cloud's; of remains that of their snapshot.
        name: What people call it; several builds of one name may exist for a moment.
        state: By EC2's name: ``pending``, ``available``, ``failed``; or ``remains``: a snapshot
            whose image is gone.
        created_at: Seconds since the epoch.
        size: GiB of its volumes.
        owner: Who made it.
        detail: Why it failed, in the cloud's words.
    """

    id: str
    name: str
    state: str
    created_at: float
    tags: dict[str, str]
    size: int = 0
    owner: str = ""
    detail: str = ""

    @property
    def available(self) -> bool:
        """Whether VMs can be launched from it."""
        return self.state == "available"

    @property
    def broken(self) -> bool:
        """Whether it will never be of use."""
        return self.state not in ("available", "pending")

    @property
    def platform(self) -> Platform | None:
        """What compiled packages can rely on, as found out when it was built."""
        return platform_in(self.tags)


def platform_in(tags: Mapping[str, str]) -> Platform | None:
    """What the tags of an image say that compiled packages can rely on."""
    found = re.fullmatch(
        r"(x86_64|aarch64)-manylinux_(\d+)_(\d+)", tags.get(Mark.PLATFORM.value, "")
    )
    if found is None:
        return None
    architecture, major, minor = found.groups()
    return Platform(
        architecture="aarch64" if architecture == "aarch64" else "x86_64",
        glibc=(int(major), int(minor)),
    )


def lacks(image: MachineImage, wanted: Contents) -> list[str]:
    """What keeps a VM of an image from being ready at once, in words; empty: nothing."""
    tags = image.tags
    found = []
    if tags.get(Mark.BASE) != wanted.base:
        found.append(f"it was built from {tags.get(Mark.BASE) or 'something else'}")
    if tags.get(Mark.PLATFORM) != wanted.platform:
        found.append(f"it is for {tags.get(Mark.PLATFORM) or 'another platform'}")
    elif tags.get(Mark.PYTHON) != wanted.python:
        found.append(f"it has Python {tags.get(Mark.PYTHON)}, and not {wanted.python}")
    else:
        if tags.get(Mark.KIT) != wanted.kit:
            found.append("it has other packages of dayfly's own")
        if wanted.packages and tags.get(Mark.PACKAGES) != wanted.packages:
            found.append("the packages of this program have changed since it was built")
    if not _has_apt(tags.get(Mark.APT, ""), wanted.apt):
        found.append("it lacks some of extra_apt_packages")
    return found


def choose(
    images: Iterable[MachineImage], wanted: Contents
) -> tuple[MachineImage | None, Sequence[str]]:
    """The newest image in which nothing is lacking.

    Returns:
        It; or, where there is none, what is lacking in the one that comes next to it.
    """
    ready = sorted((image for image in images if image.available), key=lambda one: -one.created_at)
    said = [(image, lacks(image, wanted)) for image in ready]
    for image, lacking in said:
        if not lacking:
            return image, ()
    if not said:
        return None, ()
    image, lacking = min(said, key=lambda pair: len(pair[1]))
    return None, (f"{image.name} ({image.id}): {'; '.join(lacking)}",)


def _in_a_tag(packages: Sequence[str]) -> str:
    words = " ".join(sorted(set(packages)))
    if len(words) <= _VALUE:
        return words
    return f"sha256:{hashlib.sha256(words.encode()).hexdigest()}"


def _has_apt(told: str, wanted: Sequence[str]) -> bool:
    return told == _in_a_tag(wanted) or set(wanted) <= set(told.split())
