"""Storage in a directory of this machine, shared by every process that names it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeVar

from dayfly.errors import ObjectExistsError, ObjectNotFoundError, StorageError
from dayfly.model import StorageConfig
from dayfly.processes import runs
from dayfly.storage.base import ObjectInfo
from dayfly.storage.filenames import (
    CONTINUED,
    FOLDER,
    TEMPORARY,
    check_key,
    folder_of,
    join,
    key_of,
    path_of,
)
from dayfly.storage.userfiles import users_file

#: Up to this size a read stays on the event loop: measured 25 us for 64 KiB, where the way to
#: a thread and back alone takes 90 us. A write makes files and folders, 200 us and more.
_INLINE: Final = 64 * 1024
_BLOCK: Final = 1 << 20
#: How often a put is tried while others delete the empty folders that it makes.
_TRIES: Final = 100

#: The likeliest cause of what the system says, and the command that shows it.
_CAUSES: Final = {
    errno.ENOSPC: ("the disk is full", "df -h {root}"),
    errno.EDQUOT: ("this user's disk quota is used up", "quota -s"),
    errno.EACCES: ("this user may not do that there", "ls -ld {root}"),
    errno.EPERM: ("this user, or this file system, may not do that", "ls -ld {root}"),
    errno.EROFS: ("the file system is read-only", "findmnt -T {root}"),
    errno.ENAMETOOLONG: ("the key is too long for this file system", ""),
    errno.ENOENT: ("its folder cannot be made", "ls -ld {root}"),
    errno.ENOTDIR: ("a file is in the place of a folder", "ls -la {root}"),
    errno.EEXIST: ("a file is in the place of a folder", "ls -la {root}"),
    errno.EISDIR: ("a folder is in the place of a file", "ls -la {root}"),
    errno.EMFILE: ("this process has too many files open", "ulimit -n"),
    errno.EIO: ("the disk failed", "dmesg | tail"),
}

T = TypeVar("T")


class DirectoryStorage:
    """The localhost form of :class:`~dayfly.storage.base.Storage`.

    An object is written elsewhere and then renamed or linked into its place, so readers see
    it whole or not at all, and of several ``if_absent`` puts, in whatever processes, one
    wins. Nothing is synced to disk: after a power cut no VM of the embedded cloud is left
    that could need it.

    Args:
        root: The directory; made when needed, for this user only, and gone when empty.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def name(self) -> str:
        """``localhost``."""
        return "localhost"

    async def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Store an object, as :meth:`Storage.put_object` says."""
        check_key(key)

        def put() -> None:
            self._put(key, lambda file: file.write(data), if_absent=if_absent)

        await self._do("written", key, put)

    async def get_object(self, key: str, *, byte_range: tuple[int, int] | None = None) -> bytes:
        """Read an object or a range of it; a range is cut at the object's end, like a slice."""
        check_key(key)
        start, stop = byte_range or (0, None)
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"byte_range {byte_range} of {key!r}: give 0 <= start <= stop")
        with self._open(key) as file:
            there = os.fstat(file.fileno()).st_size
            size = max(0, (there if stop is None else min(stop, there)) - start)

            def read() -> bytes:
                file.seek(start)
                return file.read(size)

            return await self._do("read", key, read, size=size)

    async def stream_object(self, key: str, *, chunk_size: int = _BLOCK) -> AsyncIterator[bytes]:
        """Read an object in pieces of ``chunk_size`` bytes, the last one excepted."""
        check_key(key)
        if chunk_size < 1:
            raise ValueError(f"chunk_size {chunk_size} for {key!r}: give at least 1 byte")
        with self._open(key) as file:

            def read() -> bytes:
                return file.read(chunk_size)

            while chunk := await self._do("read", key, read, size=chunk_size):
                yield chunk

    async def head_object(self, key: str) -> ObjectInfo:
        """Describe an object."""
        check_key(key)
        with self._mapped("read", key):
            status = os.stat(self._path(key))  # noqa: PTH116  # one system call
        return _info(key, status)

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects under a prefix, as they were at one moment."""

        def describe() -> list[ObjectInfo]:
            infos = []
            for key, entry in self._find(prefix):
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    infos.append(_info(key, entry.stat(follow_symlinks=False)))
            return infos

        for info in await self._do("listed", prefix, describe):
            yield info

    async def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys under a prefix, as they were at one moment."""
        for key, _ in await self._do("listed", prefix, lambda: self._find(prefix)):
            yield key

    async def delete_object(self, key: str) -> None:
        """Delete an object, and the folders that are left empty."""
        check_key(key)
        await self._do("deleted", key, lambda: self._delete(key), size=0)

    async def delete_objects(self, keys: Iterable[str]) -> None:
        """Delete objects, and the folders that are left empty."""
        doomed = list(keys)
        for key in doomed:
            check_key(key)

        def delete() -> None:
            for key in doomed:
                with self._mapped("deleted", key):
                    self._delete(key)

        await asyncio.to_thread(delete)

    async def upload_file(self, path: str | Path, key: str) -> None:
        """Store a file's content.

        Raises:
            StorageError: The file cannot be read, or the object not be written.
        """
        check_key(key)

        def upload() -> None:
            with users_file("read", path):
                source = Path(path).open("rb")  # noqa: SIM115  # closed below
            with source:
                self._put(key, lambda file: shutil.copyfileobj(source, file, _BLOCK))

        await self._do("written", key, upload)

    async def download_file(self, key: str, path: str | Path) -> None:
        """Write an object's content to a file.

        Raises:
            ObjectNotFoundError: No object has this key; the file is left as it was.
            StorageError: The file cannot be written.
        """
        check_key(key)
        target = Path(path)
        part = target.with_name(f".dayfly-{secrets.token_hex(8)}.part")

        def download() -> None:
            with self._open(key) as source, users_file("written", path):
                try:
                    with part.open("xb") as file:
                        shutil.copyfileobj(source, file, _BLOCK)
                    part.replace(target)
                finally:
                    part.unlink(missing_ok=True)

        await asyncio.to_thread(download)

    async def lend(self, key: str, verb: Literal["get", "put"], *, seconds: float) -> str:  # noqa: ARG002
        """The file's own URL: who runs on this machine needs no other right."""
        check_key(key)
        return self._path(key).absolute().as_uri()

    async def locate(self) -> StorageConfig:
        """The directory, which the VMs of this machine see too."""
        return StorageConfig(kind="localhost", location=str(self._root))

    async def aclose(self) -> None:
        """Nothing is held open between calls."""

    # -- what blocks --

    async def _do(
        self, verb: str, key: str, work: Callable[[], T], *, size: int | None = None
    ) -> T:
        """Do what reads or writes ``size`` bytes (unknown: many) where it belongs."""
        with self._mapped(verb, key):
            if size is not None and size <= _INLINE:
                return work()
            return await asyncio.to_thread(work)

    def _path(self, key: str) -> Path:
        return self._root / path_of(key)

    def _open(self, key: str) -> BinaryIO:
        with self._mapped("read", key):
            return self._path(key).open("rb")

    def _put(
        self, key: str, fill: Callable[[BinaryIO], object], *, if_absent: bool = False
    ) -> None:
        path = self._path(key)
        unfinished = self._root / TEMPORARY / f"{os.getpid()}-{secrets.token_hex(16)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = self._in_folder(unfinished, lambda: os.open(unfinished, flags, 0o600))
        try:
            with os.fdopen(descriptor, "wb") as file:
                fill(file)
            if if_absent:
                self._in_folder(path, lambda: _link(unfinished, path, key))
            else:
                self._in_folder(path, lambda: unfinished.replace(path))
        finally:
            unfinished.unlink(missing_ok=True)

    def _in_folder(self, path: Path, action: Callable[[], T]) -> T:
        """Do what needs the folder of ``path``, which others may delete whenever it is empty."""
        for _ in range(_TRIES):
            try:
                return action()
            except FileNotFoundError:
                # Deleted again, maybe just as mkdir looked at what is there: next try.
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                    path.parent.mkdir(parents=True, exist_ok=True)
        return action()

    def _find(self, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
        """The objects under a prefix, by key (code points sort as their UTF-8 does)."""
        *parts, _ = prefix.split("/")
        base = "".join(f"{part}/" for part in parts)
        try:
            check_key(base + "x")
        except StorageError:
            return []  # no key begins like that
        found = self._walk(self._root / folder_of(parts), base, "", prefix)
        return sorted(found, key=lambda each: each[0])

    def _walk(
        self, folder: Path, base: str, escaped: str, prefix: str
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """The objects in ``folder``, whose keys begin with ``base`` and what ``escaped`` says."""
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return  # nothing there, or deleted meanwhile
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                key = base + key_of(escaped + entry.name)
                if key.startswith(prefix):
                    yield key, entry
                continue
            deeper = join(escaped, entry.name)
            if entry.name.endswith(CONTINUED) or (
                entry.name.endswith(FOLDER) and (base + key_of(deeper)).startswith(prefix)
            ):
                yield from self._walk(folder / entry.name, base, deeper, prefix)

    def _delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        for folder in path.parents:
            if folder == self._root:
                _sweep(folder / TEMPORARY)
                _ = _remove(folder / TEMPORARY) and _remove(folder)
                return
            if not _remove(folder):
                return

    @contextlib.contextmanager
    def _mapped(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOENT and verb == "read":
                folder = key.rpartition("/")[0]
                raise ObjectNotFoundError(
                    f"there is no object {key!r}",
                    cause=f"no such file in {self._root}",
                    hint=f"dayfly storage list {folder}".rstrip(),
                ) from error
            cause, hint = _CAUSES.get(error.errno or 0, ("", ""))
            raise StorageError(
                f"object {key!r} could not be {verb}",
                cause=f"{cause} ({error})" if cause else str(error),
                hint=hint.format(root=self._root),
            ) from error


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key=key, size=status.st_size, modified=status.st_mtime)


def _link(unfinished: Path, path: Path, key: str) -> None:
    try:
        path.hardlink_to(unfinished)
    except FileExistsError as error:
        raise ObjectExistsError(f"object {key!r} exists already") from error


def _sweep(folder: Path) -> None:
    """Delete what writers that were killed had not finished."""
    for path in folder.glob("*-*"):
        writer = path.name.partition("-")[0]
        if writer.isdecimal() and not runs(int(writer)):
            path.unlink(missing_ok=True)


def _remove(folder: Path) -> bool:
    """Remove a folder if it is empty; whether it is gone."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno == errno.ENOENT:
            return True
        # EBUSY: somebody mounted it.
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
            return False
        raise
    return True
