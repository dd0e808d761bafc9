"""What storage keeps of environments, and how a VM is told of it; who fills it, and when."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.request import url2pathname

import pytest

from dayfly.clock import SystemClock
from dayfly.environment.lock import File, Lock, Platform
from dayfly.environment.order import Interpreters
from dayfly.errors import EnvironmentFailedError, StorageError
from dayfly.master.stocking import Stocking
from dayfly.phases import Timeline
from dayfly.stock import Stock
from dayfly.storage import keys
from dayfly.storage.directory import DirectoryStorage
from dayfly.worker.environments import KitEnvironments
from tests.unit.kit_support import PYTHON, Index, uv_wheel, wheel

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    return DirectoryStorage(tmp_path / "storage")


@pytest.fixture
def index() -> Iterator[Index]:
    served = Index()
    with served.serving():
        yield served


def file(package: str, content: bytes, url: str = "") -> File:
    digest = hashlib.sha256(content).hexdigest()
    name = f"{package}-1.0-py3-none-any.whl"
    return File(
        package=package, version="1.0", filename=name, sha256=digest, size=len(content), url=url
    )


def lock(*files: File) -> Lock:
    return Lock(key=KEY, python=PYTHON, platform=Platform(), files=files)


def on_index(index: Index, package: str, content: bytes) -> File:
    index.files[f"/{package}"] = content
    return file(package, content, url=f"http://127.0.0.1:{index.port}/{package}")


UV = file("uv", b"uv's own")


async def test_a_lock_is_found_by_its_key(storage: DirectoryStorage, tmp_path: Path) -> None:
    path = tmp_path / "private.whl"
    path.write_bytes(b"private")
    private = file("private", b"private")
    stock = Stock(storage)
    assert await stock.find(KEY) is None
    await stock.keep(lock(private, UV), {private.sha256: path})
    assert await stock.find(KEY) == lock(private, UV)
    assert await storage.get_object(keys.wheel(private.sha256)) == b"private"


@pytest.mark.parametrize("damaged", [b'{"key": "01', b'{"key": 1}', b'{"key": "\xff"}'])
async def test_a_lock_that_is_damaged_in_storage_is_told_to_whoever_needs_it(
    storage: DirectoryStorage, damaged: bytes
) -> None:
    for key in (keys.lock(KEY), keys.wish(KEY), keys.python(KEY)):
        await storage.put_object(key, damaged)
    stock, told = Stock(storage), Told()
    for asked in (stock.find(KEY), stock.recall(KEY), stock.find_python(KEY)):
        with pytest.raises(StorageError, match="is not what dayfly has left there") as failed:
            await asked
        assert failed.value.hint.startswith("dayfly clean --all")
    stocking = Stocking(storage, (), told=told)
    stocking.begin(KEY)
    async with asyncio.timeout(10):
        await told.once.wait()
    assert "is not what dayfly has left there" in stocking.unreached[KEY]
    environments = KitEnvironments(storage, "i-1", Interpreters(), Timeline(SystemClock()))
    environments.stocked(KEY)
    with pytest.raises(StorageError, match="is not what dayfly has left there"):
        await environments.bring(KEY)


async def test_a_vm_looks_in_storage_first_and_leaves_there_what_came_from_an_index(
    storage: DirectoryStorage,
) -> None:
    public = file("public", b"public", url="https://packages.example/public.whl")
    private = file("private", b"private")
    order = await Stock(storage).order(
        lock(private, public, UV),
        name="mine",
        index=("https://me:secret@packages.example/simple/",),
        interpreters=Interpreters(mirror="https://pythons.example"),
    )
    assert order.uv.package == "uv"
    assert [each.package for each in order.files] == ["private", "public"]
    kept, found = order.files
    assert [source.name for source in kept.sources] == ["storage"]
    assert kept.deposit == "", "no index could give it back"
    assert [source.name for source in found.sources] == ["storage", "index"]
    assert found.sources[1].url == "https://me:secret@packages.example/public.whl"
    Path(url2pathname(found.deposit.removeprefix("file://"))).parent.mkdir(parents=True)
    Path(url2pathname(found.deposit.removeprefix("file://"))).write_bytes(b"public")
    assert await storage.get_object(keys.wheel(public.sha256)) == b"public"


# -- the master fills it --


class Told:
    def __init__(self) -> None:
        self.keys: list[str] = []
        self.once = asyncio.Event()

    def __call__(self, key: str) -> None:
        self.keys.append(key)
        self.once.set()


async def test_the_master_asks_the_index_once_for_all_workers(
    storage: DirectoryStorage, index: Index
) -> None:
    files = [on_index(index, name, name.encode() * 1000) for name in ("a", "b", "c")]
    await Stock(storage).keep(lock(*files))
    await storage.put_object(keys.wheel(files[0].sha256), b"a" * 1000)
    told = Told()
    stocking = Stocking(storage, (), told=told)
    stocking.begin(KEY)
    stocking.begin(KEY)
    await told.once.wait()
    stocking.begin(KEY)
    assert (told.keys, stocking.done) == ([KEY], {KEY})
    assert sorted(index.asked) == ["GET /b", "GET /c"], "what storage has is not asked for"
    for each, name in zip(files, "abc", strict=True):
        assert await storage.get_object(keys.wheel(each.sha256)) == name.encode() * 1000
    await stocking.aclose()


async def test_a_full_disk_of_the_master_keeps_no_worker_waiting(
    storage: DirectoryStorage, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dayfly.master.stocking.tempfile.TemporaryDirectory", full)
    await Stock(storage).keep(lock(on_index(index, "a", b"a")))
    told = Told()
    stocking = Stocking(storage, (), told=told)
    stocking.begin(KEY)
    async with asyncio.timeout(10):
        await told.once.wait()
    assert (told.keys, stocking.done) == ([KEY], {KEY})
    assert "No space left on device" in stocking.unreached[KEY]
    await stocking.aclose()


async def test_what_the_index_does_not_give_is_told_and_keeps_nobody(
    storage: DirectoryStorage, index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    good, altered = on_index(index, "good", b"good"), on_index(index, "altered", b"altered")
    index.files["/altered"] = b"something else"
    gone = file("gone", b"gone", url=f"http://127.0.0.1:{index.port}/gone")
    await Stock(storage).keep(lock(good, altered, gone))
    told = Told()
    stocking = Stocking(storage, (), told=told)
    stocking.begin(KEY)
    await told.once.wait()
    assert await storage.get_object(keys.wheel(good.sha256)) == b"good"
    assert [key async for key in storage.list_keys(keys.ENVIRONMENTS + "files/")] == [
        keys.wheel(good.sha256)
    ]
    assert "could not all be put into storage" in caplog.text
    await stocking.aclose()


# -- a worker takes it from there --


async def test_a_worker_gets_an_interpreter_with_the_packages_from_storage_alone(
    storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYFLY_ROOT", str(tmp_path / "vm"))
    uv_path, mine = tmp_path / "uv.whl", tmp_path / "mine.whl"
    uv_path.write_bytes(uv_wheel())
    mine.write_bytes(wheel("mine", "answer = 42\n"))
    wheels = [file("uv", uv_path.read_bytes()), file("mine", mine.read_bytes())]
    found = dict(zip((one.sha256 for one in wheels), (uv_path, mine), strict=True))
    await Stock(storage).keep(lock(*wheels), found)
    environments = KitEnvironments(storage, "worker-1", Interpreters(), Timeline(SystemClock()))
    assert environments.known("") == ""
    assert environments.known(KEY) is None
    environments.stocked(KEY)
    first, second = await asyncio.gather(environments.bring(KEY), environments.bring(KEY))
    assert first == second == environments.known(KEY)
    asking = await asyncio.create_subprocess_exec(
        first, "-c", "import mine; print(mine.answer)", stdout=asyncio.subprocess.PIPE
    )
    assert (await asking.communicate())[0].strip() == b"42"


async def test_a_worker_whose_head_start_found_no_index_waits_for_storage(
    storage: DirectoryStorage, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYFLY_ROOT", str(tmp_path / "vm"))
    uv_path = tmp_path / "uv.whl"
    uv_path.write_bytes(uv_wheel())
    uv, mine = file("uv", uv_path.read_bytes()), on_index(index, "mine", wheel("mine"))
    content = index.files.pop("/mine")
    await Stock(storage).keep(lock(uv, mine), {uv.sha256: uv_path})
    (tmp_path / "vm/opt/dayfly/env" / KEY).mkdir(parents=True)
    environments = KitEnvironments(storage, "worker-1", Interpreters(), Timeline(SystemClock()))
    bringing = asyncio.create_task(environments.bring(KEY))
    while "GET /mine" not in index.asked:
        await asyncio.sleep(0.01)
    await storage.put_object(keys.wheel(mine.sha256), content)
    environments.stocked(KEY)
    assert await bringing == environments.known(KEY)


async def test_an_environment_that_somebody_has_deleted_is_named(
    storage: DirectoryStorage,
) -> None:
    environments = KitEnvironments(storage, "worker-1", Interpreters(), Timeline(SystemClock()))
    environments.stocked(KEY)
    with pytest.raises(EnvironmentFailedError, match=f"{KEY} is not in storage any more"):
        await environments.bring(KEY)
