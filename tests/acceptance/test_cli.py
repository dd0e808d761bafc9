"""The command line as people use it: real processes, several terminals, one cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dayfly.processes import space
from tests.conftest import Home, processes_of

Run = Callable[..., subprocess.CompletedProcess[str]]

#: A program that maps while others look on: each call prints, and all but the first four wait
#: for a file.
PROGRAM = """
import asyncio, os, time
from dayfly import FunctionExecutor

def talk(item, gate):
    print(f"item {item} speaking")
    while item >= 4 and not os.path.exists(gate):
        time.sleep(0.02)
    return item

async def main():
    async with FunctionExecutor(max_workers=2) as executor:
        results = await executor.map(talk, range(%d), extra_args=(%r,))
    print("sum", sum(results))

asyncio.run(main())
"""


@pytest.fixture
def run(home: Home) -> Run:
    """Run one command in a terminal of its own."""

    def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dayfly", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == status, f"{arguments}:\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@contextmanager
def terminal(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Another terminal, in which a command runs meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-u", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def program(home: Home, calls: int) -> str:
    path = home.path / "program.py"
    path.write_text(PROGRAM % (calls, str(home.path / "gate")))
    return str(path)


def rows(run: Run, what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(what, "list", "--json").stdout)
    return found


def wait_for_job(run: Run) -> dict[str, Any]:
    """The job that another terminal started, once both of its workers are at work."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = rows(run, "job")
        if found and found[0]["done"] == 4 and found[0]["workers"] == 2:
            return found[0]
    pytest.fail("no job came to run")


def test_hello_from_nothing_answers_and_says_what_is_still_running(run: Run) -> None:
    said = run("hello").stdout
    assert "Hello, " in said
    assert "checked" in said
    assert "in all" in said
    lines = [line.split("  ")[0] for line in said.splitlines() if "█" in line]
    assert {"client", "master", "worker"} <= set(lines), "whom the first outcome waited for"
    for phase in ("modules imported", "master launched", "boot until SSH", "service started"):
        assert phase in said
    assert "up already" not in said
    assert "still running: 2 VMs" in said
    assert "cost: nothing" in said

    workers = rows(run, "worker")
    assert [row["role"] for row in workers] == ["master", "worker"]
    assert all(row["state"] == "running" for row in workers)
    assert all(0 < row["dismantle_in"] <= 300 for row in workers)

    again = run("hello", "-m", "20").stdout
    assert "(20 calls)" in again
    assert "the master was up already, and nothing had to be installed on it" in again

    phases = json.loads(run("hello", "--json").stdout)
    assert phases[0]["what"] == "imports and configuration"
    assert {phase["who"] for phase in phases} >= {"client", "master"}
    assert all(phase["seconds"] >= 0 for phase in phases)
    last = max(phases, key=lambda phase: phase["start"] + phase["seconds"])
    assert last["what"] == "outcome delivered"


def test_clean_all_leaves_no_process_and_no_file(run: Run, home: Home) -> None:
    run("hello")
    Path("mine.txt").write_text("mine")
    run("storage", "put", "mine.txt", "mine")
    with subprocess.Popen(["true"]) as killed:
        pass
    sockets = Path(tempfile.mkdtemp(prefix=f"dayfly-ssh-{killed.pid}-{space()}-"))
    said = run("clean", "--all").stdout
    assert not sockets.exists(), "what a killed client left behind"
    assert said.rstrip().endswith("nothing of ours is left")
    assert processes_of(home.path) == {}
    storage = home.path / "storage"
    left = [path.name for path in storage.rglob("*") if path.is_file()]
    assert left == ["mine"]
    assert run("storage", "get", "mine", "-").stdout == "mine"
    assert [p for p in (home.path / "cloud").rglob("*") if p.is_file() and p.name != "lock"] == []
    assert run("clean", "--all").stdout.rstrip().endswith("nothing of ours is left")


