"""The contract of storage, kept by each of its forms."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dayfly.aws.session import Aws
from dayfly.errors import ObjectExistsError, ObjectNotFoundError, StorageError
from dayfly.storage.base import Storage
from dayfly.storage.directory import DirectoryStorage
from dayfly.storage.s3 import S3Storage
from dayfly.storage.scoped import ScopedStorage
from tests.simulation.storage import SimStorage, StorageState


@asynccontextmanager
async def directory() -> AsyncIterator[Storage]:
    with tempfile.TemporaryDirectory() as folder:
        yield DirectoryStorage(Path(folder) / "storage")


@asynccontextmanager
async def bucket() -> AsyncIterator[Storage]:
    storage = S3Storage(Aws("us-east-1"), f"contract-{uuid4().hex}", owns=True)
    try:
        yield storage
    finally:
        await storage.aclose()


@asynccontextmanager
async def scoped() -> AsyncIterator[Storage]:
    async def scope() -> str:
        return "alice"

    async with directory() as whole:
        yield ScopedStorage(whole, scope)


@asynccontextmanager
async def simulated() -> AsyncIterator[Storage]:
    loop = asyncio.get_running_loop()
    epoch = time.time() - loop.time()
    yield SimStorage(StorageState(loop, random.Random(0), epoch=epoch, answer=0.0002))


Form: TypeAlias = Callable[[], AbstractAsyncContextManager[Storage]]
FORMS: dict[str, Form] = {
    "localhost": directory,
    "aws_s3": bucket,
    "scoped": scoped,
    "simulated": simulated,
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    if request.param == "aws_s3":
        request.getfixturevalue("aws")
    return FORMS[request.param]


@pytest.fixture
async def storage(form: Form) -> AsyncIterator[Storage]:
    async with form() as storage:
        yield storage


async def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [key async for key in storage.list_keys(prefix)]


async def content(pieces: AsyncIterator[bytes]) -> list[bytes]:
    return [piece async for piece in pieces]


# -- one object --


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 3_000_000])
async def test_what_is_put_can_be_got(storage: Storage, size: int) -> None:
    data = os.urandom(size)
    await storage.put_object("data/x", data)
    assert await storage.get_object("data/x") == data
    assert b"".join(await content(storage.stream_object("data/x", chunk_size=700_000))) == data
    assert (await storage.head_object("data/x")).size == size


async def test_a_put_replaces(storage: Storage) -> None:
    await storage.put_object("x", b"long ago")
    await storage.put_object("x", b"now")
    assert await storage.get_object("x") == b"now"
    assert await keys(storage) == ["x"]


@pytest.mark.parametrize("size", [10, 200_000])
async def test_a_range_is_cut_like_a_slice(storage: Storage, size: int) -> None:
    data = os.urandom(size)
    await storage.put_object("x", data)
    for start, stop in [
        (0, 4),
        (4, size),
        (4, 4),
        (0, size * 2),
        (size - 1, size),
        (size, size + 1),
    ]:
        assert await storage.get_object("x", byte_range=(start, stop)) == data[start:stop]
    for wrong in [(-1, 3), (3, 1)]:
        with pytest.raises(ValueError, match="byte_range"):
            await storage.get_object("x", byte_range=wrong)


async def test_a_stream_comes_in_pieces_of_the_size_that_was_asked(storage: Storage) -> None:
    await storage.put_object("x", b"abcdefgh")
    assert await content(storage.stream_object("x", chunk_size=3)) == [b"abc", b"def", b"gh"]


async def test_an_object_that_is_not_there_is_named(storage: Storage) -> None:
    await storage.put_object("folder/x", b"")
    for missing in ("gone", "folder", "folder/x/y"):
        with pytest.raises(ObjectNotFoundError, match=f"'{missing}'"):
            await storage.get_object(missing)
        with pytest.raises(ObjectNotFoundError, match=f"'{missing}'"):
            await storage.head_object(missing)
        with pytest.raises(ObjectNotFoundError, match=f"'{missing}'"):
            await content(storage.stream_object(missing))
        with pytest.raises(ObjectNotFoundError, match=f"'{missing}'"):
            await storage.download_file(missing, "here")
    assert not Path("here").exists()


async def test_deleting_twice_is_no_error(storage: Storage) -> None:
    await storage.put_object("a/b", b"")
    await storage.delete_object("a/b")
    await storage.delete_object("a/b")
    await storage.delete_objects(["a/b", "never"])
    assert await keys(storage) == []


async def test_files_go_up_and_down(storage: Storage, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)
    await storage.upload_file(tmp_path / "up", "x")
    (tmp_path / "down").write_bytes(b"before")
    await storage.download_file("x", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["down", "up"]


async def test_a_file_that_cannot_go_up_or_down_is_named(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"/nowhere could not be read"):
        await storage.upload_file(tmp_path / "nowhere", "x")
    assert await keys(storage) == []
    await storage.put_object("x", b"data")
    with pytest.raises(StorageError, match=r"/nowhere/x could not be written"):
        await storage.download_file("x", tmp_path / "nowhere" / "x")


# -- keys --

WRONG = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b", "a\ud800", "x" * 1025]


@pytest.mark.parametrize("key", WRONG, ids=repr)
async def test_what_is_no_key_is_refused(storage: Storage, key: str) -> None:
    for attempt in (
        storage.put_object(key, b""),
        storage.get_object(key),
        storage.head_object(key),
        storage.delete_object(key),
        storage.delete_objects([key]),
    ):
        with pytest.raises(StorageError, match="cannot be the key of an object"):
            await attempt
    assert await keys(storage) == []


async def test_a_prefix_that_no_key_has_finds_nothing(storage: Storage) -> None:
    await storage.put_object("a/b", b"")
    for prefix in ("/", "../", "a//", "a/./", "a\0", "a/\ud800", "x" * 2000, "b", "a/b/"):
        assert await keys(storage, prefix) == []


async def test_a_key_may_go_on_where_another_ends(storage: Storage) -> None:
    for key in ("a", "a/b", "a/b/c", "a%", "a%/b", "a%2F", "%tmp", "%tmp/x"):
        await storage.put_object(key, key.encode())
    assert await keys(storage) == ["%tmp", "%tmp/x", "a", "a%", "a%/b", "a%2F", "a/b", "a/b/c"]
    assert await storage.get_object("a/b") == b"a/b"
    await storage.delete_object("a")
    assert await storage.get_object("a/b/c") == b"a/b/c"


async def test_a_prefix_is_a_text_not_a_folder(storage: Storage) -> None:
    for key in ("logs/1", "logs/10", "logs/2", "logs-old/1", "log"):
        await storage.put_object(key, b"x")
    assert await keys(storage, "logs/1") == ["logs/1", "logs/10"]
    assert await keys(storage, "logs") == ["logs-old/1", "logs/1", "logs/10", "logs/2"]
    assert await keys(storage, "logs/") == ["logs/1", "logs/10", "logs/2"]
    found = [info async for info in storage.list_objects("logs/")]
    assert [(info.key, info.size) for info in found] == [
        ("logs/1", 1),
        ("logs/10", 1),
        ("logs/2", 1),
    ]
    assert all(abs(info.modified - Path().stat().st_mtime) < 60 for info in found)


PARTS = st.text(
    st.one_of(st.sampled_from("ab%+-./~ é"), st.characters(exclude_categories=["Cs"])), min_size=1
).filter(lambda part: part not in {".", ".."} and "/" not in part and "\0" not in part)
LONG = st.builds(
    lambda part, n: part * n, st.sampled_from(["a", "é", "%", "a-"]), st.integers(80, 400)
)
KEYS = st.lists(st.one_of(PARTS, LONG), min_size=1, max_size=4).map("/".join)
FITTING = KEYS.filter(lambda key: len(key.encode()) <= 1024)


def test_it_behaves_like_a_sorted_dict(form: Form) -> None:
    # The emulated S3 finds no object with a line end in its key.
    fitting = FITTING if form is directory else FITTING.filter(lambda key: "\n" not in key)

    @settings(max_examples=60 if form is directory else 15, deadline=None)
    @given(
        written=st.dictionaries(fitting, st.binary(max_size=20), max_size=8),
        cut=st.integers(0, 30),
        gone=st.integers(0, 8),
    )
    @example(written={"a" * 240: b"1", "a" * 241: b"2", "a" * 240 + "/b": b"3"}, cut=240, gone=1)
    @example(written={"a" * 240 + "-": b"1", "a" * 240 + "/b": b"2", "a" * 240: b""}, cut=3, gone=0)
    @example(written={"\x01": b"1", "a\rb\t": b"2", "<&>": b"3", " a ": b""}, cut=1, gone=0)
    def check(written: dict[str, bytes], cut: int, gone: int) -> None:
        asyncio.run(play(form, written, cut, gone))

    check()


async def play(form: Form, written: dict[str, bytes], cut: int, gone: int) -> None:
    async with form() as storage:
        for key, data in written.items():
            await storage.put_object(key, data)
        left = dict(written)
        for key in list(left)[:gone]:
            await storage.delete_object(key)
            del left[key]
        order = sorted(left, key=str.encode)
        assert await keys(storage) == order
        for key, data in left.items():
            assert await storage.get_object(key) == data
        for prefix in {key[:cut] for key in written}:
            assert await keys(storage, prefix) == [k for k in order if k.startswith(prefix)]
        await storage.delete_objects(order)
        assert await keys(storage) == []


# -- several at once --


async def test_the_first_put_wins_where_it_was_asked(storage: Storage) -> None:
    await storage.put_object("x", b"first", if_absent=True)
    with pytest.raises(ObjectExistsError, match="'x' exists already"):
        await storage.put_object("x", b"second", if_absent=True)
    assert await storage.get_object("x") == b"first"


async def test_one_of_many_wins_and_is_whole(storage: Storage) -> None:
    async def put(number: int) -> bool:
        try:
            await storage.put_object("new/x", bytes([number]) * 100_000, if_absent=True)
        except ObjectExistsError:
            return False
        return True

    won = await asyncio.gather(*(put(number) for number in range(20)))
    assert won.count(True) == 1
    assert await storage.get_object("new/x") == bytes([won.index(True)]) * 100_000


async def test_a_reader_never_sees_half_an_object(storage: Storage) -> None:
    await storage.put_object("x", b"\0" * 300_000)

    async def write() -> None:
        for number in range(20):
            await storage.put_object("x", bytes([number]) * 300_000)

    writing = asyncio.create_task(write())
    while not writing.done():
        assert len(set(await storage.get_object("x"))) == 1
    await writing


async def test_puts_and_deletes_in_one_folder_do_not_meet(storage: Storage) -> None:
    async def churn(number: int) -> None:
        for _ in range(10):
            await storage.put_object(f"a/b/{number}", b"x" * 70_000)
            await storage.delete_objects([f"a/b/{number}"])

    await asyncio.gather(*(churn(number) for number in range(8)))
    assert await keys(storage) == []


# -- the directory --

RACER = """
import asyncio, sys
from pathlib import Path
from dayfly.aws.session import Aws
from dayfly.errors import ObjectExistsError
from dayfly.storage.directory import DirectoryStorage

