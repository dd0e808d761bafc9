"""From what is installed to wheels for a VM, by the real uv and an index on loopback."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from dayfly.environment import refusals
from dayfly.environment.capture import Installed
from dayfly.environment.lock import File, Pin, Platform
from dayfly.environment.resolve import Resolution, resolve, wish
from dayfly.errors import EnvironmentSyncError
from tests.unit.environment_support import (
    PYTHON,
    VM,
    Venv,
    compiled,
    from_index,
    index,
    installed_from_url,
    venv,
)
from tests.unit.package_index import Index, wheel

__all__ = ["index", "venv"]  # fixtures

TAG = f"cp{PYTHON.replace('.', '')}"


async def resolved(venv: Venv, tmp_path: Path, **options: object) -> Resolution:
    return await resolve(
        venv.capture().installed,
        VM,
        PYTHON,
        folder=tmp_path / "made",
        **options,  # type: ignore[arg-type]  # of a test
    )


def pinned(*names: str) -> list[Installed]:
    """Pins of packages that are not really here."""
    nowhere = Path("/nowhere")
    return [
        Installed(
            pin=Pin(name=name, version="1.0"), place=nowhere, info=nowhere / name, recorded=False
        )
        for name in names
    ]


async def asked(names: Iterable[str], tmp_path: Path, **options: object) -> Resolution:
    return await resolve(pinned(*names), VM, PYTHON, folder=tmp_path, **options)  # type: ignore[arg-type]


def reasons(found: Resolution) -> dict[str, str]:
    return {each.pin.name: each.reason for each in found.missing}


def packages(found: Resolution) -> list[str]:
    return [f"{file.package}=={file.version}" for file in found.lock.files]


async def test_what_the_index_has_is_locked_by_its_hash(
    index: Index, venv: Venv, tmp_path: Path
) -> None:
    paths = [wheel(index.folder, "plain"), wheel(index.folder, "other-One", "2.5")]
    from_index(venv, *paths)
    found = await resolved(venv, tmp_path)
    assert packages(found) == ["other-one==2.5", "plain==1.0"]
    assert (found.missing, found.warnings) == ((), ())
    assert found.repacked == {}
    assert found.lock.key == found.wanted.key == wish(venv.capture().installed, VM, PYTHON).key
    file = found.lock.files[1]
    assert file.url == f"{index.url.removesuffix('/simple')}/files/plain-1.0-py3-none-any.whl"
    assert file.filename == "plain-1.0-py3-none-any.whl"
    assert len(file.sha256) == 64
    assert found.wanted.index == (index.url,)
    assert await resolved(venv, tmp_path) == found


@pytest.mark.parametrize("glibc", [(2, 17), (2, 30), (2, 36), (2, 41), (2, 99)])
async def test_a_c_library_that_uv_knows_no_name_of_is_taken_for_an_older_one(
    index: Index, tmp_path: Path, glibc: tuple[int, int]
) -> None:
    wheel(index.folder, "plain")
    vm = Platform(architecture="x86_64", glibc=glibc)
    found = await resolve(pinned("plain"), vm, PYTHON, folder=tmp_path)
    assert (packages(found), found.lock.platform) == (["plain==1.0"], vm)


async def test_each_vm_gets_the_wheel_for_its_own_processor(index: Index, tmp_path: Path) -> None:
    for tag in (
        f"{TAG}-{TAG}-manylinux_2_17_x86_64.manylinux2014_x86_64",
        f"{TAG}-{TAG}-manylinux_2_28_aarch64",
        f"{TAG}-{TAG}-macosx_11_0_arm64",
        f"{TAG}-{TAG}-win_amd64",
        "py3-none-any",
    ):
        wheel(index.folder, "fast", tag=tag)
    (x86,) = (await asked(["fast"], tmp_path)).lock.files
    assert x86.filename.endswith("-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    graviton = Platform(architecture="aarch64", glibc=(2, 35))
    (arm,) = (await resolve(pinned("fast"), graviton, PYTHON, folder=tmp_path)).lock.files
    assert arm.filename.endswith("-manylinux_2_28_aarch64.whl")


async def test_every_package_that_cannot_be_had_is_named_with_its_reason(
    index: Index, tmp_path: Path
) -> None:
    for name in ("first", "second", "third"):
        wheel(index.folder, name)
    wheel(index.folder, "windows", tag=f"{TAG}-{TAG}-win_amd64")
    wheel(index.folder, "newer-linux", tag=f"{TAG}-{TAG}-manylinux_2_39_x86_64")
    wheel(index.folder, "older-python", tag="cp36-cp36m-manylinux_2_17_x86_64")
    wheel(index.folder, "another-version", "2.0")
    (index.folder / "only_source-1.0.tar.gz").write_bytes(b"source")
    wheel(index.folder, "only_source", "2.0")
    names = ["windows", "newer-linux", "older-python", "another-version", "unknown", "only-source"]
    found = await asked([*names, "first", "second", "third"], tmp_path)
    assert packages(found) == ["first==1.0", "second==1.0", "third==1.0"]
    told = reasons(found)
    assert set(told) == set(names)
    assert "no wheel of it for x86_64-manylinux_2_35 (it has win_amd64)" in told["windows"]
    assert "(it has manylinux_2_39_x86_64)" in told["newer-linux"]
    assert f"no wheel of it for Python {PYTHON}" in told["older-python"]
    assert "do not have this version" in told["another-version"]
    assert "no index has it" in told["unknown"]
    assert "source only" in told["only-source"]
    assert [pin.name for pin in found.wanted.pins] == ["first", "second", "third"]


async def test_words_that_are_not_understood_are_done_without(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "culprit", lambda *_: None)
    names = [f"package-{number}" for number in range(9)]
    for name in names:
        if name not in {"package-2", "package-7"}:
            wheel(index.folder, name)
    found = await asked(names, tmp_path)
    assert len(found.lock.files) == 7
    assert set(reasons(found)) == {"package-2", "package-7"}
    assert "uv says: Because package-7 was not found" in reasons(found)["package-7"]


async def test_what_no_index_has_is_sent_from_here(
    index: Index, venv: Venv, tmp_path: Path
) -> None:
    wheel(index.folder, "public")
    from_index(venv, wheel(index.folder, "public"), wheel(tmp_path, "private"))
    venv.install(wheel(tmp_path, "afile"))
    (index.folder / "sourceful-1.0.tar.gz").write_bytes(b"source")
    from_index(venv, wheel(tmp_path, "sourceful"))
    commit = {"vcs": "git", "commit_id": "0" * 40}
    url = "https://example.com/x.git"
    installed_from_url(venv, wheel(tmp_path, "checkout"), url, vcs_info=commit)
    found = await resolved(venv, tmp_path)
    assert found.missing == ()
    at_hand = {file.package: found.repacked.get(file.sha256) for file in found.lock.files}
    assert at_hand.pop("public") is None
    assert set(at_hand) == {"afile", "checkout", "private", "sourceful"}
    other = Venv(tmp_path / "other")
    other.install(*[path for path in at_hand.values() if path])
    assert other.run("import afile, checkout, private, sourceful; print(private.version)") == "1.0"
    digests = {pin.name: pin.digest for pin in found.wanted.pins}
    assert not digests["public"]
    assert all(digests[name] for name in at_hand)
    assert not any("/simple/checkout" in path for path in index.asked), "an index is not asked"


async def test_a_namesake_on_the_index_does_not_stand_in_for_a_checkout(
    index: Index, venv: Venv, tmp_path: Path
) -> None:
    wheel(index.folder, "mine", files={"mine.py": "where = 'the index'\n"})
    path = wheel(tmp_path, "mine", files={"mine.py": "where = 'the checkout'\n"})
    commit = {"vcs": "git", "commit_id": "0" * 40}
    installed_from_url(venv, path, "https://example.com/mine.git", vcs_info=commit)
    found = await resolved(venv, tmp_path)
    other = Venv(tmp_path / "other")
    other.install(*found.repacked.values())
    assert other.run("import mine; print(mine.where)") == "the checkout"


async def test_a_wheel_from_a_url_is_taken_from_there_again(
    index: Index, venv: Venv, tmp_path: Path
) -> None:
    url = "https://example.com/models/model-1.0-py3-none-any.whl"
    path = wheel(tmp_path, "model")
    installed_from_url(venv, path, url, archive_info={"hash": f"sha256={'5' * 64}"})
    found = await resolved(venv, tmp_path)
    assert found.lock.files == (
        File(package="model", version="1.0", filename=path.name, sha256="5" * 64, url=url),
    )
    assert found.wanted == wish(venv.capture().installed, VM, PYTHON)


async def test_what_is_compiled_here_for_another_system_is_missing(
    index: Index, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = f"{TAG}-{TAG}-linux_{os.uname().machine}"
    from_index(venv, wheel(tmp_path, "own", tag=tag, files={"own.so": compiled()}))
    monkeypatch.setattr(sys, "platform", "darwin")
    found = await resolved(venv, tmp_path)
    assert "no index has it, and it is compiled (own.so) for darwin" in reasons(found)["own"]


async def test_an_editable_project_is_no_pin_but_its_compiled_parts_are_looked_at(
    index: Index, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pure", "fast"):
        project = tmp_path / "projects" / name
        project.mkdir(parents=True)
        (project / f"{name}.py").write_text("")
        editable = {"editable": True}
        installed_from_url(venv, wheel(tmp_path, name), project.as_uri(), dir_info=editable)
    found = await resolved(venv, tmp_path)
    assert (found.lock.files, found.missing, found.warnings) == ((), (), ())
    (tmp_path / "projects" / "fast" / "core.so").write_bytes(compiled("GLIBC_2.99"))
    told = reasons(await resolved(venv, tmp_path))
    assert "editable install, and core.so is compiled for glibc 2.99" in told["fast"]
    assert "what imports the compiled part fails there" in told["fast"]


# -- on top of the pins --


async def test_extra_packages_come_with_what_they_require_and_move_no_pin(
    index: Index, venv: Venv, tmp_path: Path
) -> None:
    for version in ("1.0", "2.0"):
        wheel(index.folder, "base", version)
    wheel(index.folder, "helper", "3.0")
    wheel(index.folder, "bonus", requires=("base", "helper>=3", "own"))
    from_index(venv, index.folder / "base-1.0-py3-none-any.whl")
    venv.install(wheel(tmp_path, "own"))
    found = await resolved(venv, tmp_path, extra=["bonus>=1"])
    assert packages(found) == ["base==1.0", "bonus==1.0", "helper==3.0", "own==1.0"]
    assert [str(pin) for pin in found.wanted.pins] == ["base==1.0", "own==1.0"]
    assert found.wanted.requirements == "bonus>=1"
    assert len(found.repacked) == 1


async def test_extra_packages_that_contradict_a_pin_are_refused(
    index: Index, venv: Venv, tmp_path: Path
) -> None:
    for version in ("1.0", "2.0"):
        wheel(index.folder, "base", version)
    from_index(venv, index.folder / "base-1.0-py3-none-any.whl")
    with pytest.raises(EnvironmentSyncError, match="the extra Python packages cannot be had") as e:
        await resolved(venv, tmp_path, extra=["base>=2"])
    assert "base>=2" in e.value.log
    assert "pip install 'base>=2'" in e.value.hint


async def test_an_extra_package_stands_in_for_one_that_is_missing(
    index: Index, tmp_path: Path
) -> None:
    wheel(index.folder, "framework", "2.0")
    found = await asked(["framework"], tmp_path, extra=["framework"])
    assert packages(found) == ["framework==2.0"]
    assert found.missing == ()


# -- troubles --


async def test_without_a_network_it_is_told_soon(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://me:secret@127.0.0.1:{port}/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    started = time.monotonic()
    with pytest.raises(EnvironmentSyncError) as caught:
        await asked(["plain"], tmp_path)
    assert time.monotonic() - started < 10
    error = caught.value
    assert f"the package index at 127.0.0.1:{port} cannot be asked" in str(error)
    assert "Connection refused" in error.cause
    assert error.hint == f"curl -sSI http://127.0.0.1:{port}/simple/plain/"
    assert (error.stage, error.platform) == ("resolve", "x86_64-manylinux_2_35")
    assert "secret" not in str(error)


async def test_an_index_that_never_answers_is_given_up(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{port}/simple")
        with pytest.raises(EnvironmentSyncError, match="not found within 1 s") as caught:
            await asked(["plain"], tmp_path, deadline=1)
    assert caught.value.hint == f"curl -sSI http://127.0.0.1:{port}/simple/pip/"


async def test_a_resolution_that_is_cancelled_leaves_no_process(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{silent.getsockname()[1]}/s")
        task = asyncio.create_task(asked(["plain"], tmp_path))
        connection, _ = await asyncio.to_thread(silent.accept)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        connection.close()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():
        commands = [Path(f"/proc/{pid}/comm").read_text() for pid in children.read_text().split()]
        assert "uv\n" not in commands


async def test_an_index_with_a_password_is_used_and_the_password_is_not_told(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index.folder, "plain")
    index.authorization = "Basic " + base64.b64encode(b"me:secret").decode()
    with pytest.raises(EnvironmentSyncError, match="a package index wants a password"):
        await asked(["plain"], tmp_path)
    url = index.url.replace("//", "//me:secret@")
    found = await asked(["plain"], tmp_path, index=[url])
    assert found.wanted.index == (url,)
    assert "secret" not in repr(found.lock)


async def test_a_uv_that_is_gone_is_told(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> str:
        raise FileNotFoundError("/somewhere/uv")

    monkeypatch.setattr("uv.find_uv_bin", gone)
    with pytest.raises(EnvironmentSyncError, match="uv's program is gone") as caught:
        await asked(["plain"], tmp_path)
    assert caught.value.hint.endswith("-m pip install --force-reinstall uv")
    monkeypatch.setattr("uv.find_uv_bin", lambda: "/nowhere/uv")
    with pytest.raises(EnvironmentSyncError, match="uv cannot be started"):
        await asked(["plain"], tmp_path)
    monkeypatch.setattr("uv.find_uv_bin", lambda: "/bin/false")
    with pytest.raises(EnvironmentSyncError, match="uv could not find the packages for x86_64"):
        await asked(["plain"], tmp_path)


async def test_the_users_other_settings_of_uv_do_not_change_the_answer(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index.folder, "plain")
    constraint = tmp_path / "constraint.txt"
    constraint.write_text("plain==7")
    monkeypatch.setenv("UV_CONSTRAINT", str(constraint))
    monkeypatch.setenv("UV_NO_BINARY", "1")
    monkeypatch.setenv("UV_EXCLUDE_NEWER", "2001-01-01")
    assert packages(await asked(["plain"], tmp_path)) == ["plain==1.0"]


async def test_an_index_without_hashes_will_do(index: Index, tmp_path: Path) -> None:
    wheel(index.folder, "plain")
    index.hashes = False
    (file,) = (await asked(["plain"], tmp_path)).lock.files
    assert len(file.sha256) == 64


async def test_a_folder_of_wheels_in_place_of_an_index(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wheel(tmp_path / "wheels", "plain")
    monkeypatch.delenv("UV_DEFAULT_INDEX")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(path.parent))
    found = await asked(["plain"], tmp_path)
    (file,) = found.lock.files
    assert (file.url, file.size) == ("", path.stat().st_size)
    assert found.repacked == {file.sha256: path}
