"""A run of the box that is killed: nothing of it goes on, and the next run deletes its files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import processes_of
from tests.machines.box import Run, stale

pytestmark = [pytest.mark.machines, pytest.mark.timeout(120)]

PROJECT = Path(__file__).parents[2]


def until(holds: Callable[[], object], what: str, within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"waited {within} s in vain for {what}"
        time.sleep(0.05)


def test_a_run_that_is_killed_leaves_no_machine_and_the_next_one_its_files(run: Run) -> None:
    runs = run.cache / "runs"
    before = set(runs.iterdir())
    # A box within the box: it sees no difference.
    command = [sys.executable, "-m", "tests.machines", "-q", "-p", "no:cacheprovider"]
    eight = "tests/machines/test_machine.py::test_how_long_a_boot_takes"
    with subprocess.Popen(
        [*command, "-n", "0", eight, "-k", "8"], cwd=PROJECT, stdout=subprocess.DEVNULL
    ) as killed:
        until(lambda: set(runs.glob("*/")) - before, "a run")
        (folder,) = set(runs.glob("*/")) - before

        def machines() -> list[str]:
            return [each for each in processes_of(folder).values() if "systemd-nspawn" in each]

        until(lambda: len(machines()) == 8, "eight machines")
        os.kill(killed.pid, signal.SIGKILL)
    until(lambda: not processes_of(folder), "its processes to be gone", 10.0)
    until(lambda: folder.name in stale(run.cache), "its lock to be free", 10.0)
    assert folder.exists()
    subprocess.run([*command, "--collect-only"], cwd=PROJECT, stdout=subprocess.DEVNULL, check=True)
    assert set(runs.iterdir()) == before
