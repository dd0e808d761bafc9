"""The client of the scale benchmark: a real executor, on a cloud that costs nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from benchmarks.scale_agents import VALUE
from benchmarks.scale_cloud import ScaleCloud, ScaleShell
from benchmarks.scale_gauge import Gauge, obey
from benchmarks.scale_stage import located, settings
from dayfly import FunctionExecutor
from dayfly.clock import SystemClock
from dayfly.config import load
from dayfly.parts import Parts, open_storage


async def main(folder: Path, instances: int, boot: float) -> None:
    """Map when it is asked to."""
    clock, config = SystemClock(), settings(folder, instances)
    cloud = ScaleCloud(boot, clock)
    parts = Parts(
        config=load(config),
        cloud=cloud,
        storage=open_storage(located(folder)),
        shell=ScaleShell(folder / "master", cloud.up),
        clock=clock,
    )

    async with FunctionExecutor(config, progress=False, parts=parts) as executor:

        async def run(calls: int) -> float:
            began = time.perf_counter()
            results = await executor.map(abs, range(calls))
            taken = time.perf_counter() - began
            assert results == [VALUE] * calls  # noqa: S101  # a wrong answer is no answer
            return taken

        await obey(Gauge(), {"map": run})


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *json.loads(sys.argv[2])))
