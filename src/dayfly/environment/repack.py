"""A wheel made again from the files that were installed from it.

For what no index has: a VCS checkout, a local folder, a private or source-only package. The same
files give the same wheel, byte for byte, whenever it is made.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import platform as machine
import posixpath
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

import msgspec

from dayfly.environment.capture import Installed
from dayfly.environment.lock import File, Missing, Platform

#: Bytes, as installed, beyond which a package is not repacked: it goes through the user's line
#: into storage. PySpark, the largest that PyPI has as source only, is below.
MAX_BYTES: Final = 512 * 1024 * 1024

#: What an installer writes, and no wheel has; ``direct_url.json`` may tell of private places.
_WRITTEN: Final = frozenset(
    {
        "INSTALLER",
        "RECORD",
        "RECORD.jws",
        "RECORD.p7s",
        "REQUESTED",
        "WHEEL",
        "direct_url.json",
        "uv_build.json",
        "uv_cache.json",
    }
)
_COMPILED: Final = (*EXTENSION_SUFFIXES, ".so", ".pyd", ".dylib", ".dll")
_ELF: Final = b"\x7fELF"
#: How a symbol names the version of glibc that it came with.
_GLIBC: Final = re.compile(rb"GLIBC_(\d+)\.(\d+)")
_ENTRY: Final = re.compile(r"^\s*([^\s\[=#][^=]*?)\s*=", re.MULTILINE)
_SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "node_modules", "site-packages"})
#: Files of an editable project's folder beyond which compiled parts are not looked for.
_MANY: Final = 50_000


class Repacked(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel that was made here.

    Attributes:
        file: What the lock says of it.
        path: Where it lies.
        warnings: Why it might not work elsewhere.
    """

    file: File
    path: Path
    warnings: tuple[str, ...] = ()


def repack(
    one: Installed, folder: Path, *, platform: Platform, python: str, limit: int = MAX_BYTES
) -> Repacked | Missing:
    """Make a wheel of an installed distribution; blocking.

    Args:
        one: What is installed.
        folder: Where wheels are kept from one time to the next.
        platform: Of the VM.
        python: The VM's minor version: ``3.11``.
        limit: See :data:`MAX_BYTES`.

    Raises:
        OSError: A file cannot be read, or the wheel cannot be written.
    """
    if not one.recorded:
        return Missing(pin=one.pin, reason="which files are its own was not recorded here")
    warnings: list[str] = []
    members = dict(_members(one, warnings))
    sizes = {member: path.stat().st_size for member, path in members.items()}
    if sum(sizes.values()) > limit:
        largest = max(sizes, key=sizes.__getitem__)
        return Missing(
            pin=one.pin,
            reason=f"no index has it, and its {sum(sizes.values()) / 1e6:.0f} MB are more than the "
            f"{limit / 1e6:.0f} MB that are sent from here (the largest file is {largest}, "
            f"{sizes[largest] / 1e6:.0f} MB)",
        )
    compiled = [path for member, path in members.items() if _is_compiled(member, path)]
    if compiled:
        misfit = unfit(compiled, one.tags, platform, python)
        if misfit:
            return Missing(pin=one.pin, reason=misfit)
        warnings.append(
            f"{one.pin} is sent as it was compiled for this machine ({compiled[0].name}): it needs "
            "the same system libraries on the VM"
        )
    tag = _tag(one, python, platform, compiled=bool(compiled))
    name = f"{one.pin.name.replace('-', '_')}-{one.pin.version}-{tag}.whl"
    path = folder / _stamp(members) / name
    if not path.exists():
        _write(path, one, members, tag, compiled=bool(compiled))
    with path.open("rb") as wheel:
        digest = hashlib.file_digest(wheel, "sha256")
    file = File(
        package=one.pin.name,
        version=one.pin.version,
        filename=name,
        sha256=digest.hexdigest(),
        size=path.stat().st_size,
    )
    return Repacked(file=file, path=path, warnings=tuple(warnings))


# -- what of this machine works on the VM --


def unfit(compiled: Sequence[Path], tags: Iterable[str], platform: Platform, python: str) -> str:
    """Why compiled files of this machine do not work on the VM; empty where they should."""
    first = compiled[0].name
    here = machine.machine()
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.platform != "linux":
        return f"it is compiled ({first}) for {sys.platform}, and the VM runs Linux"
    if here != platform.architecture:
        return f"it is compiled ({first}) for {here}, and the VM is {platform.architecture}"
    if minor != python:
        return f"it is compiled ({first}) for Python {minor}, and the VM runs Python {python}"
    if machine.libc_ver()[0] != "glibc" or any("musllinux" in tag for tag in tags):
        return f"it is compiled ({first}) for another C library than the VM's glibc"
    for path in compiled:
        needed = max(
            ((int(major), int(minor)) for major, minor in _GLIBC.findall(path.read_bytes())),
            default=(0, 0),
        )
        if needed > platform.glibc:
            return (
                f"{path.name} is compiled for glibc {needed[0]}.{needed[1]}, "
                f"and the VM has {platform.glibc[0]}.{platform.glibc[1]}"
            )
    return ""


