"""A mirror of Python builds: those of the box's own images, laid out as portable builds are.

Debian's interpreter finds its library beside itself, wherever that is, and needs what every release
from bookworm on has.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

NAME = "builds.json"


def mirror(root: Path, python: str, folder: Path, url: str) -> str:
    """Make a folder a mirror with one build; returns the URL of its list, as uv reads it.

    Args:
        root: An image's files.
        python: The minor version that it has: ``3.11``.
        folder: Which is served.
        url: Where.
    """
    folder.mkdir(exist_ok=True)
    archive = folder / f"cpython-{python}-x86_64-unknown-linux-gnu-install_only.tar.gz"
    library = root / "usr/lib" / f"python{python}"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(root / f"usr/bin/python{python}", f"python/bin/python{python}")
        for path in sorted(library.rglob("*")):
            # Links lead to the image's own configuration.
            if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
                tar.add(path, f"python/lib/python{python}/{path.relative_to(library)}")
    major, minor = map(int, python.split("."))
    build = {
        "name": "cpython",
        "arch": {"family": "x86_64", "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": 0,
        "prerelease": "",
        "url": f"{url}/{archive.name}",
        "sha256": None,
        "variant": None,
        "build": "1",
    }
    (folder / NAME).write_text(json.dumps({f"cpython-{python}.0-linux-x86_64-gnu": build}))
    return f"{url}/{NAME}"
