"""Calls that fail, calls that take machines down, and machines that the cloud takes back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import dayfly
from dayfly import FunctionExecutor
from dayfly.cloud.localhost import LocalhostCloud
from dayfly.config import load
from dayfly.model import Instance, InstanceState, Tag
from dayfly.parts import open_parts
from tests.acceptance.conftest import Launcher, eventually
from tests.aws.machine_fixtures import Ec2Home
from tests.conftest import Home

pytestmark = pytest.mark.timeout(120)


def flaky(path: str, x: int, good_after: int) -> int:
    """Fail the first times that it is called with an item."""
    mark = Path(path) / f"{x}"
    with mark.open("a") as tally:
        tally.write(".")
    if len(mark.read_text()) <= good_after:
        raise ValueError(f"bad luck with {x}")
    return x * x


def cloud_of(home: Home) -> LocalhostCloud:
    cloud = open_parts(load(home.config)).cloud
    assert isinstance(cloud, LocalhostCloud)
    return cloud


async def workers(home: Home) -> list[Instance]:
    found = await cloud_of(home).list(tags={Tag.ROLE: "worker"}, states=[InstanceState.RUNNING])
    return sorted(found, key=lambda instance: instance.id)


async def test_a_flaky_call_succeeds_in_the_end_and_tells_its_tries(
    executor: Launcher, tmp_path: Path
) -> None:
    items = [(str(tmp_path), x, 2 if x % 3 == 0 else 0) for x in range(12)]
    async with executor() as ex:
        job = ex.map(flaky, items, retries=2)
        assert await job == [x * x for x in range(12)]
        outcomes = {outcome.index: outcome async for outcome in job.as_completed()}
    assert [len(outcomes[x].tries) for x in range(12)] == [
        2 if x % 3 == 0 else 0 for x in range(12)
    ]
    first, second = outcomes[3].tries
    assert first.what == second.what == "raised ValueError: bad luck with 3"
    assert first.ended <= second.started
    assert first.worker.startswith("i-")


async def test_when_the_tries_are_exhausted_the_last_error_tells_of_the_others(
    executor: Launcher, tmp_path: Path
) -> None:
    async with executor() as ex:
        with pytest.raises(ValueError, match="bad luck with 7") as caught:
            await ex.map(flaky, [(str(tmp_path), 7, 9)], retries=2)
    notes = "\n".join(caught.value.__notes__)
    assert "try 1 of 3 on worker i-" in notes
    assert "try 2 of 3 on worker i-" in notes
    assert "raised ValueError: bad luck with 7 after 0." in notes
    assert (tmp_path / "7").read_text() == "..."


async def test_a_call_that_ran_over_its_timeout_or_crashed_is_tried_again(
    executor: Launcher, tmp_path: Path
) -> None:
    def stumble(folder: str, x: int) -> int:
        mark = Path(folder) / f"{x}"
        if not mark.exists():
            mark.touch()
            if x:
                time.sleep(60)
            os.kill(os.getpid(), signal.SIGSEGV)
        return x

    async with executor() as ex:
        job = ex.map(stumble, [(str(tmp_path), x) for x in range(2)], retries=1, timeout=1.0)
        assert await job == [0, 1]
        told = {outcome.index: outcome.tries[0].what async for outcome in job.as_completed()}
    assert "SIGSEGV" in told[0]
    assert told[1] == "ran over its timeout"


@pytest.mark.thorough
async def test_a_reduction_is_tried_again_too(executor: Launcher, tmp_path: Path) -> None:
    def total(results: list[int]) -> int:
        return flaky(str(tmp_path), sum(results), 1)

    async with executor() as ex:
        assert await ex.map_reduce(abs, [-1, -2, 3], total, retries=1) == 36


def square_or_kill_the_agent(x: int) -> int:
    if x == 13:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return x * x


@pytest.mark.thorough
async def test_a_call_that_kills_its_agent_is_failed_by_name_and_the_others_succeed(
    executor: Launcher,
) -> None:
    async with executor() as ex:
        job = ex.map(square_or_kill_the_agent, range(31), return_exceptions=True)
        results = await job
    poison = results.pop(13)
    assert results == [x * x for x in range(31) if x != 13]
    assert isinstance(poison, dayfly.CallCrashedError)
    assert "call 13 of job" in str(poison)
    assert "when that was lost" in str(poison) or "when they were lost" in str(poison)
    assert "nothing else to do" in str(poison)


def square_or_kill_the_vm(x: int) -> int:
    if x == 5:
        # The VM's first process is the one that nobody of it has started.
        pid = os.getpid()
        while b"localhost.init" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(pid, signal.SIGKILL)
        time.sleep(60)
    return x * x


@pytest.mark.thorough
async def test_a_call_that_takes_machines_down_is_failed_by_name_with_one_worker_wanted(
    home: Home,
) -> None:
    async with FunctionExecutor(config=home.config, max_workers=1, progress=False) as ex:
        results = await ex.map(square_or_kill_the_vm, range(31), return_exceptions=True)
    poison = results.pop(5)
    assert results == [x * x for x in range(31) if x != 5]
    assert isinstance(poison, dayfly.CallCrashedError)
    assert "it was in the hands of 3 workers when they were lost" in str(poison)


def nap(path: str, x: int, seconds: float) -> int:
    with (Path(path) / f"{x}").open("a") as tally:
        tally.write(".")
    time.sleep(seconds)
    return x


@pytest.mark.thorough
async def test_a_spot_notice_drains_a_worker_and_costs_no_call_and_no_try(
    home: Home, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"max_workers": 2, "request_spot_instances": True}
    async with FunctionExecutor(config=home.config, progress=False, **keys) as ex:
        job = ex.map(nap, [(str(tmp_path), x, 2.5) for x in range(12)], retries=1)
        await eventually(lambda: job.progress.running >= 4, within=30)
        victim, other = await workers(home)
        await cloud_of(home).interrupt(victim.id, notice=60.0)
        # It goes as soon as its hands are empty, long before the notice is over, and another comes.
        began = time.monotonic()

        async def replaced() -> bool:
            now = {instance.id for instance in await workers(home)}
            return victim.id not in now and other.id in now and len(now) == 2

        await eventually(replaced, within=25)
        assert time.monotonic() - began < 25
        assert await job == list(range(12))
        outcomes = [outcome async for outcome in job.as_completed()]
    assert {len(outcome.tries) for outcome in outcomes} == {0}
    # No call was run twice: what ran was let run, what had not begun was handed back.
    assert {mark.read_text() for mark in tmp_path.iterdir()} == {"."}
    assert victim.id in {outcome.worker for outcome in outcomes}


@pytest.mark.thorough
async def test_what_the_notice_leaves_no_time_for_runs_elsewhere(
    home: Home, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"max_workers": 1, "request_spot_instances": True}
    async with FunctionExecutor(config=home.config, progress=False, **keys) as ex:
        job = ex.map(nap, [(str(tmp_path), x, 8.0) for x in range(2)])
        await eventually(lambda: len(list(tmp_path.iterdir())) == 2, within=30)
        (victim,) = await workers(home)
        await cloud_of(home).interrupt(victim.id, notice=4.0)
        assert await job == [0, 1]
    assert {mark.read_text() for mark in tmp_path.iterdir()} == {".."}


@pytest.mark.thorough
async def test_on_ec2_the_metadata_service_announces_it(machines: Ec2Home, tmp_path: Path) -> None:
    aws = machines.aws
    async with FunctionExecutor(config=machines.config, progress=False, max_workers=1) as ex:
        job = ex.map(nap, [(str(tmp_path), x, 4.0) for x in range(6)])
        await eventually(lambda: len(list(tmp_path.iterdir())) == 2, within=40)
        (victim,) = [i for i in aws.instances() if aws.tags(i.id).get(Tag.ROLE) == "worker"]
        machines.interrupt(victim.id, notice=90.0)
        assert await job == list(range(6))
    assert aws.state(victim.id) in {"shutting-down", "terminated"}
    assert {mark.read_text() for mark in tmp_path.iterdir()} == {"."}
