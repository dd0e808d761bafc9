"""A bucket that several owners share: each sees and cleans its own part only."""

from __future__ import annotations

from pathlib import Path

import pytest

from dayfly.errors import ObjectNotFoundError
from dayfly.storage import keys
from dayfly.storage.directory import DirectoryStorage
from dayfly.storage.scoped import ScopedStorage


def of(owner: str, root: Path) -> ScopedStorage:
    async def scope() -> str:
        return owner

    return ScopedStorage(DirectoryStorage(root), scope)


async def listed(storage: ScopedStorage, prefix: str = "") -> list[str]:
    return [key async for key in storage.list_keys(prefix)]


async def test_two_owners_have_the_same_keys_and_not_the_same_objects(tmp_path: Path) -> None:
    alice, bob = of("alice", tmp_path), of("bob", tmp_path)
    await alice.put_object(keys.access("main"), b"hers", if_absent=True)
    await bob.put_object(keys.access("main"), b"his", if_absent=True)
    assert await alice.get_object(keys.access("main")) == b"hers"
    assert (await bob.head_object(keys.access("main"))).key == keys.access("main")
    assert await listed(alice, keys.ROOT) == [keys.access("main")]


async def test_cleaning_all_of_ones_own_leaves_the_others(tmp_path: Path) -> None:
    alice, bob = of("alice", tmp_path), of("bob", tmp_path)
    for one in (alice, bob):
        await one.put_object(keys.function("j"), b"f")
        await one.put_object(keys.outcome("j", 0), b"o")
    await alice.delete_objects(await listed(alice, keys.ROOT))
    assert await listed(alice) == []
    assert await bob.get_object(keys.function("j")) == b"f"


async def test_the_users_own_objects_are_seen_by_all_as_they_are(tmp_path: Path) -> None:
    alice, bob = of("alice", tmp_path), of("bob", tmp_path)
    await alice.put_object("data/1", b"shared")
    await alice.put_object(keys.record("j"), b"{}")
    assert await bob.get_object("data/1") == b"shared"
    assert await listed(bob) == ["data/1"]
    assert await listed(alice) == ["data/1", keys.record("j")]
    assert b"".join([piece async for piece in bob.stream_object("data/1")]) == b"shared"


async def test_files_go_and_come_within_the_scope(tmp_path: Path) -> None:
    alice, bob = of("alice", tmp_path / "s"), of("bob", tmp_path / "s")
    (tmp_path / "up").write_bytes(b"content")
    await alice.upload_file(tmp_path / "up", keys.function("j"))
    await alice.download_file(keys.function("j"), tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == b"content"
    with pytest.raises(ObjectNotFoundError):
        await bob.download_file(keys.function("j"), tmp_path / "down")
    await alice.delete_object(keys.function("j"))
    assert await listed(alice) == []


async def test_a_vm_that_was_told_the_scope_sees_the_same(tmp_path: Path) -> None:
    alice = of("alice", tmp_path)
    found = await alice.locate()
    assert (found.kind, found.scope) == ("localhost", "alice")
