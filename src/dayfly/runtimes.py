"""What a worker runs functions in: an interpreter of its VM, or a container image.

Both have one key of the configuration, ``runtime``. A path, or a name like ``python3`` or
``pypy3.11``, is an interpreter; what has a ``/``, a ``:`` or an ``@`` in it and is no path is an
image.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from dayfly.guarded import Guarded

#: The registry of images whose name has none.
HUB: Final = "docker.io"
#: Names by which that registry is known too.
_HUBS_OTHER_NAMES: Final = frozenset({"index.docker.io", "index.docker.io/v1", "docker.com"})

_INTERPRETER: Final = re.compile(r"(python|pypy)[0-9.]*[a-z]?", re.ASCII)
#: Source: the grammar of references in the OCI distribution specification and Docker's.
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_PART: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?"
    r"(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)


class Registry(Guarded, frozen=True, kw_only=True):
    """Where container images come from, and who we are there; no user: anybody.

    Attributes:
        server: As in the names of images.
    """

    server: str = HUB
    user: str = ""
    password: str = ""


class Runtime(msgspec.Struct, frozen=True):
    """What a worker is for; as a text, in its tag, it tells which jobs it may serve.

    Attributes:
        name: An interpreter, or an image.
        gpu: Whether containers are given the VM's GPUs.
        login: Tells credentials for the registry from others, and nothing of them.
    """

    name: str
    gpu: bool = False
    login: str = ""

    def __str__(self) -> str:
        return self.name + " +gpu" * self.gpu + (f" as={self.login}" if self.login else "")

    @classmethod
    def parse(cls, text: str) -> Runtime:
        """The inverse of ``str``."""
        text, _, login = text.partition(" as=")
        name = text.removesuffix(" +gpu")
        return cls(name, name != text, login)

    @property
    def image(self) -> str:
        """The image; empty for an interpreter."""
        return self.name if names_image(self.name) else ""

    @property
    def services(self) -> str:
        """The interpreter of the VM that dayfly's own services can run in."""
        return "python3" if self.image else self.name


def names_image(runtime: str) -> bool:
    """Whether a runtime is a container image, and not an interpreter."""
    return not runtime.startswith(("/", "~", ".")) and any(mark in runtime for mark in "/:@")


def registry_of(image: str) -> str:
    """The registry that an image's name begins with; empty where it names none."""
    first, slash, _ = image.partition("/")
    return first if slash and (first == "localhost" or any(mark in first for mark in ".:")) else ""


def server_name(given: str) -> str:
    """A registry by the name that it has in the names of images."""
    name = given.removeprefix("https://").removeprefix("http://").rstrip("/")
    return HUB if name in _HUBS_OTHER_NAMES else name


def full_name(image: str, server: str) -> str:
    """An image by its full name: one that names no registry is in ``server``."""
    if registry_of(image):
        return image
    server = server_name(server)
    library = "library/" if server == HUB and "/" not in image else ""
    return f"{server}/{library}{image}"


def wrong(runtime: str) -> str:
    """What is wrong with a runtime; empty: nothing is."""
    if names_image(runtime):
        if _IMAGE.fullmatch(runtime):
            return ""
        return (
            f"{runtime!r} is not the name of a container image; that is "
            "registry/name:tag, name:tag or name@sha256:..., in small letters"
        )
    if runtime.startswith(("/", "~", ".")) or _INTERPRETER.fullmatch(runtime):
        return ""
    return (
        f"{runtime!r} is neither an interpreter nor a container image; an interpreter is a path or "
        f"a name like python3.12, an image has a tag: {runtime}:latest"
    )
