"""Machines die, clients die, clouds are full: what the user sees, and what is left."""

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
from dayfly.cloud.localhost import Faults, LocalhostCloud
from dayfly.config import load
from dayfly.model import Instance, InstanceState, Tag
from dayfly.parts import open_parts
from tests.acceptance.conftest import eventually
from tests.conftest import Home, processes_of

pytestmark = [pytest.mark.timeout(120), pytest.mark.thorough]


def cloud_of(home: Home) -> LocalhostCloud:
    cloud = open_parts(load(home.config)).cloud
    assert isinstance(cloud, LocalhostCloud)
    return cloud


def make(home: Home, **keys: Any) -> FunctionExecutor:
    return FunctionExecutor(config=home.config, progress=False, **keys)


def slow_square(x: int) -> int:
    time.sleep(0.1)
    return x * x


def processes(home: Home, words: str) -> list[int]:
    return [pid for pid, command in processes_of(home.path).items() if words in command]


async def workers(home: Home) -> list[Instance]:
    found = await cloud_of(home).list(tags={Tag.ROLE: "worker"}, states=[InstanceState.RUNNING])
    return sorted(found, key=lambda i: i.id)


async def test_a_worker_that_is_killed_in_mid_map_gives_its_calls_back(home: Home) -> None:
    async with make(home, max_workers=2) as ex:
        job = ex.map(slow_square, range(60))
        await eventually(lambda: job.progress.done > 6)
        victim, *_ = await workers(home)
        for pid in processes(home, victim.id):
            os.kill(pid, signal.SIGKILL)
        assert await job == [x * x for x in range(60)]


async def test_when_the_only_worker_is_killed_another_is_launched(home: Home) -> None:
    async with make(home, max_workers=1) as ex:
        job = ex.map(slow_square, range(30))
        await eventually(lambda: job.progress.done > 3)
        (victim,) = await workers(home)
        for pid in processes(home, victim.id):
            os.kill(pid, signal.SIGKILL)
        assert await job == [x * x for x in range(30)]


async def test_an_agent_that_is_killed_comes_back_and_the_map_finishes(home: Home) -> None:
    async with make(home, max_workers=1) as ex:
        job = ex.map(slow_square, range(40))
        await eventually(lambda: job.progress.done > 3)
        for pid in processes(home, "dayfly.worker"):
            os.kill(pid, signal.SIGKILL)
        assert await job == [x * x for x in range(40)]


async def test_the_masters_service_is_killed_in_mid_map_and_the_map_finishes(home: Home) -> None:
    async with make(home, max_workers=2) as ex:
        job = ex.map(slow_square, range(60))
        await eventually(lambda: job.progress.done > 6)
        (service,) = processes(home, "dayfly.master")
        os.kill(service, signal.SIGKILL)
        assert await job == [x * x for x in range(60)]


async def test_the_masters_vm_is_killed_in_mid_map_and_the_map_finishes(home: Home) -> None:
    async with make(home, max_workers=2) as ex:
        job = ex.map(slow_square, range(60))
        await eventually(lambda: job.progress.done > 6)
        (master,) = await cloud_of(home).list(tags={Tag.ROLE: "master"})
        for pid in processes(home, master.id):
            if master.id in processes_of(home.path).get(pid, ""):
                os.kill(pid, signal.SIGKILL)
        assert await job == [x * x for x in range(60)]


async def test_the_masters_vm_and_its_disk_are_gone_and_each_outcome_still_comes_once(
    home: Home,
) -> None:
    async with make(home, max_workers=2) as ex:
        job = ex.map(slow_square, range(60))
        came: list[int] = []
        async for outcome in job.as_completed():
            came.append(outcome.index)
            if len(came) == 12:
                (master,) = await cloud_of(home).list(tags={Tag.ROLE: "master"})
                await cloud_of(home).terminate([master.id])
        assert sorted(came) == list(range(60))
        assert await job == [x * x for x in range(60)]


