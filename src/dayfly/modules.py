"""The user's own modules: which of them a pickle needs, and an archive of their source.

A module is local when it is neither the standard library's, nor installed (below a
``site-packages`` or ``dist-packages``), nor dayfly's. An editable install is local: its
source stands elsewhere. ``__main__`` is not: what belongs to it is pickled by value.
"""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import importlib.util
import io
import logging
import os
import re
import sys
import sysconfig
import time
import tokenize
from collections.abc import Collection, Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from typing import Final

import msgspec

from dayfly.errors import SerializationError, UsageError

#: Bytes of source and package data that one job may ship: more is data, and belongs in storage.
MAX_BYTES: Final = 64 * 1024 * 1024

_NEVER: Final = frozenset(sys.stdlib_module_names) | {"__main__", "__mp_main__", "dayfly"}
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_STDLIB: Final = tuple(
    os.path.join(os.path.realpath(sysconfig.get_path(name)), "")  # noqa: PTH118  # hot
    for name in ("stdlib", "platstdlib")
)
#: pickle writes every name as this opcode, its length in one byte, and its text.
_SHORT_TEXT: Final = re.compile(rb"\x8c")
_NAME: Final = re.compile(rb"[^\W\d]\w*(\.[^\W\d]\w*)*", re.ASCII)
#: Identifiers in a pickle beyond which names of modules not yet imported are not looked for.
_MANY: Final = 1000
_SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "node_modules"})
#: With hidden files, which may be secrets (``.env``).
_SKIPPED: Final = (".pyc", ".pyo", "~")
#: Files changed less than this many seconds ago are not remembered: a file system's clock is
#: coarse, and they may change again without a sign.
_SETTLED: Final = 2.0

_log = logging.getLogger(__name__)


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """Source trees, as a zip whose root belongs on ``sys.path``.

    Attributes:
        digest: SHA-256 of ``data`` in hexadecimal; empty where there is nothing to ship.
        warnings: What could not be shipped, or might not work elsewhere.
    """

    digest: str = ""
    data: bytes = b""
    warnings: tuple[str, ...] = ()


def local_modules(
    *pickles: bytes,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
) -> set[str]:
    """The top-level local modules and packages that pickles need, directly or not.

    Args:
        *pickles: Function payloads and item pickles.
        include: Modules to ship in any case, installed ones too.
        exclude: Modules, of any depth, not to ship nor to look into.

    Raises:
        UsageError: A module to include cannot be found.
    """
    return _walk(pickles, include, exclude)[0]


def imported_modules(
    *pickles: bytes,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
) -> set[str]:
    """The modules, by their full names, that pickles or their local modules import.

    A name that follows ``from module import`` may be a value's, and is there too. Installed
    modules are not looked into.

    Args:
        *pickles: See :func:`local_modules`.
        include: See :func:`local_modules`.
        exclude: See :func:`local_modules`.

    Raises:
        UsageError: A module to include cannot be found.
    """
    return _walk(pickles, include, exclude)[1]


def _walk(
    pickles: Iterable[bytes], include: Iterable[str] | None, exclude: Iterable[str] | None
) -> tuple[set[str], set[str]]:
    """The top-level names of local modules, and the full names of all that are imported."""
    dropped = frozenset(exclude or ())
    found: set[str] = set()
    pending = [name for data in pickles for name in _named_in(data)]
    for name in include or ():
        top = name.partition(".")[0]
        if _spec(top) is None or not _places(top):
            raise UsageError(
                f"include_modules: there is no module {name!r} to ship",
                hint=f"python -c 'import {top}; print({top}.__file__)'",
            )
        found.add(top)
        pending.append(name)
    seen: set[str] = set()
    local = functools.cache(is_local)
    while pending:
        name = pending.pop()
        if name in seen or _is_dropped(name, dropped):
            continue
        seen.add(name)
        top = name.partition(".")[0]
        if not (top in found or local(top)):
            continue
        found.add(top)
        for path, package in _sources(name):
            pending += _imports(path, package)
    return found, seen


