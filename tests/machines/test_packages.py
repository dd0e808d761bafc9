"""A client with packages of every kind, on machines that never had any of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from uv import find_uv_bin

from dayfly.cli.phases import cells, rows
from dayfly.cli.show import plain
from dayfly.config import load
from dayfly.parts import open_parts
from dayfly.phases import Phase
from tests.machines.fixtures import Ec2Box

pytestmark = [pytest.mark.machines, pytest.mark.timeout(400)]

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import asyncio
import json

import msgspec
import numpy
import pandas

import shapes
from units import metres
from dayfly import FunctionExecutor


def work(count):
    frame = pandas.DataFrame({"side": numpy.arange(count, dtype=float)})
    return metres(shapes.area(frame.side.sum())), numpy.__version__, pandas.__version__


async def main():
    async with FunctionExecutor(progress=False, max_workers=1) as executor:
        job = executor.map(work, [3, 4])
        print(json.dumps([await job, msgspec.to_builtins(job.phases)]))


if __name__ == "__main__":
    asyncio.run(main())
"""
PROJECT = """
[project]
name = "units"
version = "0.1"
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.hatch.build.targets.wheel]
packages = ["src/units"]
"""


class Client:
    """A user's project: a script in an environment, a module beside it, an editable package."""

    def __init__(self, folder: Path, box: Ec2Box) -> None:
        self.python = folder / "venv/bin/python"
        self._script = folder / "project/script.py"
        self._units = folder / "units/src/units/__init__.py"
        for path, text in {
            self._script: PROGRAM,
            self._script.with_name("shapes.py"): "def area(side):\n    return side * side\n",
            folder / "units/pyproject.toml": PROJECT,
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.write_units("m")
        self._env = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith(("PYTHON", "PIP_", "UV_", "VIRTUAL_ENV"))
        }
        self._index = {"UV_DEFAULT_INDEX": box.index.local_url}

    def write_units(self, unit: str) -> None:
        """Edit the editable package."""
        self._units.parent.mkdir(parents=True, exist_ok=True)
        self._units.write_text(f"def metres(number):\n    return f'{{number:g}} {unit}'\n")

    async def install(self, *what: str | Path) -> None:
        uv, python = find_uv_bin(), str(self.python)
        await self._run(uv, "venv", "--python", sys.executable, self.python.parents[1])
        await self._run(uv, "pip", "install", "--python", python, *what)
        units = self._script.parents[1] / "units"
        await self._run(uv, "pip", "install", "--python", python, "--editable", units)

    async def map(self) -> list[list[str]]:
        """Run the script."""
        began = time.monotonic()
        results, phases = json.loads(await self._run(self.python, self._script))
        # Shown with -rP, and with a test that fails.
        found = rows(msgspec.convert(phases, list[Phase]))
        span = max(row.start + row.seconds for row in found)
        print(plain(["who", "phase", "began", "took", "bar"], [cells(row, span) for row in found]))
        print(f"the program took {time.monotonic() - began:.1f} s")
        return list(results)

    async def _run(self, *command: str | Path) -> str:
        index = self._index if command[0] != self.python else {}
        process = await asyncio.create_subprocess_exec(
            *command, env=self._env | index, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, command
        return output.decode()


async def test_what_a_client_has_is_there_and_the_second_time_nobody_is_asked(
    box: Ec2Box, tmp_path: Path
) -> None:
    box.index.open()
    keys: dict[str, Any] = {"package_index": [box.index.url]}
    box.config["aws_ec2"] |= keys
    box.config_file.write_text(yaml.safe_dump(box.config))
    client = Client(tmp_path, box)
    await client.install(REPOSITORY, "numpy", "pandas")

    told = await client.map()
    versions = told[0][1:]
    assert told == [["9 m", *versions], ["36 m", *versions]]
    assert any("pandas" in each.path for each in box.index.asked_by_machines)

    # Another computer of the same user, other machines, an edit; and no package index at all.
    async with open_parts(load(box.config)) as parts:
        await parts.cloud.terminate([one.id for one in await parts.cloud.list()])
    shutil.rmtree(box.path / ".cache")
    client.write_units("metres")
    box.index.close()
    asked = len(box.index.requests)
    assert await client.map() == [["9 metres", *versions], ["36 metres", *versions]]
    assert len(box.index.requests) == asked
