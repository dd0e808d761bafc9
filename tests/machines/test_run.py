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


@pytest.mark.parametrize("boxes", ["0", "1"], ids=["itself", "worker"])
def test_a_run_that_is_killed_leaves_no_machine_and_the_next_one_its_files(
    run: Run, boxes: str
) -> None:
    # A box within the box: it sees no difference.
    eight = "tests/machines/test_machine.py::test_how_long_a_boot_takes"
    command = [sys.executable, "-m", "tests.machines", "-q", "-p", "no:cacheprovider", eight]
    # What this run was told of its cache would be an unknown option.
    plain = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    with subprocess.Popen(
        [*command, "-n", boxes, "-k", "8"], cwd=PROJECT, stdout=subprocess.DEVNULL, env=plain
    ) as killed:
        until(lambda: folders(run, killed.pid), "a run")
        (folder,) = folders(run, killed.pid)

        def machines() -> list[str]:
            return [each for each in processes_of(folder).values() if "systemd-nspawn" in each]

        until(lambda: len(machines()) == 8, "eight machines")
        os.kill(killed.pid, signal.SIGKILL)
    until(lambda: not processes_of(folder), "its processes to be gone", 20.0)
    # Others' runs delete its files too, when they begin.
    until(lambda: folder.name in stale(run.cache) or not folder.exists(), "its lock to be free")
    collect = [*command, "-n", "0", "--collect-only"]
    subprocess.run(collect, cwd=PROJECT, stdout=subprocess.DEVNULL, check=True, env=plain)
    assert not folder.exists()
    assert not folder.with_suffix(".lock").exists()


def folders(run: Run, pid: int) -> list[Path]:
    """Those of the runs that a process, or a child of it, has begun."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    begun = {str(pid), *children}
    return [each for each in (run.cache / "runs").glob("*/") if each.name.split("-")[0] in begun]
