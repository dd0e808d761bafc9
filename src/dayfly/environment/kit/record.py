"""What is told, and to whom: without the secrets of URLs."""

# datetime.UTC is missing in the older Pythons of VMs.
# ruff: noqa: UP017

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Lines of a child's output that a failure shows.
TAIL = 12


def scrubbed(text: str) -> str:
    """A text with no secret of a URL in it."""
    text = re.sub(r"(\b[a-z][a-z0-9+.-]*://)[^/?#\s]+@", r"\1", text, flags=re.IGNORECASE)
    return re.sub(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"`)]+)[?#][^\s'\"`)]+", r"\1", text)


class Record:
    """What happened: every line to the log files, the results to standard output."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._files: list[int] = []
        self._mute = threading.Lock()
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL)

    def keep(self, path: Path) -> None:
        """Write to this file too, from now on."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._files.append(os.open(path, flags, 0o600))

    def log(self, text: str) -> None:
        """Keep a line, with the time."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        text = scrubbed(text.rstrip())
        line = f"{now} {self._name}: {text}\n".encode("utf-8", "replace")
        with self._mute:
            self.tail.append(text)
            for file in self._files:
                with contextlib.suppress(OSError):  # a full disk is told by what fills it
                    os.write(file, line)

    def tell(self, **said: Any) -> None:
        """Say a line to whoever started this, and log it."""
        clean = {name: scrubbed(it) if isinstance(it, str) else it for name, it in said.items()}
        line = json.dumps(clean)
        self.log(line)
        with self._mute:
            try:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            except OSError:
                # Nobody listens any more. The work goes on: the next one finds it done.
                with Path(os.devnull).open("wb") as nowhere:
                    os.dup2(nowhere.fileno(), sys.stdout.fileno())