def is_local(top: str) -> bool:
    """Whether a top-level module is the user's own."""
    if top in _NEVER:
        return False
    if top in sys.modules and _spec(top) is None:
        return True  # made by hand: nothing to ship, and worth a warning
    return any(not _is_installed(place) for place in _places(top))


def _is_installed(place: Path) -> bool:
    real = os.path.realpath(place)
    return not _INSTALLED.isdisjoint(Path(real).parts) or real.startswith(_STDLIB)


def _is_dropped(name: str, dropped: Collection[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in dropped)


def _named_in(data: bytes) -> list[str]:
    """The modules whose names are in a pickle.

    Those not imported so far count too, if they are plain files: a function by value names
    in its code what it will import.
    """
    texts = set()
    for match in _SHORT_TEXT.finditer(data):
        start = match.end() + 1
        text = data[start : start + data[start - 1]] if start <= len(data) else b""
        if _NAME.fullmatch(text):
            texts.add(text)
    names = {text.decode() for text in texts}
    loaded = [name for name in names if name in sys.modules]
    if len(names) > _MANY:
        return loaded
    # Not namespace packages: any folder beside the program would be one.
    later = {
        name for name in names - set(loaded) - _NEVER - vars(builtins).keys() if _is_plain(name)
    }
    return [*loaded, *later]


def _is_plain(name: str) -> bool:
    spec = _spec(name.partition(".")[0])
    return spec is not None and bool(spec.has_location)


def _spec(top: str) -> ModuleSpec | None:
    """How a top-level module was, or would be, found; it is not imported."""
    module = sys.modules.get(top)
    spec = getattr(module, "__spec__", None)
    if module is not None and spec is not None:
        return spec  # type: ignore[no-any-return]  # from the module's namespace
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):  # made by hand, or by an odd finder
        return None


def _places(top: str) -> list[Path]:
    """The file of a module, the folder of a package, the folders of a namespace package."""
    spec = _spec(top)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.has_location and spec.origin else []


def _sources(name: str) -> Iterator[tuple[Path, str]]:
    """The files that importing ``name`` runs, each with the package that it is in."""
    top, *below = name.split(".")
    for place in _places(top):
        if place.suffix == ".py":
            yield place, ""
            return
        folder, package = place, top
        yield folder / "__init__.py", package
        for part in below:
            yield folder / f"{part}.py", package
            folder, package = folder / part, f"{package}.{part}"
            yield folder / "__init__.py", package


def _imports(path: Path, package: str) -> Collection[str]:
    try:
        status = path.stat()
    except OSError:  # one of the places where it might have been
        return ()
    if time.time() - status.st_mtime < _SETTLED:
        return _scan(path, package)
    return _scan_once(path, package, (status.st_mtime_ns, status.st_size, status.st_ino))


@functools.lru_cache(maxsize=10_000)
def _scan_once(path: Path, package: str, _: tuple[int, int, int]) -> Collection[str]:
    return _scan(path, package)


