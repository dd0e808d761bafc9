"""Jobs are taken up again from other processes, whatever became of the first one and the VMs."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dayfly
from dayfly import FunctionExecutor
from dayfly.config import load
from dayfly.model import InstanceState, Tag
from dayfly.parts import open_parts
from dayfly.storage import keys
from tests.acceptance.conftest import eventually
from tests.conftest import Home
from tests.programs import dayfly_command, program

pytestmark = [pytest.mark.timeout(120), pytest.mark.thorough]


def square(n: int) -> int | bytes:
    return n * n if n != 7 else b"7" * 100_000


def kept(path: str | Path) -> Any:
    """What ``job result`` has saved."""
    return pickle.loads(Path(path).read_bytes())  # noqa: S301  # made by the test


async def is_over(home: Home, job: str) -> bool:
    """Whether storage has the job."""
    async with open_parts(load(home.config)) as parts:
        return [key async for key in parts.storage.list_keys(keys.record(job))] != []


async def states(home: Home) -> set[InstanceState]:
    async with open_parts(load(home.config)) as parts:
        return {instance.state for instance in await parts.cloud.list()}


async def end_vms(home: Home, role: str = "") -> None:
    async with open_parts(load(home.config)) as parts:
        found = await parts.cloud.list(tags={Tag.ROLE: role} if role else {})
        await parts.cloud.terminate([instance.id for instance in found])


@pytest.fixture
def hasty(home: Home) -> dict[str, str]:
    """An environment in which a silent peer is given up after three seconds, a gone one after two.

    It has a dayfly of its own, which is the one that its VMs run.
    """
    source = home.path / "source" / "dayfly"
    shutil.copytree(
        Path(dayfly.__file__).parent, source, ignore=shutil.ignore_patterns("__pycache__")
    )
    for file, before, after in (
        ("wire/link.py", "HEARTBEAT = 10.0", "HEARTBEAT = 2.0"),
        ("master/scheduler.py", "CLIENT_GRACE = 60.0", "CLIENT_GRACE = 2.0"),
    ):
        text = (source / file).read_text()
        assert text.count(before) == 1
        (source / file).write_text(text.replace(before, after))
    return os.environ | {"PYTHONPATH": str(source.parent)}


async def test_another_process_gets_every_outcome_of_a_running_job_and_so_does_the_first(
    home: Home,
) -> None:
    async with program(30, 0.2) as first:
        await eventually(lambda: len(first.came) > 3, within=30)
        job = await FunctionExecutor.attach(first.job, home.config, progress=False)
        indices = [outcome.index async for outcome in job.as_completed()]
        assert sorted(indices) == list(range(30))
        assert await job == [square(n) for n in range(30)]
        await first.end()
        assert sorted(first.came) == list(range(30))
        assert first.lines[-1] == "results True"


async def test_a_job_whose_client_was_killed_is_taken_up_by_another(home: Home) -> None:
    async with program(20, 0.3) as first:
        await eventually(lambda: len(first.came) > 1, within=30)
        first.signal(signal.SIGKILL)
        await first.end()
        async with await FunctionExecutor.attach(first.job, home.config, progress=False) as job:
            assert await job == [square(n) for n in range(20)]
    async with open_parts(load(home.config)) as parts:
        workers = await parts.cloud.list(tags={Tag.ROLE: "worker"})
    assert len(workers) == 2, "those of the first client"


async def test_a_detached_job_is_read_after_its_master_has_stopped_and_after_every_vm_is_gone(
    home: Home,
) -> None:
    async with program(12, 0.05, detach=True, soft_dismantle_timeout=1.0) as first:
        await first.end()
    at_rest = {InstanceState.STOPPED, InstanceState.TERMINATED}

    async def rests() -> bool:
        return await states(home) == at_rest

    await eventually(rests, within=30)
    expected = [square(n) for n in range(12)]
    job = await FunctionExecutor.attach(first.job, home.config, progress=False)
    assert job.progress.total == 12
    assert await job == expected
    assert await asyncio.gather(*job.futures) == expected
    assert await states(home) == at_rest, "no VM was started for it"

    await end_vms(home)
    job = await FunctionExecutor.attach(first.job, home.config, progress=False)
    assert await job == expected
    await dayfly_command("job", "result", first.job)
    assert kept(f"{first.job}.pickle") == expected
    assert await states(home) == {InstanceState.TERMINATED}


async def test_a_detached_job_that_lost_its_workers_is_finished_by_whoever_attaches(
    home: Home,
) -> None:
    async with program(40, 0.5, detach=True) as first:
        await first.end()
    await asyncio.sleep(2.0)
    await end_vms(home, "worker")
    async with FunctionExecutor(home.config, progress=False, max_workers=2) as executor:
        job = await executor.reattach(first.job)
        assert await job == [square(n) for n in range(40)]
    async with open_parts(load(home.config)) as parts:
        workers = await parts.cloud.list(tags={Tag.ROLE: "worker"})
    assert any(worker.state is InstanceState.RUNNING for worker in workers)


async def test_a_client_that_sleeps_gets_everything_when_it_wakes_up(
    home: Home, hasty: dict[str, str]
) -> None:
    async with program(40, 0.5, env=hasty, worker_processes=1) as first:
        await eventually(lambda: len(first.came) > 1, within=30)
        first.signal(signal.SIGSTOP)
        (log,) = home.path.glob("cloud/instances/*/**/master-service.log")
        await eventually(lambda: "has gone silent" in log.read_text())
        await asyncio.sleep(2.0 + 1.0)
        rows = json.loads((await dayfly_command("job", "list", "--json", env=hasty))[0])
        assert [row["state"] for row in rows] == ["running"]
        first.signal(signal.SIGCONT)
        await first.end()
        assert sorted(first.came) == list(range(40))
        assert first.lines[-1] == "results True"


async def test_a_client_that_sleeps_until_its_master_has_stopped_gets_everything_all_the_same(
    home: Home, hasty: dict[str, str]
) -> None:
    async with program(16, 0.4, env=hasty, soft_dismantle_timeout=1.0) as first:
        await eventually(lambda: len(first.came) > 1, within=30)
        first.signal(signal.SIGSTOP)
        await eventually(lambda: is_over(home, first.job), within=20)
        at_rest = {InstanceState.STOPPED, InstanceState.TERMINATED}

        async def rests() -> bool:
            return await states(home) == at_rest

        await eventually(rests, within=30)
        first.signal(signal.SIGCONT)
        await first.end()
        assert sorted(first.came) == list(range(16))
        assert first.lines[-1] == "results True"
        assert await states(home) == at_rest


async def test_a_client_that_was_killed_ends_its_job_after_the_grace_and_says_so_to_whoever_asks(
    home: Home, hasty: dict[str, str]
) -> None:
    async with program(40, 0.5, env=hasty) as first:
        await eventually(lambda: len(first.came) > 1, within=30)
        first.signal(signal.SIGKILL)
        await first.end()
    await eventually(lambda: is_over(home, first.job), within=15)
    _, said = await dayfly_command("job", "result", first.job, env=hasty, status=1)
    assert "no client was attached to it for 2 s" in said
    saved = kept(f"{first.job}.pickle")
    assert len(saved) == 40
    assert saved[0] == 0
    assert isinstance(saved[-1], dayfly.CallError)


async def test_job_result_waits_for_a_job_that_runs_and_ctrl_c_leaves_that_alone(
    home: Home,
) -> None:
    async with program(16, 0.4, detach=True) as first:
        await first.end()
    waiting = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dayfly", "job", "result", first.job), stderr=subprocess.PIPE
    )
    assert waiting.stderr is not None
    async with asyncio.timeout(20):
        while b"over 16 items" not in await waiting.stderr.readline():
            pass
    waiting.send_signal(signal.SIGINT)
    _, err = await waiting.communicate()
    assert waiting.returncode == 130, err.decode()
    assert b"is left as it is" in err
    _, said = await dayfly_command("job", "result", first.job, "-o", "squares.pickle")
    assert "16 done, 0 failed" in said
    assert kept("squares.pickle") == [square(n) for n in range(16)]


async def test_a_job_that_failed_fails_for_whoever_attaches_and_its_results_are_kept(
    home: Home,
) -> None:
    def halve(n: int) -> int:
        if n == 3:
            raise ValueError(f"{n} is odd")
        return n // 2

    async with FunctionExecutor(home.config, max_workers=1, progress=False) as executor:
        lone = executor.submit(halve, 8)
        assert await lone == 4
        tolerant = executor.map(halve, [2, 3], return_exceptions=True)
        await tolerant
        job = executor.map(halve, [2, 3], detach=True)
        with pytest.raises(ValueError, match="3 is odd"):
            await job
    await eventually(lambda: is_over(home, job.id))
    again = await FunctionExecutor.attach(job.id, home.config, progress=False)
    with pytest.raises(ValueError, match="3 is odd"):
        await again
    assert await (await FunctionExecutor.attach(lone.id, home.config, progress=False)) == 4
    again = await FunctionExecutor.attach(tolerant.id, home.config, progress=False)
    halves = await again
    assert halves[0] == 1
    assert isinstance(halves[1], ValueError)

    _, said = await dayfly_command("job", "result", job.id, "--json", status=1)
    assert "1 done, 1 failed" in said
    assert json.loads(Path(f"{job.id}.json").read_text()) == [
        1,
        {"error": "ValueError", "message": "3 is odd"},
    ]
    out, _ = await dayfly_command("job", "result", tolerant.id, "--json", "-o", "-")
    assert json.loads(out)[0] == 1


async def test_a_job_that_nobody_knows_is_an_error_that_says_where_was_looked(home: Home) -> None:
    with pytest.raises(dayfly.JobError, match="there is no cluster of yours"):
        await FunctionExecutor.attach("j-nobody", home.config, progress=False)
    assert await states(home) == set(), "nothing was launched to find out"
    async with FunctionExecutor(home.config, max_workers=1, progress=False) as executor:
        await executor.map(abs, [-1])
        with pytest.raises(dayfly.JobError, match="the master does not know it"):
            await executor.reattach("j-nobody")
    _, said = await dayfly_command("job", "result", "j-nobody", status=1)
    assert "dayfly job list" in said
