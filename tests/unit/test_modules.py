"""Which of the user's modules travel with a function, and as what."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from dayfly import errors, modules
from dayfly.modules import archive, local_modules
from dayfly.serialize import dump_function, dump_item

SRC = Path(__file__).parents[2] / "src"
Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Makes a folder of modules importable, and forgets them afterwards."""
    before = set(sys.modules)

    def make(files: dict[str, str], folder: str = "project") -> Path:
        root = tmp_path / folder
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        monkeypatch.syspath_prepend(root)
        return root

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def members(names: Any, **options: Any) -> list[str]:
    data = archive(names, **options).data
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        assert bundle.testzip() is None
        return bundle.namelist()


def by_value(text: str) -> bytes:
    """The payload of the function ``fn`` of a program's own text."""
    program = types.ModuleType("__main__")
    exec(dedent(text), program.__dict__)  # noqa: S102  # as running it would
    return dump_function(program.fn).payload


# -- which --


def test_a_function_of_no_module_needs_none() -> None:
    payload = by_value("import json, math\ndef fn(x): return json.dumps(math.sqrt(x))")
    assert local_modules(payload) == set()
    assert archive(set()) == modules.Archive()


def test_the_function_of_a_module_needs_what_that_imports(project: Project) -> None:
    project(
        {
            "aaa_jobs.py": """
                import json, pytest
                import bbb_tools.deep.inner
                def fn(x): return bbb_tools.deep.inner.twice(x)
            """,
            "bbb_tools/__init__.py": "from .near import LIMIT",
            "bbb_tools/near.py": "from . import sibling\nLIMIT = 3",
            "bbb_tools/sibling.py": "import ccc_later as later",
            "bbb_tools/deep/__init__.py": "",
            "bbb_tools/deep/inner.py": """
                from ..near import LIMIT
                def twice(x):
                    from ddd_space.part import value
                    return 2 * x
            """,
            "bbb_tools/unused.py": "import eee_unused",
            "bbb_tools/table.csv": "1,2\n",
            "bbb_tools/.hidden": "",
            "bbb_tools/__pycache__/x.pyc": "",
            "ccc_later.py": "",
            "ddd_space/part/__init__.py": "value = 1",
            "eee_unused.py": "",
            "tests_of_it.py": "",
        }
    )
    from aaa_jobs import fn  # type: ignore[import-not-found]  # made above

    found = local_modules(dump_function(fn).payload)
    assert found == {"aaa_jobs", "bbb_tools", "ccc_later", "ddd_space"}
    assert members(found) == [
        "aaa_jobs.py",
        "bbb_tools/__init__.py",
        "bbb_tools/deep/__init__.py",
        "bbb_tools/deep/inner.py",
        "bbb_tools/near.py",
        "bbb_tools/sibling.py",
        "bbb_tools/table.csv",
        "bbb_tools/unused.py",
        "ccc_later.py",
        "ddd_space/part/__init__.py",
    ]


def test_a_program_needs_the_modules_that_it_uses(project: Project) -> None:
    project(
        {
            "aaa_global.py": "x = 1",
            "bbb_class.py": "class Point: pass",
            "ccc_inside.py": "",
            "ddd_not.py": "",
            "eee_folder/data.txt": "",
        }
    )
    payload = by_value(
        """
        import aaa_global, ddd_not
        from bbb_class import Point
        def fn(x):
            import ccc_inside
            eee_folder = "only a name"
            return aaa_global.x, Point(), ccc_inside, eee_folder
        """
    )
    assert local_modules(payload) == {"aaa_global", "bbb_class", "ccc_inside"}


def test_items_have_modules_too(project: Project) -> None:
    project({"aaa_items.py": "class Thing: pass"})
    from aaa_items import Thing  # type: ignore[import-not-found]  # made above

    function = by_value("def fn(x): return x")
    assert local_modules(function) == set()
    assert local_modules(function, dump_item(Thing(), 0)) == {"aaa_items"}


