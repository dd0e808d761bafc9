"""One round of :mod:`benchmarks.cold`: what it measures, in the box that pytest gives it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dayfly import FunctionExecutor
from dayfly.config import load
from dayfly.parts import open_parts
from dayfly.phases import BOOT as MASTERS_BOOT
from tests.conftest import own_home
from tests.machines.fixtures import Ec2Box, aws, box, index, run
from tests.machines.guest import Guests

__all__ = ["aws", "box", "index", "own_home", "run"]

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1200)]

ROUND: Final = f"{__file__}::test_round"
#: The variable that names the file for the figures.
RESULTS: Final = "DAYFLY_BENCH_RESULTS"
BOOT, INSTALL = "floor: RunInstances to `true` over SSH", "floor: uv, the same files, one VM"
BARE, AGAIN = "bare image to first result", "again, package index closed"
BUILD, BUILT = "dayfly image build", "with the image built, index closed"


@pytest.fixture(scope="module")
def results() -> Path:
    """Where the figures go; the tests' own home forgets the variable."""
    return Path(os.environ[RESULTS])


async def test_round(results: Path, box: Ec2Box) -> None:
    """Measure everything once, in an account that is empty."""
    box.config["aws_ec2"] |= {"package_index": [box.index.url], "max_workers": 2}
    box.config_file.write_text(yaml.safe_dump(box.config))
    found = {BOOT: await boot(box)}
    box.index.open()
    found[BARE] = await first_result()
    asked = len(box.index.asked_by_machines)
    box.index.close()
    await end_all(box)
    found[AGAIN] = await first_result()
    found[INSTALL] = await install(box)
    await end_all(box)
    began = time.monotonic()
    await dayfly("image", "build", "bench")
    found[BUILD] = time.monotonic() - began
    await end_all(box)
    found[BUILT] = await first_result()
    await end_all(box)
    assert len(box.index.asked_by_machines) == asked, "the package index was asked again"  # noqa: S101
    order = (BOOT, INSTALL, BARE, AGAIN, BUILD, BUILT)
    figures = json.dumps({name: found[name] for name in order})
    await asyncio.to_thread(results.write_text, figures)


async def boot(box: Ec2Box) -> float:
    """A machine and nothing else."""
    guests = Guests(box.aws)
    began = time.monotonic()
    (machine,) = await guests.launch()
    assert (await guests.run(machine, "true")).status == 0  # noqa: S101
    taken = time.monotonic() - began
    await end_all(box)
    return taken


async def first_result() -> float:
    """A new client process, from its start to the first outcome in its hands."""
    phases = json.loads(await dayfly("hello", "-m", "8", "--json"))
    assert any(phase["what"] == MASTERS_BOOT for phase in phases), "it was no cold start"  # noqa: S101
    return float(max(phase["start"] + phase["seconds"] for phase in phases))


async def install(box: Ec2Box) -> float:
    """Uv alone, from the wheels that a worker has, as fast as it can."""

    def by_uv() -> float:
        import subprocess
        import tempfile
        import time
        from pathlib import Path

        root = Path("/opt/dayfly")
        (uv,) = map(str, root.glob("uv/*/uv"))
        wheels = [str(each) for each in root.glob("wheels/*/*.whl") if "uv-" not in each.name]
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            common = [uv, "--offline", "--no-config", "--cache-dir", f"{folder}/cache"]
            target = f"{folder}/venv"
            began = time.monotonic()
            subprocess.run([*common, "venv", "-q", target], check=True)
            install = ["pip", "install", "-q", "--no-index", "--no-deps", "--python", target]
            subprocess.run([*common, *install, *wheels], check=True)
            return time.monotonic() - began

    async with FunctionExecutor(config=box.config, progress=False) as executor:
        return await executor.submit(by_uv)


async def dayfly(*words: str) -> str:
    """Run a command; returns its answer."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dayfly", *words), stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await process.communicate()
    assert process.returncode == 0, words  # noqa: S101
    return answer.decode()


async def end_all(box: Ec2Box) -> None:
    """Every machine goes; what storage has stays."""
    async with open_parts(load(box.config)) as parts:
        listed: list[Any] = await parts.cloud.list()
        await parts.cloud.terminate([one.id for one in listed])
    everything = [life.id for life in box.instances("", "running", "pending", "stopped")]
    if everything:
        await Guests(box.aws).call("terminate_instances", InstanceIds=everything)
