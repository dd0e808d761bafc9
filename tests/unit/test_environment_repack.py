"""Wheels that are made again from what is installed."""

from __future__ import annotations

import os
import platform as machine
import sys
import zipfile
from pathlib import Path

import pytest

from dayfly.environment.lock import Missing, Platform
from dayfly.environment.repack import Repacked, compiled_in, repack
from tests.unit.environment_support import PYTHON, VM, Venv, compiled, venv
from tests.unit.package_index import wheel

__all__ = ["venv"]  # a fixture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compiled for Linux")
HERE = Platform(
    architecture="aarch64" if machine.machine() == "aarch64" else "x86_64", glibc=(2, 28)
)
TAG = f"cp{PYTHON.replace('.', '')}"


def made(venv: Venv, name: str, folder: Path, platform: Platform = HERE) -> Repacked:
    found = repack(venv.one(name), folder, platform=platform, python=PYTHON)
    assert isinstance(found, Repacked), found
    return found


def refused(venv: Venv, name: str, folder: Path, **options: object) -> str:
    wanted: dict[str, object] = {"platform": HERE, "python": PYTHON, **options}
    found = repack(venv.one(name), folder, **wanted)  # type: ignore[arg-type]  # of a test
    assert isinstance(found, Missing)
    return found.reason


def test_a_package_that_no_index_has_is_installed_elsewhere_from_what_is_here(
    venv: Venv, tmp_path: Path
) -> None:
    original = wheel(
        tmp_path,
        "My.Own-Package",
        "1.0+local.2",
        tag="py2.py3-none-any",
        files={
            "own/__init__.py": "from own.deep import value\ndef main(): print('by entry', value)\n",
            "own/deep.py": "value = 7\n",
            "own/data,with comma.csv": "1,2\n",
            "My.Own_Package-1.0+local.2.data/scripts/own-script": "#!python\nprint('by script')\n",
            "My.Own_Package-1.0+local.2.data/data/share/own/table.txt": "shared\n",
        },
        requires=("cloudpickle>=1",),
        entry_points="[console_scripts]\nown-main = own:main\n\n[plugins]\nown-x = own:main\n",
    )
    venv.install(original)
    assert (venv.root / "bin" / "own-main").exists()
    again = made(venv, "my-own-package", tmp_path / "made")
    assert again.file.filename == "my_own_package-1.0+local.2-py2.py3-none-any.whl"
    assert (again.file.package, again.file.url, again.warnings) == ("my-own-package", "", ())
    other = Venv(tmp_path / "other")
    other.install(again.path)
    assert other.run("import own; print(own.value)") == "7"
    run = (
        "import subprocess, sys\n"
        "print(subprocess.check_output([sys.prefix + '/bin/{}'], text=True))"
    )
    assert other.run(run.format("own-main")) == "by entry 7"
    assert other.run(run.format("own-script")) == "by script"
    assert (other.root / "share" / "own" / "table.txt").read_text() == "shared\n"
    assert sorted(other.one("my-own-package").requires) == ["cloudpickle>=1"]
    assert (other.site / "own" / "data,with comma.csv").read_text() == "1,2\n"


def test_the_same_files_give_the_same_bytes(venv: Venv, tmp_path: Path) -> None:
    path = wheel(tmp_path, "plain", files={"plain.py": "x = 1\n", "more/a.py": "", "more/b.py": ""})
    venv.install(path)
    first = made(venv, "plain", tmp_path / "made")
    for file in venv.site.rglob("*.py"):
        os.utime(file, (1e9, 1e9))
    venv.run("import plain, more.a")  # leaves bytecode
    second = made(venv, "plain", tmp_path / "made")
    assert second.path != first.path, "the files look changed, and were read again"
    assert second.path.read_bytes() == first.path.read_bytes()
    other = Venv(tmp_path / "other")
    other.install(path)
    assert made(other, "plain", tmp_path / "third").file == first.file
    (venv.site / "plain.py").write_text("x = 2\n")
    assert made(venv, "plain", tmp_path / "made").file.sha256 != first.file.sha256


