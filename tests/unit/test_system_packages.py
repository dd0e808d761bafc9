"""Packages of the system: the script, run with an apt-get that says what the test wants."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dayfly.clock import SystemClock
from dayfly.environment import system
from dayfly.environment.order import Interpreters
from dayfly.errors import EnvironmentFailedError
from dayfly.phases import Timeline
from dayfly.storage.directory import DirectoryStorage
from dayfly.worker import environments as environments_module
from dayfly.worker.environments import KitEnvironments

INSTALL = "install --no-install-recommends"


class Vm:
    """A folder of programs that stand for those of a VM.

    ``apt-get`` does what is in ``apt``, and has its words written down; a package is installed if
    its name is a file in ``installed``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.installed = path / "installed"
        self.programs = path / "bin"
        for folder in (self.installed, self.programs, path / "tmp" / "dayfly"):
            folder.mkdir(parents=True)
        self.program("sudo", 'shift; exec "$@"')
        self.program("dpkg-query", f'test -e "{self.installed}/$3" && echo "installed=1.0 "')
        self.apt("true")

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def apt(self, install: str, update: str = "true") -> None:
        words = f'for last; do :; done; echo "$@" | sed "s/.*confold //" >>"{self.path}/asked"'
        cases = f"case $last in update) {update};; *) {install};; esac"
        self.program("apt-get", f"{words}\n{cases}")

    @property
    def asked(self) -> list[str]:
        path = self.path / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, *packages: str, deadline: int = 60) -> EnvironmentFailedError | None:
        done = subprocess.run(
            ["sh", "-c", system.script(packages, deadline=deadline)],
            env={
                "PATH": f"{self.programs}:{os.environ['PATH']}",
                "DAYFLY_ROOT": str(self.path),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return system.failure(done.returncode, done.stdout, packages, vm="i-1", platform="Debian")


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vm:
    monkeypatch.setattr(system, "PAUSE", 0)
    return Vm(tmp_path / "vm")


def failed(vm: Vm, *packages: str) -> EnvironmentFailedError:
    error = vm.run(*packages)
    assert error is not None
    return error


def test_what_is_installed_already_costs_no_update(vm: Vm) -> None:
    (vm.installed / "gdal-bin").touch()
    assert vm.run("gdal-bin", "gdal-bin") is None
    assert not vm.asked


def test_only_what_is_lacking_is_installed_and_the_output_is_kept(vm: Vm) -> None:
    (vm.installed / "gdal-bin").touch()
    vm.apt(f'echo unpacking; touch "{vm.installed}/$last"', "echo updating")
    assert vm.run("gdal-bin", "g++") is None
    assert vm.asked == ["update", f"{INSTALL} g++"]
    assert (vm.path / "tmp/dayfly/apt.log").read_text() == "updating\nunpacking\n"
    assert vm.run("gdal-bin", "g++") is None
    assert len(vm.asked) == 2


def test_another_version_than_the_one_that_is_there_is_installed(vm: Vm) -> None:
    (vm.installed / "gdal-bin").touch()
    assert vm.run("gdal-bin=1.0") is None
    assert not vm.asked
    assert vm.run("gdal-bin=1.0-2") is None
    assert vm.asked == ["update", f"{INSTALL} gdal-bin=1.0-2"]


LOCKED = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt-get)"


def test_a_lock_that_is_held_is_waited_for(vm: Vm) -> None:
    tries = f'test $(wc -l <"{vm.path}/asked") -gt 3 || {{ echo "{LOCKED}"; exit 100; }}'
    vm.apt(tries, tries)
    assert vm.run("g++") is None
    assert vm.asked[-1] == f"{INSTALL} g++"


def test_a_lock_that_nobody_lets_go_is_named_with_its_holder(vm: Vm) -> None:
    vm.apt(f'echo "{LOCKED}"; exit 100')
    seconds = vm.path / "seconds"  # each look at the clock is a second later than the last
    vm.program("date", f'echo >>"{seconds}"; wc -l <"{seconds}"')
    error = vm.run("g++", deadline=5)
    assert vm.asked == ["update", *[f"{INSTALL} g++"] * 3]
    assert error is not None
    assert (error.kind, error.everywhere) == ("busy", False)
    assert "held by process 7 (apt-get)" in error.cause


def test_an_interrupted_dpkg_is_mended_first(vm: Vm) -> None:
    vm.program("dpkg", f'touch "{vm.path}/mended"')
    words = "E: dpkg was interrupted, you must manually run 'sudo dpkg --configure -a' to correct"
    vm.apt(f'test -e "{vm.path}/mended" || {{ echo "{words}"; exit 100; }}')
    assert vm.run("g++") is None


SAID = [
    (
        "E: Unable to locate package no-such-thing",
        ("package", True, "no-such-thing"),
        "on i-1: its sources have no no-such-thing",
    ),
    (
        "E: Version '9' for 'g++' was not found",
        ("package", True, "g++"),
        "correct extra_apt_packages",
    ),
    (
        "E: Failed to fetch http://deb.debian.org/debian/sl.deb  Could not connect: timed out",
        ("network", False, ""),
        "deb.debian.org cannot be reached",
    ),
    (
        "W: Failed to fetch http://deb.debian.org/In  Temporary\nE: Unable to locate package sl",
        ("network", False, "sl"),
        "deb.debian.org cannot be reached",
    ),
    (
        "E: You don't have enough free space in /var/cache/apt/archives/.",
        ("disk", False, ""),
        "ebs_volumes",
    ),
    (
        "sudo: unable to resolve host ip-10-0-0-1\nE: The list of sources could not be read.",
        ("broken", False, ""),
        "mend apt in the image",
    ),
    ("sudo: a password is required", ("permission", False, ""), "sudo without a password"),
    ("E: The list of sources could not be read.", ("broken", False, ""), "mend apt in the image"),
    (
        "E: Packages were downgraded and -y was used without --allow-downgrades.",
        ("package", True, ""),
        "leave the version out",
    ),
    (
        "Errors were encountered while processing:\n sl\nE: Sub-process /usr/bin/dpkg returned 1",
        ("package", True, "sl"),
        "apt.log",
    ),
]


@pytest.mark.parametrize(("said", "verdict", "told"), SAID)
def test_what_apt_get_says_is_understood(
    vm: Vm, said: str, verdict: tuple[str, bool, str], told: str
) -> None:
    (vm.path / "said").write_text(said + "\n")
    vm.apt(f'cat "{vm.path}/said"; exit 100')
    error = failed(vm, "sl")
    assert (error.kind, error.everywhere, error.package) == verdict
    assert (error.stage, error.vm, error.platform) == ("system", "i-1", "Debian")
    assert told in str(error)
    assert said.splitlines()[-1].strip() in error.cause
    assert error.hint


def test_an_update_that_fails_in_part_is_enough(vm: Vm) -> None:
    vm.apt("true", "echo 'E: The repository has no Release file.'; exit 100")
    assert vm.run("sl") is None


def test_an_image_without_apt_is_told(vm: Vm) -> None:
    (vm.programs / "apt-get").unlink()
    for name in ("date", "mkdir", "mktemp", "rm"):
        vm.program(name, f'exec /bin/{name} "$@"')
    done = subprocess.run(
        ["/bin/sh", "-c", system.script(["sl"])],
        env={"PATH": str(vm.programs), "DAYFLY_ROOT": str(vm.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    error = system.failure(done.returncode, done.stdout, ["sl"], vm="i-1", platform="Alpine")
    assert error is not None
    assert "choose a target_ami of Debian or Ubuntu" in error.hint


def test_nothing_of_a_name_is_read_by_the_shell() -> None:
    with pytest.raises(ValueError, match="is not the name of a package"):
        system.script(["sl; reboot"])


async def test_a_system_that_says_nothing_is_given_up_after_the_deadline(
    vm: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYFLY_ROOT", str(vm.path))
    monkeypatch.setenv("PATH", f"{vm.programs}:{os.environ['PATH']}")
    monkeypatch.setattr(system, "DEADLINE", 0)
    monkeypatch.setattr(environments_module, "_GRACE", 0.2)
    os.mkfifo(vm.path / "stuck")
    vm.program("dpkg-query", f'read -r line <"{vm.path}/stuck"')
    begun: list[asyncio.subprocess.Process] = []

    async def begin(*words: str, **options: Any) -> asyncio.subprocess.Process:
        begun.append(await start(*words, **options))
        return begun[0]

    start = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", begin)
    storage = DirectoryStorage(tmp_path / "storage")
    environments = KitEnvironments(storage, "i-1", Interpreters(), Timeline(SystemClock()))
    with pytest.raises(EnvironmentFailedError, match="could not be installed") as told:
        await environments.bring("", ["sl"])
    assert told.value.kind == "deadline"
    assert begun[0].returncode is None, "dpkg is not cut off in the middle"
    (vm.path / "stuck").write_text("go on\n")
    await begun[0].communicate()


async def test_two_jobs_that_want_the_same_have_it_installed_once(
    vm: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYFLY_ROOT", str(vm.path))
    monkeypatch.setenv("PATH", f"{vm.programs}:{os.environ['PATH']}")
    storage = DirectoryStorage(tmp_path / "storage")
    environments = KitEnvironments(storage, "i-1", Interpreters(), Timeline(SystemClock()))
    assert environments.known("", ["sl"]) is None
    assert await asyncio.gather(*(environments.bring("", ["sl"]) for _ in range(3))) == [""] * 3
    assert vm.asked == ["update", f"{INSTALL} sl"]
    assert environments.known("", ["sl"]) == ""
    vm.apt("echo 'E: Unable to locate package no'; exit 100")
    with pytest.raises(EnvironmentFailedError, match="sources have no no"):
        await environments.bring("", ["sl", "no"])
    assert environments.known("", ["sl", "no"]) is None
