"""The examples run as the README says, and their answers are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Home

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.parametrize(
    "arguments",
    [
        ["word_count.py", "--limit", "60"],
        ["monte_carlo.py", "--calls", "40", "--points", "5000"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_example_gives_the_same_answer_as_without_dayfly(
    home: Home, arguments: list[str]
) -> None:
    script, *options = arguments
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("checked: same as without dayfly")
    left = [path for path in (home.path / "storage" / "examples").rglob("*") if path.is_file()]
    assert left == []


def test_the_notebooks_cells_run_one_after_the_other(home: Home) -> None:
    """As in a kernel: top-level await, one loop, names that stay."""
    import ast
    import asyncio

    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    names: dict[str, object] = {"__name__": "__main__"}
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert cells

    async def run_cells() -> None:
        for cell in cells:
            code = compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running = eval(code, names)  # noqa: S307  # our own notebook
            if running is not None:
                await running

    asyncio.run(run_cells())
