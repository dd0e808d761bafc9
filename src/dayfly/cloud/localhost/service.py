"""One service of the embedded VM, from its start to the end of its last process."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import IO, Literal

from dayfly.cloud.localhost import processes
from dayfly.cloud.localhost.machine import Machine
from dayfly.cloud.localhost.units import Unit, expand, parse_environment

Active = Literal["inactive", "activating", "active", "deactivating", "failed"]

#: The variable by which systemd marks the processes of one run of a service.
_MARK = "INVOCATION_ID"


class StartError(Exception):
    """A service's process could not be started; the text says which step failed."""


class Service:
    """One service.

    Attributes:
        unit: As it was last read; a change has effect at the next start.
        active: systemd's word for what it is.
        detail: Why, or since when.
        pid: Its main process; 0 when it has none.
    """

    def __init__(self, machine: Machine, unit: Unit) -> None:
        self.unit = unit
        self.active: Active = "inactive"
        self.detail = "dead"
        self.pid = 0
        self._machine = machine
        self._life: asyncio.Task[None] | None = None
        self._started: asyncio.Future[str] | None = None
        self._waiting = False
        self._stopping = False
        self._ending = False
        self._grace: float | None = None

    @property
    def log(self) -> str:
        """The VM's path of what it prints."""
        kind, _, path = self.unit.output.partition(":")
        return path if kind in ("append", "file") else f"/var/log/{self.unit.name}.log"

    async def start(self) -> str:
        """Start it, unless it is up.

        Returns:
            Why it failed; empty when it is started, by its type's definition.
        """
        if self._waiting:
            await self.stop()  # it waits to be restarted; now is better
        if self._life is None or self._life.done():
            self._stopping = False
            self._started = asyncio.get_running_loop().create_future()
            self._life = asyncio.create_task(self._live(self.unit, self._started))
        assert self._started is not None  # noqa: S101
        return await asyncio.shield(self._started)

    async def stop(self, grace: float | None = None) -> None:
        """End all of its processes, by force after its TimeoutStopSec or ``grace`` seconds."""
        life = self._life
        if life is None or life.done():
            if self.active == "failed":
                self._become("inactive", "dead")
            return
        if grace is not None:
            self._grace = grace
        if not self._stopping:
            self._stopping = True
            if not self._ending:  # else it is on its way, and must not be disturbed
                life.cancel()
        self._become("deactivating", "stop")
        await asyncio.wait([life])
        self._become("inactive", "dead")

    def _become(self, active: Active, detail: str) -> None:
        self.active, self.detail = active, detail

    async def _live(self, unit: Unit, started: asyncio.Future[str]) -> None:
        loop = asyncio.get_running_loop()
        starts: collections.deque[float] = collections.deque(maxlen=unit.burst)
        try:
            while True:
                if len(starts) == unit.burst and loop.time() - starts[0] < unit.interval:
                    self._become("failed", "start request repeated too quickly")
                    self._machine.say(f"{unit.name}: {self.detail}")
                    return
                starts.append(loop.time())
                if started.done():  # a restart: whoever asks now waits for this one
                    started = self._started = loop.create_future()
                failure = await self._run(unit, started)
                if not started.done():
                    started.set_result(f"{failure}; log: {self.log}" if failure else "")
                if self._stopping:
                    return
                if failure:
                    self._machine.say(f"{unit.name}: {failure}")
                if unit.restart == "no" or (unit.restart == "on-failure" and not failure):
                    self._become("failed" if failure else "inactive", failure or "dead")
                    return
                self._become("activating", f"auto-restart; {failure or 'it ended'}")
                self._waiting = True
                try:
                    await asyncio.sleep(unit.restart_sec)
                finally:
                    self._waiting = False
        finally:
            if not started.done():
                started.set_result("it was stopped before it had started")

    async def _run(self, unit: Unit, started: asyncio.Future[str]) -> str:
        """Run it once; why it failed, or an empty text."""
        self._become("activating", "start")
        mark = secrets.token_hex(16)
        async with _notifications(self._machine, mark) as (address, ready):
            try:
                process = await self._spawn(unit, mark, address)
            except StartError as error:
                return str(error)
            self.pid = process.pid
            ended = asyncio.create_task(process.wait())
            try:
                failure = await self._await_start(unit, ended, ready)
                if failure:
                    return failure
                if unit.type != "oneshot":
                    self._become("active", "running")
                    if not started.done():
                        started.set_result("")
                    return _fate(await ended)
                return ""
            finally:
                self._ending = True
                await self._end(unit, process.pid, mark, ended)
                self._ending = False
                self.pid = 0

    async def _await_start(self, unit: Unit, ended: asyncio.Task[int], ready: asyncio.Event) -> str:
        if unit.type == "simple":
            return ""
        waits: set[asyncio.Task[int] | asyncio.Task[Literal[True]]] = {ended}
        told = asyncio.create_task(ready.wait())
        if unit.type == "notify":
            waits.add(told)
        try:
            await asyncio.wait(
                waits, timeout=unit.timeout_start, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            told.cancel()
        if unit.type == "notify" and ready.is_set():
            return ""
        if ended.done():
            if unit.type == "oneshot":
                return _fate(ended.result())
            return _fate(ended.result()) or "the main process ended and never said READY=1"
        what = "end" if unit.type == "oneshot" else "say READY=1"
        return f"a timeout was exceeded: it did not {what} in {unit.timeout_start:g} s"

    async def _spawn(
        self, unit: Unit, mark: str, notify_address: str
    ) -> asyncio.subprocess.Process:
        environment = {**self._machine.environment, **unit.environment, _MARK: mark}
        for entry in unit.environment_files:
            path = self._machine.inside(entry.removeprefix("-"))
            try:
                environment |= parse_environment(path.read_text())
            except OSError as error:
                if not entry.startswith("-"):
                    raise StartError(f"EnvironmentFile={entry}: {error.strerror}") from error
        if unit.type == "notify":
            environment["NOTIFY_SOCKET"] = notify_address
        folder = self._machine.inside(unit.working_directory) if unit.working_directory else None
        if folder is not None and not folder.is_dir():
            raise StartError(f"status=200/CHDIR: WorkingDirectory={unit.working_directory}")
        with contextlib.ExitStack() as stack:
            output = self._open(unit.output, None, stack)
            error_output = self._open(unit.error, output, stack)
            try:
                return await self._machine.spawn(
                    expand(unit.exec_start, environment),
                    environment=environment,
                    directory=folder,
                    output=output,
                    error=error_output,
                )
            except OSError as error:
                raise StartError(f"status=203/EXEC: {error}") from error

    def _open(
        self, where: str, inherited: int | IO[bytes] | None, stack: contextlib.ExitStack
    ) -> int | IO[bytes]:
        kind, _, path = where.partition(":")
        if kind == "null":
            return asyncio.subprocess.DEVNULL
        if kind == "inherit" and inherited is not None:
            return inherited
        if kind in ("append", "file"):
            target, mode = self._machine.inside(path), "ab" if kind == "append" else "wb"
        else:  # the journal
            target, mode = self._machine.inside(f"/var/log/{self.unit.name}.log"), "ab"
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            return stack.enter_context(open(target, mode))  # noqa: PTH123
        except OSError as error:
            raise StartError(f"status=209/STDOUT: {where}: {error.strerror}") from error

    async def _end(self, unit: Unit, leader: int, mark: str, ended: asyncio.Task[int]) -> None:
        """End what is left of a run: SIGTERM to all, SIGKILL to those who stay.

        As systemd does, SIGTERM is followed by SIGCONT (systemd.kill, ``KillSignal=``).
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        pids = processes.kin(leader, (_MARK, mark))
        processes.send(pids, signal.SIGTERM)
        processes.send(pids, signal.SIGCONT)
        pause = 0.002
        while pids:
            if not ended.done():
                await asyncio.wait([ended], timeout=pause)
            else:
                await asyncio.sleep(pause)
            pause = min(0.1, pause * 2)
            pids = processes.kin(leader, (_MARK, mark))
            limit = unit.timeout_stop if self._grace is None else self._grace
            if limit is not None and loop.time() - began >= limit:
                processes.send(pids, signal.SIGKILL)
        await ended


@contextlib.asynccontextmanager
async def _notifications(machine: Machine, mark: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Where a service says that it is ready, and whether it did (see sd_notify(3))."""
    ready = asyncio.Event()
    # A Unix socket's address has about 107 bytes, and the VM's folder may be deep: init lives
    # in the VM's root, so its own paths are short, and the kernel lends others the way.
    name = f"run/notify-{mark[:8]}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.setblocking(False)
    listener.bind(name)

    def receive() -> None:
        with contextlib.suppress(BlockingIOError):
            if b"READY=1" in listener.recv(4096).split(b"\n"):
                ready.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(listener, receive)
    try:
        yield _reachable(machine, name), ready
    finally:
        loop.remove_reader(listener)
        listener.close()
        os.unlink(name)  # noqa: PTH108


def _reachable(machine: Machine, name: str) -> str:
    if sys.platform == "linux":
        return f"/proc/{os.getpid()}/cwd/{name}"
    return str(machine.layout.root / name)


def _fate(status: int) -> str:
    if status < 0:
        return f"the main process was killed by {signal.Signals(-status).name}"
    return f"the main process exited, status={status}" if status else ""
