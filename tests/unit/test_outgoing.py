"""Items on their way out, against a storage in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from dayfly.client import outgoing
from dayfly.errors import StorageError
from dayfly.storage.base import Storage
from dayfly.wire import messages as m


class Shelf:
    """The one method of a storage that is used here."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self.objects[key] = data


async def batches(*lists: list[bytes]) -> AsyncIterator[list[bytes]]:
    for one in lists:
        yield one


async def send(first: list[bytes], *rest: list[bytes]) -> tuple[list[m.FromClient], Shelf]:
    said: list[m.FromClient] = []
    shelf = Shelf()

    async def say(message: m.FromClient) -> None:
        said.append(message)

    await outgoing.send_items("j", first, batches(*rest), storage=cast("Storage", shelf), say=say)
    return said, shelf


def items_of(said: list[m.FromClient], shelf: Shelf) -> list[bytes]:
    found: list[bytes] = []
    for message in said:
        if isinstance(message, m.Items):
            assert message.start == len(found), "chunks come in order, without gaps"
            data = m.CHUNK.decode(shelf.objects[message.key]) if message.key else message.data
            assert len(data) == message.count
            found += data
    return found


async def test_small_items_travel_inline_and_end_with_their_number() -> None:
    said, shelf = await send([b"a", b"b"], [b"c"])
    assert items_of(said, shelf) == [b"a", b"b", b"c"]
    assert said[-1] == m.ItemsEnd(job="j", total=3)
    assert not shelf.objects


async def test_large_items_go_through_storage_in_chunks() -> None:
    data = [bytes([n % 256]) * 100_000 for n in range(60)]
    said, shelf = await send(data[:5], data[5:])
    assert items_of(said, shelf) == data
    assert len(shelf.objects) < 20
    assert all(len(blob) < 1_200_000 for blob in shelf.objects.values())


async def test_many_small_items_leave_the_inline_budget_behind() -> None:
    data = [b"x" * 100] * 50_000
    said, shelf = await send(data[:100], data[100:])
    assert items_of(said, shelf) == data
    inline = sum(len(d) for s in said if isinstance(s, m.Items) for d in s.data)
    assert inline <= outgoing.INLINE_BUDGET
    assert shelf.objects


async def test_a_single_item_larger_than_any_chunk_is_a_chunk_of_its_own() -> None:
    said, shelf = await send([b"small", b"L" * 3_000_000, b"small"])
    assert items_of(said, shelf) == [b"small", b"L" * 3_000_000, b"small"]


async def test_a_chunk_is_said_while_the_next_item_is_still_being_made() -> None:
    said: list[m.FromClient] = []
    heard = asyncio.Event()

    async def say(message: m.FromClient) -> None:
        said.append(message)
        heard.set()

    async def slow() -> AsyncIterator[list[bytes]]:
        await heard.wait()  # an item that is made from an earlier one's outcome
        yield [b"more"]

    storage = cast("Storage", Shelf())
    async with asyncio.timeout(5):
        await outgoing.send_items("j", [b"L" * 100_000], slow(), storage=storage, say=say)
    assert [type(message).__name__ for message in said] == ["Items", "Items", "ItemsEnd"]


async def test_storage_that_refuses_ends_it_with_storages_own_error() -> None:
    class Full(Shelf):
        async def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
            raise StorageError(f"no space for {key}")

    said: list[m.FromClient] = []

    async def say(message: m.FromClient) -> None:
        said.append(message)

    with pytest.raises(StorageError, match="no space"):
        await outgoing.send_items(
            "j", [b"L" * 100_000] * 30, batches(), storage=cast("Storage", Full()), say=say
        )
    assert said == []


async def test_an_iterable_that_raises_ends_it_with_its_own_error() -> None:
    async def broken() -> AsyncIterator[list[bytes]]:
        yield [b"L" * 100_000]
        raise ValueError("mine")

    async def say(message: m.FromClient) -> None:
        return None

    with pytest.raises(ValueError, match="mine"):
        await outgoing.send_items(
            "j", [b"L" * 100_000], broken(), storage=cast("Storage", Shelf()), say=say
        )


def test_cutting_never_makes_an_empty_chunk(tmp_path: Path) -> None:
    assert list(outgoing.cut([], 10)) == []
    assert list(outgoing.cut([b"123456", b"123456", b"1"], 10)) == [[b"123456"], [b"123456", b"1"]]
