"""What this interpreter has installed, and where each of it came from.

Left out are dayfly itself, uv, and the tools of installation (pip, setuptools, wheel) that no
other package requires. An editable install is no pin: its source travels with each job
(:mod:`dayfly.modules`).
"""

from __future__ import annotations

import csv
import enum
import hashlib
import importlib.metadata
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dayfly.environment.lock import Pin

#: Never on a VM by way of a pin: dayfly comes by its own road, and uv is needed by dayfly alone.
OURS: Final = frozenset({"dayfly", "uv"})
#: On a VM only where another package requires them.
TOOLS: Final = frozenset({"pip", "setuptools", "wheel"})
#: Folders changed less than this many seconds ago are not remembered: a file system's clock is
#: coarse, and they may change again without a sign.
_SETTLED: Final = 2.0
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


class Origin(enum.Enum):
    """Where a distribution came from, by PEP 610."""

    INDEX = "an index"
    ARCHIVE = "a URL"
    VCS = "version control"
    LOCAL = "a local file or folder"
    EDITABLE = "an editable install"


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """One installed distribution.

    Attributes:
        pin: Name and version.
        place: The folder that it was installed into.
        info: Its ``.dist-info`` or ``.egg-info``.
        origin: Where it came from.
        url: Of that, where it is no index; without credentials.
        sha256: Of the archive at ``url``, in hexadecimal, where the installer wrote it down.
        requires: Its dependencies, as its metadata has them.
        tags: Of the wheel that it was installed from; empty where that is unknown.
        recorded: Whether it is known which files are its own.
    """

    pin: Pin
    place: Path
    info: Path
    origin: Origin = Origin.INDEX
    url: str = ""
    sha256: str = ""
    requires: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    recorded: bool = True

    @property
    def pure(self) -> bool:
        """Whether the wheel that it was installed from was good for any platform."""
        return bool(self.tags) and all(tag.endswith("-any") for tag in self.tags)

    @property
    def project(self) -> Path | None:
        """The folder of its source, where it was installed from one."""
        if self.origin is Origin.EDITABLE and not self.url:
            return self.place
        parts = urlsplit(self.url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None

    def files(self) -> Iterator[str]:
        """Its files as ``RECORD`` has them: relative to ``place``, ``..`` where outside."""
        record = self.info / "RECORD"
        if self.recorded:  # importlib.metadata keeps quiet about files that are gone
            with record.open(encoding="utf-8", newline="") as file:
                yield from (row[0].replace("\\", "/") for row in csv.reader(file) if row)
            return
        for path in importlib.metadata.Distribution.at(self.info).files or ():
            yield path.as_posix()


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """What an interpreter has.

    Attributes:
        installed: Sorted by name.
        warnings: What could not be made out.
    """

    installed: tuple[Installed, ...] = ()
    warnings: tuple[str, ...] = ()


_Stamp = tuple[tuple[str, int, int], ...]
_last: dict[_Stamp, Capture] = {}


def capture(path: Sequence[str] | None = None) -> Capture:
    """Look at what is installed; again only when a folder on the path has changed.

    Args:
        path: Folders to look into, the first of which wins; ``None``: ``sys.path``.
    """
    folders = list(dict.fromkeys(sys.path if path is None else path))
    stamp = _stamp(folders)
    known = _last.get(stamp)
    if known is None:
        known = _capture(folders)
        settled = time.time() - max((each[2] for each in stamp), default=0) / 1e9 >= _SETTLED
        if settled:
            _last.clear()
            _last[stamp] = known
    return known


def _stamp(folders: Iterable[str]) -> _Stamp:
    stamp = []
    for folder in folders:
        try:
            status = Path(folder).stat()
        except OSError:  # a path that leads nowhere, as python311.zip most often does
            continue
        stamp.append((folder, status.st_ino, status.st_mtime_ns))
    return tuple(stamp)


def _capture(folders: list[str]) -> Capture:
    found: dict[str, Installed] = {}
    warnings: list[str] = []
    for distribution in importlib.metadata.distributions(path=folders):
        info = getattr(distribution, "_path", None)
        # setuptools puts what it has vendored on the path; a zip has nothing to look into.
        if not isinstance(info, Path) or info.parent.name == "_vendor":
            continue
        if info.name.startswith("~"):
            warnings.append(f"{info} is what a broken installation left, and is passed over")
            continue
        one = _read(distribution, info)
        if isinstance(one, str):
            warnings.append(one)
        else:
            found.setdefault(one.pin.name, one)
    kept = _needed(found)
    bare = [one.pin.name for one in kept if not one.recorded and one.origin is not Origin.EDITABLE]
    if bare:
        warnings.append(
            f"no record of their files, so they can come from an index only: {', '.join(bare)}"
        )
    return Capture(installed=tuple(kept), warnings=tuple(warnings))


def _read(distribution: importlib.metadata.Distribution, info: Path) -> Installed | str:
    """One distribution; or, in words, what is wrong with it."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    fields = _fields(text)
    name, version = fields.get("name", [""])[0], fields.get("version", [""])[0]
    if not name or not version:
        lacking = "version" if name else "name"
        return f"{info} has metadata without a {lacking}, and is passed over"
    egg = info.suffix == ".egg-info"
    origin, url, sha256 = _origin(distribution, info)
    wheel = _fields(distribution.read_text("WHEEL") or "")
    return Installed(
        pin=Pin(name=canonicalize_name(name), version=version),
        place=info.parent,
        info=info,
        origin=origin,
        url=url,
        sha256=sha256,
        requires=tuple(distribution.requires or () if egg else fields.get("requires-dist", ())),
        tags=tuple(wheel.get("tag", ())),
        recorded=(info / "RECORD").is_file(),
    )


def _fields(text: str) -> dict[str, list[str]]:
    """The fields before the first empty line, by their names in small letters.

    The standard library's parser of mail takes most of a capture's time.
    """
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line:
            break
        name, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            fields.setdefault(name.lower(), []).append(value.strip())
    return fields


class _Archive(msgspec.Struct):
    hash: str = ""
    hashes: dict[str, str] = {}


class _Folder(msgspec.Struct):
    editable: bool = False


class _Direct(msgspec.Struct):
    """``direct_url.json``, by PEP 610."""

    url: str = ""
    archive_info: _Archive | None = None
    dir_info: _Folder | None = None
    vcs_info: dict[str, object] | None = None


_DIRECT: Final = msgspec.json.Decoder(_Direct)


def _origin(distribution: importlib.metadata.Distribution, info: Path) -> tuple[Origin, str, str]:
    """Where it came from: what, the URL, the archive's SHA-256."""
    if info.suffix == ".egg-info" and _INSTALLED.isdisjoint(info.parts):
        return Origin.EDITABLE, "", ""  # beside its source, as ``setup.py develop`` has it
    try:
        direct = _DIRECT.decode(distribution.read_text("direct_url.json") or "{}")
    except msgspec.MsgspecError:
        direct = _Direct()
    # conda writes down the folder that a package was built in, on another machine.
    if not direct.url or (distribution.read_text("INSTALLER") or "").strip() == "conda":
        return Origin.INDEX, "", ""
    url = without_credentials(direct.url)
    if direct.vcs_info is not None:
        return Origin.VCS, url, ""
    if direct.dir_info is not None and direct.dir_info.editable:
        return Origin.EDITABLE, url, ""
    if direct.dir_info is not None or urlsplit(direct.url).scheme == "file":
        return Origin.LOCAL, url, ""
    archive = direct.archive_info or _Archive()
    kind, _, digest = archive.hash.partition("=")
    sha256 = archive.hashes.get("sha256", digest if kind == "sha256" else "")
    # What asked for a password cannot be had by the URL alone.
    return Origin.ARCHIVE, url, sha256 if url == direct.url else ""


def without_credentials(url: str) -> str:
    """A URL as it may be printed."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else url


def _needed(found: dict[str, Installed]) -> list[Installed]:
    kept = {name: one for name, one in found.items() if name not in OURS | TOOLS}
    pending = list(kept.values())
    while pending:
        for name in dependencies(pending.pop(), of=TOOLS):
            if name in found and name not in kept:
                kept[name] = found[name]
                pending.append(found[name])
    return sorted(kept.values(), key=lambda one: one.pin)


def dependencies(one: Installed, of: Iterable[str] | None = None) -> set[str]:
    """The distributions that one requires here, without its extras; normalised names.

    Args:
        one: Whose.
        of: Those to look for; ``None``: all.
    """
    wanted = None if of is None else frozenset(of)
    names = set()
    for line in one.requires:
        if wanted is not None and not any(name in line.lower() for name in wanted):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # from before PEP 508: nothing that could be known
            continue
        name = canonicalize_name(requirement.name)
        if (wanted is None or name in wanted) and (
            requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ):
            names.add(str(name))
    return names


def content(one: Installed) -> str:
    """What stands for the files of a distribution without reading them.

    The SHA-256 of the archive that it came from, or else of its record.
    """
    if one.sha256:
        return one.sha256
    record = one.info / "RECORD"
    return hashlib.sha256(record.read_bytes()).hexdigest() if one.recorded else ""
