"""Chunks of items are fetched once for all that wait for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dayfly.errors import StorageError
from dayfly.storage.directory import DirectoryStorage
from dayfly.wire import messages as m
from dayfly.wire.frame import Span
from dayfly.worker.materials import Materials

WHOLE = Span(0, 2)


class Counted(DirectoryStorage):
    """A storage that knows what was asked of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    async def get_object(self, key: str, *, byte_range: tuple[int, int] | None = None) -> bytes:
        self.asked.append(key)
        return await super().get_object(key, byte_range=byte_range)


@pytest.fixture
async def storage(tmp_path: Path) -> Counted:
    counted = Counted(tmp_path / "storage")
    await counted.put_object("a", m.ENCODER.encode([b"a" * 50] * 2))
    return counted


async def test_spans_that_wait_for_the_same_chunk_fetch_it_once(
    storage: Counted, tmp_path: Path
) -> None:
    materials = Materials(storage, tmp_path)
    spans = [materials.items(Span(i % 2, i % 2 + 1), "a", 0) for i in range(20)]
    assert await asyncio.gather(*spans) == [[b"a" * 50]] * 20
    assert storage.asked == ["a"]


async def test_a_chunk_that_could_not_be_had_is_asked_for_again(
    storage: Counted, tmp_path: Path
) -> None:
    materials = Materials(storage, tmp_path)
    with pytest.raises(StorageError):
        await materials.items(WHOLE, "d", 0)
    await storage.put_object("d", m.ENCODER.encode([b"d", b"d"]))
    assert await materials.items(WHOLE, "d", 0) == [b"d", b"d"]
