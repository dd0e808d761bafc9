"""A Python of the right version: one that the VM has, or one that is brought."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import sys
import tarfile

from dayfly.environment.kit.failure import Failure, spoken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from dayfly.environment.kit.children import Children
    from dayfly.environment.kit.uv import Uv
    from dayfly.environment.kit.wheels import Wheels

#: What dayfly and its users' packages cannot do without; some distributions leave it out.
ESSENTIALS = ("asyncio", "ctypes", "multiprocessing", "sqlite3", "ssl", "zlib")

PROBE = """
import importlib, json, sys, sysconfig
lacks = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        lacks.append(name)
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2], "implementation": sys.implementation.name,
    "free": bool(sysconfig.get_config_var("Py_GIL_DISABLED")), "lacks": lacks,
    "base": getattr(sys, "_base_executable", None) or sys.executable}))
"""


class Interpreters:
    """Looks for a Python, and brings one.

    Args:
        order: Says which one, and where it comes from.
        root: What all environments share.
        part: Where archives are unpacked to at first.
        wheels: Has the files.
        uv: Brings one from a mirror.
        children: Runs programs.
    """

    def __init__(
        self,
        order: dict[str, Any],
        root: Path,
        part: Path,
        wheels: Wheels,
        uv: Uv,
        children: Children,
    ) -> None:
        self._order = order
        self._version = str(order["python"])
        self._implementation = str(order.get("implementation") or "cpython")
        self._short = "pypy" if self._implementation == "pypy" else "python"
        self._home = root / "python"
        self._part = part / "python"
        self._wheels = wheels
        self._uv = uv
        self._children = children

    def have(self) -> tuple[str, bool]:
        """The path of an interpreter, and whether the VM had to be brought it.

        Raises:
            Failure: It cannot be had.
        """
        looked: list[str] = []
        found = self._find(self._candidates(), looked)
        if found is not None:
            return found, False
        with self._alone():
            found = self._find(self._brought(), [])
            if found is not None:
                return found, False
            return self._bring(looked), True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait while another environment's run brings one: what it unpacks is not damaged."""
        turn = os.open(self._home.with_name("python.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield
        finally:
            os.close(turn)

    def _candidates(self) -> list[str]:
        names = (f"{self._short}{self._version}", f"{self._short}3")
        paths = [f"{folder}/{names[0]}" for folder in ("/usr/bin", "/usr/local/bin")]
        paths += [found for found in map(shutil.which, names) if found]
        return [*paths, sys.executable, *self._brought()]

    def _brought(self) -> list[str]:
        pattern = f"{self._home}/*/bin/{self._short}{self._version}"
        return sorted(glob.glob(pattern), reverse=True)  # noqa: PTH207 - a hidden one is unfinished

    def _find(self, candidates: list[str], looked: list[str]) -> str | None:
        """The first interpreter that serves; what is wrong with the others is noted."""
        seen = set()
        for candidate in candidates:
            real = os.path.realpath(candidate)
            if not os.access(candidate, os.X_OK) or real in seen:
                continue
            seen.add(real)
            status, output = self._children.run([candidate, "-I", "-c", PROBE, *ESSENTIALS])
            try:
                told = json.loads(output.splitlines()[-1])
            except (IndexError, ValueError):
                looked.append(f"{candidate} does not run (status {status})")
                continue
            version = f"{told['implementation']} {told['version']}"
            if version != f"{self._implementation} {self._version}":
                looked.append(f"{candidate} is {version}")
            elif told["free"]:
                looked.append(f"{candidate} is built without the GIL")
            elif told["lacks"]:
                looked.append(f"{candidate} lacks {', '.join(told['lacks'])}")
            else:
                return str(told["base"])
        return None

    def _bring(self, looked: list[str]) -> str:
        sources = self._order.get("interpreters") or {}
        archive = sources.get("archive")
        cause = self._unpack(archive) if archive else self._download(sources)
        found = self._find(self._brought(), looked)
        if found is not None:
            return found
        known = spoken(cause, str(self._home.parent))
        if known is not None:
            known.cause = cause
            raise known
        has = "; ".join(looked) or "no Python at all"
        raise Failure(
            "interpreter",
            f"the VM has no Python {self._version} and cannot be brought one",
            cause=f"looked at /usr/bin, /usr/local/bin, PATH and {self._home}: {has}\n"
            + (cause or "the archive holds no such interpreter"),
            advice=f"choose a target_ami that has Python {self._version}, set "
            "python_mirror to a mirror of CPython builds that the VM reaches, or build an "
            "image that has it (dayfly image build)",
        )

    def _download(self, sources: dict[str, Any]) -> str:
        """Have uv bring it; returns what uv said."""
        self._wheels.fetch([self._order["uv"]])
        argv = [*self._uv.command(), "python", "install", "--install-dir", str(self._home)]
        extra = {
            "UV_PYTHON_INSTALL_MIRROR": sources.get("mirror"),
            "UV_PYTHON_DOWNLOADS_JSON_URL": sources.get("downloads"),
        }
        wanted = f"{self._implementation}@{self._version}"
        _, said = self._children.run(
            [*argv, "--no-bin", "--managed-python", "--reinstall", wanted],
            {name: value for name, value in extra.items() if value},
        )
        return said

    def _unpack(self, archive: dict[str, Any]) -> str:
        """Unpack an ``install_only`` archive; returns what went wrong with it."""
        self._wheels.fetch([archive])
        home = self._home / str(archive["sha256"])[:16]
        try:
            with tarfile.open(self._wheels.path(archive)) as tar:
                if hasattr(tarfile, "tar_filter"):
                    tar.extractall(self._part, filter="tar")
                else:
                    tar.extractall(self._part)  # noqa: S202 - its hash is the one that was locked
        except (tarfile.TarError, EOFError) as error:
            return f"{archive['filename']} cannot be unpacked: {error}"
        tops = list(self._part.iterdir())
        home.parent.mkdir(parents=True, exist_ok=True)
        if home.exists():  # no interpreter was found in it: it is damaged
            shutil.rmtree(home)
        (tops[0] if len(tops) == 1 else self._part).rename(home)
        return ""
