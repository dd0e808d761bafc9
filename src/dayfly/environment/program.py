"""The kit as one file: what a VM's own ``python3`` runs, and nothing else of dayfly."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path
from typing import Final

from dayfly.environment import kit

#: What Python runs of an archive.
_MAIN: Final = "__main__.py"


@functools.cache
def program() -> bytes:
    """A zip archive for ``python3 kit.pyz``; the same sources make the same bytes."""
    parts = kit.__name__.split(".")
    # The packages around it are empty there: dayfly's own want a newer Python.
    files = {f"{'/'.join(parts[:depth])}/__init__.py": b"" for depth in range(1, len(parts))}
    for source in Path(kit.__file__).parent.glob("*.py"):
        name = _MAIN if source.name == _MAIN else "/".join([*parts, source.name])
        files[name] = source.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in sorted(files.items()):
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
