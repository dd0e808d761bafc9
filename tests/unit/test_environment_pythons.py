"""A Python for VMs whose image lacks this one: fetched by the real uv, or refused by name."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator

import msgspec
import pytest

from dayfly.environment.lock import Platform
from dayfly.environment.pythons import Wish, fetched, variables
from dayfly.errors import EnvironmentSyncError
from tests.unit.environment_support import VM
from tests.unit.kit_support import Index

ARM = Platform(architecture="aarch64", glibc=(2, 35))


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    served = Index()
    with served.serving():
        yield served


def archive() -> bytes:
    """What uv takes for a Python."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, mode in {
            "python/bin/python3.99": 0o755,
            "python/lib/python3.99/_sysconfigdata__linux_x86_64-linux-gnu.py": 0o644,
        }.items():
            entry = tarfile.TarInfo(name)
            text = (
                b"# system configuration generated and used by the sysconfig module\n"
                b"build_time_vars = {}\n"
            )
            entry.size, entry.mode = len(text), mode
            tar.addfile(entry, io.BytesIO(text))
    return buffer.getvalue()


def listed(mirror: Index, *, sha256: str | None = None, architecture: str = "x86_64") -> str:
    """Have the mirror list a Python 3.99; returns the URL of the list."""
    build = {
        "name": "cpython",
        "arch": {"family": architecture, "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": 3,
        "minor": 99,
        "patch": 4,
        "prerelease": "",
        "url": mirror.url("/cpython%2B1.tar.gz").partition("?")[0],
        "sha256": sha256,
        "variant": None,
        "build": "1",
    }
    key = f"cpython-3.99.4-linux-{architecture}-gnu"
    mirror.files["/list.json"] = msgspec.json.encode({key: build})
    return mirror.url("/list.json").partition("?")[0]


def wish(url: str, *, instead: str = "3.13", platform: Platform = VM) -> Wish:
    return Wish(python="3.99", platform=platform, instead=instead, mirror=url)


async def refused(wished: Wish, *, deadline: float = 30.0) -> str:
    with pytest.raises(EnvironmentSyncError) as error:
        async with fetched(wished, deadline=deadline):
            pass
    assert error.value.stage == "python"
    return str(error.value)


@pytest.mark.parametrize("platform", [VM, ARM])
async def test_a_build_is_fetched_once_for_the_vms_processors(
    mirror: Index, platform: Platform
) -> None:
    content = mirror.files["/cpython%2B1.tar.gz"] = archive()
    digest = hashlib.sha256(content).hexdigest()
    url = listed(mirror, sha256=digest, architecture=platform.architecture)
    async with fetched(wish(url, platform=platform)) as (file, path):
        assert path.read_bytes() == content
    assert (file.package, file.version, file.filename) == ("cpython", "3.99.4", "cpython+1.tar.gz")
    assert (file.sha256, file.size) == (digest, len(content))
    assert file.url == mirror.url("/cpython%2B1.tar.gz").partition("?")[0]
    assert mirror.asked.count("GET /cpython%2B1.tar.gz") == 1
    assert not path.exists()


async def test_a_build_that_was_altered_is_refused(mirror: Index) -> None:
    mirror.files["/cpython%2B1.tar.gz"] = archive()
    told = await refused(wish(listed(mirror, sha256="a" * 64)))
    assert "Hash mismatch" in told
    assert f"127.0.0.1:{mirror.port}/cpython%2B1.tar.gz" in told


async def test_a_build_that_the_mirror_lists_and_has_not_is_told_with_its_answer(
    mirror: Index,
) -> None:
    told = await refused(wish(listed(mirror)))
    assert "the VMs' image has Python 3.13, this program runs on 3.99" in told
    assert f"127.0.0.1:{mirror.port}/cpython%2B1.tar.gz: " in told
    assert "404" in told
    for way in ("python_mirror", "a target_ami that has Python 3.99", "with Python 3.13"):
        assert way in told


async def test_a_list_that_is_not_there_or_has_no_such_python_is_told(mirror: Index) -> None:
    mirror.files["/empty.json"] = b"{}"
    empty = mirror.url("/empty.json").partition("?")[0]
    assert f"{empty}: there is no cpython-3.99-linux-x86_64-gnu" in await refused(wish(empty))
    gone = mirror.url("/gone.json").partition("?")[0]
    assert f"{gone}: " in await refused(wish(gone))


async def test_a_mirror_that_says_nothing_is_given_up_at_the_deadline(mirror: Index) -> None:
    url = listed(mirror)
    mirror.silent.set()
    told = await refused(wish(url), deadline=0.5)
    assert f"{url}: it did not come within" in told


async def test_a_mirror_stands_in_for_uvs_releases_and_its_password_is_not_told(
    mirror: Index,
) -> None:
    base = mirror.url("/mirror", user="me:hunter2@").partition("?")[0]
    told = await refused(Wish(python="3.12", platform=VM, instead="3.10", mirror=base))
    asked = [each for each in mirror.asked if each.startswith("GET /mirror/")]
    assert "cpython-3.12" in asked[0]
    assert asked[0].removeprefix("GET ") in told
    assert "hunter2" not in told
    assert "run this program with" not in told, "dayfly itself does not run on 3.10"


def test_the_users_own_mirror_holds_where_dayfly_is_told_of_none() -> None:
    own = {"UV_PYTHON_INSTALL_MIRROR": "https://own.example", "UV_PYTHON": "3.8"}
    assert variables("", own)["UV_PYTHON_INSTALL_MIRROR"] == "https://own.example"
    assert "UV_PYTHON" not in variables("", own)
    told = variables("https://told.example", own)
    assert told["UV_PYTHON_INSTALL_MIRROR"] == "https://told.example"
    told = variables("https://told.example/list.json", {})
    assert told["UV_PYTHON_DOWNLOADS_JSON_URL"] == "https://told.example/list.json"
