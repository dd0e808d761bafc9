"""What a client finds out for its VMs, what the next program is spared, and who is refused."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dayfly.client import inquiry
from dayfly.client.outfit import Outfitter
from dayfly.clock import SystemClock
from dayfly.config.sections import Ec2Section
from dayfly.environment.lock import File, Pin, Platform
from dayfly.environment.pythons import Wish
from dayfly.errors import EnvironmentSyncError
from dayfly.phases import Timeline
from dayfly.stock import Stock
from dayfly.storage import keys
from dayfly.storage.base import Storage
from dayfly.storage.directory import DirectoryStorage
from tests.unit.environment_support import (
    PYTHON,
    VM,
    Venv,
    compiled,
    from_index,
    index,
    venv,
)
from tests.unit.package_index import Index, wheel

__all__ = ["index", "venv"]  # fixtures

BUILD = File(
    package="cpython", version="3.99.4", filename="cpython.tar.gz", sha256="c" * 64, size=8
)


@dataclass
class Cloud:
    """Asked for its VMs' platform and Python only."""

    has: str = PYTHON

    async def platform(self, instance_type: str) -> Platform:
        return VM

    async def python(self, instance_type: str) -> str:
        return self.has


@dataclass
class Config:
    compute: Ec2Section


@dataclass
class House:
    """The parts that an outfitter asks for."""

    config: Config
    storage: Storage
    cloud: Cloud = field(default_factory=Cloud)
    timeline: Timeline = field(default_factory=lambda: Timeline(SystemClock()))

    def outfitter(self) -> Outfitter:
        """That of a new program."""
        return Outfitter(self)  # type: ignore[arg-type]  # these parts are enough


@pytest.fixture
def house(tmp_path: Path, index: Index, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> House:
    """A client that has what the venv has; and uv, which the index has too."""
    wheel(index.folder, "uv", "9.9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dayfly.environment.capture.capture", venv.capture)
    uv = msgspec.structs.replace(inquiry.uv_itself(), pin=Pin(name="uv", version="9.9"))
    monkeypatch.setattr(inquiry, "uv_itself", lambda: uv)
    section = Ec2Section(master_instance_type="t2.micro", environment="auto")
    return House(Config(section), DirectoryStorage(tmp_path / "storage"))


@pytest.fixture
def unfit(venv: Venv, tmp_path: Path) -> Path:
    """A wheel whose package is here, that no index has, and that does not work on the VMs."""
    tag = f"cp{PYTHON.replace('.', '')}"
    files = {"own.so": compiled("GLIBC_2.99"), "own_names.py": b""}
    path = wheel(tmp_path, "own", tag=f"{tag}-{tag}-linux_x86_64", files=files)
    from_index(venv, path)
    return path


async def test_what_was_missing_is_remembered_with_the_rest_and_nobody_is_asked_again(
    house: House, index: Index, venv: Venv, unfit: Path
) -> None:
    from_index(venv, wheel(index.folder, "plain"))
    first = await house.outfitter().packages("t3.medium")
    assert [each.pin.name for each in first.missing] == ["own"]
    index.asked.clear()
    again = await house.outfitter().packages("t3.medium")
    assert index.asked == []
    assert again == msgspec.structs.replace(first, recalled=True)
    lock = await Stock(house.storage).find(first.key)
    assert lock is not None
    assert [file.package for file in lock.files] == ["plain", "uv"]


async def test_nobody_is_refused_for_what_was_missing_the_last_time(
    house: House, index: Index, venv: Venv, unfit: Path
) -> None:
    with pytest.raises(EnvironmentSyncError, match="own"):
        await house.outfitter().admit("t3.medium", ["own_names"])
    key, _ = await house.outfitter().admit("t3.medium", [])
    unfit.rename(index.folder / unfit.name.replace("linux", "manylinux_2_17"))
    mended, _ = await house.outfitter().admit("t3.medium", ["own_names"])
    assert mended != key
    assert await house.outfitter().admit("t3.medium", []) == (mended, ()), "this is remembered"


async def test_with_and_without_what_is_missing_are_two_wishes(
    house: House, index: Index, venv: Venv, tmp_path: Path, unfit: Path
) -> None:
    from_index(venv, wheel(index.folder, "plain"))
    assert (await house.outfitter().packages("t3.medium")).missing
    for path in venv.site.glob("own*"):
        path.rename(tmp_path / path.name)
    assert not (await house.outfitter().packages("t3.medium")).missing


# -- a Python that the image lacks --


@pytest.fixture
def fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Wish]:
    """Builds of Python that were fetched; each is eight bytes."""
    wishes: list[Wish] = []

    @asynccontextmanager
    async def fetched(wish: Wish) -> Any:
        wishes.append(wish)
        path = tmp_path / "fetched"
        path.write_bytes(b"a Python")
        yield BUILD, path

    monkeypatch.setattr(inquiry, "fetched", fetched)
    return wishes


async def test_a_python_that_the_image_lacks_is_fetched_once_for_all_vms_and_programs(
    house: House, fetches: list[Wish]
) -> None:
    house.cloud.has = "3.99"
    key, _ = await house.outfitter().admit("t3.medium", [])
    assert fetches == [Wish(python=PYTHON, platform=VM, instead="3.99")]
    second = house.outfitter()
    assert (await second.admit("t3.medium", []))[0] == key
    order = await second.order("t2.micro")
    assert order is not None
    assert len(fetches) == 1
    lock = await Stock(house.storage).find(key)
    assert lock is not None
    assert lock.interpreter == BUILD
    archive = order.interpreters.archive
    assert archive is not None
    assert [source.name for source in archive.sources] == ["storage"]
    assert await house.storage.get_object(keys.wheel(BUILD.sha256)) == b"a Python"


async def test_an_environment_of_other_images_gets_the_python_that_this_one_lacks(
    house: House, index: Index, fetches: list[Wish]
) -> None:
    key, _ = await house.outfitter().admit("t3.medium", [])
    assert fetches == []
    index.asked.clear()
    house.cloud.has = "3.99"
    assert (await house.outfitter().admit("t3.medium", []))[0] == key
    assert index.asked == []
    for has in ("3.99", PYTHON, ""):
        house.cloud.has = has
        await house.outfitter().admit("t3.medium", [])
        lock = await Stock(house.storage).find(key)
        assert lock is not None
        assert lock.interpreter == BUILD
    assert len(fetches) == 1


async def test_an_image_of_which_nothing_is_known_is_left_to_the_vm(
    house: House, fetches: list[Wish]
) -> None:
    house.cloud.has = ""
    key, _ = await house.outfitter().admit("t3.medium", [])
    lock = await Stock(house.storage).find(key)
    assert lock is not None
    assert (lock.interpreter, fetches) == (None, [])


async def test_without_the_functions_packages_there_is_still_a_python_for_dayfly_itself(
    house: House, fetches: list[Wish]
) -> None:
    house.cloud.has = "3.99"
    section = msgspec.structs.replace(house.config.compute, environment="none")
    house.config = Config(section)
    assert (await house.outfitter().admit("t3.medium", [])) == ("", ())
    assert len(fetches) == 1
    house.config = Config(msgspec.structs.replace(section, environment="image"))
    house.storage = DirectoryStorage(Path(sys.prefix) / "nowhere")
    assert (await house.outfitter().admit("t3.medium", [])) == ("", ())
