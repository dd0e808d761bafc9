"""Which packages a function needs, which wheel a VM takes, and where packages are looked for."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uv import find_uv_bin

from dayfly.environment import indexes as indexing
from dayfly.environment.indexes import authorized, indexes
from dayfly.environment.lock import Missing, Pin, Platform
from dayfly.environment.needs import check, needed, roots
from dayfly.environment.wheels import best
from dayfly.errors import EnvironmentSyncError
from dayfly.modules import imported_modules, local_modules
from dayfly.serialize import dump_function
from tests.unit.environment_support import PYTHON, VM, Venv, installed_from_url, venv
from tests.unit.package_index import expanded, wheel

__all__ = ["venv"]  # a fixture


# -- what is needed --


def test_a_function_needs_what_it_imports_and_what_that_requires(
    venv: Venv, tmp_path: Path
) -> None:
    venv.install(
        wheel(tmp_path, "frames", requires=("Arrays>1", "absent", "charts; extra == 'plot'")),
        wheel(tmp_path, "arrays", requires=("low-level",)),
        wheel(tmp_path, "low-level", files={"_low.abi3.so": "", "_low_extra.py": ""}),
        wheel(tmp_path, "charts", requires=("frames",)),
        wheel(tmp_path, "cloud-storage", files={"cloud/api/storage/__init__.py": ""}),
        wheel(tmp_path, "cloud-mail", files={"cloud/api/mail/__init__.py": ""}),
    )
    installed = venv.capture().installed
    assert needed(["frames.core"], installed) == {
        "frames": ("frames", "frames"),
        "arrays": ("frames", "frames", "arrays"),
        "low-level": ("frames", "frames", "arrays", "low-level"),
    }
    assert set(needed(["cloud.api.storage.buckets"], installed)) == {"cloud-storage"}
    assert needed(["cloud", "json", "framesets"], installed) == {}
    assert roots(venv.one("low-level")) >= {"_low_extra"}
    assert roots(venv.one("cloud-mail")) == {"cloud.api.mail"}


def test_a_job_that_needs_what_is_missing_is_refused_and_others_are_warned(
    venv: Venv, tmp_path: Path
) -> None:
    venv.install(wheel(tmp_path, "frames", requires=("arrays",)), wheel(tmp_path, "arrays"))
    installed = venv.capture().installed
    lost = Missing(pin=Pin(name="arrays", version="1.0"), reason="no index has it")
    assert check(["json"], installed, [lost]) == (
        "arrays==1.0 will not be on the VMs: no index has it; a call that imports it fails",
    )
    assert check(["frames"], installed, []) == ()
    with pytest.raises(EnvironmentSyncError, match=r"this job needs arrays==1\.0") as caught:
        check(["frames.inner"], installed, [lost])
    assert caught.value.cause == "import frames (frames needs arrays): no index has it"
    assert caught.value.package == "arrays"
    with pytest.raises(EnvironmentSyncError) as caught:
        check(["arrays"], installed, [lost])
    assert caught.value.cause == "import arrays: no index has it"


def test_an_editable_project_has_the_modules_of_its_folder(venv: Venv, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src" / "fast").mkdir(parents=True)
    (project / "src" / "fast" / "__init__.py").write_text("")
    (project / "single.py").write_text("")
    (project / "notes.txt").write_text("")
    editable = {"editable": True}
    installed_from_url(venv, wheel(tmp_path, "fast"), project.as_uri(), dir_info=editable)
    assert roots(venv.one("fast")) == {"fast", "single"}


def test_what_local_modules_import_is_needed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aaa_mine.py").write_text("import msgspec.json\nfrom click import testing\n")
    monkeypatch.syspath_prepend(tmp_path)
    program = types.ModuleType("__main__")
    code = "import yaml\ndef fn(x):\n    import aaa_mine, rich.table\n    return yaml, aaa_mine\n"
    exec(code, program.__dict__)  # noqa: S102  # as running it would
    payload = dump_function(program.fn).payload
    assert local_modules(payload) == {"aaa_mine"}
    names = imported_modules(payload)
    assert {"aaa_mine", "msgspec.json", "click", "click.testing", "yaml", "rich.table"} <= names
    assert "click" not in imported_modules(payload, exclude=["aaa_mine"])


# -- wheels --

TAG = f"cp{PYTHON.replace('.', '')}"


def test_the_wheel_that_knows_the_vm_best_is_taken() -> None:
    names = [
        f"x-1-{TAG}-{TAG}-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        f"x-1-{TAG}-{TAG}-manylinux_2_28_x86_64.whl",
        f"x-1-{TAG}-{TAG}-manylinux_2_39_x86_64.whl",
        f"x-1-{TAG}-{TAG}-musllinux_1_2_x86_64.whl",
        "x-1-cp39-abi3-manylinux1_x86_64.whl",
        f"x-1-{TAG}-{TAG}-win_amd64.whl",
        "x-1-py3-none-any.whl",
        "x-1.tar.gz",
    ]
    assert best(names, VM, PYTHON) == names[1]
    older = Platform(architecture="x86_64", glibc=(2, 17))
    assert best(names, older, PYTHON) == names[0]
    assert best(names, VM, "3.10") == names[4]
    assert best(names, Platform(architecture="aarch64"), PYTHON) == names[6]
    assert best(names[2:4], VM, PYTHON) is None
    repaired = ["x-1-2-py3-none-any.whl", "x-1-10-py3-none-any.whl", "x-1-py3-none-any.whl"]
    assert best(repaired, VM, PYTHON) == repaired[1]


@pytest.mark.skipif(sys.platform != "linux", reason="paths of a venv on Linux")
def test_it_is_the_one_that_uv_itself_would_take(tmp_path: Path) -> None:
    tags = [
        f"{TAG}-{TAG}-manylinux_2_17_x86_64.manylinux2014_x86_64",
        f"{TAG}-abi3-manylinux_2_34_x86_64",
        "cp38-abi3-manylinux_2_28_x86_64",
        f"{TAG}-none-any",
        "py3-none-manylinux_2_35_x86_64",
        "py3-none-any",
    ]
    for rest in range(len(tags)):
        folder = tmp_path / f"wheels{rest}"
        paths = [wheel(folder, "x", tag=tag) for tag in tags[rest:]]
        there = tmp_path / f"there{rest}"
        subprocess.run(
            [
                *(find_uv_bin(), "pip", "install", "-q", "x", "--target", there, "--no-index"),
                *("--find-links", folder, "--python-platform", VM.name, "--no-cache"),
                *("--python", sys.executable),
            ],
            check=True,
            timeout=50,
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
        )
        text = (there / "x-1.0.dist-info" / "WHEEL").read_text()
        chosen = best([path.name for path in paths], VM, PYTHON)
        assert chosen is not None
        mine = expanded(chosen.removeprefix("x-1.0-").removesuffix(".whl"))
        assert [f"Tag: {tag}" for tag in mine] == [x for x in text.splitlines() if "Tag:" in x]


@given(st.lists(st.sampled_from(["x-1-py3-none-any.whl", "x-1.tar.gz", "no", ""]), max_size=4))
def test_what_is_no_wheel_is_passed_over(names: list[str]) -> None:
    assert best(names, VM, PYTHON) == (
        "x-1-py3-none-any.whl" if "x-1-py3-none-any.whl" in names else None
    )


# -- indexes --


@pytest.fixture
def bare(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which nobody has configured anything."""
    monkeypatch.setattr(sys, "prefix", str(own_home))
    monkeypatch.setattr(indexing, "_MACHINES", own_home / "none")
    return {"HOME": str(own_home), "XDG_CONFIG_DIRS": str(own_home / "none")}


