"""A requirements or lock file of the user's own, in place of what is installed."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import pytest

from dayfly.environment.lock import Pin, Platform
from dayfly.environment.requirements import resolve_requirements, wish_of
from dayfly.environment.resolve import Resolution
from dayfly.errors import EnvironmentSyncError, UsageError
from tests.unit.environment_support import PYTHON, VM, index
from tests.unit.package_index import Index, wheel

__all__ = ["index"]  # a fixture

PICKLE = Pin(name="cloudpickle", version="3.1")


def packages(found: Resolution) -> list[str]:
    return [f"{file.package}=={file.version}" for file in found.lock.files]


async def test_a_requirements_file_comes_with_what_it_requires(
    index: Index, tmp_path: Path
) -> None:
    wheel(index.folder, "app", requires=("base>=1", "windows-only; sys_platform == 'win32'"))
    for version in ("1.0", "1.5", "2.0"):
        wheel(index.folder, "base", version)
    wheel(index.folder, "more")
    wheel(index.folder, "cloudpickle", "3.1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.txt").write_text("more\n-c limits.txt\n")
    (tmp_path / "sub" / "limits.txt").write_text("base<2  # for now\nunused==9\n")
    path = tmp_path / "requirements.txt"
    path.write_text("# ours\napp  # the app\n-r sub/more.txt\n-e .\n./vendored\n")
    found = await resolve_requirements(path, VM, PYTHON, also=[PICKLE])
    assert packages(found) == ["app==1.0", "base==1.5", "cloudpickle==3.1", "more==1.0"]
    assert found.warnings == (
        "-e . in requirements.txt travels with the jobs",
        "./vendored in requirements.txt travels with the jobs",
    )
    assert found.lock.key == found.wanted.key == wish_of(path, VM, PYTHON).key
    (tmp_path / "sub" / "limits.txt").write_text("base<1.2\n")
    assert wish_of(path, VM, PYTHON).key != found.wanted.key
    again = await resolve_requirements(path, VM, PYTHON)
    assert packages(again) == ["app==1.0", "base==1.0", "more==1.0"]


async def test_what_the_file_says_of_cloudpickle_holds(index: Index, tmp_path: Path) -> None:
    wheel(index.folder, "cloudpickle", "3.0")
    path = tmp_path / "requirements.txt"
    path.write_text("cloudpickle==3.0\n")
    found = await resolve_requirements(path, VM, PYTHON, also=[PICKLE])
    assert packages(found) == ["cloudpickle==3.0"]


@pytest.mark.parametrize("line", ["wheels/{}", "./wheels/{}", "mine @ {folder}/wheels/{}"])
async def test_a_wheel_beside_the_file_is_brought_and_noticed_when_it_is_built_anew(
    index: Index, tmp_path: Path, line: str
) -> None:
    built = wheel(tmp_path / "wheels", "mine")
    path = tmp_path / "requirements.txt"
    path.write_text(line.format(built.name, folder=tmp_path.as_uri()) + "\n")
    found = await resolve_requirements(path, VM, PYTHON)
    assert packages(found) == ["mine==1.0"]
    assert list(found.repacked.values()) == [built]
    assert found.warnings == ()
    wheel(tmp_path / "wheels", "mine", files={"mine.py": "version = 'another'\n"})
    assert wish_of(path, VM, PYTHON).key != found.wanted.key
    built.unlink()
    with pytest.raises(UsageError, match=r"mine-1.0-py3-none-any.whl"):
        await resolve_requirements(path, VM, PYTHON)


async def test_a_wheel_that_a_lock_file_names_and_nobody_has_is_told(
    index: Index, tmp_path: Path
) -> None:
    path = tmp_path / "pylock.toml"
    path.write_text(
        'lock-version = "1.0"\n[[packages]]\nname = "mine"\nversion = "1.0"\n'
        '[[packages.wheels]]\npath = "gone/mine-1.0-py3-none-any.whl"\n'
        f'hashes = {{sha256 = "{"0" * 64}"}}\n'
    )
    with pytest.raises(EnvironmentSyncError, match="there is no file"):
        await resolve_requirements(path, VM, PYTHON)


async def test_an_exported_file_with_hashes_is_held_to_them(index: Index, tmp_path: Path) -> None:
    good = hashlib.sha256(wheel(index.folder, "plain").read_bytes()).hexdigest()
    path = tmp_path / "requirements.txt"
    path.write_text(
        f"plain==1.0 ; python_version >= '3.8' \\\n    --hash=sha256:{good}\n    # via x\n"
    )
    (file,) = (await resolve_requirements(path, VM, PYTHON)).lock.files
    assert file.sha256 == good


async def test_a_lock_file_says_all_by_itself(index: Index, tmp_path: Path) -> None:
    tag = f"cp{PYTHON.replace('.', '')}"
    path = tmp_path / "pylock.team.toml"
    path.write_text(
        f"""
        lock-version = "1.0"
        [[packages]]
        name = "fast"
        version = "1.0"
        [[packages.wheels]]
        url = "https://example.com/fast-1.0-{tag}-{tag}-win_amd64.whl"
        hashes = {{sha256 = "{"1" * 64}"}}
        [[packages.wheels]]
        url = "https://me:secret@example.com/fast-1.0-{tag}-{tag}-manylinux_2_28_x86_64.whl"
        size = 7
        hashes = {{sha256 = "{"2" * 64}"}}
        [[packages]]
        name = "windows-only"
        version = "1.0"
        marker = "sys_platform == 'win32'"
        [[packages]]
        name = "before-this-very-python"
        version = "1.0"
        marker = "python_full_version < '{platform.python_version()}'"
        [[packages]]
        name = "the-project"
        directory = {{path = ".", editable = true}}
        """
    )
    found = await resolve_requirements(path, VM, PYTHON)
    (file,) = found.lock.files
    assert (file.package, file.sha256, file.size) == ("fast", "2" * 64, 7)
    assert found.warnings == ("the-project in pylock.team.toml travels with the jobs",)
    assert index.asked == []
    assert "secret" not in repr(found.lock) + found.wanted.requirements
    with pytest.raises(EnvironmentSyncError, match="cannot be fulfilled for aarch64") as caught:
        await resolve_requirements(path, Platform(architecture="aarch64"), PYTHON)
    assert caught.value.package == "fast"
    assert "it has fast-1.0" in caught.value.cause


async def test_what_cannot_be_fulfilled_is_told_with_a_command(
    index: Index, tmp_path: Path
) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("nowhere>=3\n")
    with pytest.raises(EnvironmentSyncError, match=r"requirements\.txt cannot be fulfilled") as e:
        await resolve_requirements(path, VM, PYTHON)
    assert "nowhere was not found" in e.value.cause
    assert e.value.hint.startswith(f"uv pip compile {path} --only-binary")


async def test_a_file_that_cannot_be_read_is_told(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read from"):
        await resolve_requirements(tmp_path / "none.txt", VM, PYTHON)
    with pytest.raises(UsageError, match="lock file of a project") as caught:
        await resolve_requirements(tmp_path / "uv.lock", VM, PYTHON)
    assert "uv export" in caught.value.hint
    (tmp_path / "round.txt").write_text("-r round.txt")
    with pytest.raises(UsageError, match="name each other without end"):
        await resolve_requirements(tmp_path / "round.txt", VM, PYTHON)
    (tmp_path / "pylock.toml").write_text("= no")
    with pytest.raises(UsageError, match="is no TOML"):
        await resolve_requirements(tmp_path / "pylock.toml", VM, PYTHON)


def test_passwords_of_indexes_in_the_file_are_in_no_wish(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(
        "--index-url https://me:secret@example.com/simple\n"
        "--extra-index-url=https://me:secret@example.com/more\n"
        "plain @ https://me:secret@example.com/plain-1.0-py3-none-any.whl\n"
    )
    wanted = wish_of(path, VM, PYTHON)
    assert wanted.requirements == "plain @ https://example.com/plain-1.0-py3-none-any.whl"
