"""The simulated storage where it is unkind: what the contract of all storages cannot ask for."""

from __future__ import annotations

import asyncio

import pytest

from dayfly.errors import ObjectExistsError, ObjectNotFoundError, StorageError
from dayfly.storage.notes import StorageNotes
from tests.simulation.process import EPOCH, Killed
from tests.simulation.stage import Stage, play
from tests.simulation.storage import PAGE


def test_a_put_whose_answer_is_lost_has_happened_and_meets_itself_when_said_again() -> None:
    async def story(stage: Stage) -> None:
        storage = stage.storage()
        with pytest.raises(StorageError, match="'a/b' could not be written") as caught:
            await storage.put_object("a/b", b"1", if_absent=True)
        assert not isinstance(caught.value, ObjectExistsError)
        assert await storage.get_object("a/b") == b"1"
        with pytest.raises(ObjectExistsError):
            await storage.put_object("a/b", b"1", if_absent=True)

    play(story, storage_ambiguous_put=[1.0])


def test_a_note_whose_claim_was_answered_by_an_error_is_found_by_the_next_claim() -> None:
    async def story(stage: Stage) -> None:
        notes = StorageNotes(stage.storage())
        with pytest.raises(StorageError):
            await notes.claim("t/intent", b"mine")
        assert await notes.claim("t/intent", b"another's") == b"mine"

    play(story, storage_ambiguous_put=[1.0])


def test_an_error_changes_nothing() -> None:
    async def story(stage: Stage) -> None:
        storage = stage.storage()
        with pytest.raises(StorageError, match="'x' could not be written"):
            await storage.put_object("x", b"1")
        assert stage.state.now >= 5.0
        with pytest.raises(ObjectNotFoundError):
            await storage.get_object("x")
        await storage.put_object("x", b"1")
        stage.faults.next["storage error"] = [1.0]
        with pytest.raises(StorageError, match="'x' could not be deleted"):
            await storage.delete_object("x")
        assert await storage.get_object("x") == b"1"

    play(story, storage_error=[5.0])


def test_slow_storage_answers_after_all() -> None:
    async def story(stage: Stage) -> None:
        async with asyncio.timeout(50.0):
            await stage.storage().put_object("x", b"1")
        assert stage.state.now > 40.0
        assert (await stage.storage().head_object("x")).modified > EPOCH + 40.0

    play(story, slow_storage=[40.0])


def test_large_objects_take_their_time() -> None:
    async def story(stage: Stage) -> None:
        await stage.storage().put_object("x", bytes(100_000_000))
        assert 2.0 < stage.state.now < 4.0

    play(story)


def test_of_several_processes_one_wins_and_the_dead_write_nothing() -> None:
    async def story(stage: Stage) -> None:
        processes = [stage.process() for _ in range(5)]

        async def put(number: int) -> bool:
            storage = stage.storage(processes[number])
            try:
                await storage.put_object("x", bytes([number]), if_absent=True)
            except ObjectExistsError:
                return False
            return True

        processes[0].kill()
        with pytest.raises(Killed):
            await put(0)
        won = await asyncio.gather(*(processes[n].spawn(put(n)) for n in range(1, 5)))
        assert won.count(True) == 1
        assert stage.objects.objects["x"].data == bytes([1 + won.index(True)])

    play(story)


def test_a_listing_of_many_comes_page_by_page_while_others_write() -> None:
    async def story(stage: Stage) -> None:
        storage = stage.storage()
        for number in range(PAGE + 2):
            stage.objects.put(f"a/{number:05d}", b"", if_absent=False)
        found: list[str] = []
        async for key in storage.list_keys("a/"):
            if not found:
                stage.objects.delete([f"a/{PAGE:05d}"])  # of the second page
                stage.objects.put("a/!", b"", if_absent=False)  # of the first
            found.append(key)
        there = [f"a/{number:05d}" for number in range(PAGE + 2) if number != PAGE]
        assert found == there
        await storage.delete_objects(there)
        assert list(stage.objects.objects) == ["a/!"]

    play(story)


def test_a_stream_stays_with_what_it_began_to_read_and_may_break() -> None:
    async def story(stage: Stage) -> None:
        storage = stage.storage()
        await storage.put_object("x", b"aabb")
        read = []
        async for piece in storage.stream_object("x", chunk_size=2):
            await storage.put_object("x", b"ccdd")
            read.append(piece)
        assert read == [b"aa", b"bb"]
        stage.faults.next["storage error"] = [None, 1.0]
        with pytest.raises(StorageError, match="'x' could not be read"):
            async for _ in storage.stream_object("x", chunk_size=2):
                pass

    play(story)
