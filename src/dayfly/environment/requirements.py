"""The user's own requirements or lock file, in place of what is installed.

A ``requirements.txt``, by hand or from ``uv export`` or ``pip freeze``, is resolved with its
dependencies; a ``pylock.toml`` (PEP 751) says all by itself.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec
from packaging.markers import InvalidMarker, Marker, UndefinedEnvironmentName

from dayfly.environment import uv
from dayfly.environment.indexes import indexes
from dayfly.environment.lock import Lock, Pin, Platform, Wanted
from dayfly.environment.resolve import DEADLINE, Resolution, within
from dayfly.environment.uv import Solution, Target, Unsolvable
from dayfly.errors import EnvironmentSyncError, UsageError

_INCLUDED: Final = re.compile(r"\s*(?:-r|--requirement)[ =]\s*(\S+)")
_CONSTRAINED: Final = re.compile(r"\s*(?:-c|--constraint)[ =]\s*(\S+)")
#: The project itself, as ``uv export`` and ``pip freeze`` write it.
_LOCAL: Final = re.compile(r"\s*(?:(?:-e|--editable)[ =]|\.{1,2}/|\.\s*(?:$|;|#))")
#: A wheel of this machine, by its path or URL.
_WHEEL: Final = re.compile(
    r"\s*(?:[\w.\[\],-]+\s*@\s*)?((?!\w+://)\S+|file:\S+)(?<=\.whl)\s*(?:$|[;#\\])"
)
#: Where packages are looked for, with what passwords.
_PLACES: Final = re.compile(
    r"\s*(?:-i|--index-url|--extra-index-url|-f|--find-links|--no-index|--trusted-host)\b"
)
_PYLOCK: Final = re.compile(r"pylock(\.[^.]+)?\.toml")


class _Text(msgspec.Struct):
    """What requirements files say, without the files.

    Attributes:
        folder: What relative paths are relative to.
        lines: Of the requirements.
        constraints: Lines of what was named by ``-c``.
        local: What was left out, since it travels with the jobs.
        wheels: SHA-256 of the wheels of this machine: another one may have the same name.
    """

    folder: Path
    lines: list[str] = []
    constraints: list[str] = []
    local: list[str] = []
    wheels: list[str] = []

    @property
    def wish(self) -> str:
        """What the key is made of; without passwords."""
        lines = [line for line in self.lines if not _PLACES.match(line)]
        if self.constraints:
            lines += ["# constraints", *self.constraints]
        lines += [f"# {wheel}" for wheel in self.wheels]
        return uv.clean("\n".join(lines))


def wish_of(path: Path, platform: Platform, python: str, *, index: Sequence[str] = ()) -> Wanted:
    """What :func:`resolve_requirements` will be asked, without asking anybody.

    Args:
        path: See :func:`resolve_requirements`.
        platform: See :func:`resolve_requirements`.
        python: See :func:`resolve_requirements`.
        index: See :func:`resolve_requirements`.

    Raises:
        UsageError: The file cannot be read.
    """
    is_lock = _PYLOCK.fullmatch(path.name)
    text = uv.clean(_read(path)) if is_lock else _flat(path, _Text(path.absolute().parent)).wish
    return Wanted(python=python, platform=platform, requirements=text, index=indexes(index).urls)


async def resolve_requirements(
    path: Path,
    platform: Platform,
    python: str,
    *,
    index: Sequence[str] = (),
    also: Sequence[Pin] = (),
    deadline: float = DEADLINE,
) -> Resolution:
    """Find the wheels that a requirements or lock file asks for.

    Args:
        path: ``requirements.txt`` or ``pylock.toml``.
        platform: Of the VM.
        python: The VM's minor version: ``3.11``.
        index: URLs of package indexes, the default one first; empty: see
            :mod:`dayfly.environment.indexes`.
        also: What the VM needs in any case (cloudpickle), where the file does not bring it.
        deadline: Seconds for all of it.

    Raises:
        UsageError: The file cannot be read.
        EnvironmentSyncError: No index can be asked, or something in the file cannot be had.
    """
    target = Target(platform=platform, python=python, indexes=indexes(index))
    wanted = wish_of(path, platform, python, index=index)
    folder = path.absolute().parent  # noqa: ASYNC240  # asks for the current folder alone
    local: list[str] = []
    try:
        async with within(deadline, target):
            if _PYLOCK.fullmatch(path.name):
                solution, local = _of_pylock(path, target)
            else:
                text = _flat(path, _Text(folder))
                local = text.local
                solution = await uv.solve(
                    "\n".join(text.lines),
                    target,
                    constraints="\n".join(text.constraints),
                    dependencies=True,
                    folder=folder,
                )
            known = {file.package for file in solution.files}
            lacking = [str(pin) for pin in also if pin.name not in known]
            more = await uv.solve("\n".join(lacking), target) if lacking else Solution()
    except Unsolvable as error:
        raise EnvironmentSyncError(
            f"{path.name} cannot be fulfilled for {platform.name} and Python {python}",
            stage="resolve",
            package=error.package,
            platform=platform.name,
            cause=uv.cause_of(error.words),
            hint=f"uv pip compile {path} --only-binary :all: "
            f"--python-platform {platform.name} --python-version {python}",
            log=error.words,
        ) from error
    files = []
    for file in (*solution.files, *more.files):
        path_here = (solution.local | more.local).get(file.sha256)
        size = path_here.stat().st_size if path_here else file.size
        files.append(msgspec.structs.replace(file, size=size))
    files.sort(key=lambda file: file.package)
    return Resolution(
        wanted=wanted,
        lock=Lock(key=wanted.key, python=python, platform=platform, files=tuple(files)),
        repacked=solution.local | more.local,
        warnings=tuple(f"{each} in {path.name} travels with the jobs" for each in local),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the requirements cannot be read from {path}",
            cause=str(error),
            hint=f"python -m pip freeze > {path}",
        ) from error


def _flat(path: Path, text: _Text, *, constrains: bool = False, depth: int = 0) -> _Text:
    """The lines of a requirements file and of those that it names."""
    if path.suffix == ".lock":
        raise UsageError(
            f"{path.name} is a lock file of a project, which dayfly does not read as it is",
            hint="uv export --frozen --no-emit-project -o requirements.txt",
        )
    if depth > 10:
        raise UsageError(f"the requirements in {path} name each other without end")
    for line in _read(path).splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        included, constrained = _INCLUDED.match(line), _CONSTRAINED.match(line)
        named = included or constrained
        if named:
            below = constrains or constrained is not None
            _flat(path.parent / named[1], text, constrains=below, depth=depth + 1)
        elif (wheel := _WHEEL.match(line)) is not None and not constrains:
            text.wheels.append(_digest(wheel[1], text.folder))
            text.lines.append(line)
        elif _LOCAL.match(line):
            text.local.append(line.strip())
        else:
            (text.constraints if constrains else text.lines).append(line)
    return text


def _digest(wheel: str, folder: Path) -> str:
    name = url2pathname(urlsplit(wheel).path) if wheel.startswith("file:") else wheel
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(
            f"a wheel that the requirements name cannot be read: {wheel}",
            cause=str(error),
            hint=f"ls -l {folder / name}",
        ) from error


def _of_pylock(path: Path, target: Target) -> tuple[Solution, list[str]]:
    """What a lock file has for the VM, and the local projects in it."""
    try:
        packages = tomllib.loads(_read(path)).get("packages", [])
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML", cause=str(error)) from error
    chosen, local = [], []
    for package in packages:
        if not _applies(package.get("marker", ""), target):
            continue
        if "directory" in package:
            local.append(str(package.get("name")))
        else:
            chosen.append(package)
    return uv.wheels_of(chosen, target, path.absolute().parent), local


def _applies(marker: str, target: Target) -> bool:
    if not marker:
        return True
    there: dict[str, Any] = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": target.platform.architecture,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": uv.patch(target.python),
        "python_version": target.python,
        "sys_platform": "linux",
        "extra": "",
    }
    try:
        return Marker(marker).evaluate(there)
    except (InvalidMarker, UndefinedEnvironmentName):  # of a newer standard: better too much
        return True
