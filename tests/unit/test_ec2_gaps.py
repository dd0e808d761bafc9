"""A client that is killed anywhere in a launch, and run again, doubles nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from dayfly.aws.session import Aws
from dayfly.cloud.ec2.launch import pools
from dayfly.model import ALIVE, InstanceSpec, Launch, Tag
from tests.aws.clouds import ec2_cloud, given_network
from tests.aws.emulator import Call, EmulatedAws, HungUpError
from tests.aws.fixtures import aws
from tests.aws.notes import MemoryNotes

__all__ = ["aws"]

TYPE = "t3.micro"


def workers() -> InstanceSpec:
    return InstanceSpec(
        role="worker",
        instance_types=[TYPE],
        on_poweroff="terminate",
        user_data="#cloud-config\n{}\n",
        tags={"Name": "w", Tag.MANAGED: "true"},
        spot=True,
        fallback=True,
    )


class Reaper:
    """Kills a launch at its n-th step: before or after a call, before or after a note."""

    def __init__(self, aws: EmulatedAws, notes: MemoryNotes, step: int) -> None:
        self._aws = aws
        self._notes = notes
        self._left = step
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Launch] | None = None
        self.struck_at = ""
        aws.on_call = self._on_call

    async def claim(self, name: str, note: bytes) -> bytes:
        self._step(f"before note {name}")
        await asyncio.sleep(0)
        there = await self._notes.claim(name, note)
        self._step(f"after note {name}")
        await asyncio.sleep(0)
        return there

    async def read(self, name: str) -> bytes | None:
        return await self._notes.read(name)

    def _on_call(self, call: Call, when: str) -> None:
        if self._step(f"{when} {call.action}"):
            raise HungUpError

    def _step(self, name: str) -> bool:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.struck_at = name
            if self._left > 0:
                return False
        # Killed: this call, and whatever else it would have said, is not heard any more.
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        return True

    async def run(self, launch: asyncio.Task[Launch]) -> Launch | None:
        """Wait for a launch; ``None`` if it was killed."""
        self._task = launch
        try:
            return await launch
        except asyncio.CancelledError:
            return None
        finally:
            self._aws.on_call = None


@pytest.fixture
async def account(aws: EmulatedAws) -> AsyncIterator[Aws]:
    """Open once: what a client keeps in memory is in its cloud, not here."""
    account = Aws(aws.region)
    yield account
    await account.aclose()


async def settled(aws: EmulatedAws) -> None:
    """Calls that a killed client has sent are done by EC2 all the same."""
    count = -1
    while count != len(aws.calls):
        count = len(aws.calls)
        await asyncio.sleep(0.05)


async def every_gap(
    aws: EmulatedAws,
    account: Aws,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """Kill at each step until a launch gets through; returns where it struck."""
    # A tenth of the size: 25 VMs in batches of 10 are what 250 in batches of 100 are.
    monkeypatch.setattr(pools, "BATCH", 10)
    struck: list[str] = []
    for step in range(1, 200):
        aws.reset()
        # Two zones; one is short, so there are three waves, the last on demand.
        subnets = dict(list(aws.subnets().items())[:2])
        a, b = subnets
        aws.capacity(TYPE, a, spot=True, left=7)
        aws.capacity(TYPE, b, spot=True, left=12)
        section = given_network(aws, subnet_id=tuple(subnets.values()))
        notes = MemoryNotes()
        reaper = Reaper(aws, notes, step)
        cloud = ec2_cloud(section, reaper, account=account)
        task = asyncio.create_task(cloud.launch(workers(), 25, token="once"))
        done = await reaper.run(task)
        await settled(aws)

        again = await ec2_cloud(section, notes, account=account).launch(workers(), 25, token="once")

        alive = [life.id for life in aws.instances("pending", "running")]
        assert len(alive) == 25, f"killed {reaper.struck_at}"
        assert {i.id for i in again.instances} == set(alive), f"killed {reaper.struck_at}"
        if done is not None:
            break
        struck.append(reaper.struck_at)
    return struck


@pytest.mark.timeout(180)
async def test_a_client_killed_in_any_gap_and_run_again_launches_just_what_was_asked(
    aws: EmulatedAws,
    account: Aws,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    struck = await every_gap(aws, account, monkeypatch)
    assert {"before RunInstances", "after RunInstances"} <= set(struck)
    assert {"before note once/wave-002", "after note once/wave-002"} <= set(struck)


async def test_a_launch_of_250_over_two_zones_with_a_shortage_is_250(
    aws: EmulatedAws,
    account: Aws,
) -> None:
    subnets = dict(list(aws.subnets().items())[:2])
    aws.capacity(TYPE, next(iter(subnets)), spot=True, left=130)
    section = given_network(aws, subnet_id=tuple(subnets.values()))
    notes = MemoryNotes()
    cloud = ec2_cloud(section, notes, account=account)

    launch = await cloud.launch(workers(), 250, token="once")
    again = await ec2_cloud(section, notes, account=account).launch(workers(), 250, token="once")

    assert len({i.id for i in launch.instances}) == 250
    assert {i.id for i in again.instances} == {i.id for i in launch.instances}
    assert len(await cloud.list(states=ALIVE)) == 250
    # Which of the zone's two batches came first is up to the wire.
    assert [s.asked - s.got for s in launch.shortfalls] == [20]