def _scan(path: Path, package: str) -> Collection[str]:
    """The names of all that a file may import; a ``from`` may name a module or a value."""
    try:
        with tokenize.open(path) as file:
            tree = _parse(file.read())
    except (OSError, SyntaxError, ValueError):  # it would not import either
        return ()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = package.split(".")[: 1 - node.level or None] if package else []
                base = ".".join([*around, *([base] if base else [])])
            if base:
                names.add(base)
                names.update(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    return names


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SystemError:
        # CPython before 3.11.8 and 3.12.2 (gh-106905): a garbage collection, or another thread,
        # that comes in between puts its count of the recursion out. The next time it is right.
        return ast.parse(source)


# -- the archive --


def archive(names: Iterable[str], *, exclude: Iterable[str] | None = None) -> Archive:
    """Pack the source of top-level modules; the same source gives the same bytes.

    Args:
        names: What :func:`local_modules` found.
        exclude: Modules, of any depth, to leave out.

    Raises:
        SerializationError: It is larger than :data:`MAX_BYTES`, or cannot be read.
    """
    dropped = frozenset(exclude or ())
    members: dict[str, Path] = {}
    warnings: list[str] = []
    for top in sorted(set(names)):
        before = len(members)
        for member, path in _files(top):
            if not _is_dropped(_module_of(member), dropped):
                members.setdefault(member, path)
                if member.endswith(tuple(EXTENSION_SUFFIXES)):
                    warnings.append(f"{member} is compiled for this machine, and may not load")
        if len(members) == before and not _is_dropped(top, dropped):
            warnings.append(f"module {top} has no source that could be shipped")
    for warning in warnings:
        _log.warning(warning)
    if not members:
        return Archive(warnings=tuple(warnings))
    signature = []
    try:
        for member, path in sorted(members.items()):
            status = path.stat()
            signature.append((member, path, status.st_size, status.st_mtime_ns, status.st_ino))
        _check_size(signature)
        settled = time.time() - max(each[3] for each in signature) / 1e9 >= _SETTLED
        digest, data = (_pack_once if settled else _pack)(tuple(signature))
    except OSError as error:
        raise SerializationError(
            f"the local modules {', '.join(sorted(set(names)))} cannot be read",
            cause=str(error),
        ) from error
    return Archive(digest=digest, data=data, warnings=tuple(warnings))


_Signature = tuple[str, Path, int, int, int]


def _files(top: str) -> Iterator[tuple[str, Path]]:
    """The files of a module or package, by their names in the archive."""
    places = _places(top)
    if len(places) > 1:  # a namespace package, of which a part may be installed
        places = [place for place in places if not _is_installed(place)]
    for place in places:
        if not place.is_dir():
            if place.suffix == ".py" or place.name.endswith(tuple(EXTENSION_SUFFIXES)):
                yield place.name, place
            continue
        for folder, below, files in os.walk(place):
            below[:] = [d for d in below if d not in _SKIPPED_FOLDERS and not d.startswith(".")]
            inside = Path(top, Path(folder).relative_to(place))
            for file in files:
                path = Path(folder, file)
                if not file.startswith(".") and not file.endswith(_SKIPPED) and path.is_file():
                    yield (inside / file).as_posix(), path


def _module_of(member: str) -> str:
    parts = member.split("/")
    stem = parts[-1].partition(".")[0]
    return ".".join(parts[:-1] if stem == "__init__" else [*parts[:-1], stem])


def _check_size(signature: list[_Signature]) -> None:
    total = sum(each[2] for each in signature)
    if total <= MAX_BYTES:
        return
    by_module: dict[str, int] = {}
    for member, _, size, *_ in signature:
        top = member.partition("/")[0]
        by_module[top] = by_module.get(top, 0) + size
    worst = max(by_module, key=by_module.__getitem__)
    largest = max(signature, key=lambda each: each[2])
    raise SerializationError(
        f"the local modules are too large to ship: {total / 1e6:.0f} MB, "
        f"and {MAX_BYTES / 1e6:.0f} MB are allowed",
        cause=f"{worst} has {by_module[worst] / 1e6:.0f} MB; the largest file is {largest[1]} "
        f"({largest[2] / 1e6:.0f} MB)",
        hint=f"put data in storage, or leave it out: "
        f"map(..., exclude_modules=[{_module_of(largest[0])!r}])",
    )


def _pack(signature: tuple[_Signature, ...]) -> tuple[str, bytes]:
    """A zip without time stamps, in order."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for member, path, *_ in signature:
            info = zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            bundle.writestr(info, path.read_bytes())
    data = buffer.getvalue()
    return hashlib.sha256(data).hexdigest(), data


#: The last two: one program maps its own modules again and again.
_pack_once = functools.lru_cache(maxsize=2)(_pack)
