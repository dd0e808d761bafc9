"""Where the time of a start goes, as it is told, on machines."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from dayfly import FunctionExecutor
from dayfly.cli.phases import cells, critical_path, notes, rows
from dayfly.cli.show import plain
from dayfly.phases import AHEAD, BOOT, CLIENT, MASTER, OWN, SENT, SERVICE, SSH, STEPS, Phase
from tests.machines.fixtures import Ec2Box

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]

ENVIRONMENT = {STEPS[step] for step in ("python", "fetch", "install", "check")}
#: The least part of what was waited that the critical path must account for.
EXPLAINED = 0.8


def squarer() -> Callable[[int], int]:
    """Nested, so that it travels whole: this module would import half of the test suite there."""

    def square(x: int) -> int:
        return x * x

    return square


async def map_and_tell(executor: FunctionExecutor) -> tuple[list[Phase], float]:
    """A map's phases, and the seconds until its first outcome."""
    began = time.monotonic()
    job = executor.map(squarer(), range(8))
    async for outcome in job.as_completed():
        outcome.result()
        break
    waited = time.monotonic() - began
    assert sorted(await job) == [x * x for x in range(8)]
    found = rows(job.phases)
    span = max(row.start + row.seconds for row in found)
    # Shown with -s, and with a test that fails.
    print(plain(["who", "phase", "began", "took", "bar"], [cells(row, span) for row in found]))
    print("\n".join(notes(job.phases)), f"; waited {waited:.2f} s")
    return job.phases, waited


def whats(phases: list[Phase], who: str) -> set[str]:
    return {phase.what for phase in phases if phase.who == who}


def check_path(phases: list[Phase], waited: float) -> None:
    path = critical_path(phases)
    seen = sum(phase.seconds for phase in path)
    assert path[-1].end == pytest.approx(waited, abs=0.5)
    assert EXPLAINED * waited <= seen <= 1.02 * waited + 0.5


async def test_each_phase_of_a_cold_start_is_told_and_that_a_warm_one_does_without(
    box: Ec2Box,
) -> None:
    box.index.open()
    async with FunctionExecutor(
        config=box.config, progress=False, max_workers=2, package_index=[box.index.url]
    ) as executor:
        phases, waited = await map_and_tell(executor)
        again, waited_again = await map_and_tell(executor)
    workers = {phase.who for phase in phases} - {CLIENT, MASTER}
    assert workers == {life.id for life in box.instances("worker")}
    assert {"credentials", "packages read", "packages resolved"} <= whats(phases, CLIENT)
    assert {"master launched", "workers launched", "outcome delivered"} <= whats(phases, CLIENT)
    assert {BOOT, SENT, SERVICE} | ENVIRONMENT <= whats(phases, MASTER)
    for worker in workers:
        own = {OWN + what for what in ENVIRONMENT - {STEPS["check"]}}
        told = {what.removeprefix(AHEAD) for what in whats(phases, worker)}
        assert {BOOT, SENT, SERVICE} | ENVIRONMENT | own <= told
        assert AHEAD + OWN + STEPS["fetch"] in whats(phases, worker)
    check_path(phases, waited)

    warm = {phase.what.removeprefix(AHEAD) for phase in again}
    assert not warm & ({BOOT, SSH, SENT, SERVICE} | ENVIRONMENT)
    assert waited_again < waited / 3
