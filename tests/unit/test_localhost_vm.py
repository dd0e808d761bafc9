"""The life of an embedded VM: real processes, killed in every way."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dayfly.clock import SystemClock, SystemEntropy
from dayfly.cloud.localhost import LocalhostCloud
from dayfly.errors import UnreachableError
from dayfly.model import InstanceState
from tests.conftest import processes_of
from tests.embedded import Embedded, embedded_cloud, eventually, raze

S = InstanceState


@pytest.fixture
async def embedded(own_home: Path) -> AsyncIterator[Embedded]:
    async with embedded_cloud(own_home / "cloud") as embedded:
        yield embedded


async def test_a_process_on_a_vm_sees_a_fresh_machine(
    embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    async with embedded.vm() as (instance, connection):
        root = embedded.folder(instance) / "root"
        result = await connection.run("env; echo PWD2=$(pwd)")
        seen = dict(line.split("=", 1) for line in result.stdout.splitlines())
        assert seen["DAYFLY_ROOT"] == str(root)
        assert seen["DAYFLY_INSTANCE"] == instance.id
        assert seen["HOME"] == seen["PWD2"] == str(root / "home")
        assert seen["TMPDIR"] == str(root / "tmp")
        assert seen["PATH"].startswith(f"{root}/usr/bin:")
        assert "AWS_SECRET_ACCESS_KEY" not in seen
        assert not [name for name in seen if name.startswith(("PYTHON", "DAYFLY_VM"))]


async def test_what_a_vm_keeps_is_for_its_user_only(embedded: Embedded) -> None:
    (instance,) = await embedded.launch()
    for path in (embedded.cloud.directory, embedded.folder(instance)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in embedded.folder(instance).glob("*"):
        if path.name in ("record.json", "user-data", "lock"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_process_table_tells_which_vm_is_which(embedded: Embedded) -> None:
    async with embedded.vm() as (instance, _):
        commands = embedded.processes(instance).values()
        assert sorted(command.split(" -m ")[1].strip() for command in commands) == [
            f"dayfly.cloud.localhost.init {instance.id} {embedded.cloud.directory}",
            f"dayfly.cloud.localhost.vm {instance.id} {embedded.cloud.directory}",
        ]


async def test_bootcmd_runs_at_every_boot_and_runcmd_only_at_the_first(
    embedded: Embedded,
) -> None:
    async with embedded.vm(
        on_poweroff="stop",
        bootcmd=[
            "echo boot >>$HOME/log",
            ["sh", "-c", "test -e $HOME/file || echo early >>$HOME/log"],
        ],
        write_files=[{"path": "/home/file", "content": "text", "permissions": "0640"}],
        runcmd=[["sh", "-c", "echo run >>$HOME/log"], ["false"], ["no-such-command"]],
    ) as (instance, connection):
        await eventually_booted(embedded, instance.id)
        # As cloud-init does: bootcmd comes before write_files.
        assert (await connection.run("cat log")).stdout == "boot\nearly\nrun\n"
        assert (await connection.run("stat -c %a file; cat file")).stdout == "640\ntext"
    console = await embedded.cloud.console(instance.id)
    assert "runcmd: status 1 of ['false']" in console
    assert "no-such-command" in console

    await embedded.cloud.stop([instance.id])
    await embedded.until(instance, S.STOPPED)
    await embedded.cloud.start([instance.id])
    assert (await embedded.run(instance, "cat log")).stdout == "boot\nearly\nrun\nboot\n"


async def test_stop_and_start_keep_the_disk_the_address_and_the_host_key(
    embedded: Embedded,
) -> None:
    async with embedded.vm(on_poweroff="stop") as (instance, connection):
        await connection.run(
            "echo kept >$HOME/a; echo gone >$DAYFLY_ROOT/run/b; echo gone >$TMPDIR/c"
        )
    key = host_key(await embedded.cloud.console(instance.id))
    await embedded.cloud.stop([instance.id])
    stopped = await embedded.until(instance, S.STOPPED)
    await embedded.nothing_runs(instance)
    with pytest.raises(UnreachableError):
        await embedded.shell.connect(embedded.target(instance))

    await embedded.cloud.start([instance.id])
    result = await embedded.run(instance, "cat $HOME/a; ls $DAYFLY_ROOT/run/b $TMPDIR/c")
    assert result.stdout == "kept\n"
    assert (await embedded.look(instance)).address == stopped.address == instance.address
    assert host_key(await embedded.cloud.console(instance.id)) == key


async def test_user_data_that_is_garbage_leaves_a_machine_that_boots(embedded: Embedded) -> None:
    (instance,) = await embedded.launch(bootcmd=3)
    await eventually_booted(embedded, instance.id)
    assert "bootcmd" in await embedded.cloud.console(instance.id)


@pytest.mark.parametrize("command", ["poweroff", "sudo -n shutdown -P now", "systemctl poweroff"])
async def test_poweroff_inside_terminates_and_deletes_the_disk(
    embedded: Embedded, command: str
) -> None:
    async with embedded.vm(on_poweroff="terminate") as (instance, connection):
        await embedded.power_off(connection, command)
        gone = await embedded.until(instance, S.TERMINATED)
    assert gone.state_reason.startswith("Client.InstanceInitiatedShutdown")
    await embedded.nothing_runs(instance)
    assert not (embedded.folder(instance) / "root").exists()
    assert not (embedded.folder(instance) / "user-data").exists()


async def test_poweroff_inside_stops_a_vm_that_is_to_be_stopped(embedded: Embedded) -> None:
    async with embedded.vm(on_poweroff="stop") as (instance, connection):
        await embedded.power_off(connection)
        await embedded.until(instance, S.STOPPED)
    await embedded.cloud.start([instance.id])
    assert (await embedded.run(instance, "echo back")).stdout == "back\n"


async def test_a_vm_whose_init_is_killed_loses_all_its_processes(embedded: Embedded) -> None:
    async with embedded.vm(on_poweroff="stop") as (instance, connection):
        await connection.run("setsid sh -c 'sleep 98765; true' >/dev/null 2>&1 </dev/null &")
        await connection.run("env -i setsid sleep 98764 >/dev/null 2>&1 </dev/null &")
        os.kill(embedded.init(instance), signal.SIGKILL)
        stopped = await embedded.until(instance, S.STOPPED)
    assert stopped.state_reason == "Server.InternalError: init was killed by SIGKILL"
    await embedded.nothing_runs(instance)
    assert not sleeping("98764")
    await embedded.cloud.start([instance.id])
    await embedded.run(instance, "true")


async def test_a_vm_whose_every_keeper_is_killed_is_told_so_and_leaves_no_process(
    embedded: Embedded,
) -> None:
    async with embedded.vm() as (instance, connection):
        await connection.run("setsid sh -c 'sleep 98765; true' >/dev/null 2>&1 </dev/null &")
        supervisor, init = embedded.supervisor(instance), embedded.init(instance)
        for pid in (supervisor, init):
            os.kill(pid, signal.SIGKILL)
        await connection.wait_closed()
        # A busy kernel takes a moment to end what was killed.
        await eventually(lambda: not Path(f"/proc/{supervisor}").exists(), "the supervisor's end")

    # Another program finds it, not the one that launched it.
    other = LocalhostCloud(embedded.cloud.directory, clock=SystemClock(), entropy=SystemEntropy())
    (gone,) = await other.list(ids=[instance.id])
    assert gone.state is S.TERMINATED
    assert gone.state_reason == "Server.InternalError: all of its processes were killed"
    await embedded.nothing_runs(instance)


async def test_init_does_not_outlive_its_supervisor(embedded: Embedded) -> None:
    async with embedded.vm() as (instance, _):
        os.kill(embedded.supervisor(instance), signal.SIGKILL)
        await eventually(lambda: not embedded.processes(instance), "init to end")
    assert (await embedded.look(instance)).state is S.TERMINATED


async def test_a_vm_that_hangs_is_cut_off_after_its_grace(embedded: Embedded) -> None:
    async with embedded.vm() as (instance, _):
        os.kill(embedded.init(instance), signal.SIGSTOP)
        started = time.monotonic()
        await embedded.cloud.terminate([instance.id])
        assert (await embedded.look(instance)).state is S.SHUTTING_DOWN
        await embedded.until(instance, S.TERMINATED)
        assert time.monotonic() - started > 1.0
    await embedded.nothing_runs(instance)


async def test_a_vm_ends_with_its_folder(embedded: Embedded) -> None:
    async with embedded.vm() as (instance, _):
        shutil.rmtree(embedded.folder(instance))
        await eventually(lambda: not embedded.processes(instance), "the VM to end")
    assert await embedded.cloud.list() == []


async def test_a_vm_outlives_the_program_that_launched_it_and_no_zombie_is_left(
    embedded: Embedded,
) -> None:
    program = (
        "import asyncio, sys, pathlib\n"
        "from dayfly.clock import SystemClock, SystemEntropy\n"
        "from dayfly.cloud.localhost import LocalhostCloud\n"
        "from dayfly.model import InstanceSpec\n"
        "cloud = LocalhostCloud(pathlib.Path(sys.argv[1]), clock=SystemClock(),"
        " entropy=SystemEntropy())\n"
        "spec = InstanceSpec(role='worker', instance_types=['local.1'], on_poweroff='terminate',"
        " user_data=sys.argv[2], tags={'Name': 'x'})\n"
        "print(asyncio.run(cloud.launch(spec, 1, token='t')).instances[0].id)\n"
    )
    launcher = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        str(embedded.cloud.directory),
        embedded.user_data(),
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    printed, _ = await launcher.communicate()
    (instance,) = await embedded.cloud.list(ids=[printed.decode().strip()])
    assert (await embedded.run(instance, "echo alive")).stdout == "alive\n"
    pids = list(embedded.processes(instance))

    await embedded.cloud.terminate([instance.id])
    await embedded.until(instance, S.TERMINATED)
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all ends")


async def test_a_terminated_vm_is_forgotten_after_an_hour(embedded: Embedded) -> None:
    class Later(SystemClock):
        def now(self) -> float:
            return time.time() + 3601

    (instance,) = await embedded.launch()
    await embedded.cloud.terminate([instance.id])
    await embedded.until(instance, S.TERMINATED)
    later = LocalhostCloud(embedded.cloud.directory, clock=Later(), entropy=SystemEntropy())
    assert await later.list() == []
    assert not embedded.folder(instance).exists()
    await later.terminate([instance.id])  # gone and forgotten: not an error


async def test_a_boot_takes_its_time(own_home: Path) -> None:
    async with embedded_cloud(own_home / "cloud", boot_time=1.0) as embedded:
        started = time.monotonic()
        (instance,) = await embedded.launch()
        assert instance.state is S.PENDING
        await embedded.until(instance, S.RUNNING)
        assert time.monotonic() - started > 0.2
        async with embedded.connected(instance):
            assert time.monotonic() - started >= 1.0


async def test_a_vm_that_is_terminated_while_pending_never_boots(own_home: Path) -> None:
    async with embedded_cloud(own_home / "cloud", boot_time=8.0) as embedded:
        (instance,) = await embedded.launch(bootcmd=["touch $HOME/booted"])
        await embedded.cloud.terminate([instance.id])
        await embedded.until(instance, S.TERMINATED)
        assert await embedded.cloud.console(instance.id) == ""


async def test_thirty_two_vms_at_once(embedded: Embedded) -> None:
    instances = await embedded.launch(32)
    assert len({instance.address for instance in instances}) == 32
    answers = await asyncio.gather(
        *(embedded.run(instance, "echo $DAYFLY_INSTANCE") for instance in instances)
    )
    assert [answer.stdout.strip() for answer in answers] == [i.id for i in instances]
    await raze(embedded.cloud)
    assert not processes_of(embedded.cloud.directory)


async def test_a_shell_with_a_terminal_ends_with_its_connection(embedded: Embedded) -> None:
    import asyncssh

    (instance,) = await embedded.launch()
    await (await embedded.connect(instance)).aclose()
    async with asyncssh.connect(
        instance.address,
        instance.ssh_port,
        username="me",
        client_keys=[embedded.user.key],
        known_hosts=None,
        config=None,
    ) as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(91, 23))
        shell.stdin.write("stty size; tty; sleep 98765\n")
        text = ""
        async with asyncio.timeout(5):
            while "/dev/pts/" not in text:
                text += await shell.stdout.read(1000)
        assert "23 91" in text
        shell.change_terminal_size(100, 40)
        await eventually(lambda: bool(embedded.processes(instance, "98765")), "the sleep")
        shell.stdin.write("\x03exit 7\n")
        async with asyncio.timeout(5):
            assert (await shell.wait()).exit_status == 7
        hung = await connection.create_process(term_type="xterm")
        hung.stdin.write("sleep 98764\n")
        await eventually(lambda: bool(embedded.processes(instance, "98764")), "the sleep")
    await eventually(lambda: not embedded.processes(instance, "98764"), "SIGHUP")


async def eventually_booted(embedded: Embedded, instance_id: str) -> None:
    async def booted() -> bool:
        return "boot finished" in await embedded.cloud.console(instance_id)

    await eventually(booted, "the boot to finish")


def host_key(console: str) -> str:
    return console.rsplit("-----BEGIN SSH HOST KEY KEYS-----", 1)[1].split("-----END")[0]


def sleeping(seconds: str) -> bool:
    commands = Path("/proc").glob("[0-9]*/cmdline")
    needle = f"sleep\0{seconds}\0".encode()
    for command in commands:
        try:
            if needle in command.read_bytes():
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False
