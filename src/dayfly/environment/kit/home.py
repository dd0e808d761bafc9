"""An environment's folder on this disk: who may work in it, and whether all of it is there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

from dayfly.environment.kit.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dayfly.environment.kit.record import Record


class Home:
    """The folder of one environment.

    Args:
        root: What all environments share, below ``$DAYFLY_ROOT``.
        key: Its name.
        record: Where it is told what was found.

    Attributes:
        path: Of the folder.
        part: What an unfinished run leaves.
        venv: The environment itself.
        python: Its interpreter.
        log: What happened here.
        lock: The descriptor of the lock, once it is taken.

    Raises:
        Failure: The key cannot be a folder's name.
    """

    def __init__(self, root: Path, key: str, record: Record) -> None:
        if not re.fullmatch(r"[0-9A-Za-z_.-]{1,100}", key) or key.startswith("."):
            raise Failure("order", f"{key!r} cannot be the name of a folder")
        self.path = root / "env" / key
        self.part = self.path / "part"
        self.venv = self.path / "venv"
        self.python = self.venv / "bin" / "python"
        self.log = self.path / "log"
        self.lock = -1
        self._complete = self.path / "complete"
        self._record = record

    def take(self) -> None:
        """Wait until nobody else works here, and keep the others away."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, str(os.getpid()).encode(), 0)
        self._record.keep(self.log)

    def holder(self) -> str:
        """The process that works here."""
        try:
            return os.pread(self.lock, 20, 0).decode("ascii", "replace") or "?"
        except OSError:
            return "?"

    def release(self) -> None:
        """Let others in."""
        os.close(self.lock)

    def is_complete(self) -> bool:
        """Whether all of it is there; what an unfinished run left is removed."""
        try:
            marker = json.loads(self._complete.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            marker = {}
        runs = os.access(self.python, os.X_OK)
        if marker and runs:
            if marker["boot"] in ("", boot()):
                return True
            # What was not yet on the disk when the power went is lost; a clean stop loses
            # nothing. A look at all of it is cheaper than to sync at each installation.
            if marker["measure"] == measure(self.venv):
                self._write(marker["measure"], boot())
                return True
            self._record.tell(note="it was damaged by a power cut: made anew", step="lock")
        with contextlib.suppress(FileNotFoundError):
            self._complete.unlink()
        for left in (self.part, self.venv):
            if left.exists():
                shutil.rmtree(left)
        self.part.mkdir()
        return False

    def complete(self, *, durable: bool) -> None:
        """All of it is there.

        Args:
            durable: Also after a power cut: the disk is synced first.
        """
        shutil.rmtree(self.part, ignore_errors=True)
        if durable:
            os.sync()
        self._write(measure(self.venv), "" if durable else boot())
        if durable:
            os.sync()

    def _write(self, measured: list[int], during: str) -> None:
        # Nothing waits for the disk here: a file system may well write all that was installed
        # before it has synced this one file.
        part = self.path / "complete.part"
        part.write_text(json.dumps({"boot": during, "measure": measured}), "utf-8")
        part.replace(self._complete)


def boot() -> str:
    """Which boot of the VM this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # not Linux
        return "this"


def measure(folder: Path) -> list[int]:
    """How many files a folder holds, and their bytes, but for what Python compiles by itself."""
    count = size = 0
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            count += 1
            size += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118 - many of them
    return [count, size]
