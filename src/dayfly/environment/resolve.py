"""From what is installed to the wheels that a VM installs, before any VM is launched.

Exact pins without their dependencies: what works here is what is installed here. uv stops at the
first package that it cannot do; that one is taken out, and repacked from its installed files
where they work on the VM (:mod:`dayfly.environment.repack`), and else it is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from dayfly.environment import uv
from dayfly.environment.capture import Installed, Origin, content, without_credentials
from dayfly.environment.indexes import PYPI, indexes
from dayfly.environment.lock import File, Lock, Missing, Pin, Platform, Wanted
from dayfly.environment.refusals import sort_out
from dayfly.environment.repack import compiled_in, repack, unfit
from dayfly.environment.uv import Solution, Target, Unsolvable
from dayfly.environment.wheels import best
from dayfly.errors import EnvironmentSyncError

#: Seconds for all questions to uv. Seventy packages take it one second, cold.
DEADLINE: Final = 120.0


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What the VMs can be given.

    Attributes:
        wanted: What that is; its key is the lock's.
        lock: By which files.
        repacked: Those that lie on this machine and at no URL: SHA-256 -> where.
        missing: What they cannot be given.
        warnings: What might not work there.
    """

    wanted: Wanted
    lock: Lock
    repacked: dict[str, Path] = {}
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()


