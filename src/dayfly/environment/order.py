"""What the kit is told, as values: the docstring of :mod:`dayfly.environment.kit` is the contract.

The kit itself reads plain JSON, since it runs where nothing of dayfly is.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Step = Literal["lock", "room", "python", "fetch", "install", "check", "deposit"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a file may be had.

    Attributes:
        name: The user's own storage, or an index.
        url: ``http:``, ``https:`` or ``file:``. It may be presigned or carry a password, and is
            as secret as what it opens.
    """

    name: Literal["storage", "index"]
    url: str


class FileOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A file, and how the VM comes by it.

    Attributes:
        package: Normalised name.
        version: Of the package.
        filename: With the tags that installers read.
        sha256: Of its bytes, in hexadecimal.
        size: Bytes; 0 where that is not known.
        sources: Tried in order.
        deposit: Where storage takes it, when it had to come from elsewhere; empty: it does not.
    """

    package: str
    version: str
    filename: str
    sha256: str
    size: int = 0
    sources: tuple[Source, ...] = ()
    deposit: str = ""


class Interpreters(msgspec.Struct, frozen=True, kw_only=True):
    """Where a VM takes a Python from that it does not have.

    Attributes:
        mirror: In place of uv's own releases (``UV_PYTHON_INSTALL_MIRROR``).
        downloads: In place of uv's own list (``UV_PYTHON_DOWNLOADS_JSON_URL``).
        archive: The very build, as an ``install_only`` tar archive; uv is not asked then.
    """

    mirror: str = ""
    downloads: str = ""
    archive: FileOrder | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An environment to be had on a VM.

    Attributes:
        key: Of the :class:`~dayfly.environment.lock.Lock`.
        name: What people call it.
        python: Minor version: ``3.11``.
        implementation: As ``sys.implementation.name`` says it.
        files: The wheels.
        uv: uv's own wheel, for the VM's platform.
        interpreters: Where a Python comes from.
        check: Modules that must be importable in the end.
        root: On the VM, below ``$DAYFLY_ROOT``.
        deadline: Seconds for all steps.
        deadlines: Seconds for single steps.
        durable: Sync the disk before the environment is called complete: for an image.
        pauses: Seconds between tries of one source.
        silence: Seconds without a byte after which a connection is given up.
    """

    key: str
    name: str
    python: str
    uv: FileOrder
    implementation: str = "cpython"
    files: tuple[FileOrder, ...] = ()
    interpreters: Interpreters = Interpreters()
    check: tuple[str, ...] = ()
    root: str = "/opt/dayfly"
    deadline: float = 900.0
    deadlines: dict[Step, float] = {}
    durable: bool = False
    pauses: tuple[float, ...] = (0.5, 1.0, 2.0)
    silence: float = 20.0

    def encode(self) -> bytes:
        """The order as the kit reads it: secret, and for its standard input only."""
        return msgspec.json.encode(self)
