"""A job's packages are put into storage once, before its workers fetch them from there.

A hundred workers that each asked a package index for the same gigabyte would wait for it, and not
be welcome there. The master asks, while they boot; they are told when storage has everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from dayfly.environment.indexes import authorized
from dayfly.environment.lock import File
from dayfly.errors import DayflyError, ObjectNotFoundError, ProvisionError
from dayfly.stock import Stock
from dayfly.storage import keys
from dayfly.storage.base import Storage

log = logging.getLogger(__name__)

#: Files that are asked for at once, of storage and of an index.
LOOKS, LANES = 32, 8
#: Seconds to reach an index, and without a byte from it.
CONNECT, SILENCE = 10.0, 30.0
#: Bytes read at once.
BLOCK = 1 << 18

_LIMITS: Final = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)


class Stocking:
    """Fills storage.

    Args:
        storage: The cluster's.
        index: URLs of package indexes, with the passwords that locks do not have.
        told: Called with each environment whose files are in storage, as far as they can be had.

    Attributes:
        done: Those environments.
        unreached: Those whose files could not all be had, and why.
    """

    def __init__(
        self, storage: Storage, index: Sequence[str], *, told: Callable[[str], None]
    ) -> None:
        self._storage = storage
        self._stock = Stock(storage)
        self._index = index
        self._told = told
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.done: set[str] = set()
        self.unreached: dict[str, str] = {}

    def begin(self, key: str) -> None:
        """See to an environment, unless that is done or under way."""
        if key and key not in self.done and key not in self._tasks:
            task = asyncio.create_task(self._see_to(key), name=f"dayfly stock {key}")
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def aclose(self) -> None:
        """Stop; what is half fetched is nowhere."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _see_to(self, key: str) -> None:
        try:
            lock = await self._stock.find(key)
            await self._fill(lock.files if lock else ())
        except DayflyError as error:
            # The workers try by themselves, and say what became of it.
            self.unreached[key] = f"{error.what} ({error.cause})" if error.cause else error.what
            log.warning("environment %s could not all be put into storage: %s", key, error)
        except OSError as error:  # a full disk
            self.unreached[key] = f"the master could not keep a file for storage ({error})"
            log.warning("environment %s: %s", key, self.unreached[key])
        self.done.add(key)
        self._told(key)

    async def _fill(self, files: Sequence[File]) -> None:
        looks = asyncio.Semaphore(LOOKS)

        async def lacks(file: File) -> bool:
            async with looks:
                try:
                    await self._storage.head_object(keys.wheel(file.sha256))
                except ObjectNotFoundError:
                    return True
                return False

        lacking = await asyncio.gather(*map(lacks, files))
        wanted = [file for file, missing in zip(files, lacking, strict=True) if missing]
        if not wanted:
            return
        log.info("%d files are put into storage", len(wanted))
        lanes = asyncio.Semaphore(LANES)
        async with aiohttp.ClientSession(timeout=_LIMITS, trust_env=True) as session:
            ends = await asyncio.gather(
                *(self._bring(session, lanes, file) for file in wanted), return_exceptions=True
            )
        failed = [end for end in ends if isinstance(end, BaseException)]
        if failed:
            raise failed[0]

    async def _bring(
        self, session: aiohttp.ClientSession, lanes: asyncio.Semaphore, file: File
    ) -> None:
        async with lanes:
            with tempfile.TemporaryDirectory(prefix="dayfly-stock-") as folder:
                path = Path(folder, "file")
                try:
                    await self._download(session, file, path)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    raise ProvisionError(
                        f"{file.filename} could not be fetched from {file.url}",
                        cause=str(error) or type(error).__name__,
                        hint="see whether the master's subnet has a way to the package index",
                    ) from error
                await self._storage.upload_file(path, keys.wheel(file.sha256))

    async def _download(self, session: aiohttp.ClientSession, file: File, path: Path) -> None:
        digest = hashlib.sha256()
        url = authorized(file.url, self._index)
        async with session.get(url, raise_for_status=True) as answer:
            with path.open("wb") as target:
                async for block in answer.content.iter_chunked(BLOCK):
                    digest.update(block)
                    target.write(block)
        if digest.hexdigest() != file.sha256:
            raise ProvisionError(
                f"{file.url} is not the file that was found before",
                cause=f"its SHA-256 is {digest.hexdigest()}, and not {file.sha256}",
                hint="ask whoever keeps the index; dayfly clean --all, then run again",
            )