def wish(
    installed: Sequence[Installed],
    platform: Platform,
    python: str,
    *,
    index: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> Wanted:
    """What :func:`resolve` will be asked, without asking anybody.

    Its key is that of the resolution where all come from an index. Where some were repacked or
    are missing, the resolution has a key of its own.

    Args:
        installed: See :func:`resolve`.
        platform: See :func:`resolve`.
        python: See :func:`resolve`.
        index: See :func:`resolve`.
        extra: See :func:`resolve`.
    """
    pins = []
    for one in installed:
        if one.origin is Origin.INDEX:
            pins.append(one.pin)
        elif one.origin is not Origin.EDITABLE:
            pins.append(msgspec.structs.replace(one.pin, digest=content(one)))
        elif (verdict := _travelling(one, platform, python)) is not None:
            # Its source is of no account, but what is said of it is part of the answer.
            digest = hashlib.sha256(str(verdict).encode()).hexdigest()
            pins.append(msgspec.structs.replace(one.pin, digest=digest))
    return Wanted(
        python=python,
        platform=platform,
        pins=tuple(sorted(pins)),
        requirements="\n".join(sorted(extra)),
        index=indexes(index).urls,
    )


async def resolve(
    installed: Sequence[Installed],
    platform: Platform,
    python: str,
    *,
    folder: Path,
    index: Sequence[str] = (),
    extra: Sequence[str] = (),
    deadline: float = DEADLINE,
) -> Resolution:
    """Find a wheel for every installed distribution.

    Args:
        installed: What :func:`dayfly.environment.capture.capture` found, or part of it.
        platform: Of the VM.
        python: The VM's minor version: ``3.11``.
        folder: Where repacked wheels are kept from one time to the next.
        index: URLs of package indexes, the default one first; empty: see
            :mod:`dayfly.environment.indexes`.
        extra: Requirements on top, by PEP 508, with what they require.
        deadline: Seconds for all of it but the repacking.

    Raises:
        EnvironmentSyncError: No index can be asked, or ``extra`` cannot be had.
    """
    target = Target(platform=platform, python=python, indexes=indexes(index))
    result = _Gathering(target, folder)
    rest = []
    for one in installed:
        if one.origin is Origin.EDITABLE:
            result.editable(_travelling(one, platform, python))
        elif one.origin is not Origin.INDEX and not result.by_url(one):
            rest.append((one, f"it came from {one.origin.value} ({one.url})"))
    by_pin = {one.pin: one for one in installed if one.origin is Origin.INDEX}
    async with within(deadline, target):
        solution, refused = await sort_out(sorted(by_pin), target)
    result.take(solution)
    rest += [(by_pin[pin], reason) for pin, reason in refused.items()]
    for one, reason in sorted(rest, key=lambda pair: pair[0].pin):
        await result.repack(one, reason)
    if extra:
        async with within(deadline, target):
            await _add(extra, result)
    wanted = Wanted(
        python=python,
        platform=platform,
        pins=tuple(
            sorted(
                Pin(
                    name=file.package,
                    version=file.version,
                    digest=file.sha256 if file.sha256 in result.made else "",
                )
                for file in result.files.values()
                if file.package not in result.extra
            )
        ),
        requirements="\n".join(sorted(extra)),
        index=target.indexes.urls,
    )
    return result.resolution(wanted)


def _travelling(one: Installed, platform: Platform, python: str) -> Missing | str | None:
    """What is to be said of an editable install, whose source travels with the jobs.

    What is compiled in it works on the VMs, or is missing there.
    """
    compiled = compiled_in(one.project) if one.project is not None else []
    if not compiled:
        return None
    reason = unfit(compiled, one.tags, platform, python)
    if not reason:
        return (
            f"{one.pin} is an editable install with compiled parts ({compiled[0].name}), "
            "which travel as they are"
        )
    return Missing(
        pin=one.pin,
        reason=f"it is an editable install, and {reason}; what imports the compiled part fails "
        "there",
    )


class _Gathering:
    """What has been found so far, for one target.

    Attributes:
        target: For what.
        folder: Where repacked wheels are kept.
        files: By package.
        local: Where those lie that are on this machine, by SHA-256.
        made: SHA-256 of those that no index has.
        extra: Packages that are there on top of the pins.
        missing: What could not be had.
        warnings: What might not work on the VM.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.files: dict[str, File] = {}
        self.local: dict[str, Path] = {}
        self.made: set[str] = set()
        self.extra: set[str] = set()
        self.missing: list[Missing] = []
        self.warnings: list[str] = []

    def take(self, solution: Solution) -> None:
        for file in solution.files:
            path = solution.local.get(file.sha256)
            if path is not None:
                file = msgspec.structs.replace(file, size=path.stat().st_size)
                self.local[file.sha256] = path
            self.files.setdefault(file.package, file)

    def by_url(self, one: Installed) -> bool:
        """Whether it came from a wheel's URL that the VM can take it from too."""
        filename = unquote(urlsplit(one.url).path.rpartition("/")[2])
        if one.origin is not Origin.ARCHIVE or not one.sha256:
            return False
        if best([filename], self.target.platform, self.target.python) is None:
            return False
        self.files[one.pin.name] = File(
            package=one.pin.name,
            version=one.pin.version,
            filename=filename,
            sha256=one.sha256,
            url=one.url,
        )
        self.made.add(one.sha256)
        return True

    def editable(self, verdict: Missing | str | None) -> None:
        if isinstance(verdict, Missing):
            self.missing.append(verdict)
        elif verdict:
            self.warnings.append(verdict)

    async def repack(self, one: Installed, why: str) -> None:
        try:
            made = await asyncio.to_thread(
                repack,
                one,
                self.folder,
                platform=self.target.platform,
                python=self.target.python,
            )
        except OSError as error:
            raise EnvironmentSyncError(
                f"{one.pin} cannot be repacked for the VMs: {why}",
                stage="repack",
                package=one.pin.name,
                platform=self.target.platform.name,
                cause=str(error),
                hint=f"python -m pip install --force-reinstall '{one.pin}'",
            ) from error
        if isinstance(made, Missing):
            self.missing.append(Missing(pin=one.pin, reason=f"{why}, and {made.reason}"))
            return
        self.files[one.pin.name] = made.file
        self.local[made.file.sha256] = made.path
        self.made.add(made.file.sha256)
        self.warnings += made.warnings

    def resolution(self, wanted: Wanted) -> Resolution:
        files = tuple(sorted(self.files.values(), key=lambda file: file.package))
        return Resolution(
            wanted=wanted,
            lock=Lock(key=wanted.key, python=wanted.python, platform=wanted.platform, files=files),
            repacked={
                file.sha256: self.local[file.sha256] for file in files if file.sha256 in self.local
            },
            missing=tuple(sorted(self.missing, key=lambda each: each.pin)),
            warnings=tuple(self.warnings),
        )


@contextlib.asynccontextmanager
async def within(seconds: float, target: Target) -> AsyncIterator[None]:
    """A deadline that is told as an error of ours."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise EnvironmentSyncError(
            f"the packages were not found within {seconds:.0f} s",
            stage="resolve",
            platform=target.platform.name,
            cause="a package index that answers slowly, or not at all",
            hint=f"curl -sSI {without_credentials((target.indexes.urls or (PYPI,))[0])}/pip/",
        ) from error


# -- on top --


async def _add(extra: Sequence[str], result: _Gathering) -> None:
    """Requirements and what they require, beside the pins and without moving any."""
    target = result.target
    pins = "\n".join(f"{file.package}=={file.version}" for file in result.files.values())
    links = None
    with uv.gathered(result.local.values()) as folder:
        links = folder if result.local else None
        try:
            solution = await uv.solve(
                "\n".join(extra), target, constraints=pins, dependencies=True, links=links
            )
        except Unsolvable as error:
            raise EnvironmentSyncError(
                f"the extra Python packages cannot be had for {target.platform.name}: "
                + ", ".join(extra),
                stage="resolve",
                platform=target.platform.name,
                cause="beside what is installed here, at these very versions, uv finds no solution",
                hint=f"python -m pip install {' '.join(repr(each) for each in extra)}",
                log=error.words,
            ) from error
    new = {file.package for file in solution.files} - result.files.keys()
    result.extra |= new
    result.take(
        Solution(
            files=tuple(file for file in solution.files if file.package in new),
            local=solution.local,
        )
    )
    result.missing = [each for each in result.missing if each.pin.name not in new]