def test_it_is_made_once(venv: Venv, tmp_path: Path) -> None:
    venv.install(wheel(tmp_path, "plain"))
    first = made(venv, "plain", tmp_path / "made")
    before = first.path.stat()
    assert made(venv, "plain", tmp_path / "made") == first
    assert first.path.stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def test_private_places_do_not_travel(venv: Venv, tmp_path: Path) -> None:
    venv.install(wheel(tmp_path, "plain"))
    with zipfile.ZipFile(made(venv, "plain", tmp_path / "made").path) as bundle:
        assert sorted(bundle.namelist()) == [
            "plain-1.0.dist-info/METADATA",
            "plain-1.0.dist-info/RECORD",
            "plain-1.0.dist-info/WHEEL",
            "plain.py",
        ]
        assert str(tmp_path).encode() not in b"".join(map(bundle.read, bundle.namelist()))


def extension(venv: Venv, tmp_path: Path, symbols: str = "GLIBC_2.17\0GLIBC_2.2.5") -> None:
    tag = f"{TAG}-{TAG}-linux_{machine.machine()}"
    files = {"fast/__init__.py": b"", "fast/core.so": compiled(symbols)}
    venv.install(wheel(tmp_path, "fast", tag=tag, files=files))


def test_what_is_compiled_here_goes_where_it_fits_with_a_warning(
    venv: Venv, tmp_path: Path
) -> None:
    extension(venv, tmp_path)
    again = made(venv, "fast", tmp_path / "made")
    assert again.file.filename == f"fast-1.0-{TAG}-{TAG}-linux_{machine.machine()}.whl"
    (warning,) = again.warnings
    assert "fast==1.0 is sent as it was compiled for this machine (core.so)" in warning
    other = Venv(tmp_path / "other")
    other.install(again.path)
    assert (other.site / "fast" / "core.so").exists()


def test_what_is_compiled_here_does_not_go_where_it_cannot_load(
    venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extension(venv, tmp_path, "GLIBC_2.4\0GLIBC_2.34")
    folder = tmp_path / "made"
    assert "core.so is compiled for glibc 2.34, and the VM has 2.28" in refused(
        venv, "fast", folder
    )
    other = "aarch64" if HERE.architecture == "x86_64" else "x86_64"
    wrong = Platform(architecture=other, glibc=(2, 39))  # type: ignore[arg-type]  # one of two
    told = refused(venv, "fast", folder, platform=wrong)
    assert f"compiled (core.so) for {machine.machine()}, and the VM is {other}" in told
    told = refused(venv, "fast", folder, python="3.99")
    assert f"for Python {PYTHON}, and the VM runs Python 3.99" in told
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "for darwin, and the VM runs Linux" in refused(venv, "fast", folder)
    assert not folder.exists()


def test_a_package_that_is_too_large_is_named_with_its_largest_file(
    venv: Venv, tmp_path: Path
) -> None:
    files = {"big/__init__.py": b"", "big/weights.bin": b"x" * 3_000_000}
    venv.install(wheel(tmp_path, "big", files=files))
    told = refused(venv, "big", tmp_path / "made", limit=2_000_000)
    assert "its 3 MB are more than the 2 MB that are sent from here" in told
    assert "the largest file is big/weights.bin, 3 MB" in told


def test_without_a_record_nothing_is_guessed(venv: Venv, tmp_path: Path) -> None:
    venv.install(wheel(tmp_path, "plain"))
    (venv.site / "plain-1.0.dist-info" / "RECORD").unlink()
    assert "was not recorded" in refused(venv, "plain", tmp_path / "made")


def test_files_that_are_gone_are_told(venv: Venv, tmp_path: Path) -> None:
    venv.install(wheel(tmp_path, "plain", files={"plain.py": "", "gone.py": ""}))
    (venv.site / "gone.py").unlink()
    again = made(venv, "plain", tmp_path / "made")
    assert again.warnings == ("plain==1.0: 1 of its recorded files are gone, and are left out",)


def test_the_compiled_parts_of_a_project_are_found_but_not_those_of_its_venv(
    tmp_path: Path,
) -> None:
    for name in ("pkg/core.so", ".git/x.so", ".tox/y.so", "env/lib/z.so", "pkg/plain.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    assert compiled_in(tmp_path) == [tmp_path / "pkg" / "core.so"]


def test_pure_python_goes_to_any_platform(venv: Venv, tmp_path: Path) -> None:
    venv.install(wheel(tmp_path, "plain"))
    assert made(venv, "plain", tmp_path / "made", VM).file.filename == "plain-1.0-py3-none-any.whl"
