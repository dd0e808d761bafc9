"""What runs inside an instance: boots, installed services, and the VM's own deadline.

The cloud knows nothing of this. A machine follows the cloud's transitions, and tells the cloud
when it has powered itself off.
"""

from __future__ import annotations

import asyncio
import io
import math
import random
import re
import shutil
import tarfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from dayfly.model import InstanceState
from dayfly.shell.base import CommandResult
from tests.simulation.cloudstate import CloudState
from tests.simulation.keys import cap_of, identity_of, public_of
from tests.simulation.network import Network
from tests.simulation.ownvm import Deadline
from tests.simulation.powercut import tail_of
from tests.simulation.process import Host, Process, outside
from tests.simulation.shell import Greeting, serve
from tests.simulation.stream import SimSocket
from tests.simulation.surroundings import Strikes, heavy
from tests.simulation.units import Program, Unit

Service = Literal["master", "worker"]

#: When user-data's bootcmd is run: as a share of a boot, and in seconds at the most.
EARLY, EARLY_MOST = 0.4, 15.0
#: Seconds that installing takes, and an interpreter's start.
INSTALL, INTERPRETER = 0.4, 0.3
#: Seconds until the last service has gone, at least.
HALT = 1.0
#: Where a master's journal lies on its disk, and what befalls it when the power goes.
JOURNAL, TORN = "journal.sqlite", "journal tail lost"
#: One in so many VMs that never boot does not even get to its bootcmd.
STILLBORN = 4


