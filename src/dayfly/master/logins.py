"""Logins for container registries, kept over restarts of the master's service, never on a disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from dayfly.runtimes import Registry

log = logging.getLogger(__name__)

_MOUNTS = Path("/proc/self/mounts")


class Logins:
    """Where each instance will have container images from.

    A detached job's client is gone when the service starts anew, and says no login again.

    Args:
        path: A file to keep them in, where a reboot empties the folder (``/run``); it is left
            alone where it would be on a disk. ``None``: they end with the process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path if path is not None and in_memory(path.parent) else None
        self._known: dict[str, Registry] = {}
        if self._path is not None:
            try:
                self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Registry])
            except FileNotFoundError:
                pass  # none was ever said
            except (OSError, msgspec.MsgspecError):
                # Not the decoder's words, which may quote.
                log.warning("the logins in %s cannot be read", self._path)

    def keep(self, instances: Iterable[str], registry: Registry) -> None:
        """Keep what these instances log in with."""
        known = self._known | dict.fromkeys(instances, registry)
        if known == self._known:
            return
        self._known = known
        if self._path is not None and registry.user:
            try:
                _write(self._path, msgspec.json.encode(known))
            except OSError as error:
                log.warning("logins would not outlive this process: %s", error)

    def of(self, instance: str) -> Registry:
        """What an instance logs in with; without a user if nobody has said."""
        return self._known.get(instance, Registry())


def in_memory(folder: Path) -> bool:
    """Whether a folder is in a file system that has no disk; see proc(5) for the table."""
    folder = folder.resolve()
    best, kind = -1, ""
    with suppress(FileNotFoundError):  # no Linux: not that we know
        for line in _MOUNTS.read_text().splitlines():
            point, what = (field.replace("\\040", " ") for field in line.split(" ")[1:3])
            if folder.is_relative_to(point) and len(point) >= best:  # the later covers
                best, kind = len(point), what
    return kind in {"tmpfs", "ramfs"}


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, for its mode)
        file.write(content)
    draft.replace(path)
