"""What a function sees of the process that runs it, and what is told of it."""

# The functions under test print.
from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dayfly import errors, serialize
from dayfly.model import OutcomeKind
from dayfly.storage.directory import DirectoryStorage
from dayfly.worker import runner
from tests.unit.worker_support import bench, error_of, value_of


async def test_items_go_in_as_one_value_as_positions_or_as_keywords() -> None:
    def area(width: int, height: int = 1) -> int:
        return width * height

    async with bench() as b:
        assert await b.values(area, [3, (3, 4), {"width": 3, "height": 5}]) == [3, 12, 15]


async def test_extra_arguments_follow_those_of_the_item() -> None:
    def three(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    async with bench() as b:
        assert await b.values(three, [(1, 2)], extra_args=(3,), job="a") == [((1, 2, 3), {})]
        assert await b.values(three, [1], extra_args={"z": 3}, job="b") == [((1,), {"z": 3})]


async def test_submit_passes_arguments_and_keywords_as_they_are() -> None:
    payload = serialize.dump_function(lambda *a, **k: (a, k), style="call").payload
    async with bench() as b:
        [value] = await b.values(print, [((1, (2,)), {"x": 3})], payload=payload)
    assert value == ((1, (2,)), {"x": 3})


async def test_a_function_may_ask_for_its_index_and_the_item_may_give_it_instead() -> None:
    def which(x: int, id: int) -> tuple[int, int]:
        return x, id

    async with bench() as b:
        items = [5, (6, 60), {"x": 7, "id": 70}, 8]
        assert await b.values(which, items) == [(5, 0), (6, 60), (7, 70), (8, 3)]


async def test_a_coroutine_function_is_awaited() -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    async with bench() as b:
        assert await b.values(double, [1, 2]) == [2, 4]


async def test_classes_and_lambdas_come_back_though_the_client_alone_has_them() -> None:
    def make(x: int) -> Any:
        return lambda: x

    async with bench() as b:
        [value] = await b.values(make, [7])
    assert value() == 7


async def test_prints_come_before_the_outcome_of_their_call_and_carry_its_index() -> None:
    def chatty(x: int) -> int:
        print(f"one {x}")
        print(f"two {x}\nthree {x}", file=sys.stderr)
        print("no end of line", end="")
        return x

    async with bench() as b:
        await b.run(chatty, list(range(20)))
        for index in range(20):
            told = [event for event in b.owner.events if event.index == index]
            assert [getattr(event, "text", "outcome") for event in told] == [
                f"one {index}",
                f"two {index}",
                f"three {index}",
                "no end of line",
                "outcome",
            ]
        assert {line.stream for line in b.owner.lines} == {"stdout", "stderr"}
        assert {line.worker for line in b.owner.lines} == {"w-1"}


async def test_what_c_code_and_children_print_belongs_to_the_call_too() -> None:
    def loud(x: int) -> None:
        import ctypes

        subprocess.run(["echo", f"child {x}"], check=True)
        ctypes.CDLL(None).puts(f"puts {x}".encode())
        os.write(2, b"raw, no end of line")

    async with bench() as b:
        await b.run(loud, [0, 1])
        for x in (0, 1):
            assert sorted(b.texts(x)) == [f"child {x}", f"puts {x}", "raw, no end of line"]


async def test_logging_from_info_on_is_shown_with_its_level_and_logger() -> None:
    def logs(x: int) -> None:
        logging.getLogger("mine").debug("not this")
        logging.getLogger("mine").info("item %d", x)

    async with bench() as b:
        await b.run(logs, [4])
        assert b.texts(0) == ["INFO mine: item 4"]


async def test_a_child_made_by_fork_prints_and_cannot_disturb_the_conversation() -> None:
    def forks(x: int) -> int:
        import multiprocessing

        child = multiprocessing.get_context("fork").Process(target=print, args=("from the child",))
        child.start()
        child.join()
        return x

    async with bench() as b:
        assert await b.values(forks, [1, 2]) == [1, 2]
        assert b.texts(0) == ["from the child"]


async def test_an_exception_travels_as_itself_with_the_users_frames_only() -> None:
    def divide(x: int) -> float:
        return 1 / x

    async with bench() as b:
        first, second = await b.run(divide, [0, 2])
    assert value_of(second) == 0.5
    error = error_of(first)
    assert isinstance(error, ZeroDivisionError)
    assert "in divide" in str(error.__cause__)
    assert "worker/runner.py" not in str(error.__cause__)
    assert json.loads(first.payload.partition(b"\n")[0])["index"] == 0


async def test_the_frames_of_asyncio_around_a_coroutine_are_left_out() -> None:
    async def fails(x: int) -> None:
        raise LookupError(x)

    async with bench() as b:
        [outcome] = await b.run(fails, [1])
    told = str(error_of(outcome).__cause__)
    assert "in fails" in told
    assert "asyncio" not in told


async def test_an_exception_that_cannot_travel_is_told_in_words() -> None:
    class OddError(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__("odd")

    def fails(x: int) -> None:
        raise OddError(1, 2)

    async with bench() as b:
        [outcome] = await b.run(fails, [1])
    error = error_of(outcome)
    assert isinstance(error, errors.RemoteError)
    assert "Odd" in str(error)


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "raise KeyboardInterrupt"])
async def test_what_would_end_a_program_is_the_outcome_of_its_call(code: str) -> None:
    async with bench() as b:
        outcomes = await b.run(exec, [code, "pass"])
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.RAISED, OutcomeKind.VALUE]


