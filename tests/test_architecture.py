"""The plan of the house, held against the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "dayfly"

#: Who may import whom: a room imports rooms of the floors below it. A room that is not here
#: has no place in the house yet.
FLOORS = (
    {"cli"},
    {"client", "master", "worker"},
    {"parts", "provision", "stock", "wire"},
    {"cloud", "storage", "shell"},
    {"aws"},
    {"config", "serialize", "modules", "blame", "bootstrap", "baking", "baked", "cost", "dismantle",
     "guest"},
    {"model", "phases"},
    {"environment"},
    {"errors", "clock", "processes", "outcomes", "guarded", "runtimes"},
)  # fmt: skip
#: Rooms of one floor that may look into each other, as (from, to).
DOORS = {
    ("runtimes", "guarded"),
    ("serialize", "blame"),
    ("serialize", "modules"),
    ("blame", "modules"),
    ("baking", "bootstrap"),
    ("cost", "dismantle"),
    ("parts", "wire"),
}
#: They hand out what lies below: the public names, and ``python -m dayfly``.
ROOF = {"__init__", "__main__"}

FLOOR_OF = {room: number for number, rooms in enumerate(reversed(FLOORS)) for room in rooms}

#: Modules that unpickle or pickle.
PICKLERS = {"serialize", "blame", "worker.runner"}
#: Modules of those rooms that ask the machine for time or chance all the same, and why.
UNSEAMED = {
    "worker.runner": "in the user's environment, where there is nothing but the stdlib",
    "wire.link": "nonces of the handshake",
}
#: The rooms that orchestrate: time and chance are arguments there.
SEAMED = {"client", "master", "worker", "provision", "dismantle", "wire"}
CHANCE = {"time", "random", "uuid", "secrets"}
LONGEST = 450
#: Longer ones, and why.
LONG = {"runner.py": "runs where no other module of ours is, so it stays one file"}


@cache
def modules() -> dict[str, ast.Module]:
    """Name below ``dayfly`` -> its syntax tree; a package goes by its own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(path.read_text(), str(path))
    return found


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Every import of a module, wherever it stands, as (line, absolute dotted name)."""
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: a relative import"
            assert node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def room(name: str) -> str:
    return name.partition(".")[0]


ALL = sorted(modules())


@pytest.mark.parametrize("name", ALL)
def test_every_room_has_a_floor(name: str) -> None:
    assert room(name) in FLOOR_OF or name in ROOF


@pytest.mark.parametrize("name", ALL)
def test_imports_point_down(name: str) -> None:
    if name in ROOF:
        return
    here = room(name)
    for line, imported in imports(name):
        package, _, rest = imported.partition(".")
        if package != "dayfly" or not rest or room(rest) not in FLOOR_OF:
            continue
        there = room(rest)
        down = FLOOR_OF[there] < FLOOR_OF[here]
        assert here == there or down or (here, there) in DOORS, (
            f"{name}:{line} imports {imported}: {there} is not below {here}"
        )


@pytest.mark.parametrize("name", ALL)
def test_only_those_who_serialize_and_the_runner_pickle(name: str) -> None:
    if name in PICKLERS:
        return
    for line, imported in imports(name):
        assert imported.partition(".")[0] not in {"pickle", "cloudpickle", "dill"}, (
            f"{name}:{line} imports {imported}"
        )


def test_the_runner_needs_nothing_but_the_standard_library_and_cloudpickle() -> None:
    if "worker.runner" not in modules():
        pytest.skip("no runner yet")
    import sys

    for line, imported in imports("worker.runner"):
        top = imported.partition(".")[0]
        assert top in sys.stdlib_module_names or top == "cloudpickle", f"runner.py:{line}: {top}"


@pytest.mark.parametrize("name", [name for name in ALL if room(name) in SEAMED])
def test_time_and_chance_are_arguments_where_things_are_orchestrated(name: str) -> None:
    if name in UNSEAMED:
        return
    for line, imported in imports(name):
        assert imported.partition(".")[0] not in CHANCE, f"{name}:{line} imports {imported}"
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used = f"{node.value.id}.{node.attr}"
            assert used not in {"os.urandom", "datetime.now", "datetime.utcnow"}, (
                f"{name}:{node.lineno} uses {used}"
            )


@pytest.mark.parametrize("name", UNSEAMED)
def test_an_exception_that_is_not_needed_any_more_is_deleted(name: str) -> None:
    assert any(imported.partition(".")[0] in CHANCE for _, imported in imports(name))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_a_module_holds_one_idea(path: Path) -> None:
    if path.name in LONG:
        return
    lines = path.read_text().count("\n")
    assert lines < LONGEST, f"{path.name} has {lines} lines: it holds two ideas"


@pytest.mark.parametrize("name", ALL)
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(modules()[name])


def test_the_readme_runs_what_ci_runs() -> None:
    commands = re.findall(r"^(pip install .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) >= 2, "one runs the main job, one passes the tests"
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()
