"""uv, out of its own wheel: the one program that the VM is given."""

from __future__ import annotations

import shutil
import zipfile

from dayfly.environment.kit.failure import Failure
from dayfly.environment.kit.home import boot
from dayfly.environment.kit.wheels import BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from dayfly.environment.kit.wheels import Wheels


class Uv:
    """uv's program.

    Args:
        root: What all environments share.
        part: Where it is unpacked to at first.
        file: Its wheel, in the order's words.
        wheels: Where that lies.
    """

    def __init__(self, root: Path, part: Path, file: dict[str, Any], wheels: Wheels) -> None:
        self._path = root / "uv" / str(file["sha256"]) / "uv"
        self._caches = root / "uv-cache"
        self._part = part / "uv"
        self._file = file
        self._wheels = wheels
        self._ready = False

    def command(self) -> list[str]:
        """Its command line, once its wheel is here.

        Raises:
            Failure: There is no uv in the wheel.
        """
        if not self._ready:
            self._unpack()
            self._ready = True
        options = ["--no-config", "--no-progress", "--cache-dir", str(self._caches / boot())]
        return [str(self._path), *options]

    def forget(self) -> None:
        """Remove what it unpacked before a power cut, which may lack its end."""
        for old in self._caches.glob("*"):
            if old.name != boot():
                shutil.rmtree(old, ignore_errors=True)

    def _unpack(self) -> None:
        wheel = self._wheels.path(self._file)
        try:
            with zipfile.ZipFile(wheel) as packed:
                names = [name for name in packed.namelist() if name.endswith("/scripts/uv")]
                entry = packed.getinfo(names[0])
                if self._path.exists() and self._path.stat().st_size == entry.file_size:
                    return
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, self._part.open("wb") as target:
                    shutil.copyfileobj(source, target, BLOCK)
                self._part.chmod(0o755)
                self._part.replace(self._path)
        except (IndexError, zipfile.BadZipFile) as error:
            raise Failure(
                "file", f"{wheel.name} holds no uv", cause=repr(error), package="uv"
            ) from None
