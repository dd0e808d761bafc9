"""A virtual environment for each peer that is a library, made by uv and kept between runs."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

#: What each of them is installed from: one place for the versions that are compared.
REQUIREMENTS: Final[Mapping[str, Sequence[str]]] = {
    "joblib": ["joblib==1.6.0"],
    "mpire": ["mpire==2.10.2"],
    "ray": ["ray==2.60.0"],
    "dask": ["distributed==2026.8.0"],
    "parsl": ["parsl==2026.10.26"],
    "lithops": ["lithops==3.8.0"],
    "matplotlib": ["matplotlib==3.11.2"],
}

#: Seconds that one installation may take.
_PATIENCE = 600.0


class CannotInstallError(Exception):
    """An environment cannot be had; its text says why."""


def interpreter(name: str) -> Path:
    """The interpreter of an environment, which is made unless it is there.

    Args:
        name: A key of :data:`REQUIREMENTS`.

    Raises:
        CannotInstallError: uv could not make it.
    """
    requirements = REQUIREMENTS[name]
    base = Path(sys.executable).resolve()  # the same one for every environment around it
    wanted = "\n".join([platform.python_version(), str(base), *requirements])
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:8]
    folder = cache_folder() / f"{name}-{digest}"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        print(f"installing {' '.join(requirements)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _uv("venv", "--quiet", "--python", str(base), str(folder))
        _uv("pip", "install", "--quiet", "--python", str(python), *requirements)
        ready.touch()
    return python


def cache_folder() -> Path:
    """Where environments are kept."""
    own = os.environ.get("XDG_CACHE_HOME")
    return (Path(own) if own else Path.home() / ".cache") / "dayfly-bench"


def _uv(*arguments: str) -> None:
    from uv import find_uv_bin

    try:
        done = subprocess.run(
            [find_uv_bin(), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstallError(str(error)) from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise CannotInstallError(said[:300] or f"uv ended with {done.returncode}")
