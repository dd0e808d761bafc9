"""What a service does to its own VM."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dayfly import guest
from dayfly.clock import SystemClock


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAYFLY_ROOT", str(tmp_path))
    return tmp_path / "run/dayfly"


def seconds_left(run: Path) -> float:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return float((run / "deadline").read_text()) - uptime


async def test_the_first_deadline_is_written_at_once(run: Path) -> None:
    guest.Deadline(SystemClock()).set(100)
    assert seconds_left(run) == pytest.approx(100, abs=1)


async def test_deadlines_of_a_flurry_of_jobs_become_one_write(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "GATHER", 0.02)
    deadline = guest.Deadline(SystemClock())
    deadline.set(100)
    first = (run / "deadline").read_text()
    for _ in range(50):
        deadline.set(3600)
        deadline.set(300)
    assert (run / "deadline").read_text() == first
    await asyncio.sleep(0.1)
    assert seconds_left(run) == pytest.approx(300, abs=1)


async def test_what_was_gathered_is_written_when_the_service_ends(run: Path) -> None:
    deadline = guest.Deadline(SystemClock())
    deadline.set(100)
    deadline.set(None)
    deadline.close()
    assert (run / "deadline").read_text() == "never\n"


async def test_a_disk_that_refuses_leaves_the_earlier_deadline_and_is_logged(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run.parent.mkdir(parents=True)
    run.write_text("in the way")
    guest.Deadline(SystemClock()).set(100)
    assert "cannot be set" in caplog.text
