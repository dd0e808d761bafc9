"""uv as a child process: which wheels fulfil some requirements on a VM.

uv alone knows the indexes and their passwords; nothing of these is ever in its arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import msgspec

from dayfly.environment.capture import without_credentials
from dayfly.environment.indexes import Indexes
from dayfly.environment.lock import File, Platform
from dayfly.environment.wheels import best
from dayfly.errors import EnvironmentSyncError

#: The variables of the user's that uv gets: where packages are and how to get there. Others
#: (``UV_NO_BINARY``, ``UV_CONSTRAINT``) would change what is asked.
_KEPT: Final = (
    "UV_CACHE_DIR",
    "UV_CONFIG_FILE",
    "UV_CREDENTIALS",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP",
    "UV_INDEX",
    "UV_INSECURE_HOST",
    "UV_KEYRING",
    "UV_NATIVE_TLS",
    "UV_NO_CONFIG",
    "UV_NO_INDEX",
    "UV_OFFLINE",
    "UV_SYSTEM_CERTS",
)
#: uv's exit status where the packages are the trouble; any other one is its own trouble.
_UNSOLVABLE: Final = 1
#: Lines of uv's words that an error carries.
_TAIL: Final = 20
_NONE: Final = Indexes()
_SECRET: Final = re.compile(r"://[^/?#\s]+@")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is resolved for, and from where.

    Attributes:
        platform: Of the VM.
        python: Minor version: ``3.11``.
        indexes: Where packages are looked for.
    """

    platform: Platform
    python: str
    indexes: Indexes = Indexes()


class Solution(msgspec.Struct, frozen=True, kw_only=True):
    """What uv has found.

    Attributes:
        files: One wheel per package.
        local: Of these, those that lie on this machine: SHA-256 -> where.
    """

    files: tuple[File, ...] = ()
    local: dict[str, Path] = {}


