"""The disks of machines: a writable layer each, over layers that many share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

#: What would tie a layer to the disk on which it was written; copies of it become images.
_PLAIN = "index=off,metacopy=off,redirect_dir=off"


class Disk:
    """One machine's disk.

    Args:
        folder: Of its own; made here, and deleted by :meth:`delete`.
        layers: What it begins with, the lowest one first; never written to.
        size: MiB that can be written to it; ``None``: as much as there is room for.

    Attributes:
        root: Where it is mounted while it is.
    """

    def __init__(self, folder: Path, layers: Sequence[Path], *, size: int | None = None) -> None:
        self.folder = folder
        self.layers = tuple(layers)
        self.root = folder / "root"
        self.is_mounted = False
        self._own = folder / "own"
        for path in (self.root, self._own):
            path.mkdir(parents=True)
        if size is not None:
            # It stays mounted as long as there is a disk: this is where it is.
            _run("mount", "-t", "tmpfs", "-o", f"size={size}m", "none", str(self._own))
        self._limited = size is not None
        for name in ("upper", "work"):
            (self._own / name).mkdir()

    def mount(self) -> None:
        """Show the disk's files below ``root``."""
        lower = ":".join(str(layer) for layer in reversed(self.layers))
        upper, work = self._own / "upper", self._own / "work"
        options = f"lowerdir={lower},upperdir={upper},workdir={work},{_PLAIN}"
        _run("mount", "-t", "overlay", "-o", options, "overlay", str(self.root))
        self.is_mounted = True

    def unmount(self) -> None:
        """Show them no more."""
        if self.is_mounted:
            _run("umount", str(self.root))
            self.is_mounted = False

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Put a file on the mounted disk; folders on the way are made."""
        path = self.root / name.lstrip("/")
        if not path.parent.resolve().is_relative_to(self.root):
            raise ValueError(f"{name}: a link on the way leads out of the disk")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()  # it would lead out of the disk
        path.write_text(text)
        path.chmod(mode)

    def copy(self, layer: Path) -> None:
        """Make a layer of what was written to the disk, deletions included."""
        new = layer.with_suffix(".new")
        _run("cp", "--archive", "--reflink=auto", str(self._own / "upper"), str(new))
        new.rename(layer)

    def delete(self) -> None:
        """Unmount and delete it."""
        self.unmount()
        if self._limited:
            _run("umount", str(self._own))
        shutil.rmtree(self.folder)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