async def test_a_value_that_cannot_be_pickled_is_named_with_the_reason() -> None:
    def generator(x: int) -> Any:
        return (y for y in range(x))

    async with bench() as b:
        [outcome] = await b.run(generator, [1])
    assert outcome.kind is OutcomeKind.UNPICKLABLE
    text = outcome.payload.decode()
    assert "a generator" in text
    assert "cannot pickle 'generator' object" in text


async def test_a_function_pickled_by_another_python_is_refused_before_it_is_unpickled() -> None:
    header = {"format": 1, "python": [3, 7], "implementation": "cpython", "style": "item"}
    bomb = b"cos\n_exit\n(I9\ntR."  # unpickling this would end the process
    async with bench() as b:
        outcomes = await b.run(print, [1, 2], payload=json.dumps(header).encode() + b"\n" + bomb)
    for outcome in outcomes:
        assert outcome.kind is OutcomeKind.RAISED
        told = json.loads(outcome.payload.partition(b"\n")[0])
        assert told["type"] == "SerializationError"
        assert "cpython 3.7" in told["message"]
        assert f"{sys.version_info[0]}.{sys.version_info[1]}" in told["message"]


async def test_a_module_that_the_worker_lacks_is_named_by_every_call() -> None:
    good = serialize.dump_function(print).payload.partition(b"\n")[0]
    payload = good + b"\ncno_such_module\nfn\n."
    async with bench() as b:
        outcomes = await b.run(print, [1, 2], payload=payload)
    for outcome in outcomes:
        error = error_of(outcome)
        assert isinstance(error, ModuleNotFoundError)
        assert error.name == "no_such_module"
        assert any(sys.executable in note for note in error.__notes__)


async def test_local_modules_come_first_and_other_ones_get_another_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"VERSION = {name!r}")

    def version(x: int) -> tuple[str, int]:
        import mine  # type: ignore[import-not-found]

        return mine.VERSION, os.getpid()

    async with bench() as b:
        [one] = await b.values(version, [0], job="a", modules=str(tmp_path / "one"))
        [again] = await b.values(version, [0], job="b", modules=str(tmp_path / "one"))
        [two] = await b.values(version, [0], job="c", modules=str(tmp_path / "two"))
    assert one == again
    assert (one[0], two[0]) == ("one", "two")


async def test_the_environment_of_a_map_is_there_for_its_calls_and_gone_for_others() -> None:
    def look(x: int) -> tuple[str | None, str | None]:
        return os.environ.get("COLOUR"), os.environ.get("LANG")

    os.environ["LANG"] = "C"
    async with bench() as b:
        with_red = {"COLOUR": "red", "LANG": "xx"}
        assert await b.values(look, [1], job="a", environment=with_red) == [("red", "xx")]
        assert await b.values(look, [1], job="b") == [(None, "C")]
        b.add([1], job="a", start=1)
        await b.owner.until(lambda: ("a", 1) in b.owner.outcomes)
        assert value_of(b.owner.outcomes["a", 1]) == ("red", "xx")