class Unsolvable(Exception):  # noqa: N818  # an answer, told by an exception
    """uv says that it cannot be done.

    Attributes:
        words: What it says.
        package: Which one it is, where that is known without reading the words.
    """

    def __init__(self, words: str, package: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.package = package


async def solve(
    requirements: str,
    target: Target,
    *,
    constraints: str = "",
    dependencies: bool = False,
    links: Path | None = None,
    folder: Path | None = None,
) -> Solution:
    """Have uv find a wheel for each requirement.

    Args:
        requirements: The text of a requirements file.
        target: For what.
        constraints: The text of a constraints file.
        dependencies: Whether to take in what the packages require.
        links: A folder of further wheels.
        folder: What relative paths in the requirements are relative to.

    Raises:
        Unsolvable: A package cannot be had.
        EnvironmentSyncError: uv could not do its work.
    """
    arguments = [
        *("pip", "compile", "-", "--format", "pylock.toml", "--no-header", "--quiet"),
        *("--only-binary", ":all:", "--python-platform", target.platform.name),
        *("--python-version", patch(target.python)),
        *(() if dependencies else ("--no-deps",)),
        *(("--find-links", str(links)) if links is not None else ()),
        # Else it looks through every interpreter on the path for the version.
        *(("--python", sys.executable) if sys.executable else ()),
    ]
    with tempfile.NamedTemporaryFile("w", prefix="dayfly-", suffix=".txt") as file:
        if constraints:
            file.write(constraints)
            file.flush()
            arguments += ["--constraints", file.name]
        status, output, words = await run(
            arguments, requirements, environment(os.environ, target.indexes), folder
        )
    if status == _UNSOLVABLE and words and "(401 Unauthorized)" not in words:
        raise Unsolvable(words)
    if status:
        raise trouble(words, target)
    return read(output, target, folder or Path.cwd())


@contextlib.contextmanager
def gathered(wheels: Iterable[Path]) -> Iterator[Path]:
    """A folder that has some wheels, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="dayfly-") as name:
        for wheel in wheels:
            Path(name, wheel.name).symlink_to(wheel)
        yield Path(name)


def patch(python: str) -> str:
    """A minor version as this interpreter's, where it is the same.

    A minor version alone means ``.0`` to uv, which some packages refuse that work here.
    """
    own = ".".join(map(str, sys.version_info[:3]))
    return own if own.startswith(f"{python}.") else python


async def run(
    arguments: Sequence[str], text: str, environment: dict[str, str], folder: Path | None = None
) -> tuple[int, str, str]:
    """Run uv to its end, or until the await is cancelled.

    Args:
        arguments: After its name.
        text: On its standard input.
        environment: See :func:`environment`.
        folder: Where it runs.

    Returns:
        Its status, its output, and its words without passwords.

    Raises:
        EnvironmentSyncError: It cannot be started.
    """
    binary = _binary()
    try:
        process = await asyncio.create_subprocess_exec(
            binary,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=folder,
        )
    except OSError as error:
        raise EnvironmentSyncError(
            "uv cannot be started, which finds the packages for the VMs",
            stage="resolve",
            cause=f"{binary}: {error.strerror or error}",
            hint=_INSTALL,
        ) from error
    try:
        output, words = await process.communicate(text.encode())
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    status = process.returncode if process.returncode is not None else -1
    return status, output.decode("utf-8", "replace"), clean(words.decode("utf-8", "replace"))


_INSTALL: Final = f"{sys.executable or 'python'} -m pip install --force-reinstall uv"


def _binary() -> str:
    # Here and not above: a program that brings no packages does without.
    try:
        from uv import find_uv_bin
    except ImportError as error:
        raise EnvironmentSyncError(
            "uv is not installed, which finds the packages for the VMs",
            stage="resolve",
            cause=str(error),
            hint=_INSTALL,
        ) from error
    try:
        return find_uv_bin()
    except FileNotFoundError as error:
        raise EnvironmentSyncError(
            "uv's program is gone, which finds the packages for the VMs",
            stage="resolve",
            cause=str(error),
            hint=_INSTALL,
        ) from error


def environment(environ: Mapping[str, str], indexes: Indexes = _NONE) -> dict[str, str]:
    """What uv is told by variables: the user's, but for those that would change what is asked.

    Args:
        environ: The user's.
        indexes: Where packages are looked for.
    """
    known = {
        name: value
        for name, value in environ.items()
        if not name.startswith("UV_") or name.startswith(_KEPT)
    }
    known.setdefault("UV_HTTP_RETRIES", "2")
    known.setdefault("UV_HTTP_TIMEOUT", "20")
    told = known | indexes.environment | {"UV_NO_WRAP": "1", "NO_COLOR": "1"}
    # An empty variable is one that is to be forgotten.
    return {name: value for name, value in told.items() if value or not name.startswith("UV_")}


def clean(words: str) -> str:
    """Without passwords."""
    return _SECRET.sub("://", words).strip()


def cause_of(words: str) -> str:
    """The line of uv's words that says most."""
    told = re.search(r"Because .+?(?=, we can conclude|$)", " ".join(words.split()))
    if told:
        return told[0]
    told = re.search(r"cause: (.+)", words)
    return told[1] if told else words.partition("\n")[0]


def trouble(words: str, target: Target) -> EnvironmentSyncError:
    """What is wrong where it is not a package.

    Args:
        words: uv's.
        target: What it was asked for.
    """
    failed = re.search(r"[Ff]ailed to (?:fetch|query)[^:]*: `?(https?://[^\s`]+)", words)
    tail = "\n".join(words.splitlines()[-_TAIL:])
    platform = target.platform.name
    if "(401 Unauthorized)" in words:
        return EnvironmentSyncError(
            "a package index wants a password",
            stage="resolve",
            platform=platform,
            cause=next((line for line in words.splitlines() if "(401" in line), "").strip(),
            hint="give it in the index's URL or in ~/.netrc, or: uv auth login HOST",
            log=tail,
        )
    if failed:
        url = failed[1]
        parts = urlsplit(url)
        return EnvironmentSyncError(
            f"the package index at {parts.netloc} cannot be asked",
            stage="resolve",
            platform=platform,
            cause=words.splitlines()[-1].strip().removeprefix("cause: "),
            hint=f"curl -sSI {without_credentials(url)}",
            log=tail,
        )
    return EnvironmentSyncError(
        f"uv could not find the packages for {platform}",
        stage="resolve",
        platform=platform,
        cause=next(iter(words.splitlines()), "it ended without a word").removeprefix("error: "),
        hint="uv --version; dayfly needs 0.9 or newer",
        log=tail,
    )


# -- what uv answers: pylock.toml, by PEP 751 --


def read(text: str, target: Target, folder: Path) -> Solution:
    """The wheels of the ``pylock.toml`` that uv has written.

    Args:
        text: Of the file.
        target: For which one wheel per package is chosen.
        folder: What relative paths in it are relative to: where uv ran.

    Raises:
        Unsolvable: A package in it has no wheel for the VM.
        EnvironmentSyncError: It is no such file.
    """
    try:
        packages = tomllib.loads(text).get("packages", [])
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(error, target) from error
    return wheels_of(packages, target, folder)


def wheels_of(packages: Iterable[dict[str, Any]], target: Target, folder: Path) -> Solution:
    """One wheel for each of the ``packages`` of a ``pylock.toml``.

    Args:
        packages: As they are in the file.
        target: For which.
        folder: What relative paths are relative to.

    Raises:
        Unsolvable: A package has no wheel for the VM.
        EnvironmentSyncError: These are no such packages.
    """
    files, local = [], {}
    for package in packages:
        try:
            file, path = _file(package, target, folder)
        except (KeyError, TypeError, AttributeError) as error:
            raise _unreadable(error, target) from error
        files.append(file)
        if path is not None:
            local[file.sha256] = path
    return Solution(files=tuple(sorted(files, key=lambda file: file.package)), local=local)


def _unreadable(error: Exception, target: Target) -> EnvironmentSyncError:
    return EnvironmentSyncError(
        "what was found cannot be read: it is no pylock.toml",
        stage="resolve",
        platform=target.platform.name,
        cause=f"{type(error).__name__}: {error}",
        hint="uv --version; dayfly needs 0.9 or newer",
    )


def _file(package: dict[str, Any], target: Target, folder: Path) -> tuple[File, Path | None]:
    name = package["name"]
    known = [*package.get("wheels", ()), *([package["archive"]] if "archive" in package else ())]
    wheels = {_filename(each): each for each in known}
    chosen = best(wheels, target.platform, target.python)
    if chosen is None:
        if known and all(each.endswith(".whl") for each in wheels):
            has = "it has " + ", ".join(sorted(wheels))
        else:
            has = "it is there as source only"
        raise Unsolvable(f"{name} has no wheel for {target.platform.name}: {has}", name)
    wheel = wheels[chosen]
    url, path = wheel.get("url", ""), wheel.get("path", "")
    if url.startswith("file:"):
        path, url = url2pathname(urlsplit(url).path), ""
    sha256 = wheel.get("hashes", {}).get("sha256", "")
    if path and not (folder / path).is_file():
        raise Unsolvable(f"{name}: there is no file {folder / path}", name)
    if path and not sha256:  # uv before 0.13
        with (folder / path).open("rb") as file_here:
            sha256 = hashlib.file_digest(file_here, "sha256").hexdigest()
    if not sha256:
        raise Unsolvable(f"{name}: the index does not tell the SHA-256 of {chosen}", name)
    file = File(
        package=name,
        version=package.get("version") or chosen.split("-")[1],
        filename=chosen,
        sha256=sha256,
        size=wheel.get("size", 0),
        url=without_credentials(url).partition("#")[0],
    )
    return file, folder / path if path else None


def _filename(wheel: dict[str, Any]) -> str:
    where = wheel.get("name") or wheel.get("path") or urlsplit(wheel.get("url", "")).path
    return unquote(str(where).rpartition("/")[2])