async def test_a_spot_interruption_costs_no_outcome(home: Home) -> None:
    async with make(home, max_workers=2, request_spot_instances=True) as ex:
        job = ex.map(slow_square, range(60))
        await eventually(lambda: job.progress.done > 6)
        victim, *_ = await workers(home)
        await cloud_of(home).interrupt(victim.id, notice=0.2)
        assert await job == [x * x for x in range(60)]


async def test_with_too_little_capacity_it_runs_with_fewer_and_says_so(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    await cloud_of(home).set_faults(Faults(capacity=2))  # the master and one worker
    async with FunctionExecutor(config=home.config, max_workers=3, progress=True) as ex:
        assert await ex.map(slow_square, range(12)) == [x * x for x in range(12)]
    said = capsys.readouterr().err
    assert "1 of 3 workers" in said
    assert "InsufficientInstanceCapacity" in said


async def test_with_no_capacity_at_all_the_error_names_the_pool(home: Home) -> None:
    await cloud_of(home).set_faults(Faults(capacity=1))
    async with make(home) as ex:
        with pytest.raises(dayfly.DayflyError, match=r"(?s)could be had.*local"):
            await ex.map(slow_square, [1])


async def test_a_vm_that_never_answers_ssh_is_named(home: Home) -> None:
    await cloud_of(home).set_faults(Faults(never_boot=10))
    async with make(home, start_timeout=3) as ex:
        began = time.monotonic()
        with pytest.raises(dayfly.DayflyError, match=r"i-[0-9a-f]{17}.*did not answer SSH"):
            await ex.map(slow_square, [1])
        assert time.monotonic() - began < 15


async def test_a_worker_that_never_answers_is_replaced(home: Home) -> None:
    async with make(home, max_workers=1, start_timeout=8) as ex:
        assert await ex.map(slow_square, [1]) == [1]
        (worker,) = await workers(home)
        await cloud_of(home).terminate([worker.id])
        await cloud_of(home).set_faults(Faults(never_boot=1))
        assert await ex.map(slow_square, [2]) == [4]


async def test_storage_that_refuses_is_an_error_that_names_it(home: Home) -> None:
    blocked = home.path / "file"
    blocked.write_text("not a directory")
    async with make(home, storage_directory=str(blocked)) as ex:
        with pytest.raises(dayfly.StorageError, match="file"):
            await ex.map(slow_square, [1])


SCRIPT = """
import asyncio, sys, time
from dayfly import FunctionExecutor

def nap(x):
    open(sys_path + "/beat-%d" % x, "w").write(str(time.time()))
    time.sleep(60)

sys_path = sys.argv[1]

async def main():
    async with FunctionExecutor(max_workers=1) as ex:
        await ex.map(nap, range(2))

asyncio.run(main())
"""


def run_script(home: Home) -> subprocess.Popen[str]:
    path = home.path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return subprocess.Popen(
        [sys.executable, str(path), str(home.path)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(dayfly.__file__).parents[1])},
    )


async def finished(process: subprocess.Popen[str], within: float) -> str:
    try:
        _, said = await asyncio.wait_for(asyncio.to_thread(process.communicate), within)
    finally:
        process.kill()
    return said


def is_running_calls(home: Home) -> bool:
    return (home.path / "beat-0").exists() and (home.path / "beat-1").exists()


async def test_ctrl_c_once_is_orderly(home: Home) -> None:
    process = run_script(home)
    await eventually(lambda: is_running_calls(home), within=30)
    process.send_signal(signal.SIGINT)
    said = await finished(process, 20)
    assert process.returncode not in (0, None)
    assert "cancel" in said
    jobs = subprocess.run(
        [sys.executable, "-m", "dayfly", "job", "list"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(dayfly.__file__).parents[1])},
    )
    assert "cancelled" in jobs.stdout, jobs.stderr


async def test_ctrl_c_twice_leaves_at_once_and_says_what_remains(home: Home) -> None:
    process = run_script(home)
    await eventually(lambda: is_running_calls(home), within=30)
    (master,) = processes(home, "dayfly.master")
    os.kill(master, signal.SIGSTOP)  # so that the orderly way would take long
    process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.5)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    said = await finished(process, 10)
    assert time.monotonic() - began < 3
    assert "dayfly clean" in said
    os.kill(master, signal.SIGCONT)