async def main():
    storage, me = DirectoryStorage(Path(sys.argv[1])), sys.argv[2]
    print("ready", flush=True)
    sys.stdin.readline()
    for round in range(100):
        try:
            await storage.put_object(f"round/{round}", me.encode(), if_absent=True)
        except ObjectExistsError:
            continue
        print(round, flush=True)

asyncio.run(main())
"""


def race(root: Path, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RACER, str(root), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_several_processes_one_wins_each_round(tmp_path: Path) -> None:
    with ExitStack() as stack:
        racers = [stack.enter_context(race(tmp_path / "s", number)) for number in range(3)]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        outputs = [racer.communicate(timeout=30)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert sorted(int(n) for won in outputs for n in won) == list(range(100))
    storage = DirectoryStorage(tmp_path / "s")
    for number, won in enumerate(outputs):
        for one in won:
            data = asyncio.run(storage.get_object(f"round/{one}"))
            assert data == str(number).encode()


async def test_objects_are_for_this_user_only(tmp_path: Path) -> None:
    root = tmp_path / "s"
    await DirectoryStorage(root).put_object("a/b", b"secret")
    assert root.stat().st_mode & 0o777 == 0o700
    (file,) = (path for path in root.rglob("*") if path.is_file())
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.name == "b"


async def test_nothing_is_left_when_the_last_object_goes(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "s")
    await storage.put_object("a/b/c", b"")
    await storage.put_object("a/d", b"")
    await storage.delete_object("a/b/c")
    assert not list(tmp_path.rglob("b*"))
    await storage.delete_object("a/d")
    assert list(tmp_path.iterdir()) == []


async def test_a_put_that_failed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a%").write_text("a file where a folder belongs")
    storage = DirectoryStorage(tmp_path / "s")
    with pytest.raises(StorageError, match="'a/b' could not be written") as caught:
        await storage.put_object("a/b", b"x")
    assert "a file is in the place of a folder" in caught.value.cause
    assert caught.value.hint.startswith("ls -la ")
    assert [path.name for path in (tmp_path / "s").rglob("*") if path.is_file()] == ["a%"]


async def test_a_place_where_nothing_can_be_made_is_told() -> None:
    with pytest.raises(StorageError, match="'a/b' could not be written") as caught:
        await DirectoryStorage(Path("/proc/dayfly")).put_object("a/b", b"x")
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert caught.value.hint == "ls -ld /proc/dayfly"


def test_a_full_disk_is_told_with_the_next_command() -> None:
    full = DirectoryStorage(Path("/data"))
    with pytest.raises(StorageError) as caught, full._mapped("written", "a/b"):
        raise OSError(28, "No space left on device")
    assert "the disk is full" in caught.value.cause
    assert caught.value.hint == "df -h /data"


async def test_a_storage_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert await keys(DirectoryStorage(tmp_path / "never")) == []
    assert not (tmp_path / "never").exists()


# -- lent to who has no credentials --


async def test_what_is_lent_is_read_and_written_without_credentials(storage: Storage) -> None:
    if isinstance(storage, SimStorage):
        return  # nothing in a simulation opens URLs
    await storage.put_object("data/x y", b"mine")
    mine = await storage.lend("data/x y", "get", seconds=60)
    assert await asyncio.to_thread(opened, mine) == b"mine"
    theirs = await storage.lend("data/new", "put", seconds=60)
    await asyncio.to_thread(written, theirs, b"theirs")
    assert await storage.get_object("data/new") == b"theirs"


def opened(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:  # noqa: S310  it is the storage's own
        data: bytes = answer.read()
        return data


def written(url: str, data: bytes) -> None:
    if url.startswith("file:"):
        path = Path(urllib.request.url2pathname(url.removeprefix("file://")))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return
    request = urllib.request.Request(url, data=data, method="PUT")  # noqa: S310
    request.add_header("Content-Type", "application/octet-stream")  # else: a form
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        assert answer.status == 200