def test_another_terminal_lists_and_follows_what_this_one_started(run: Run, home: Home) -> None:
    with terminal(program(home, 60)) as mapping:
        job = wait_for_job(run)
        assert job["function"] == "talk"
        assert job["total"] == 60
        assert job["state"] == "running"

        workers = rows(run, "worker")
        assert sorted(row["role"] for row in workers) == ["master", "worker", "worker"]
        assert "busy" in {row["phase"] for row in workers}

        with terminal("-m", "dayfly", "logs", "poll", "--past") as following:
            assert following.stdout
            assert following.stdout.readline().startswith(f"{job['id']} call ")
            (home.path / "gate").touch()
            for line in following.stdout:
                if line == f"{job['id']} call 59: item 59 speaking\n":
                    break

        answer, errors = mapping.communicate(timeout=40)
        assert answer.strip().endswith(f"sum {sum(range(60))}"), errors

    (ended,) = rows(run, "job")
    assert (ended["state"], ended["done"]) == ("completed", 60)
    lines = run("logs", "get", job["id"]).stdout.splitlines()
    assert sorted(lines) == sorted(f"call {i}: item {i} speaking" for i in range(60))


def test_another_terminal_cancels_what_this_one_started(run: Run, home: Home) -> None:
    with terminal(program(home, 600)) as mapping:
        job = wait_for_job(run)
        assert "is cancelled" in run("job", "cancel", job["id"]).stdout
        _, told = mapping.communicate(timeout=20)
        assert mapping.returncode == 1
        assert "JobCancelledError" in told
    (ended,) = rows(run, "job")
    assert ended["state"] == "cancelled"
    assert ended["done"] < 600


@pytest.mark.thorough
def test_jobs_and_logs_are_there_after_every_vm_is_gone(run: Run, home: Home) -> None:
    with terminal(program(home, 4)) as mapping:
        mapping.communicate(timeout=40)
    (job,) = rows(run, "job")
    ids = [row["instance"] for row in rows(run, "worker")]
    run("localhost", "terminate", *ids)
    assert rows(run, "worker") == []
    assert [row["id"] for row in rows(run, "job")] == [job["id"]]
    assert len(run("logs", "get", job["id"]).stdout.splitlines()) == 4


@pytest.mark.thorough
def test_the_embedded_clouds_console_plays_the_operator(run: Run, home: Home) -> None:
    key = home.path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    vm = run("localhost", "run", "--key", f"{key}.pub", "--name", "mine").stdout.strip()

    def state() -> str:
        (row,) = json.loads(run("localhost", "list", "--all", "--json").stdout)
        return str(row["state"])

    def becomes(wanted: str) -> None:
        deadline = time.monotonic() + 10
        while state() != wanted:
            assert time.monotonic() < deadline, f"{state()}, not {wanted}"

    becomes("running")
    run("localhost", "stop", vm)
    becomes("stopped")
    run("localhost", "start", vm)
    becomes("running")
    assert "is not a spot instance" in run("localhost", "interrupt", vm, status=1).stderr
    run("localhost", "terminate", vm)
    becomes("terminated")
    listed = run("localhost", "list").stdout.splitlines()
    assert len(listed) == 1
    assert "next:" in run("localhost", "start", "i-0", status=1).stderr


@pytest.mark.thorough
def test_a_vm_of_ones_own_is_consumed_and_outlives_clean(run: Run, home: Home) -> None:
    key = home.path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    vm = run("localhost", "run", "--key", f"{key}.pub").stdout.strip()
    run("localhost", "stop", vm)
    own = home.config["localhost"] | {
        "exec_mode": "consume",
        "instance_id": vm,
        "ssh_key_filename": str(key),
    }
    Path("consume.json").write_text(json.dumps({"localhost": own}))
    said = run("-c", "consume.json", "hello", "-m", "4").stdout
    assert "on 1 VM " in said
    run("-c", "consume.json", "clean")
    (left,) = json.loads(run("localhost", "list", "--json").stdout)
    assert left["id"] == vm
    run("localhost", "terminate", vm)


def test_attach_opens_a_shell_on_the_master(run: Run) -> None:
    assert "next:" in run("attach", status=1).stderr
    run("hello")
    done = subprocess.run(
        [sys.executable, "-m", "dayfly", "attach"],
        input="echo on-$((6*7)); exit 3\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "on-42" in done.stdout
    assert done.returncode == 3
