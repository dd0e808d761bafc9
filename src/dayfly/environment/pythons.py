"""A Python for VMs whose image lacks this one: a build that runs anywhere, found by uv.

uv knows the builds and their hashes, and how to get through to them from here. It is fetched once,
before any VM is launched, so that what cannot be had is told then.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from dayfly.environment import uv
from dayfly.environment.capture import without_credentials
from dayfly.environment.lock import File, Platform
from dayfly.errors import EnvironmentSyncError

#: Seconds for the fetching of some 30 MB, and for all that uv does about it.
DEADLINE: Final = 300.0
#: The oldest Python that dayfly itself runs on.
_OLDEST: Final = (3, 11)
_MIRROR: Final = "UV_PYTHON_INSTALL_MIRROR"
_LIST: Final = "UV_PYTHON_DOWNLOADS_JSON_URL"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A build that is to be had.

    Attributes:
        python: Minor version: ``3.11``.
        platform: Of the VMs.
        instead: The minor version that their image has.
        mirror: In place of uv's own releases, or a list of builds (``.json``); empty: what uv's
            variables and files say.
    """

    python: str
    platform: Platform
    instead: str
    mirror: str = ""

    @property
    def name(self) -> str:
        """By what storage knows it; builds need no newer C library than any VM has."""
        name = f"cpython-{self.python}-{self.platform.architecture}"
        if not self.mirror:
            return name
        return f"{name}-{hashlib.sha256(self.mirror.encode()).hexdigest()[:16]}"

    @property
    def request(self) -> str:
        """As uv is asked for it."""
        return f"cpython-{self.python}-linux-{self.platform.architecture}-gnu"


class _Build(msgspec.Struct, frozen=True):
    """What uv lists."""

    key: str
    version: str
    url: str


class _Refusal(Exception):  # noqa: N818  # told as an error of ours, with what is wished for
    """uv does not have it.

    Args:
        tried: Where it was looked for.
        answer: What came of it.
        words: uv's.
    """

    def __init__(self, tried: str, answer: str, words: str = "") -> None:
        super().__init__(answer)
        self.tried, self.answer, self.words = tried, answer, words


@asynccontextmanager
async def fetched(wish: Wish, *, deadline: float = DEADLINE) -> AsyncIterator[tuple[File, Path]]:
    """A build of Python, and where it is until the end of the block.

    Args:
        wish: Which one.
        deadline: Seconds.

    Raises:
        EnvironmentSyncError: It cannot be had.
    """
    known = variables(wish.mirror, os.environ)
    tried = known.get(_LIST) or known.get(_MIRROR) or "the releases that uv knows"
    with tempfile.TemporaryDirectory(prefix="dayfly-python-") as folder:
        try:
            async with asyncio.timeout(deadline):
                build = await _listed(wish, known, tried)
                tried = build.url
                path = await _installed(build, known, Path(folder))
        except TimeoutError as error:
            answer = f"it did not come within {deadline:.0f} s"
            raise _unobtainable(wish, _Refusal(tried, answer)) from error
        except _Refusal as refusal:
            raise _unobtainable(wish, refusal) from refusal
        yield await asyncio.to_thread(_file, build, path), path


def variables(mirror: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of uv, with where it is to take builds from.

    Args:
        mirror: See :class:`Wish`.
        environ: The user's.
    """
    known = uv.environment(environ)
    if mirror:
        return known | {_LIST if mirror.endswith(".json") else _MIRROR: mirror}
    return known | {name: environ[name] for name in (_LIST, _MIRROR) if environ.get(name)}


async def _listed(wish: Wish, known: dict[str, str], tried: str) -> _Build:
    status, output, words = await uv.run(
        [
            *("python", "list", wish.request, "--only-downloads", "--output-format", "json"),
            *("--all-platforms", "--all-arches", "--no-cache"),
        ],
        "",
        known,
    )
    if status:
        raise _Refusal(tried, _answer(words), words)
    try:
        builds = msgspec.json.decode(output, type=list[_Build])
    except msgspec.DecodeError as error:
        raise _Refusal(tried, f"uv's list cannot be read: {error}") from error
    if not builds:
        raise _Refusal(tried, f"there is no {wish.request}")
    return builds[0]


async def _installed(build: _Build, known: dict[str, str], folder: Path) -> Path:
    """Have uv fetch it and compare its hash; what it unpacks is of no use here."""
    archives = folder / "archives"
    archives.mkdir()
    status, _, words = await uv.run(
        [
            *("python", "install", build.key, "--install-dir", str(folder / "unpacked")),
            *("--no-bin", "--no-cache", "--no-progress"),
        ],
        "",
        known | {"UV_PYTHON_CACHE_DIR": str(archives)},
    )
    found = list(archives.iterdir())
    if status or len(found) != 1:
        raise _Refusal(build.url, _answer(words), words)
    return found[0]


def _file(build: _Build, path: Path) -> File:
    with path.open("rb") as archive:
        digest = hashlib.file_digest(archive, "sha256").hexdigest()
    return File(
        package="cpython",
        version=build.version,
        filename=unquote(urlsplit(build.url).path.rpartition("/")[2]),
        sha256=digest,
        size=path.stat().st_size,
        url=without_credentials(build.url),
    )


def _answer(words: str) -> str:
    """The innermost of uv's reasons."""
    causes = re.findall(r"cause: (.+)", words)
    return causes[-1] if causes else next(iter(words.splitlines()), "uv ended without a word")


def _unobtainable(wish: Wish, refusal: _Refusal) -> EnvironmentSyncError:
    ways = [
        "set python_mirror to a mirror of CPython builds that this machine reaches",
        f"choose a target_ami that has Python {wish.python}",
    ]
    if tuple(map(int, wish.instead.split("."))) >= _OLDEST:
        ways.append(f"run this program with Python {wish.instead}")
    return EnvironmentSyncError(
        f"the VMs' image has Python {wish.instead}, this program runs on {wish.python}, "
        "and that cannot be had for them",
        stage="python",
        package="cpython",
        platform=wish.platform.name,
        cause=f"{without_credentials(refusal.tried)}: {refusal.answer}",
        hint=", or ".join(ways),
        log=refusal.words,
    )
