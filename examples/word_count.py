"""Count the words of a folder of real text, each file through the storage.

By default the text is the source of Python's own standard library. The answer is checked
against the same thing computed here, without dayfly.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sysconfig
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from dayfly import FunctionExecutor

WORD = re.compile(rb"[A-Za-z]+")
#: Files uploaded at once.
UPLOADS = 16


def words_of(text: bytes) -> Counter[bytes]:
    """Count the words of one text."""
    return Counter(word.lower() for word in WORD.findall(text))


def count_object(key: str, storage: Any) -> Counter[bytes]:
    """Count the words of one object; dayfly fills in ``storage``."""
    return words_of(storage.get_object(key))


def find_files(folder: Path, limit: int | None) -> list[Path]:
    """The text files below a folder; of a Python library, neither packages nor tests."""
    found = (
        path
        for suffix in ("*.py", "*.txt", "*.md", "*.rst")
        for path in folder.rglob(suffix)
        if path.is_file() and not {"site-packages", "test", "tests"} & set(path.parts)
    )
    return sorted(found)[:limit]


async def count_files(files: list[Path], workers: int) -> Counter[bytes]:
    """Upload the files, count each on a worker, and delete them again."""
    prefix = f"examples/word-count/{uuid.uuid4().hex}/"
    keys = [f"{prefix}{number:06d}" for number in range(len(files))]
    gate = asyncio.Semaphore(UPLOADS)
    async with FunctionExecutor(max_workers=workers) as executor:

        async def upload(path: Path, key: str) -> None:
            async with gate:
                await executor.storage.upload_file(path, key)

        try:
            await asyncio.gather(*map(upload, files, keys))
            counts = await executor.map(count_object, keys)
        finally:
            await executor.storage.delete_objects(keys)
    total: Counter[bytes] = Counter()
    for count in counts:
        total.update(count)
    return total


def main() -> None:
    """Count, print and check."""
    parser = argparse.ArgumentParser(description=__doc__)
    stdlib = Path(sysconfig.get_path("stdlib"))
    parser.add_argument("--folder", type=Path, default=stdlib, help="the text (%(default)s)")
    parser.add_argument("--limit", type=int, help="no more files than this")
    parser.add_argument("--workers", type=int, default=2, help="VMs (%(default)s)")
    options = parser.parse_args()

    files = find_files(options.folder, options.limit)
    if not files:
        parser.error(f"there is no text below {options.folder}")
    began = time.perf_counter()
    total = asyncio.run(count_files(files, options.workers))
    taken = time.perf_counter() - began

    print(f"{total.total():,} words, {len(total):,} different ones, in {len(files):,} files")
    for word, count in total.most_common(5):
        print(f"  {count:8,}  {word.decode()}")
    print(f"{taken:.1f} s with {options.workers} workers")

    expected: Counter[bytes] = Counter()
    for path in files:
        expected.update(words_of(path.read_bytes()))
    if total != expected:
        raise SystemExit("wrong: not the same as without dayfly")
    print("checked: same as without dayfly")


if __name__ == "__main__":
    main()