def test_what_the_user_told_pip_holds_for_the_vms(own_home: Path, bare: dict[str, str]) -> None:
    config = own_home / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text(
        "[global]\nindex-url = https://me:secret@pypi.example/simple\n"
        "extra-index-url = https://more.example/simple\n    file:///wheels/simple\n"
        "cert = /etc/ca.pem\n[install]\ntrusted-host = pypi.example\n"
    )
    found = indexes(environ=bare)
    assert found.urls == ("https://me:secret@pypi.example/simple", "https://more.example/simple")
    assert found.environment == {
        "UV_DEFAULT_INDEX": "https://me:secret@pypi.example/simple",
        "UV_INDEX": "https://more.example/simple file:///wheels/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_INSECURE_HOST": "pypi.example",
    }
    found = indexes(environ=bare | {"PIP_INDEX_URL": "https://by.variable/simple"})
    assert found.environment["UV_DEFAULT_INDEX"] == "https://by.variable/simple"


def test_what_the_user_told_uv_goes_before_pip(bare: dict[str, str]) -> None:
    told = bare | {"PIP_INDEX_URL": "https://pip/simple", "UV_INDEX": "mine=https://uv/simple"}
    found = indexes(environ=told)
    assert found.urls == ("https://pypi.org/simple", "https://uv/simple")
    assert found.environment == {}
    found = indexes(environ=bare | {"UV_DEFAULT_INDEX": "ours=https://me:secret@ours/simple"})
    assert found.urls == ("https://me:secret@ours/simple",)


