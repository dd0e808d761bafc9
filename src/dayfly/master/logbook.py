"""Function logs on the master's disk: one file per job, read from any point.

A file is a row of frames, each a length in four bytes and an encoded
:class:`~dayfly.wire.messages.Logs`, so that a reader who lags costs no memory: it keeps its
place in the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from dayfly.model import LogLine
from dayfly.wire import messages as m

_LENGTH = struct.Struct(">I")
#: The most that one answer with all of a job's lines may hold, in bytes: its newest lines.
ANSWER_LIMIT = 32 * 1024 * 1024

_LOGS = msgspec.msgpack.Decoder(m.Logs)


class Logbook:
    """The logs below ``folder``; close it with :meth:`close`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}
        self._sizes: dict[str, int] = {}

    def append(self, job: str, lines: list[LogLine]) -> None:
        """Add lines to a job's log."""
        frame = m.ENCODER.encode(m.Logs(lines=lines))
        if (file := self._open.get(job)) is None:
            file = self._open[job] = self._reopen(job)
        file.write(_LENGTH.pack(len(frame)) + frame)
        self._sizes[job] += _LENGTH.size + len(frame)

    def size(self, job: str) -> int:
        """Bytes in a job's log: the place after its last line."""
        if job not in self._sizes:
            path = self._path(job)
            if not path.exists():
                return 0  # which is not remembered: it may be asked of jobs that are long over
            self._sizes[job] = self._whole(path)
        return self._sizes[job]

    def frames(self, job: str, place: int) -> Iterator[tuple[int, bytes]]:
        """The frames from ``place`` on, each with the place after it.

        Each frame is the bytes of one ``Logs`` message.
        """
        if place >= self.size(job):
            return
        with self._path(job).open("rb") as file:
            file.seek(place)
            while place < self._sizes.get(job, 0):
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                place += _LENGTH.size + length
                yield place, file.read(length)

    def lines(self, job: str, limit: int = ANSWER_LIMIT) -> list[LogLine]:
        """A job's newest lines, oldest of them first, of up to about ``limit`` bytes."""
        spare = max(0, self.size(job) - limit)
        lines: list[LogLine] = []
        for place, frame in self.frames(job, 0):
            if place > spare:
                lines += _LOGS.decode(frame).lines
        return lines

    def close_job(self, job: str) -> None:
        """Let go of a job's file; it can still be read and added to."""
        if file := self._open.pop(job, None):
            file.close()

    def delete(self, job: str) -> None:
        """Forget a job's log."""
        self.close_job(job)
        self._sizes.pop(job, None)
        self._path(job).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all files."""
        for job in list(self._open):
            self.close_job(job)

    def _reopen(self, job: str) -> BinaryIO:
        path = self._path(job)
        path.touch(mode=0o600)
        self._sizes[job] = self._whole(path)
        file = path.open("r+b", buffering=0)
        file.truncate(self._sizes[job])
        file.seek(self._sizes[job])
        return file

    def _whole(self, path: Path) -> int:
        """Bytes up to the last whole frame: a killed writer may leave part of one."""
        place, size = 0, path.stat().st_size
        with path.open("rb") as file:
            while place + _LENGTH.size <= size:
                file.seek(place)
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                if place + _LENGTH.size + length > size:
                    break
                place += _LENGTH.size + length
        return place

    def _path(self, job: str) -> Path:
        # Job names come over the wire: none may lead out of the folder.
        return self._folder / job.encode().hex()
