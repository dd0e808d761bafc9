"""Large outcomes: put to storage in company, and fetched from there by one request each."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest

from dayfly.client.fetching import Fetching
from dayfly.errors import StorageError
from dayfly.model import CallOutcome, OutcomeKind
from dayfly.serialize import Outcome
from dayfly.storage import keys
from dayfly.storage.directory import DirectoryStorage
from dayfly.worker.uploads import PACK, SLOTS, Uploads, store


def outcome(index: int, size: int = 100) -> CallOutcome:
    return CallOutcome(index, OutcomeKind.VALUE, bytes(size), 1.0, 2.0, "w1")


def taken(uploads: Uploads) -> list[tuple[str, list[int]]]:
    found = []
    while (pack := uploads.take()) is not None:
        found.append((pack[0], [each.index for each in pack[1]]))
    return found


def test_the_first_goes_at_once_and_those_that_wait_for_room_go_together() -> None:
    uploads = Uploads()
    under_way = []
    for index in range(SLOTS):
        uploads.add("j", outcome(index))
        under_way += taken(uploads)
    assert under_way == [("j", [index]) for index in range(SLOTS)]
    for index in range(SLOTS, SLOTS + 5):
        uploads.add("j", outcome(index))
    assert taken(uploads) == []
    assert uploads.indices() == {"j": set(range(SLOTS + 5))}
    assert uploads.weight == 100 * (SLOTS + 5)
    uploads.ended("j", [outcome(0)])
    assert taken(uploads) == [("j", list(range(SLOTS, SLOTS + 5)))]


def test_an_object_holds_no_more_than_agreed_but_one_that_is_larger_has_its_own() -> None:
    uploads = Uploads()
    for index, size in enumerate([2 * PACK, PACK // 2, PACK // 2, 1]):
        uploads.add("j", outcome(index, size))
    assert taken(uploads) == [("j", [0]), ("j", [1, 2]), ("j", [3])]


def test_jobs_take_turns_and_nothing_is_kept_of_those_that_are_done() -> None:
    uploads = Uploads()
    for index in range(3):
        for job in ("a", "b"):
            uploads.add(job, outcome(index, PACK))
    assert taken(uploads) == [("a", [0]), ("b", [0]), ("a", [1]), ("b", [1])]
    for job, index in [("a", 0), ("b", 0), ("a", 1), ("b", 1)]:
        uploads.ended(job, [outcome(index, PACK)])
    for job, (index,) in taken(uploads):
        uploads.ended(job, [outcome(index, PACK)])
    assert (uploads.weight, uploads.indices()) == (0, {})


async def test_what_was_put_in_company_comes_back_one_by_one(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    values = {index: f"value {index}" * index for index in range(3, 7)}
    outcomes = [
        CallOutcome(index, OutcomeKind.VALUE, pickle.dumps(value), 1.0, 2.0, "w1")
        for index, value in values.items()
    ]
    stored = await store(storage, "j", outcomes, "c0ffee")
    alone = await store(storage, "j", [outcome(9, 0)], "feed")
    found = [key async for key in storage.list_keys()]
    assert found == [keys.outcome_pack("j", 3, "c0ffee"), keys.outcome("j", 9)]
    assert [each.kind for each in (*stored, *alone)] == [OutcomeKind.STORED] * 5

    asked: list[str] = []
    came: list[Outcome] = []

    async def fetch(key: str) -> bytes:
        asked.append(key)
        return await storage.get_object(key)

    fetching = Fetching("j", fetch, came.append, lambda: None)
    async with asyncio.TaskGroup() as errands:
        await fetching.begin(stored[::-1], errands)
    assert {each.index: each.value for each in came} == values
    assert len(asked) == 1


async def test_an_object_that_is_gone_is_the_error_of_each_call_that_lay_in_it(
    tmp_path: Path,
) -> None:
    stored = await store(DirectoryStorage(tmp_path), "j", [outcome(0), outcome(1)], "c0ffee")
    came: list[Outcome] = []
    announced: list[int] = []
    fetching = Fetching(
        "j",
        DirectoryStorage(tmp_path / "elsewhere").get_object,
        came.append,
        lambda: announced.append(len(came)),
    )
    async with asyncio.TaskGroup() as errands:
        await fetching.begin(stored, errands)
    assert [each.index for each in came] == [0, 1]
    assert announced == [2]
    with pytest.raises(StorageError, match="c0ffee"):
        came[1].result()
