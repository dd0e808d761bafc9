"""What a power cut takes from a master's journal: the newest part of it.

With ``synchronous=NORMAL`` SQLite syncs its write-ahead log only before a checkpoint, so what came
after the last one may be gone, from any byte on. Sources: "Write-Ahead Logging" and "WAL-mode File
Format" on sqlite.org.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

#: Bytes of the log's own header, and of that of each of its frames.
_HEADER, _FRAME_HEADER = 32, 24


@dataclass(frozen=True)
class Tail:
    """A journal of a service that runs, as its disk has it here and now.

    Attributes:
        database: The file itself.
        log: What is committed of the write-ahead log.
        safe: Bytes of it that were synced.
    """

    path: Path
    database: bytes
    log: bytes
    safe: int

    @property
    def exposed(self) -> int:
        """Bytes that a power cut may take."""
        return len(self.log) - self.safe

    def lose(self, count: int) -> None:
        """Put it back, without so many of its last bytes.

        A connection that is closed tidies up; one whose machine has lost its power does not.
        """
        self.path.write_bytes(self.database)
        _beside(self.path, "wal").write_bytes(self.log[: len(self.log) - count])
        _beside(self.path, "shm").unlink(missing_ok=True)


def tail_of(path: Path) -> Tail | None:
    """The tail of a journal that is open; ``None`` when all of it is synced."""
    log, index = _beside(path, "wal"), _beside(path, "shm")
    if not log.exists() or not index.exists():
        return None
    shared, written = index.read_bytes(), log.read_bytes()
    if len(shared) < 100 or len(written) < _HEADER:
        return None
    (frames,) = struct.unpack_from("=I", shared, 16)  # mxFrame
    (safe,) = struct.unpack_from("=I", shared, 96)  # nBackfill
    if safe >= frames:
        return None
    (page,) = struct.unpack_from(">I", written, 8)
    size = _FRAME_HEADER + page
    committed = written[: _HEADER + frames * size]
    return Tail(path, path.read_bytes(), committed, _HEADER + safe * size)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}-{what}")
