"""Seconds to the first result: from a bare image, and from one that was built.

Not a test of speed, which is the host's: it prints medians, and holds the second below the first.
"""

from __future__ import annotations

import os
import statistics
import time

import pytest
import yaml

from dayfly import FunctionExecutor
from dayfly.config import load
from dayfly.parts import open_parts
from tests.machines.fixtures import Ec2Box
from tests.machines.test_image_build import dayfly

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1800)]

#: Cold starts of each kind.
RUNS = int(os.environ.get("RUNS", "3"))


def square(x: int) -> int:
    return x * x


async def cold_start(box: Ec2Box) -> tuple[float, float]:
    """Seconds to the first result of a master and a worker that are launched for it; the load."""
    began = time.monotonic()
    async with FunctionExecutor(config=box.config, progress=False, max_workers=1) as executor:
        assert await executor.map(square, [3]) == [9]
        took = time.monotonic() - began
    async with open_parts(load(box.config)) as parts:
        await parts.cloud.terminate([one.id for one in await parts.cloud.list()])
    return took, os.getloadavg()[0]


async def test_an_image_makes_a_cold_start_faster(box: Ec2Box) -> None:
    box.config["aws_ec2"] |= {"package_index": [box.index.url]}
    box.config_file.write_text(yaml.safe_dump(box.config))
    box.index.open()
    first = await cold_start(box)
    box.index.close()
    bare = [await cold_start(box) for _ in range(RUNS)]
    box.index.open()
    began = time.monotonic()
    await dayfly("image", "build", "mine")
    built = time.monotonic() - began
    box.index.close()
    baked = [await cold_start(box) for _ in range(RUNS)]

    def told(runs: list[tuple[float, float]]) -> str:
        times = sorted(run[0] for run in runs)
        middle = statistics.median(times)
        return f"median {middle:.1f} s of {len(runs)} ({times[0]:.1f} to {times[-1]:.1f})"

    print(f"the first of all, from a bare image: {first[0]:.1f} s")
    print(f"again, from a bare image: {told(bare)}")
    print(f"from an image that was built (in {built:.1f} s): {told(baked)}")
    print(f"load: {[round(run[1]) for run in (first, *bare, *baked)]}")
    assert statistics.median(run[0] for run in baked) < statistics.median(run[0] for run in bare)
    await dayfly("clean", "--all")