def compiled_in(project: Path) -> list[Path]:
    """The compiled extensions in a project's folder."""
    found, seen = [], 0
    for folder, below, files in os.walk(project):
        below[:] = [
            each
            for each in below
            if not each.startswith(".")
            and each not in _SKIPPED_FOLDERS
            and not Path(folder, each, "pyvenv.cfg").exists()
        ]
        found += [Path(folder, file) for file in files if file.endswith(tuple(EXTENSION_SUFFIXES))]
        seen += len(files)
        if seen > _MANY:
            break
    return sorted(found)


def _is_compiled(member: str, path: Path) -> bool:
    if member.endswith(_COMPILED) or ".so." in posixpath.basename(member):
        return True
    with path.open("rb") as file:
        return file.read(4) == _ELF


# -- what is in it --


def _members(one: Installed, warnings: list[str]) -> Iterator[tuple[str, Path]]:
    """The files of the wheel: the names in it, and where they are installed."""
    info = one.info.name
    data = f"{info.removesuffix('.dist-info')}.data"
    base = _base(one.place)
    made = _entry_points(one.info)
    gone = 0
    for file in one.files():
        name = posixpath.normpath(file)
        path = Path(os.path.normpath(one.place / name))
        parts = name.split("/")
        if "__pycache__" in parts or (parts[0] == info and parts[-1] in _WRITTEN):
            continue
        if not path.is_file():
            gone += 1
            continue
        if parts[0] == ".." or name.startswith("/"):
            if base is None or not path.is_relative_to(base):
                warnings.append(f"{one.pin}: {path} lies outside, and is left out")
                continue
            inside = path.relative_to(base)
            if inside.parts[0] in {"bin", "Scripts"}:
                if inside.stem.removesuffix("-script") in made:
                    continue
                name = f"{data}/scripts/{inside.name}"
            else:
                name = f"{data}/data/{inside.as_posix()}"
        yield name, path
    if gone:
        warnings.append(f"{one.pin}: {gone} of its recorded files are gone, and are left out")


def _base(place: Path) -> Path | None:
    """What data files and scripts are relative to: the folder above ``lib/python3.11``."""
    if place.parent.name.startswith("python"):
        return place.parents[2]
    return place.parents[1] if place.parent.name == "Lib" else None


def _entry_points(info: Path) -> frozenset[str]:
    """The scripts that an installer makes from the metadata, for the interpreter of its own."""
    path = info / "entry_points.txt"
    if not path.is_file():
        return frozenset()
    sections = re.split(r"^\s*\[(.+?)\]", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    names: set[str] = set()
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        if title.strip() in {"console_scripts", "gui_scripts"}:
            names.update(_ENTRY.findall(body))
    return frozenset(names)


def _tag(one: Installed, python: str, platform: Platform, *, compiled: bool) -> str:
    """As installed, in the short form that filenames have."""
    if not one.tags or (compiled and one.pure):  # made by hand, or a binary in a pure wheel
        minor = python.replace(".", "")
        return f"cp{minor}-cp{minor}-linux_{platform.architecture}" if compiled else "py3-none-any"
    parts = [each.split("-") for each in one.tags]
    if any(len(each) != 3 for each in parts):
        return _tag(msgspec.structs.replace(one, tags=()), python, platform, compiled=compiled)
    columns = [".".join(sorted(set(column))) for column in zip(*parts, strict=True)]
    if not compiled:  # a platform in the tag, and nothing in the files that depends on it
        columns[2] = "any"
    return "-".join(columns)


def _stamp(members: dict[str, Path]) -> str:
    """What says, without reading them, that the files are still the same."""
    digest = hashlib.sha256()
    for member, path in sorted(members.items()):
        status = path.stat()
        digest.update(f"{member}\0{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _write(
    path: Path, one: Installed, members: dict[str, Path], tag: str, *, compiled: bool
) -> None:
    info = one.info.name
    pythons, abis, platforms = (part.split(".") for part in tag.split("-"))
    lines = ["Wheel-Version: 1.0", "Generator: dayfly", f"Root-Is-Purelib: {not compiled!s}"]
    lines += [f"Tag: {p}-{a}-{m}" for p in pythons for a in abis for m in platforms]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as bundle:
            record = []
            for member, source in sorted(members.items()):
                content = source.read_bytes()
                if ".data/scripts/" in member:
                    content = _for_any_interpreter(content)
                record.append(_add(bundle, member, content, source.stat().st_mode & 0o111))
            text = "\n".join(lines) + "\n"
            record.append(_add(bundle, f"{info}/WHEEL", text.encode(), 0))
            table = io.StringIO()
            rows = csv.writer(table, lineterminator="\n")
            rows.writerows([*record, (f"{info}/RECORD", "", "")])
            _add(bundle, f"{info}/RECORD", table.getvalue().encode(), 0)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _add(
    bundle: zipfile.ZipFile, member: str, content: bytes, execute: int
) -> tuple[str, str, str]:
    """Write one file; its line of ``RECORD``."""
    entry = zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, whatever system makes it
    entry.external_attr = (0o100755 if execute else 0o100644) << 16
    bundle.writestr(entry, content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return member, f"sha256={digest}", str(len(content))


def _for_any_interpreter(script: bytes) -> bytes:
    """With the first line that installers put their own interpreter into."""
    first, newline, rest = script.partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        return b"#!python" + newline + rest
    return script
