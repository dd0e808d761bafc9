"""The timers of the master's own VM."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from dayfly.guest import Vm
from dayfly.master.home import Home
from dayfly.model import DismantlePolicy
from tests.unit.master_support import FakeClock, settle

POLICY = DismantlePolicy(soft=60.0, hard=600.0)
#: Seconds in which clients can still read what they were told last.
PARTING = 0.5


class Power:
    """Knows whether it was powered off."""

    def __init__(self) -> None:
        self.off = False

    async def power_off(self) -> None:
        self.off = True

    def set_deadline(self, seconds: float | None) -> None:
        assert seconds is not None


class House:
    """A master's own VM, on which a job has been over since just now."""

    def __init__(self) -> None:
        self.clock, self.vm = FakeClock(), Power()
        self.told: list[str] = []
        self.home = Home(
            POLICY,
            self.clock.monotonic(),
            cast("Vm", self.vm),
            awaits=lambda: False,
            patience=300.0,
            before=self._before,
            moved=lambda: None,
            clock=self.clock,
        )
        self.home.job_began("first", POLICY, self.clock.monotonic())
        self.home.job_over("first")
        self.life = asyncio.create_task(self.home.run())

    async def _before(self, why: str) -> None:
        self.told.append(why)
        await self.clock.sleep(PARTING)


async def test_a_master_without_a_job_goes_by_its_soft_timer() -> None:
    house = House()
    await house.clock.advance(POLICY.soft + PARTING)
    await house.life
    assert house.vm.off
    assert house.told == ["soft"]


@pytest.mark.parametrize("over", [False, True])
async def test_a_master_that_is_given_a_job_while_it_says_goodbye_stays_for_it(
    *, over: bool
) -> None:
    house = House()
    await house.clock.advance(POLICY.soft)
    assert house.told == ["soft"]
    house.home.job_began("second", POLICY, house.clock.monotonic())
    if over:
        house.home.job_over("second")
    await house.clock.advance(PARTING)
    await settle()
    assert not house.vm.off
    if not over:
        await house.clock.advance(POLICY.soft)
        assert not house.vm.off, "it is busy"
        house.home.job_over("second")
    await house.clock.advance(POLICY.soft + PARTING)
    await house.life
    assert house.vm.off
