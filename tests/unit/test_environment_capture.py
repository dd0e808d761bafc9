"""What an interpreter is found to have."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

from dayfly.environment import capture as capturing
from dayfly.environment.capture import Origin, capture, without_credentials
from dayfly.environment.lock import Pin
from tests.unit.environment_support import Venv, from_index, installed_from_url, uv, venv
from tests.unit.package_index import wheel

__all__ = ["venv"]  # a fixture


def pins(venv: Venv) -> list[str]:
    return [str(one.pin) for one in venv.capture().installed]


def test_this_interpreter_has_what_it_runs_on() -> None:
    found = {one.pin.name: one for one in capture().installed}
    assert {"cloudpickle", "msgspec", "aiohttp"} <= found.keys()
    assert not {"dayfly", "pip", "uv"} & found.keys()
    assert found["cloudpickle"].pure
    assert not found["msgspec"].pure
    assert "cloudpickle/__init__.py" in list(found["cloudpickle"].files())


def test_names_are_the_ones_that_indexes_know(venv: Venv, tmp_path: Path) -> None:
    venv.install(wheel(tmp_path, "Zope.Interface_Thing", "1.0"), wheel(tmp_path, "plain", "2.0.1"))
    assert pins(venv) == ["plain==2.0.1", "zope-interface-thing==1.0"]


def test_the_first_on_the_path_wins(tmp_path: Path) -> None:
    for folder, version in (("one", "1.0"), ("two", "2.0")):
        path = wheel(tmp_path / "wheels", "plain", version)
        uv("pip", "install", "-q", "--target", tmp_path / folder, path)
    found = capture([str(tmp_path / "two"), str(tmp_path / "one")])
    assert [one.pin for one in found.installed] == [Pin(name="plain", version="2.0")]


def test_tools_are_left_out_unless_something_requires_them(venv: Venv, tmp_path: Path) -> None:
    tools = [wheel(tmp_path, name) for name in ("pip", "setuptools", "wheel", "uv", "dayfly")]
    venv.install(*tools, wheel(tmp_path, "plain", requires=("wheel; extra == 'all'",)))
    assert pins(venv) == ["plain==1.0"]
    old = wheel(tmp_path, "old", requires=("Setuptools>=1 ; python_version>'3'",))
    venv.install(old)
    assert pins(venv) == ["old==1.0", "plain==1.0", "setuptools==1.0"]


def test_where_each_came_from_is_known(venv: Venv, tmp_path: Path) -> None:
    from_index(venv, wheel(tmp_path, "ordinary"))
    venv.install(wheel(tmp_path, "afile"))
    installed_from_url(
        venv,
        wheel(tmp_path, "checkout"),
        "https://me:secret@example.com/x.git",
        vcs_info={"vcs": "git", "commit_id": "0" * 40},
    )
    installed_from_url(
        venv,
        wheel(tmp_path, "linked"),
        "https://example.com/linked-1.0-py3-none-any.whl",
        archive_info={"hash": f"sha256={'1' * 64}"},
    )
    installed_from_url(
        venv,
        wheel(tmp_path, "guarded"),
        "https://me:secret@example.com/guarded-1.0-py3-none-any.whl",
        archive_info={"hashes": {"sha256": "2" * 64}},
    )
    installed_from_url(
        venv, wheel(tmp_path, "edited"), "file:///home/me/my%20code", dir_info={"editable": True}
    )
    found = {one.pin.name: one for one in venv.capture().installed}
    assert {name: one.origin for name, one in found.items()} == {
        "afile": Origin.LOCAL,
        "checkout": Origin.VCS,
        "edited": Origin.EDITABLE,
        "guarded": Origin.ARCHIVE,
        "linked": Origin.ARCHIVE,
        "ordinary": Origin.INDEX,
    }
    assert found["checkout"].url == "https://example.com/x.git"
    assert found["linked"].sha256 == "1" * 64
    assert not found["guarded"].sha256, "a VM cannot take it without the password"
    assert found["edited"].project == Path("/home/me/my code")
    assert "secret" not in repr(found)


def test_what_conda_built_elsewhere_counts_as_from_an_index(venv: Venv, tmp_path: Path) -> None:
    installed_from_url(venv, wheel(tmp_path, "built"), "file:///croot/built_1/work", dir_info={})
    (venv.site / "built-1.0.dist-info" / "INSTALLER").write_text("conda\n")
    assert venv.one("built").origin is Origin.INDEX


def test_a_project_that_is_developed_in_place_is_editable(tmp_path: Path) -> None:
    info = tmp_path / "src" / "mine.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text("Name: mine\nVersion: 3\n")
    (one,) = capture([str(tmp_path / "src")]).installed
    assert (one.origin, one.project) == (Origin.EDITABLE, tmp_path / "src")


def test_broken_metadata_is_told_and_passed_over(venv: Venv, tmp_path: Path) -> None:
    from_index(venv, wheel(tmp_path, "plain"), wheel(tmp_path, "bare"))
    (venv.site / "bare-1.0.dist-info" / "RECORD").unlink()
    for name, text in {
        "empty-1.0": "",
        "nameless-1.0": "Version: 1.0\n",
        "versionless-1.0": "Name: versionless\n\nVersion: 1.0\n",
        "~umpy-1.0": "Name: numpy\nVersion: 1.0\n",
    }.items():
        info = venv.site / f"{name}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(text)
    found = venv.capture()
    assert [one.pin.name for one in found.installed] == ["bare", "plain"]
    told = "\n".join(found.warnings)
    assert "empty-1.0.dist-info has metadata without a name" in told
    assert "nameless-1.0.dist-info has metadata without a name" in told
    assert "versionless-1.0.dist-info has metadata without a version" in told
    assert "~umpy-1.0.dist-info is what a broken installation left" in told
    assert "no record of their files, so they can come from an index only: bare" in told


def test_nothing_is_read_again_until_something_is_installed(
    venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_index(venv, wheel(tmp_path, "plain"))
    past = time.time() - 60
    os.utime(venv.site, (past, past))
    first = venv.capture()
    assert venv.capture() is first
    from_index(venv, wheel(tmp_path, "another"))
    assert pins(venv) == ["another==1.0", "plain==1.0"]
    assert capturing.capture([str(venv.site)]) is not venv.capture(), "it may change in this tick"


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?", fullmatch=True))
def test_a_pin_is_the_same_however_the_name_is_written(name: str) -> None:
    pin = Pin(name=canonicalize_name(name), version="1")
    for other in (name.upper(), name.replace("-", "_"), name.replace("_", ".")):
        assert canonicalize_name(other) == pin.name


@given(
    st.text("abc:@/%", max_size=8).filter(lambda text: "/" not in text), st.text("xyz/", max_size=5)
)
def test_no_url_is_printed_with_a_password(credentials: str, path: str) -> None:
    url = without_credentials(f"https://{credentials}@host/{path}")
    assert url.startswith("https://host")
    assert "@" not in url