async def test_two_jobs_take_turns_in_one_process() -> None:
    async with bench() as b:
        b.open(lambda x: x + 1, job="a")
        b.open(lambda x: x * 100, job="b")
        b.add(range(300), job="a")
        b.add(range(300), job="b")
        assert [value_of(o) for o in await b.outcomes(300, job="a")] == list(range(1, 301))
        assert [value_of(o) for o in await b.outcomes(300, job="b")] == list(range(0, 30000, 100))


async def test_storage_is_at_hand_in_a_function(tmp_path: Path) -> None:
    def works(x: int, storage: Any) -> dict[str, Any]:
        here = Path(os.environ["HOME"])
        (here / "file").write_bytes(b"file")
        storage.put_object("a/x", b"0123456789")
        storage.upload_file(here / "file", "a/y")
        storage.download_file("a/x", here / "copy")
        found = {
            "whole": storage.get_object("a/x"),
            "part": storage.get_object("a/x", byte_range=(2, 5)),
            "uploaded": storage.get_object("a/y"),
            "copy": (here / "copy").read_bytes(),
            "keys": storage.list_keys("a/"),
            "size": storage.head_object("a/x")["size"],
        }
        storage.delete_object("a/x")
        found["left"] = storage.list_keys("a/")
        return found

    async with bench(storage=DirectoryStorage(tmp_path)) as b:
        [found] = await b.values(works, [1])
    assert found == {
        "whole": b"0123456789",
        "part": b"234",
        "uploaded": b"file",
        "copy": b"0123456789",
        "keys": ["a/x", "a/y"],
        "size": 10,
        "left": ["a/y"],
    }


async def test_what_storage_lacks_is_a_key_error_and_what_it_refuses_is_told(
    tmp_path: Path,
) -> None:
    def misses(x: int, storage: Any) -> str:
        try:
            storage.get_object("nothing/here")
        except KeyError as error:
            return str(error)
        return ""

    def steals(x: int, storage: Any) -> Any:
        return storage.get_object("dayfly/clusters/mine/access")

    async with bench(storage=DirectoryStorage(tmp_path)) as b:
        [text] = await b.values(misses, [1], job="a")
        assert "nothing/here" in text
        [outcome] = await b.run(steals, [1], job="b")
    told = json.loads(outcome.payload.partition(b"\n")[0])
    assert (told["module"], told["type"]) == ("dayfly.errors", "StorageError")


async def test_a_large_item_and_a_large_value_pass() -> None:
    data = os.urandom(3_000_000)
    async with bench() as b:
        assert await b.values(lambda x: x + x, [data]) == [data + data]


async def test_standard_input_is_empty_and_home_is_where_a_function_starts() -> None:
    def look(x: int) -> Any:
        return sys.stdin.read(), str(Path.cwd()), sys.argv, "dayfly" in sys.modules

    async with bench() as b:
        [found] = await b.values(look, [1])
    assert (found[0], found[1], found[3]) == ("", str(Path(os.environ["HOME"]).resolve()), False)
    assert len(found[2]) == 1


async def test_the_time_of_a_call_is_its_own() -> None:
    before = time.time()
    async with bench() as b:
        [outcome] = await b.run(time.sleep, [0.05])
    assert before <= outcome.started <= outcome.ended <= time.time()
    assert 0.05 <= outcome.ended - outcome.started < 0.5


def test_the_kinds_of_outcome_are_those_of_the_model() -> None:
    assert runner.VALUE == OutcomeKind.VALUE
    assert runner.RAISED == OutcomeKind.RAISED
    assert runner.UNPICKLABLE == OutcomeKind.UNPICKLABLE


async def test_an_interpreter_without_cloudpickle_borrows_the_agents() -> None:
    import venv

    place = Path(os.environ["HOME"]) / "bare"
    venv.create(place, with_pip=False, symlinks=True)
    async with bench(interpreter=str(place / "bin" / "python")) as b:
        [prefix] = await b.values(lambda x: sys.prefix, [1])
        assert Path(prefix).resolve() == place.resolve()
