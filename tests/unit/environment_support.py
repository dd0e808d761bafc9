"""A virtual environment that a test fills, by the real uv."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from uv import find_uv_bin

from dayfly.environment.capture import Capture, Installed, capture
from dayfly.environment.lock import Platform
from tests.unit.package_index import Index, serve

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
VM = Platform(architecture="x86_64", glibc=(2, 35))


def uv(*arguments: str | Path) -> str:
    """Run uv, without any package index.

    Raises:
        CalledProcessError: It failed; its words are in the test's output.
    """
    run = subprocess.run(
        [find_uv_bin(), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "UV_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    if run.returncode:
        print(run.stderr)
        run.check_returncode()
    return run.stdout


class Venv:
    """A virtual environment of this very Python version."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "bin" / "python"
        self.site = root / "lib" / f"python{PYTHON}" / "site-packages"
        uv("venv", "-q", "--python", sys.executable, root)

    def install(self, *what: str | Path, options: Sequence[str] = ()) -> None:
        uv("pip", "install", "-q", "--no-deps", "--python", self.python, *options, *what)

    def run(self, code: str) -> str:
        run = subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, timeout=50, check=True
        )
        return run.stdout.strip()

    def capture(self) -> Capture:
        return capture([str(self.site)])

    def one(self, name: str) -> Installed:
        return next(one for one in self.capture().installed if one.pin.name == name)


@pytest.fixture
def venv(tmp_path: Path) -> Venv:
    return Venv(tmp_path / "venv")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The only package index that there is."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    with serve(tmp_path / "index") as served:
        monkeypatch.setenv("UV_DEFAULT_INDEX", served.url)
        yield served


def installed_from_url(venv: Venv, path: Path, url: str, **info: object) -> None:
    """Install a wheel as if it had come from elsewhere, by PEP 610."""
    import msgspec

    venv.install(path)
    name = "-".join(path.name.split("-")[:2])
    direct = venv.site / f"{name}.dist-info" / "direct_url.json"
    direct.write_bytes(msgspec.json.encode({"url": url, **info}))


def from_index(venv: Venv, *paths: Path) -> None:
    """Install wheels as an index would have them: without a word about where from."""
    venv.install(*paths)
    for path in paths:
        name = "-".join(path.name.split("-")[:2])
        (venv.site / f"{name}.dist-info" / "direct_url.json").unlink()


def compiled(text: str = "") -> bytes:
    """An extension to the eye; it holds what its symbols need."""
    return b"\x7fELF" + text.encode()
