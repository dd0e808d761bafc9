"""The embedded VM's service manager, through ``systemctl`` on a real VM."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dayfly.model import Instance, InstanceState
from dayfly.shell.base import CommandResult, Connection
from tests.embedded import Embedded, embedded_cloud, eventually

S = InstanceState

#: Says READY=1 a moment after its start, then leaves two generations of children behind it.
NOTIFIER = """
import os, socket, subprocess, sys, time
time.sleep(float(sys.argv[1]))
subprocess.Popen(["setsid", "sleep", "98761"])
open(os.environ["HOME"] + "/ready", "w").close()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"STATUS=up\\nREADY=1\\n", os.environ["NOTIFY_SOCKET"])
time.sleep(98762)
"""


class Guest:
    """A VM, and how its administrator writes units."""

    def __init__(self, embedded: Embedded, instance: Instance, connection: Connection) -> None:
        self.embedded = embedded
        self.instance = instance
        self.connection = connection
        self.root = embedded.folder(instance) / "root"

    def unit(self, name: str, service: str, rest: str = "") -> None:
        path = self.root / "etc/systemd/system" / f"{name}.service"
        path.write_text(f"[Service]\n{service}\n{rest}\n")

    async def run(self, command: str) -> CommandResult:
        return await self.connection.run(command, timeout=20)

    async def ok(self, command: str) -> str:
        result = await self.run(command)
        assert result.status == 0, result
        return result.stdout

    async def pid(self, name: str) -> int:
        status = (await self.run(f"systemctl status {name}")).stdout
        found = status.split("Main PID: ")[1].split()[0]
        return 0 if found == "-" else int(found)

    def processes(self, word: str) -> dict[int, str]:
        return self.embedded.processes(self.instance, word)


@pytest.fixture
async def guest(own_home: Path) -> AsyncIterator[Guest]:
    async with (
        embedded_cloud(own_home / "cloud") as embedded,
        embedded.vm(on_poweroff="stop") as (instance, connection),
    ):
        yield Guest(embedded, instance, connection)


async def test_a_service_runs_where_and_how_its_unit_says(guest: Guest) -> None:
    (guest.root / "etc/thing.env").write_text("FROM_FILE='a b'\n")
    (guest.root / "opt/thing").mkdir()
    guest.unit(
        "thing",
        "ExecStart=/bin/sh -c 'pwd; echo $A $FROM_FILE ${DAYFLY_ROOT} >&2; exec sleep 98765'\n"
        "Environment=A=1\nEnvironmentFile=/etc/thing.env\nEnvironmentFile=-/etc/none\n"
        "WorkingDirectory=/opt/thing\nStandardOutput=append:/tmp/thing.log\n",
    )
    await guest.ok("systemctl start thing")
    log = guest.root / "tmp/thing.log"
    await eventually(lambda: log.exists() and log.read_text().count("\n") == 2, "two lines")
    assert log.read_text() == f"{guest.root}/opt/thing\n1 a b {guest.root}\n"
    assert await guest.ok("systemctl is-active thing.service") == "active\n"
    assert await guest.ok("systemctl is-active --quiet thing") == ""

    await guest.ok("sudo -n systemctl stop thing")
    assert not guest.processes("98765")
    stopped = await guest.run("systemctl is-active thing")
    assert (stopped.status, stopped.stdout) == (3, "inactive\n")


async def test_start_waits_for_a_service_that_notifies(guest: Guest) -> None:
    (guest.root / "opt/notifier.py").write_text(NOTIFIER)
    guest.unit("n", f"Type=notify\nExecStart={sys.executable} ${{DAYFLY_ROOT}}/opt/notifier.py 0.3")
    started = time.monotonic()
    assert await guest.ok("systemctl start n; ls ready") == "ready\n"
    assert time.monotonic() - started > 0.3
    assert guest.processes("98761")

    await guest.ok("systemctl stop n")
    assert not guest.processes("98761"), "a child in a session of its own was left"


async def test_a_service_that_fails_to_start_is_named_with_its_status_and_log(
    guest: Guest,
) -> None:
    guest.unit("bad", "Type=notify\nExecStart=/bin/sh -c 'echo why; exit 4'\n")
    failed = await guest.run("systemctl start bad")
    assert failed.status == 1
    assert "bad.service failed" in failed.stderr
    assert "status=4" in failed.stderr
    assert "/var/log/bad.service.log" in failed.stderr
    assert (guest.root / "var/log/bad.service.log").read_text() == "why\n"
    assert (await guest.run("systemctl is-active bad")).stdout == "failed\n"


@pytest.mark.parametrize(
    ("service", "complaint"),
    [
        ("ExecStart=/no/such/program", "203/EXEC"),
        ("ExecStart=true\nWorkingDirectory=/no/such", "200/CHDIR"),
        ("ExecStart=true\nStandardOutput=append:/no/such/log", "209/STDOUT"),
        ("ExecStart=true\nEnvironmentFile=/no/such", "EnvironmentFile=/no/such"),
        ("Type=notify\nExecStart=sleep 98765\nTimeoutStartSec=200ms", "did not say READY=1 in 0.2"),
        ("Type=notify\nExecStart=true", "never said READY=1"),
        ("Type=oneshot\nExecStart=false", "status=1"),
        ("Type=odd\nExecStart=true", "Type=odd"),
    ],
)
async def test_each_way_to_fail_has_its_words(guest: Guest, service: str, complaint: str) -> None:
    guest.unit("x", service)
    failed = await guest.run("systemctl start x")
    assert failed.status == 1
    assert complaint in failed.stderr
    assert not guest.processes("98765")


async def test_an_unknown_unit_and_an_unknown_verb_are_told(guest: Guest) -> None:
    assert (await guest.run("systemctl start none")).status == 5
    assert "none.service not found" in (await guest.run("systemctl start none")).stderr
    assert "verb" in (await guest.run("systemctl frobnicate x")).stderr
    assert (await guest.run("systemctl start")).status == 1
    assert (await guest.run("shutdown +5")).status == 1
    assert await guest.ok("systemctl is-system-running") == "running\n"


async def test_a_killed_service_comes_back_and_its_children_do_not_stay(guest: Guest) -> None:
    guest.unit(
        "r",
        "ExecStart=/bin/sh -c 'setsid sleep 98763 & exec sleep 98765'\n"
        "Restart=always\nRestartSec=100ms",
    )
    await guest.ok("systemctl start r")
    await eventually(lambda: len(guest.processes("98763")) == 1, "its child")
    first, children = await guest.pid("r"), guest.processes("98763")
    os.kill(first, signal.SIGKILL)
    await eventually(
        lambda: len(guest.processes("sleep 98765").keys() - {first}) == 1, "a new main process"
    )
    await eventually(lambda: not guest.processes("98763").keys() & children, "the old child's end")
    assert await guest.pid("r") not in (0, first)


async def test_a_service_that_keeps_failing_is_given_up(guest: Guest) -> None:
    guest.unit("loop", "ExecStart=false\nRestart=always\nRestartSec=10ms")
    await guest.run("systemctl start loop")

    async def failed() -> bool:
        return "repeated too quickly" in (await guest.run("systemctl status loop")).stdout

    await eventually(failed, "it to be given up")
    assert (await guest.run("systemctl is-active loop")).stdout == "failed\n"


async def test_restart_on_failure_lets_success_be(guest: Guest) -> None:
    guest.unit("s", "ExecStart=/bin/sh -c 'echo x >>$HOME/s'\nRestart=on-failure\nRestartSec=0")
    await guest.ok("systemctl start s")

    async def ended() -> bool:
        return (await guest.run("systemctl is-active s")).stdout == "inactive\n"

    await eventually(ended, "it to end")
    assert (guest.root / "home/s").read_text() == "x\n"


async def test_a_changed_unit_counts_after_daemon_reload(guest: Guest) -> None:
    guest.unit("u", "Type=oneshot\nExecStart=/bin/sh -c 'echo 1 >>$HOME/u'")
    await guest.ok("systemctl start u")
    guest.unit("u", "Type=oneshot\nExecStart=/bin/sh -c 'echo 2 >>$HOME/u'")
    await guest.ok("systemctl start u && systemctl daemon-reload && systemctl restart u")
    assert (guest.root / "home/u").read_text() == "1\n1\n2\n"


async def test_an_enabled_service_starts_at_the_next_boot(guest: Guest) -> None:
    guest.unit(
        "e",
        "ExecStart=/bin/sh -c 'echo x >>$HOME/e; exec sleep 98765'",
        "[Install]\nWantedBy=multi-user.target",
    )
    guest.unit("never", "ExecStart=true")
    await guest.ok("systemctl enable --now e")
    assert await guest.ok("systemctl is-enabled e") == "enabled\n"
    assert "WantedBy" in (await guest.run("systemctl enable never")).stderr

    embedded, instance = guest.embedded, guest.instance
    await embedded.cloud.stop([instance.id])
    await embedded.until(instance, S.STOPPED)
    await embedded.cloud.start([instance.id])
    await eventually(lambda: bool(guest.processes("98765")), "the service")
    again = await embedded.run(
        instance, "cat e; systemctl disable --now e; systemctl is-enabled e; systemctl is-active e"
    )
    assert again.stdout == "x\nx\ndisabled\ninactive\n"


async def test_a_service_that_is_stopped_ends_when_it_is_told_to(guest: Guest) -> None:
    guest.unit("halted", "ExecStart=/bin/sleep 98764\nTimeoutStopSec=50")
    await guest.ok("systemctl start halted")
    (pid,) = guest.processes("98764")
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    await guest.ok("systemctl stop halted")
    assert time.monotonic() - began < 40
    assert not guest.processes("98764")


async def test_a_service_that_will_not_end_is_killed(guest: Guest) -> None:
    guest.unit(
        "deaf",
        "ExecStart=/bin/sh -c 'trap \"\" TERM; echo on; while :; do sleep 0.05; done'\n"
        "TimeoutStopSec=300ms",
    )
    await guest.ok("systemctl start deaf")
    log = guest.root / "var/log/deaf.service.log"
    await eventually(lambda: log.exists() and log.read_text() == "on\n", "its trap")
    pid, started = await guest.pid("deaf"), time.monotonic()
    await guest.ok("systemctl stop deaf")
    assert time.monotonic() - started >= 0.3
    assert not Path(f"/proc/{pid}").exists()


async def test_a_deadline_like_unit_that_bootcmd_starts_powers_the_vm_off(own_home: Path) -> None:
    arm = (
        "cat >$DAYFLY_ROOT/etc/systemd/system/deadline.service <<'END'\n"
        "[Service]\nRestart=always\n"
        "ExecStart=/bin/sh -c 'sleep 0.7; systemctl poweroff; sleep 98765'\n"
        "END\n"
        "systemctl daemon-reload; systemctl start --no-block deadline.service\n"
    )
    async with embedded_cloud(own_home / "cloud") as embedded:
        (instance,) = await embedded.launch(bootcmd=[["sh", "-c", arm]])
        gone = await embedded.until(instance, S.TERMINATED)
        assert gone.state_reason.startswith("Client.InstanceInitiatedShutdown")
        await embedded.nothing_runs(instance)


async def test_systemctl_is_quick(guest: Guest) -> None:
    took = []
    for _ in range(5):
        started = time.monotonic()
        await guest.ok("systemctl is-system-running")
        took.append(time.monotonic() - started)
    assert min(took) < 0.2  # about 0.03 on an idle machine, the SSH channel included