class Surroundings(Protocol):
    """What machines need of the world."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def cloud(self) -> CloudState: ...
    @property
    def network(self) -> Network: ...
    @property
    def faults(self) -> Strikes: ...
    @property
    def users_key(self) -> str: ...
    def note(self, text: str) -> None: ...
    def new_host(self, name: str, *, uptime: float) -> Host: ...
    def boot_seconds(self) -> float: ...
    def disk(self, name: str) -> Path: ...
    def crashed(self, where: str, error: BaseException) -> None: ...
    def journal_torn(self) -> None: ...
    def program(
        self, machine: Machine, service: Service, process: Process, ready: Callable[[], None]
    ) -> Program: ...


class Installed(msgspec.Struct):
    """What an installation left on the disk.

    Attributes:
        config: The service's configuration, as JSON.
        mark: Empty until the service has started.
        enabled: Whether it is started at boot.
    """

    config: bytes
    mark: str = ""
    enabled: bool = False


class Machine:
    """One instance's insides.

    Attributes:
        id: The instance's.
        host: Its operating system, while it is up; a new one for each boot.
        units: Its services, since the boot.
        installed: What its disk remembers of them.
        deadline: Its own deadline, since the boot.
        up: Whether SSH answers.
        answered: Since when, or when it did last.
        halting: Whether it is going down.
        disk: Its disk, a folder; kept while it is stopped, deleted when it is terminated.
        interrupted_at: When the cloud takes it back, once that is announced.
    """

    def __init__(self, world: Surroundings, instance_id: str, stream: random.Random) -> None:
        self.id = instance_id
        self.host: Host | None = None
        self.units: dict[Service, Unit] = {}
        self.installed: dict[Service, Installed] = {}
        self.deadline: Deadline | None = None
        self.up = False
        self.answered = 0.0
        self.halting = False
        self.stream = stream
        self.disk = world.disk(instance_id)
        self._world = world
        self._init: Process | None = None
        self._sshd: Process | None = None
        self._booting: asyncio.Task[None] | None = None
        self._installer: Process | None = None
        self._warned: list[asyncio.Future[None]] = []
        self.interrupted_at: float | None = None

    def service(self, name: Service) -> Process | None:
        """The process of a service that runs."""
        unit = self.units.get(name)
        process = unit.process if unit is not None else None
        return process if process is not None and process.alive else None

    def heed(self, state: InstanceState) -> None:
        """The cloud has taken a step."""
        if state is InstanceState.RUNNING:
            self._boot()
        elif state in (InstanceState.STOPPING, InstanceState.SHUTTING_DOWN):
            self.power_off()
        elif state is InstanceState.STOPPED:
            self.cut()
        elif state is InstanceState.TERMINATED:
            self.cut(orderly=True)  # its disk is gone in any case
            shutil.rmtree(self.disk, ignore_errors=True)  # most never wrote to it

    # -- up --

    def _boot(self) -> None:
        world = self._world
        vm = world.cloud.vms[self.id]
        host = self.host = world.new_host(self.id, uptime=-world.loop.time())
        world.network.attach(vm.instance.address, host)
        world.network.attach(vm.instance.private_address, host)
        self.halting = False
        self.units = {}
        init = self._init = host.start("init")
        self.deadline = Deadline(self, init, self.stream.random())
        self._booting = init.spawn(self._come_up(host, init), f"boot of {self.id}")

    async def _come_up(self, host: Host, init: Process) -> None:
        world, vm = self._world, self._world.cloud.vms[self.id]
        identity = identity_of(vm.user_data) if vm.user_data else None
        takes = world.boot_seconds()
        never = world.faults.strikes("never boots")
        if never and world.faults.amount("never boots", 1.0, math.exp(STILLBORN)) < math.e:
            world.note(f"{self.id} hangs before its deadline is armed")
            return
        early = min(takes * EARLY, EARLY_MOST)
        await asyncio.sleep(early)
        if identity is not None and identity.cap:
            self.arm(identity.cap)
        if never:
            world.note(f"{self.id} hangs")
            return
        await asyncio.sleep(takes - early)
        self._sshd = host.start("sshd")
        greeting = identity.greeting if identity else Greeting("", "", f"ssh-ed25519 {self.id}")
        authorized = identity.authorized if identity else {public_of(world.users_key)}

        async def talk(socket: SimSocket) -> None:
            await serve(
                socket, greeting, lambda key: public_of(key) in authorized, self._begin_script
            )

        port = vm.instance.ssh_port
        world.network.listen(
            self._sshd, port, talk, lambda error: world.crashed(f"sshd of {self.id}", error)
        )
        self.up, self.answered = True, world.loop.time()
        world.note(f"{self.id} answers SSH")
        if identity is None:
            await asyncio.sleep(world.boot_seconds() * 0.1)
            keys = f"{greeting.key} root@{vm.instance.private_address}\n{greeting.key}"
            world.cloud.printed(
                self.id,
                f"-----BEGIN SSH HOST KEY KEYS-----\n{keys}\n-----END SSH HOST KEY KEYS-----\n",
            )
        else:
            world.cloud.printed(self.id, "cloud-init has finished\n")
        for name, installed in self.installed.items():
            if installed.enabled:
                await self._unit(name, init).restart()

    def arm(self, cap: str) -> None:
        """Start the script that powers it off at its own deadline, unless it runs."""
        assert self.deadline is not None
        self.deadline.arm(cap)

    # -- down --

    def power_off(self) -> None:
        """``poweroff``: its services are told to end, then it goes."""
        if self._init is None or not self._init.alive or self.halting:
            return
        self.halting = True
        self._init.spawn(self._halt(self._init), f"halt of {self.id}")

    async def _halt(self, init: Process) -> None:
        if self._booting is not None:
            self._booting.cancel()
        if self._sshd is not None:
            self._sshd.kill()
        self.up = False
        ends = [asyncio.create_task(unit.stop()) for unit in self.units.values()]
        if ends:
            await asyncio.wait(ends)
        await asyncio.sleep(HALT * (0.2 + self.stream.random()))
        init.loop.call_soon(partial(self._off, self.host, orderly=True), context=outside())

    def _off(self, host: Host | None, *, orderly: bool = False) -> None:
        if self.host is host and host is not None:
            self.cut(orderly=orderly)
            self._world.cloud.powered_off(self.id)

    def force_off(self) -> None:
        """``poweroff -ff``: at once."""
        self._world.loop.call_soon(self._off, self.host, context=outside())

    def cut(self, *, orderly: bool = False) -> None:
        """Its power is gone, or its kernel; unless that is ``orderly``, its disk may suffer."""
        host, self.host, self._init, self._sshd = self.host, None, None, None
        self.up = False
        if host is None:
            return
        faults = self._world.faults
        tail = None if orderly else tail_of(self.disk / JOURNAL)
        struck = tail is not None and faults.strikes(TORN)
        self._world.network.cut_power(host)
        self._world.network.detach(host)
        if tail is not None and struck:
            # Most often all of it: it was only in the memory of the system that is gone.
            lost = round(min(tail.exposed, faults.amount(TORN, 1.0, float(tail.exposed) ** 2)))
            tail.lose(lost)
            self._world.journal_torn()
            self._world.note(f"{self.id} has lost {lost} of {tail.exposed} bytes of its journal")

    # -- commands --

    def _begin_script(self, script: str, stdin: bytes) -> tuple[Process, Awaitable[CommandResult]]:
        assert self.host is not None
        assert self._init is not None
        process = self.host.start("sh")
        done: asyncio.Future[CommandResult] = process.loop.create_future()

        def killed() -> None:
            if not done.done():
                done.set_result(CommandResult(status=137, stdout="", stderr="Killed"))

        def ended(task: asyncio.Task[CommandResult]) -> None:
            if not task.cancelled() and not done.done():
                done.set_result(task.result())
            process.kill()

        process.on_kill(killed)
        work = process.spawn(self._script(process, self._init, script, stdin), "sh")
        work.add_done_callback(ended, context=outside())
        return process, done

    async def _script(
        self, process: Process, init: Process, script: str, stdin: bytes
    ) -> CommandResult:
        if script == "sudo poweroff":
            self.power_off()
            return CommandResult(status=0, stdout="", stderr="")
        if found := re.search(r"systemctl restart dayfly-(master|worker)\.service", script):
            service: Service = "master" if found[1] == "master" else "worker"
            return await self._install(process, init, service, script, stdin)
        raise AssertionError(f"no simulated VM understands {script!r}")

    async def _install(
        self, process: Process, init: Process, service: Service, script: str, stdin: bytes
    ) -> CommandResult:
        """What :data:`dayfly.bootstrap._INSTALL` does."""
        with tarfile.open(fileobj=io.BytesIO(stdin)) as tar:
            member = tar.extractfile("config.json")
            assert member is not None
            config = member.read()
        (mark,) = re.findall(r'^echo "(.*)" >"\$mark"$', script, re.MULTILINE)
        (patience,) = re.findall(r"flock -w (\d+)", script)
        await asyncio.sleep(heavy(self.stream, INSTALL))
        if not await self._lock(process, float(patience)):
            return CommandResult(status=1, stdout="", stderr="")
        unit = self._unit(service, init)
        known = self.installed.get(service)
        if known is not None and known.mark == mark and unit.state == "active":
            return CommandResult(status=0, stdout="", stderr="")
        installed = self.installed[service] = Installed(
            config=config,
            mark=known.mark if known is not None else "",
            enabled=f"systemctl enable dayfly-{service}" in script,
        )
        if "DAYFLY_ARM" in script:
            self.arm(cap_of(script))
        # The service manager goes on with it, whatever becomes of whoever asked.
        if not await init.spawn(unit.restart(), f"restart of {unit.name}"):
            words = "the service did not start; its log ends:"
            return CommandResult(status=1, stdout="", stderr=words)
        installed.mark = mark
        return CommandResult(status=0, stdout="", stderr="")

    async def _lock(self, process: Process, patience: float) -> bool:
        """``flock``: one script at a time installs; the lock goes with its process."""
        until = process.loop.time() + patience
        while (holder := self._installer) is not None and holder.alive:
            if (left := until - process.loop.time()) <= 0:
                return False
            over: asyncio.Future[None] = process.loop.create_future()
            holder.on_kill(lambda over=over: over.done() or over.set_result(None))  # type: ignore[misc]
            await asyncio.wait([over], timeout=left)
        self._installer = process
        return True

    def _unit(self, service: Service, init: Process) -> Unit:
        if service not in self.units:

            def make(process: Process, ready: Callable[[], None]) -> Program:
                return self._world.program(self, service, process, ready)

            def told(text: str, error: BaseException | None) -> None:
                self._world.note(f"{self.id}: its {service} service {text}: {error!r}")
                if error is not None:
                    self._world.crashed(f"{service} service of {self.id}", error)

            self.units[service] = Unit(
                f"{service}-service",
                init,
                make,
                told=told,
                starting=lambda: heavy(self.stream, INTERPRETER),
            )
        return self.units[service]

    def warn(self, at: float) -> None:
        """The cloud announces that it takes the instance back, at ``at`` of the loop's time."""
        self.interrupted_at = at
        while self._warned:
            if not (waiting := self._warned.pop()).done():
                waiting.set_result(None)

    async def interruption(self) -> float:
        """Wait until it is announced that the instance is taken back, and when."""
        while self.interrupted_at is None:
            warning: asyncio.Future[None] = self._world.loop.create_future()
            self._warned.append(warning)
            await warning
        return self.interrupted_at

    def deadline_reached(self) -> None:
        """Its own deadline has come."""
        self._world.note(f"{self.id} powers itself off: its own deadline is reached")
        self.power_off()
