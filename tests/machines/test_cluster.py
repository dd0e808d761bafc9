"""A cluster of real machines from day to day: found again, looked at, interrupted, cleaned away.

The tests share its master, and whatever workers the one before has left.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from dayfly import FunctionExecutor
from tests.aws.emulator import Life
from tests.machines.fixtures import Ec2Box
from tests.machines.functions import slow, speak, square, where
from tests.machines.waiting import eventually
from tests.programs import dayfly_command, program

pytestmark = [pytest.mark.machines, pytest.mark.timeout(180)]


def executor(box: Ec2Box, **keys: Any) -> FunctionExecutor:
    return FunctionExecutor(config=box.config, progress=False, **{"max_workers": 2, **keys})


def up(box: Ec2Box, role: str = "") -> set[str]:
    return {life.id for life in box.instances(role, "pending", "running")}


def master(box: Ec2Box) -> Life:
    (only,) = box.instances("master", "running")
    return only


async def test_the_next_program_finds_the_machines_of_the_first(shared_box: Ec2Box) -> None:
    async with program(8, 0.01) as first:
        await first.end()
    assert first.lines[-1] == "results True"
    assert len(up(shared_box, "worker")) == 2
    before, launched = up(shared_box), shared_box.aws.count("RunInstances")
    async with program(8, 0.01) as second:
        await second.end()
    assert second.lines[-1] == "results True"
    assert (up(shared_box), shared_box.aws.count("RunInstances")) == (before, launched)


async def test_what_there_is_and_what_ran_is_listed(shared_box: Ec2Box) -> None:
    async with executor(shared_box) as ex:
        job = ex.map(square, range(4))
        await job
    rows = json.loads((await dayfly_command("worker", "list", "--json"))[0])
    assert {row["instance"] for row in rows} == up(shared_box)
    workers = [row for row in rows if row["mode"] == "reuse"]
    assert {row["state"] for row in workers} == {"running"}
    jobs = json.loads((await dayfly_command("job", "list", "--json"))[0])
    (row,) = [row for row in jobs if row["id"] == job.id]
    assert "square" in row["function"]


async def test_what_functions_print_is_followed_and_kept_and_services_keep_logs(
    shared_box: Ec2Box,
) -> None:
    async with executor(shared_box) as ex:
        assert await ex.map(square, range(2)) == [0, 1]  # the machines are up
        poll = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dayfly", "logs", "poll"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert poll.stdout is not None
        assert poll.stderr is not None
        async with asyncio.timeout(60):
            while b"following the logs" not in await poll.stderr.readline():
                pass
            job = ex.map(speak, range(2))
            line = (await poll.stdout.readline()).decode()
        assert not job.done(), "it is told while they run"
        assert job.id in line
        assert " says " in line
        await job
        poll.send_signal(signal.SIGINT)
        await poll.communicate()
    kept, _ = await dayfly_command("logs", "get", job.id)
    for x in range(2):
        assert [part for part in range(20) if f"call {x} says {part}\n" in kept] == [*range(20)]
    for role in ("master", "worker"):
        for life in shared_box.instances(role, "running"):
            log = shared_box.files(life.id) / f"tmp/dayfly/{role}-service.log"
            assert "INFO dayfly." in log.read_text(), f"{role} {life.id}"


async def test_attach_is_a_session_on_the_master(shared_box: Ec2Box) -> None:
    async with executor(shared_box) as ex:
        await ex.map(square, range(2))
    told, _ = await dayfly_command(
        "attach", stdin="cat /proc/1/comm /etc/hostname; sudo id -u; exit 7\n", status=7
    )
    hostname = f"ip-{master(shared_box).address.replace('.', '-')}"
    assert told.split() == ["systemd", hostname, "0"]


async def test_a_job_whose_client_was_killed_is_taken_up_by_another(shared_box: Ec2Box) -> None:
    async with program(24, 0.5) as first:
        await eventually(lambda: len(first.came) > 1, within=60)
        first.signal(signal.SIGKILL)
        await first.end()
        config = shared_box.config
        async with await FunctionExecutor.attach(first.job, config, progress=False) as job:
            assert len(await job) == 24
            assert job.progress.failed == 0


async def test_created_workers_are_gone_when_the_map_is_done(shared_box: Ec2Box) -> None:
    before = {life.id for life in shared_box.instances("worker")}
    async with executor(shared_box, exec_mode="create") as ex:
        names = set(await ex.map(where, range(8)))
    made = [life for life in shared_box.instances("worker") if life.id not in before]
    assert names == {f"ip-{life.address.replace('.', '-')}" for life in made}
    await eventually(
        lambda: {shared_box.aws.state(life.id) for life in made} == {"terminated"}, within=30
    )
    assert shared_box.aws.state(master(shared_box).id) == "running"


async def test_an_interruption_is_heard_of_in_time_and_costs_no_call_a_try(
    shared_box: Ec2Box,
) -> None:
    async with executor(shared_box) as ex:
        job = ex.map(slow, range(120))
        await eventually(lambda: job.progress.done > 4, within=60)
        gone = sorted(up(shared_box, "worker"))[0]
        shared_box.interrupt(gone, notice=30)
        outcomes = [outcome async for outcome in job.as_completed()]
    assert {outcome.index for outcome in outcomes} == set(range(120))
    assert all(outcome.ok and not outcome.tries for outcome in outcomes)
    await eventually(lambda: shared_box.aws.state(gone) == "terminated", within=40)
    asked = [each for each in shared_box.metadata.requests if each.instance == gone]
    notices = [each.status for each in asked if each.path.endswith("spot/instance-action")]
    assert 200 in notices
    assert 401 not in notices, "with a token, always"
    assert "Powering off" in shared_box.machines.console(gone), "by itself"


async def test_a_worker_that_is_rebooted_costs_no_result(shared_box: Ec2Box) -> None:
    async with executor(shared_box) as ex:
        job = ex.map(slow, range(60))
        await eventually(lambda: job.progress.done > 4, within=60)
        gone = sorted(up(shared_box, "worker"))[0]
        shared_box.machines.reboot(gone)
        assert await job == [*range(60)]


async def test_clean_all_leaves_nothing(shared_box: Ec2Box) -> None:
    async with executor(shared_box) as ex:
        await ex.map(square, range(2))
    told, _ = await dayfly_command("clean", "--all")
    assert "nothing of ours is left" in told
    await eventually(lambda: not shared_box.instances("", "running", "stopping", "shutting-down"))
    states = {shared_box.aws.state(life.id) for life in shared_box.instances()}
    assert states == {"terminated"}
