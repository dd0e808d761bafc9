"""The steps of an installation, each with a name, a deadline, and words where it fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dayfly import bootstrap, provision
from dayfly.clock import SystemClock
from dayfly.errors import ProvisionError
from dayfly.model import DismantlePolicy, StorageConfig, WorkerConfig
from dayfly.phases import Timeline
from dayfly.shell.base import CommandResult
from tests.unit.test_provision import Open

CONFIG = WorkerConfig(
    instance="i-1",
    master_host="10.0.0.1",
    master_port=8080,
    secret="s3cret",
    processes=2,
    runtime="python3",
    storage=StorageConfig(kind="localhost", location="/storage"),
    policy=DismantlePolicy(),
)


class Vm(Open):
    """A VM that is a folder, with programs of the test's own before the others."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = root / "bin"
        self.programs.mkdir(parents=True)
        self.program("sudo", 'shift; exec "$@"')
        self.program("systemctl", 'echo "$@" >>"$DAYFLY_ROOT/told"; [ "$1" != is-active ]')

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    async def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        heard: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"DAYFLY_ROOT": str(self.root), "PATH": f"{self.programs}:{os.environ['PATH']}"},
        )
        output, said = await process.communicate(stdin)
        return CommandResult(
            status=process.returncode or 0, stdout=output.decode(), stderr=said.decode()
        )

    async def install(self) -> None:
        package = bootstrap.Package(digest="d1", files={"dayfly/__init__.py": b""})
        timeline = Timeline(SystemClock())
        await provision.install_worker(self, CONFIG, package, timeline=timeline)

    @property
    def log(self) -> str:
        return (self.root / "tmp/dayfly/bootstrap.log").read_text()


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm(tmp_path)


async def refusal(vm: Vm) -> ProvisionError:
    with pytest.raises(ProvisionError) as caught:
        await vm.install()
    assert "dayfly-step" not in str(caught.value)
    return caught.value


async def test_a_sudo_that_refuses_is_named_with_what_to_do(vm: Vm) -> None:
    vm.program(
        "sudo", "echo 'sudo: unable to resolve host x\nsudo: a password is required' >&2; exit 1"
    )
    error = await refusal(vm)
    assert "the worker service could not be installed on i-1: the step 'folders'" in error.what
    assert error.cause == "sudo: a password is required"
    assert "ssh_username" in error.hint


async def test_a_vm_without_sudo_is_told(vm: Vm) -> None:
    vm.program("sudo", "exit 127")
    vm.program("timeout", 'shift 3; echo "timeout: failed to run command: not found" >&2; exit 127')
    assert "the step 'folders' failed (exit status 127)" in (await refusal(vm)).what


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("mkdir: cannot create directory: Read-only file system", "choose a target_ami whose /opt"),
        ("tar: write error: No space left on device", "larger volume (ebs_volumes)"),
    ],
)
async def test_what_a_disk_says_is_understood(vm: Vm, said: str, hint: str) -> None:
    vm.program("tar", f"cat >/dev/null; echo '{said}' >&2; exit 2")
    error = await refusal(vm)
    assert "the step 'unpacking' failed (exit status 2)" in error.what
    assert said in error.cause
    assert hint in error.hint
    assert said in vm.log
    assert "worker: unpacking: status 2" in vm.log
    assert not list((vm.root / "opt/dayfly").iterdir()), "nothing half done is left"


async def test_a_step_that_hangs_ends_at_its_deadline(vm: Vm) -> None:
    soon = 'case "$*" in *restart*) exec /usr/bin/timeout 0.2 "$@";; *) exec "$@";; esac'
    vm.program("timeout", f"shift 3; {soon}")
    vm.program("systemctl", "case $1 in restart) exec sleep 60;; is-active) exit 3;; esac")
    error = await refusal(vm)
    assert "the step 'service' failed (it did not end within 90 s)" in error.what


async def test_a_service_that_does_not_start_shows_its_log(vm: Vm) -> None:
    (vm.root / "tmp/dayfly").mkdir(parents=True)
    (vm.root / "tmp/dayfly/worker-service.log").write_text("no module named msgspec\n")
    vm.program("systemctl", "case $1 in restart) exit 1;; is-active) exit 3;; esac")
    error = await refusal(vm)
    assert "the step 'service' failed" in error.what
    assert "no module named msgspec" in error.cause
    assert "/tmp/dayfly/worker-service.log" in error.hint


async def test_another_program_that_installs_for_too_long_is_told(vm: Vm) -> None:
    vm.program("flock", "exit 124")
    error = await refusal(vm)
    assert "the step 'turn' failed (it did not end within 60 s)" in error.what
    assert "another program installs on this VM" in error.hint


async def test_a_second_installation_does_nothing_and_both_are_on_record(vm: Vm) -> None:
    await vm.install()
    vm.program("systemctl", 'echo "$@" >>"$DAYFLY_ROOT/again"')
    unit = vm.root / "etc/systemd/system/dayfly-worker.service"
    before = {path: path.stat().st_mtime_ns for path in (unit, vm.root / "opt/dayfly/d1")}
    await vm.install()
    assert (vm.root / "again").read_text() == "is-active --quiet dayfly-worker.service\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert vm.log.count("worker: service: status 0") == 1
    assert vm.log.count("worker: logins: status 0") == 1
