"""What a job needs on a worker is brought once, and kept for as long as there is the job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from dayfly.clock import SystemClock
from dayfly.environment.order import Interpreters
from dayfly.errors import EnvironmentFailedError
from dayfly.phases import Timeline
from dayfly.storage.directory import DirectoryStorage
from dayfly.wire import messages as m
from dayfly.worker.environments import KitEnvironments
from dayfly.worker.materials import Materials
from dayfly.worker.opening import Openings

BRIEF = m.JobBrief(id="job", function=m.Payload(data=b"function"), packages="key")


class Slow(KitEnvironments):
    """Packages that come, or cannot, when the test says so."""

    def __init__(self, storage: DirectoryStorage) -> None:
        super().__init__(storage, "i-1", Interpreters(), Timeline(SystemClock()))
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self.tries = 0
        self.failure: EnvironmentFailedError | None = None

    async def bring(self, key: str, system: Sequence[str] = ()) -> str:
        self.tries += 1
        self.begun.set()
        await self.ended.wait()
        if self.failure is not None:
            raise self.failure
        return "/python"


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(DirectoryStorage(tmp_path / "storage"))


@pytest.fixture
def openings(slow: Slow, tmp_path: Path) -> Openings:
    materials = Materials(DirectoryStorage(tmp_path / "storage"), tmp_path / "modules")
    return Openings(slow, materials)


async def test_two_spans_of_a_job_have_its_packages_brought_once(
    slow: Slow, openings: Openings
) -> None:
    slow.ended.set()
    first, second = await asyncio.gather(openings.open(BRIEF), openings.open(BRIEF))
    assert first is second
    assert slow.tries == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_of_a_job_that_is_cancelled_while_its_packages_come_nothing_is_kept(
    slow: Slow, openings: Openings, *, fails: bool
) -> None:
    if fails:
        slow.failure = EnvironmentFailedError("no", stage="fetch", kind="network", vm="i-1")
    opening = asyncio.create_task(openings.open(BRIEF))
    await slow.begun.wait()
    openings.forget(BRIEF.id)
    slow.ended.set()
    await asyncio.wait([opening])
    assert (opening.exception() is not None) == fails
    slow.failure = None
    await openings.open(BRIEF)
    assert slow.tries == 2, "what was found out for it is gone with it"
