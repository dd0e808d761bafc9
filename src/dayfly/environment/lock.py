"""What an environment is made of, down to the bytes: values, without I/O.

A :class:`Wanted` says what is to be had; its key names it in storage and on every VM's disk. A
:class:`Lock` says by which files: two VMs with the same lock have the same packages.
"""

from __future__ import annotations

import hashlib
import platform
from typing import Final, Literal

import msgspec

#: Counted up when the same wish leads to other files on the VM.
SCHEMA: Final = 1

#: The C libraries (2.N) that uv knows by name, as of 0.9. What runs on an older one runs on a
#: newer one.
_KNOWN: Final = (17, 28, *range(31, 41))

Architecture = Literal["x86_64", "aarch64"]


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """What compiled packages depend on, on a VM.

    Attributes:
        architecture: By Linux's name.
        glibc: Version of the C library, the newest that may be relied on.
    """

    architecture: Architecture = "x86_64"
    glibc: tuple[int, int] = (2, 28)

    @property
    def name(self) -> str:
        """As uv names it: ``x86_64-manylinux_2_35``."""
        minor = max((each for each in _KNOWN if (2, each) <= self.glibc), default=_KNOWN[0])
        return f"{self.architecture}-manylinux_2_{minor}"


def this_platform() -> Platform:
    """That of this machine; of one without a glibc little is expected."""
    machine = platform.machine().lower()
    name, _, version = "-".join(platform.libc_ver()).partition("-")
    numbers = version.split(".")
    glibc = (int(numbers[0]), int(numbers[1])) if name == "glibc" else (2, 28)
    arm = machine in {"aarch64", "arm64"}
    return Platform(architecture="aarch64" if arm else "x86_64", glibc=glibc)


class Pin(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One installed distribution, exactly.

    Attributes:
        name: Normalised (PEP 503).
        version: As installed.
        digest: SHA-256 of the wheel into which it was repacked, where no index has it.
    """

    name: str
    version: str
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be had on the VM.

    Attributes:
        python: Minor version: ``3.11``.
        platform: Of the VM.
        pins: Sorted by name.
        requirements: The text of a requirements or lock file, in place of pins.
        index: URLs of package indexes, the default one first; empty: PyPI. They may carry
            credentials, and are not printed.
    """

    python: str
    platform: Platform = Platform()
    pins: tuple[Pin, ...] = ()
    requirements: str = ""
    index: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """32 hexadecimal digits; the index is not in it, since files are known by their hash."""
        wish = (SCHEMA, self.python, self.platform, self.pins, self.requirements)
        return hashlib.sha256(msgspec.json.encode(wish)).hexdigest()[:32]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel, or an archive with a Python in it.

    Attributes:
        package: Normalised name.
        version: Of the package.
        filename: With the tags that installers read.
        sha256: Of its bytes, in hexadecimal; its name in storage.
        size: Bytes; 0 where the index does not tell.
        url: Where an index has it; empty: it is in storage only.
    """

    package: str
    version: str
    filename: str
    sha256: str
    size: int = 0
    url: str = ""


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """The files of an environment.

    Attributes:
        key: Of the :class:`Wanted` that it fulfils.
        python: Minor version: ``3.11``.
        platform: Of the VM.
        files: Sorted by package.
        interpreter: A build of that Python, for VMs whose image lacks it.
    """

    key: str
    python: str
    platform: Platform
    files: tuple[File, ...] = ()
    interpreter: File | None = None


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A package that the VM cannot be given.

    Attributes:
        pin: Which one.
        reason: In one line: why neither an index nor this machine has it for the VM.
    """

    pin: Pin
    reason: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a wish: the next program asks nobody for it.

    Attributes:
        lock: By which files it is fulfilled, as far as it can be.
        missing: What the VMs cannot be given.
        warnings: What might not work there.
    """

    lock: Lock
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()
