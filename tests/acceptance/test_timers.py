"""No VM outlives its timer, whoever is dead."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import dayfly
from dayfly import FunctionExecutor
from dayfly.config import load
from dayfly.model import InstanceState, Tag
from dayfly.parts import open_parts
from tests.acceptance.conftest import eventually
from tests.conftest import Home, processes_of

pytestmark = pytest.mark.timeout(120)


async def states(home: Home) -> dict[str, list[InstanceState]]:
    found: dict[str, list[InstanceState]] = {"master": [], "worker": []}
    for instance in await open_parts(load(home.config)).cloud.list():
        found[instance.tags[Tag.ROLE]].append(instance.state)
    return found


async def rested(home: Home) -> bool:
    """Workers gone, the master stopped."""
    now = await states(home)
    return now["master"] == [InstanceState.STOPPED] and set(now["worker"]) <= {
        InstanceState.TERMINATED
    }


async def test_after_the_soft_timeout_workers_are_gone_and_the_master_is_stopped(
    home: Home,
) -> None:
    async with FunctionExecutor(
        config=home.config, soft_dismantle_timeout=1.5, progress=False
    ) as ex:
        assert await ex.map(abs, [-1]) == [1]
        assert (await states(home))["worker"] == [InstanceState.RUNNING]
    await eventually(lambda: rested(home))
    await eventually(lambda: not [c for c in processes_of(home.path).values() if "dayfly" in c])


@pytest.mark.thorough
async def test_a_stopped_master_is_started_again_and_knows_its_jobs(home: Home) -> None:
    keys = {"soft_dismantle_timeout": 1.0, "progress": False}
    async with FunctionExecutor(config=home.config, **keys) as ex:  # type: ignore[arg-type]
        job = ex.map(abs, [-1])
        await job
    await eventually(lambda: rested(home))
    async with FunctionExecutor(config=home.config, progress=False) as ex:
        assert await ex.map(abs, [-2]) == [2]
        jobs = await asyncio.to_thread(dayfly_command, "job", "list")
        assert job.id in jobs
    assert len((await states(home))["master"]) == 1


@pytest.mark.thorough
async def test_the_hard_timeout_cuts_a_job_and_keeps_what_is_done(home: Home) -> None:
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    keys: dict[str, Any] = {"config": home.config, "max_workers": 1, "progress": False}
    async with FunctionExecutor(**keys) as ex:
        await ex.map(nap, [0.0] * 3)  # the machines are up: the timeout bounds the job alone
    async with FunctionExecutor(**keys, hard_dismantle_timeout=4) as ex:
        job = ex.map(nap, [0.0, 0.1, 300.0])
        with pytest.raises(dayfly.HardTimeoutError, match="hard_dismantle_timeout"):
            await job
        assert job.progress.done == 2
    await eventually(lambda: rested(home))


@pytest.mark.thorough
async def test_with_client_and_master_killed_every_vm_still_goes_in_time(home: Home) -> None:
    script = home.path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, time
        from dayfly import FunctionExecutor

        async def main():
            async with FunctionExecutor(max_workers=2, hard_dismantle_timeout=8) as ex:
                await ex.map(time.sleep, [300] * 4)

        asyncio.run(main())
        """)
    )
    client = subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.DEVNULL, env=environment()
    )
    began = time.monotonic()

    async def at_work() -> bool:
        return (await states(home))["worker"] == [InstanceState.RUNNING] * 2 and bool(
            [c for c in processes_of(home.path).values() if "dayfly.worker" in c]
        )

    await eventually(at_work, within=20)
    client.kill()
    client.wait()
    for pid, command in processes_of(home.path).items():
        if "dayfly.master" in command:
            # Its service manager would bring it back: that goes too, but the VM stays.
            os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: rested(home), within=30)
    # Launch, 8 s, and 5 s of slack for the VM's own deadline, which looks once a second.
    assert time.monotonic() - began < 25
    await eventually(lambda: not [c for c in processes_of(home.path).values() if "dayfly" in c])


async def test_auto_dismantle_off_leaves_the_machines_up_and_says_so(home: Home) -> None:
    async with FunctionExecutor(
        config=home.config,
        auto_dismantle=False,
        soft_dismantle_timeout=0.5,
        hard_dismantle_timeout=1,
        progress=False,
    ) as ex:
        assert await ex.map(abs, [-1]) == [1]
        await asyncio.sleep(2)
        assert (await states(home))["worker"] == [InstanceState.RUNNING]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(dayfly.__file__).parents[1])}


def dayfly_command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dayfly", *words], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
