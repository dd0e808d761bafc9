"""The files of the VM, each known by its hash: fetched from where they are, left in storage."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import queue
import secrets
import shutil
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from dayfly.environment.kit.failure import Failure
from dayfly.environment.kit.network import Unavailable, local, opened, request, trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from dayfly.environment.kit.record import Record

#: Files that are fetched at the same time, and given to storage.
LANES, DEPOSITS = 16, 4
#: Bytes that are read at once.
BLOCK = 1 << 18
#: Seconds between tries, and without a byte, where the order says nothing.
PAUSES, SILENCE = (0.5, 1.0, 2.0), 20.0
#: What is to be done where the files that were locked are no more.
ANEW = "lock the environment anew: dayfly clean --all, then run the program again"


class Wheels:
    """The files of the VM: fetched by many threads, known by their hash."""

    def __init__(self, root: Path, part: Path, order: dict[str, Any], record: Record) -> None:
        self._home = root / "wheels"
        self._part = part
        self._record = record
        self._pauses = tuple(order.get("pauses", PAUSES))
        self._silence = float(order.get("silence", SILENCE))
        self._dead: dict[str, str] = {}
        self._stop = threading.Event()
        self.doing: dict[str, str] = {}
        self.new: list[dict[str, Any]] = []  # what storage is to be given

    def path(self, file: dict[str, Any]) -> Path:
        """Where a file lies once it is here."""
        return self._home / str(file["sha256"]) / str(file["filename"])

    def stop(self) -> None:
        """Begin nothing more."""
        self._stop.set()

    def fetch(self, files: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str, int]]:
        """Have all of the files here: each with where it came from, and its bytes.

        The threads are not waited for when something goes wrong: they hold nothing that
        outlives this process but temporary files of an unfinished run.
        """
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # The largest first: the last one to end is then a small one.
        for file in sorted(files, key=lambda file: -int(file.get("size") or 0)):
            waiting.put(file)

        def work() -> None:
            while not self._stop.is_set():
                try:
                    file = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((file, *self._have(file)))
                except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                    done.put(error)

        for _ in range(min(LANES, len(files))):
            threading.Thread(target=work, daemon=True).start()
        had = []
        for _ in files:
            outcome = done.get()
            if isinstance(outcome, Exception):
                self.stop()
                raise outcome
            had.append(outcome)
            file, source, _ = outcome
            if file.get("deposit") and source not in ("disk", "storage"):
                self.new.append(file)
        return had

    def _have(self, file: dict[str, Any]) -> tuple[str, int]:
        path = self.path(file)
        if path.exists():
            # The disk may have lost the end of it when the power went: it is read again.
            with path.open("rb") as kept:
                if digest(kept) == file["sha256"]:
                    return "disk", path.stat().st_size
        path.parent.mkdir(parents=True, exist_ok=True)
        why: list[Unavailable] = []
        for source in file["sources"]:
            url, name = str(source["url"]), str(source["name"])
            try:
                return name, self._from(file, name, url, path)
            except Unavailable as error:
                words = f"{name}: {error.words}"
                why.append(Unavailable(words, altered=error.altered, gone=error.gone))
                self._record.log(f"{file['filename']}: {name} {url}: {error.words}")
                if error.altered:
                    self._record.tell(note=f"{file['filename']}: {error.words}", step="fetch")
        raise self._missing(file, why)

    def _from(self, file: dict[str, Any], name: str, url: str, path: Path) -> int:
        """Have a file from one source, in as many tries as there are."""
        host = urllib.parse.urlsplit(url).netloc
        pauses = iter(self._pauses)
        while True:
            if host in self._dead:
                raise Unavailable(self._dead[host])
            part = self._part / f"{file['sha256'][:16]}-{secrets.token_hex(4)}"
            self.doing[file["filename"]] = name
            try:
                size = self._stream(file, name, url, part)
            except Unavailable as error:
                with contextlib.suppress(OSError):  # it may not have come that far
                    part.unlink()
                pause = next(pauses, None) if error.passing else None
                if pause is None:
                    if error.host:
                        self._dead[host] = error.words
                    raise
                self._record.log(f"{file['filename']}: {name}: {error.words}; again in {pause} s")
                if self._stop.wait(pause):
                    raise
            else:
                part.replace(path)
                return size
            finally:
                self.doing.pop(file["filename"], None)

    def _stream(self, file: dict[str, Any], name: str, url: str, part: Path) -> int:
        seen = hashlib.sha256()
        got = 0
        with opened(url, self._silence) as (read, size), part.open("wb") as kept:
            while True:
                block = read(BLOCK)
                if not block:
                    break
                if self._stop.is_set():
                    raise Unavailable("stopped")
                seen.update(block)
                got += kept.write(block)
        if got < size:
            words = f"the connection broke after {got} of {size} bytes"
            raise Unavailable(words, passing=True)
        if seen.hexdigest() != file["sha256"]:
            words = f"what {name} has is another file (SHA-256 {seen.hexdigest()[:16]}..., "
            words += f"{got} bytes; expected {file['sha256'][:16]}...)"
            raise Unavailable(words, altered=True)
        return got

    def _missing(self, file: dict[str, Any], why: list[Unavailable]) -> Failure:
        package = f"{file['package']}=={file['version']}"
        cause = "\n".join(reason.words for reason in why) or "the order names no source"
        if any(reason.altered for reason in why):
            return Failure(
                "file",
                f"no source has the {file['filename']} that was locked",
                cause=cause,
                advice="it was altered, there or on the way; if the index replaced it, " + ANEW,
                package=package,
            )
        if why and all(reason.gone for reason in why):
            return Failure(
                "file",
                f"no source has {file['filename']} any more",
                cause=cause,
                advice="if the index has deleted it, " + ANEW + "; an index that needs a password "
                "may answer so where it is given none",
                package=package,
            )
        return Failure(
            "network",
            f"{file['filename']} cannot be had on the VM",
            cause=cause,
            advice="let the VM reach the index or the storage (routes, security groups, proxy, "
            "DNS), or use an image that has the environment (dayfly image build)",
            package=package,
        )

    def deposit(self) -> Callable[[], tuple[int, list[str]]]:
        """Begin to write new files to storage; what is returned waits for the end of it."""
        files = self.new
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        done: queue.SimpleQueue[str] = queue.SimpleQueue()
        for file in files:
            waiting.put(file)

        def work() -> None:
            while True:
                try:
                    file = waiting.get_nowait()
                except queue.Empty:
                    return
                words = self._left(file)
                done.put(f"{file['filename']} was not kept in storage: {words}" if words else "")

        for _ in range(min(DEPOSITS, len(files))):
            threading.Thread(target=work, daemon=True).start()

        def wait() -> tuple[int, list[str]]:
            notes = [note for note in (done.get() for _ in files) if note]
            return len(files) - len(notes), notes

        return wait

    def _left(self, file: dict[str, Any]) -> str:
        """Leave a file in storage; returns why it was not, in words."""
        url = str(file["deposit"])
        host = urllib.parse.urlsplit(url).netloc
        if host in self._dead:  # each file would wait as long for nothing
            return self._dead[host]
        try:
            self._put(self.path(file), url)
        except (OSError, http.client.HTTPException) as error:
            why = trouble(error, url)
            if why.host:
                self._dead[host] = why.words
            return why.words
        return ""

    def _put(self, path: Path, url: str) -> None:
        target = local(url)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".dayfly-{secrets.token_hex(8)}.part")
            shutil.copyfile(path, part)
            part.replace(target)
            return
        with path.open("rb") as content:
            put = request(url, content, path.stat().st_size)
            with urllib.request.urlopen(put, timeout=self._silence):  # noqa: S310
                pass


def digest(file: BinaryIO) -> str:
    """SHA-256 of a file, in hexadecimal."""
    seen = hashlib.sha256()
    for block in iter(lambda: file.read(BLOCK), b""):
        seen.update(block)
    return seen.hexdigest()
