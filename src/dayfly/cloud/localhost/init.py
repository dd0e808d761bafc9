"""A VM's first process: user-data, services and the SSH server, until it is told to end.

    python -m dayfly.cloud.localhost.init INSTANCE DIRECTORY

It does what the kernel, systemd and cloud-init do on a real machine, in their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from dayfly.cloud.localhost import processes, vm
from dayfly.cloud.localhost.control import Control, write_commands
from dayfly.cloud.localhost.environment import guest_environment
from dayfly.cloud.localhost.machine import Machine
from dayfly.cloud.localhost.record import BY_GUEST, Record
from dayfly.cloud.localhost.registry import Registry
from dayfly.cloud.localhost.services import Services
from dayfly.cloud.localhost.sshdconfig import SshdConfig
from dayfly.cloud.localhost.userdata import UserData, WriteFile, argv, parse_user_data

#: Seconds for services to end; the supervisor cuts the power a little later.
_GRACE = vm.GRACE - 0.5

_FOLDERS = ("etc/ssh", "etc/systemd/system", "home/.ssh", "opt", "var/lib", "var/log")
#: Emptied at every boot: /run lives in memory, and tmpfiles.d empties /tmp on Ubuntu.
_VOLATILE = ("run", "tmp")


class Init:
    """The first process of one boot."""

    def __init__(self, registry: Registry, record: Record, *, ssh_at: float) -> None:
        layout = registry.layout(record.id)
        self._registry = registry
        self._record = record
        self._ssh_at = ssh_at
        self._machine = Machine(
            layout=layout,
            address=record.instance.address,
            environment=guest_environment(layout, os.environ),
            booted=time.monotonic(),
        )
        self._services = Services(self._machine)
        self._sshd_config = SshdConfig(layout.root)
        self._first_boot = not (layout.root / "var/lib/cloud/instance").exists()

    async def run(self) -> None:
        """Boot, and stay until the supervisor asks for the end."""
        end = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
        self._prepare_disk()
        async with contextlib.AsyncExitStack() as stack:
            control = Control(
                self._services,
                power_off=self._ask_for_power_off,
                reload_sshd=self._sshd_config.read,
            )
            await stack.enter_async_context(control.listening())
            boot = asyncio.create_task(self._boot(stack))
            ended = asyncio.create_task(end.wait())
            await asyncio.wait([boot, ended], return_when=asyncio.FIRST_COMPLETED)
            if boot.done():
                boot.result()  # a boot that fails is a panic: the machine ends with it
            await ended
            boot.cancel()
            self._machine.say("shutting down")
            await self._services.shut_down(_GRACE)

    def _ask_for_power_off(self) -> None:
        """Have the supervisor end this VM; it answers by SIGTERM, as for anyone who asks."""
        behaviour = self._record.on_poweroff
        self._registry.change(self._record.id, lambda old: old.leave(behaviour, BY_GUEST))
        os.kill(os.getppid(), signal.SIGUSR1)

    def _prepare_disk(self) -> None:
        root = self._machine.layout.root
        root.mkdir(mode=0o700, exist_ok=True)
        os.chdir(root)
        for name in _VOLATILE:
            shutil.rmtree(name, ignore_errors=True)
            Path(name).mkdir()
        for name in _FOLDERS:
            Path(name).mkdir(parents=True, exist_ok=True)
        Path("home/.ssh").chmod(0o700)
        write_commands(self._machine.layout)
        if self._first_boot:
            self._sshd_config.install()

    async def _boot(self, stack: contextlib.AsyncExitStack) -> None:
        say = self._machine.say
        say(f"{self._record.id} boots; {'first boot' if self._first_boot else 'booted before'}")
        try:
            data = parse_user_data(self._machine.layout.user_data.read_text())
        except ValueError as error:
            say(f"cloud-init: {error}")
            data = UserData()
        await self._commands("bootcmd", data.bootcmd)
        if self._first_boot:
            for file in data.write_files:
                self._write_file(file)
            keys = self._machine.layout.home / ".ssh" / "authorized_keys"
            keys.write_text("".join(f"{key.strip()}\n" for key in data.ssh_authorized_keys))
            keys.chmod(0o600)
        self._services.start_enabled()
        await self._open_ssh(stack, data)
        if self._first_boot:
            await self._commands("runcmd", data.runcmd)
            (self._machine.layout.root / "var/lib/cloud/instance").mkdir(parents=True)
        say("boot finished")

    async def _open_ssh(self, stack: contextlib.AsyncExitStack, data: UserData) -> None:
        # Imported this late because it takes most of the boot, and bootcmd must not wait.
        from dayfly.cloud.localhost import sshd

        host_key = sshd.host_key(self._machine, data.ssh_keys)
        await asyncio.sleep(max(0.0, self._ssh_at - time.monotonic()))
        instance = self._record.instance
        if self._record.fault == "refuse_ssh":
            return
        if self._record.fault == "silent_ssh":
            await stack.enter_async_context(sshd.say_nothing(instance.address, instance.ssh_port))
            return
        self._sshd_config.read()
        await stack.enter_async_context(
            sshd.serve(
                self._machine,
                self._sshd_config,
                host_key,
                instance.ssh_port,
                self._registry.directory,
            )
        )
        self._machine.say(f"sshd listens at {instance.address}:{instance.ssh_port}")

    def _write_file(self, file: WriteFile) -> None:
        path = self._machine.inside(file.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.content)
            path.chmod(int(file.permissions, 8))
        except (OSError, ValueError) as error:
            self._machine.say(f"cloud-init: write_files {file.path}: {error}")

    async def _commands(self, module: str, commands: list[str | list[str]]) -> None:
        for command in commands:
            try:
                process = await self._machine.spawn(argv(command), error=subprocess.STDOUT)
            except OSError as error:
                self._machine.say(f"cloud-init: {module}: {error}")
                continue
            status = await process.wait()
            if status:
                self._machine.say(f"cloud-init: {module}: status {status} of {command!r:.200}")


def main() -> None:
    """Run init."""
    instance_id, directory = sys.argv[1:3]
    processes.die_with_parent()
    if os.getppid() == 1:
        return  # the supervisor died before we could ask to die with it
    if sys.version_info < (3, 12):
        # The default watcher of 3.11 starts a thread per child; later ones use this by themselves.
        if sys.platform == "linux":
            asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    os.umask(0o022)
    registry = Registry(Path(directory))
    ssh_at = float(os.environ.pop(vm.SSH_AT_VARIABLE))
    asyncio.run(Init(registry, registry.read(instance_id), ssh_at=ssh_at).run())


if __name__ == "__main__":
    main()
