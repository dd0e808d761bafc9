"""A client that is killed at any of its EC2 calls, and run again: no VM and no network twice.

Every gap is tried, before and after each call, so this takes a while: ``pytest -m thorough``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Literal, TypeAlias

import pytest

from dayfly.model import Tag
from tests.aws.calls import Call
from tests.aws.faults import HungUpError
from tests.aws.machine_fixtures import Ec2Home

pytestmark = pytest.mark.timeout(150)

Phase: TypeAlias = Literal["before", "after"]

PROGRAM = """
import asyncio
from dayfly import FunctionExecutor
from dayfly.cloud.ec2.network import making

# Seconds in which EC2's listings settle, and another client is waited for; here both are short.
making.SETTLE, making.TAKEOVER = 0.2, 1.0

async def main():
    async with FunctionExecutor(max_workers=3, worker_processes=1, progress=False) as executor:
        print(sum(await executor.map(lambda x: x * x, range(12))))

asyncio.run(main())
"""
#: EC2 calls of a first run, with no network yet; the test below holds it to what it is.
CALLS = 40


class Killer:
    """Kills a program at its nth EC2 call."""

    def __init__(self, home: Ec2Home, number: int, phase: Phase) -> None:
        self.home = home
        self.number = number
        self.phase = phase
        self.seen = 0
        self.killed = False
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __call__(self, call: Call, phase: Phase) -> None:
        if call.service != "ec2" or phase != self.phase:
            return
        with self._lock:
            self.seen += 1
            due = self.seen == self.number
        if due:
            assert self.process is not None
            self.killed = True
            os.kill(self.process.pid, signal.SIGKILL)
            raise HungUpError

    def run(self) -> subprocess.CompletedProcess[bytes]:
        """Run the program once, with this killer behind it."""
        script = self.home.path / "program.py"
        script.write_text(PROGRAM)
        self.home.aws.on_call = self
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = self.process.communicate(timeout=60)
        self.home.aws.on_call = None
        return subprocess.CompletedProcess([], self.process.returncode, out, err)


def run_again(home: Ec2Home) -> None:
    done = Killer(home, 0, "before").run()
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"506\n"


def of_ours(home: Ec2Home, role: str) -> list[str]:
    aws = home.aws
    tagged = [i.id for i in aws.instances() if aws.tags(i.id).get(Tag.ROLE) == role]
    return [name for name in tagged if aws.state(name) != "terminated"]


@pytest.mark.thorough
def test_a_first_run_makes_so_many_calls(machines: Ec2Home) -> None:
    count = Killer(machines, 0, "before")
    assert count.run().returncode == 0
    assert count.seen <= CALLS, "raise CALLS: there are gaps that are not tried"


@pytest.mark.thorough
@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_killed_and_run_again(machines: Ec2Home, number: int, phase: Phase) -> None:
    killer = Killer(machines, number, phase)
    killer.run()
    if not killer.killed:
        return  # a run has fewer calls; the test above knows how many
    run_again(machines)

    assert len(of_ours(machines, "master")) == 1
    assert len(of_ours(machines, "worker")) == 3
    backend = machines.aws.world.backend
    ours = [vpc for vpc in backend.describe_vpcs() if Tag.MANAGED in machines.aws.tags(vpc.id)]
    assert len(ours) == 1