def test_the_vms_are_given_the_password_that_uv_has_for_an_index_by_its_name(
    bare: dict[str, str],
) -> None:
    told = bare | {
        "UV_DEFAULT_INDEX": "our-own=https://ours/simple",
        "UV_INDEX": "open=https://open/simple https://unnamed/simple",
        "UV_INDEX_OUR_OWN_USERNAME": "me",
        "UV_INDEX_OUR_OWN_PASSWORD": "s@c/ret",
    }
    found = indexes(environ=told)
    own = "https://me:s%40c%2Fret@ours/simple"
    assert found.urls == (own, "https://open/simple", "https://unnamed/simple")
    assert found.environment == {}, "uv reads its variables by itself"
    told["UV_DEFAULT_INDEX"] = "our-own=https://you:mine@ours/simple"
    assert indexes(environ=told).urls[0] == "https://you:mine@ours/simple", "what it says holds"


def test_the_vms_are_given_the_password_of_netrc(own_home: Path, bare: dict[str, str]) -> None:
    (own_home / ".netrc").write_text(
        "machine ours login me password s@cret\ndefault login anybody password any\n"
    )
    ours, signed = "https://ours:8443/simple", "https://me:s%40cret@ours:8443/simple"
    other = "https://other/simple"
    assert indexes([ours, other], bare).urls == (signed, other)
    assert indexes([ours, other], bare).environment["UV_DEFAULT_INDEX"] == ours
    assert indexes(environ=bare | {"PIP_INDEX_URL": ours}).urls == (signed,)
    assert indexes(environ=bare | {"UV_INDEX": f"x={ours}"}).urls[1] == signed
    for url in ("https://me:mine@ours/simple", "https://you@ours/simple"):
        assert indexes([url], bare).urls == (url,), "what the URL says holds"
    assert indexes(["https://me@ours/"], bare).urls == ("https://me:s%40cret@ours/",)
    elsewhere = own_home / "elsewhere"
    elsewhere.write_text("machine ours login me password changed\n")
    found = indexes([ours], bare | {"NETRC": str(elsewhere)})
    assert found.urls == ("https://me:changed@ours:8443/simple",)
    elsewhere.write_text("machine\n")
    assert indexes([ours], bare | {"NETRC": str(elsewhere)}).urls == (ours,)


def test_what_the_configuration_says_goes_before_all(bare: dict[str, str]) -> None:
    told = bare | {"PIP_INDEX_URL": "https://pip/simple", "UV_FIND_LINKS": "/wheels"}
    found = indexes(["https://one/simple", "https://two/simple"], told)
    assert found.urls == ("https://one/simple", "https://two/simple")
    assert found.environment == {
        "UV_FIND_LINKS": "",
        "UV_DEFAULT_INDEX": "https://one/simple",
        "UV_INDEX": "https://two/simple",
    }


def test_a_files_url_gets_the_password_of_its_own_index_only() -> None:
    urls = ["https://pypi.org/simple", "https://me:secret@own.example:8443/simple"]
    own = "https://own.example:8443/files/x-1-py3-none-any.whl"
    assert authorized(own, urls) == own.replace("//", "//me:secret@")
    for other in ("https://own.example/x.whl", "http://own.example:8443/x.whl", "https://b/x"):
        assert authorized(other, urls) == other