def test_installed_modules_stay_where_they_are_but_editable_ones_do_not(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project({"aaa_installed.py": ""}, "venv/lib/python3.11/site-packages")
    project({"bbb_installed/__init__.py": ""}, "usr/lib/python3/dist-packages")
    source = tmp_path / "elsewhere" / "src"
    (source / "ccc_editable").mkdir(parents=True)
    (source / "ccc_editable" / "__init__.py").write_text("")

    class Finder:  # as setuptools' editable installs put one on sys.meta_path
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            from importlib.util import spec_from_file_location

            if name != "ccc_editable":
                return None
            folder = source / name
            return spec_from_file_location(
                name, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    payload = by_value(
        "def fn():\n    import aaa_installed, bbb_installed, ccc_editable, cloudpickle, dayfly"
    )
    assert local_modules(payload) == {"ccc_editable"}
    assert members({"ccc_editable"}) == ["ccc_editable/__init__.py"]


def test_modules_can_be_included_and_excluded(project: Project) -> None:
    project(
        {
            "aaa_one.py": "import bbb_two\ndef fn(): pass",
            "bbb_two/__init__.py": "",
            "bbb_two/kept.py": "",
            "bbb_two/big/__init__.py": "",
            "bbb_two/big/part.py": "import ccc_three",
            "ccc_three.py": "import ddd_four",
            "ddd_four.py": "",
        }
    )
    from aaa_one import fn  # type: ignore[import-not-found]  # made above

    payload = dump_function(fn).payload
    assert local_modules(payload) == {"aaa_one", "bbb_two"}
    assert local_modules(payload, exclude=["bbb_two"]) == {"aaa_one"}
    more = local_modules(payload, include=["bbb_two.big.part"])
    assert more == {"aaa_one", "bbb_two", "ccc_three", "ddd_four"}
    assert local_modules(payload, include=["ccc_three"], exclude=["ddd_four"]) == {
        "aaa_one",
        "bbb_two",
        "ccc_three",
    }
    assert local_modules(payload, include=["msgspec"]) == {"aaa_one", "bbb_two", "msgspec"}
    kept = members({"bbb_two"}, exclude=["bbb_two.big"])
    assert kept == ["bbb_two/__init__.py", "bbb_two/kept.py"]
    with pytest.raises(errors.UsageError, match="there is no module 'bbb_too' to ship"):
        local_modules(payload, include=["bbb_too"])
    with pytest.raises(errors.UsageError, match="there is no module 'sys' to ship"):
        local_modules(payload, include=["sys"])


def test_a_source_that_does_not_parse_is_shipped_as_it_is(project: Project) -> None:
    project({"aaa_broken.py": "def (", "bbb_null.py": "x = '\0'"})
    payload = by_value("def fn():\n    import aaa_broken, bbb_null")
    assert local_modules(payload) == {"aaa_broken", "bbb_null"}


def test_modules_that_import_each_other_are_no_trap(project: Project) -> None:
    project({"aaa_x.py": "import bbb_y", "bbb_y.py": "from aaa_x import *"})
    assert local_modules(by_value("def fn():\n    import aaa_x")) == {"aaa_x", "bbb_y"}


def test_the_keys_of_a_long_pickle_are_not_taken_for_modules() -> None:
    payload = dump_item({f"word_{n}": os.urandom(50) for n in range(20_000)}, 0)
    assert local_modules(payload) == set()


# -- the archive --


def test_the_same_source_gives_the_same_archive(project: Project) -> None:
    root = project({"aaa_pkg/__init__.py": "", "aaa_pkg/b.py": "x = 1", "aaa_pkg/a.py": ""})
    first = archive({"aaa_pkg"})
    for path in root.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    assert archive({"aaa_pkg"}) == first
    assert len(first.digest) == 64
    (root / "aaa_pkg" / "b.py").write_text("x = 2")
    assert archive({"aaa_pkg"}).digest != first.digest


def test_an_edit_is_seen_at_once_even_in_the_same_tick(project: Project) -> None:
    root = project({"aaa_edited.py": "import bbb_old", "bbb_old.py": "", "bbb_new.py": ""})
    payload = by_value("def fn():\n    import aaa_edited")
    assert local_modules(payload) == {"aaa_edited", "bbb_old"}
    (root / "aaa_edited.py").write_text("import bbb_new")
    assert local_modules(payload) == {"aaa_edited", "bbb_new"}


def test_an_archive_of_source_that_rests_is_made_once(project: Project) -> None:
    root = project({"aaa_rests.py": "x = 1"})
    os.utime(root / "aaa_rests.py", (1e9, 1e9))
    first = archive({"aaa_rests"})
    assert archive({"aaa_rests"}).data is first.data
    (root / "aaa_rests.py").write_text("x = 2")
    assert archive({"aaa_rests"}).digest != first.digest


def test_too_much_is_refused_with_what_to_leave_out(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project({"aaa_big/__init__.py": "", "aaa_big/model.bin": "x" * 3_000_000, "bbb_small.py": ""})
    monkeypatch.setattr(modules, "MAX_BYTES", 2_000_000)
    with pytest.raises(errors.SerializationError, match="too large to ship: 3 MB") as caught:
        archive({"aaa_big", "bbb_small"})
    assert "aaa_big has 3 MB; the largest file is " in caught.value.cause
    assert "exclude_modules=['aaa_big.model']" in caught.value.hint
    assert members({"aaa_big"}, exclude=["aaa_big.model"]) == ["aaa_big/__init__.py"]


def test_what_has_no_source_is_told(
    project: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    project({"aaa_ext/__init__.py": "", "aaa_ext/fast.cpython-311-x86_64-linux-gnu.so": "ELF"})
    handmade = types.ModuleType("bbb_handmade")
    monkeypatch.setitem(sys.modules, "bbb_handmade", handmade)
    found = local_modules(by_value("import bbb_handmade\ndef fn(): return bbb_handmade"))
    assert found == {"bbb_handmade"}
    bare = archive(found)
    assert bare.data == b""
    assert bare.warnings == ("module bbb_handmade has no source that could be shipped",)
    assert caplog.messages == list(bare.warnings)
    if sys.version_info[:2] == (3, 11) and sys.platform == "linux":
        (warning,) = archive({"aaa_ext"}).warnings
        assert "fast.cpython-311-x86_64-linux-gnu.so is compiled for this machine" in warning


def test_only_the_local_part_of_a_namespace_is_shipped(project: Project) -> None:
    project({"aaa_ns/mine/__init__.py": "x = 1"}, "one")
    project({"aaa_ns/also/__init__.py": ""}, "two")
    project({"aaa_ns/theirs/__init__.py": ""}, "venv/site-packages")
    import aaa_ns.mine  # type: ignore[import-not-found]  # made above

    found = local_modules(dump_item(aaa_ns.mine, 0))
    assert found == {"aaa_ns"}
    assert members(found) == ["aaa_ns/also/__init__.py", "aaa_ns/mine/__init__.py"]


FAR_END = """
import json, pickle, sys
sys.path.insert(0, sys.argv[1])
fn, extra = pickle.loads(sys.stdin.buffer.read().partition(b"\\n")[2])
print(json.dumps(fn(20)))
"""


def test_a_function_runs_where_only_its_archive_is(project: Project, tmp_path: Path) -> None:
    project(
        {
            "aaa_model/__init__.py": "from .core import Model",
            "aaa_model/core.py": """
                from pathlib import Path
                class Model:
                    def run(self, x):
                        from bbb_scale import scale
                        return scale(x) + int(Path(__file__).with_name("bias.txt").read_text())
            """,
            "aaa_model/bias.txt": "2",
            "bbb_scale.py": "def scale(x): return 2 * x",
        }
    )
    payload = by_value("from aaa_model import Model\ndef fn(x): return Model().run(x)")
    there = tmp_path / "there"
    with zipfile.ZipFile(io.BytesIO(archive(local_modules(payload)).data)) as bundle:
        bundle.extractall(there)
    run = subprocess.run(
        [sys.executable, "-c", FAR_END, there],
        input=payload,
        capture_output=True,
        timeout=30,
        check=True,
        cwd="/",
    )
    assert json.loads(run.stdout) == 42


def test_a_parser_that_miscounts_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, calls = ast.parse, 0

    def miscounting(source: str) -> ast.Module:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise SystemError("AST constructor recursion depth mismatch (before=195, after=251)")
        return parse(source)

    (tmp_path / "program.py").write_text("import beside\n")
    monkeypatch.setattr(ast, "parse", miscounting)
    assert set(modules._scan(tmp_path / "program.py", "")) == {"beside"}
