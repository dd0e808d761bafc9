"""A container for each runner, as what it runs in.

The engine starts the container and clears it away. Everything between us and the runner goes by a
socket in a folder that both see: see :mod:`.warden`. So calls, prints, timeouts and ends are what
they are without a container, and cost what they cost there.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import msgspec

from dayfly.worker import runner, spawn
from dayfly.worker.containers import warden, words
from dayfly.worker.containers.engine import Engine

#: Label of our containers.
LABEL: Final = "dayfly"
#: Seconds for a container to begin, and to be gone after its runner was killed.
BEGIN, LEAVE = 120.0, 5.0
#: Characters of the engine's last words.
WORDS: Final = 2000
#: Exit statuses above this are a signal's number and this.
SIGNALLED: Final = 128


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What containers of one image are made of.

    Attributes:
        image: As people know it.
        id: As the engine does: never pulled, and never another.
        gpu: Whether it is given the VM's GPUs.
        ours: The folder that has dayfly and cloudpickle, readable for anybody.
        modules: The folder of all jobs' local modules.
        folder: Where each has a folder of its own.
        environment: Variables beyond the image's own.
    """

    engine: Engine
    image: str
    id: str
    gpu: bool
    ours: Path
    modules: Path
    folder: Path
    environment: Mapping[str, str] = {}

    @property
    def limits(self) -> tuple[str, ...]:
        """The arguments of every container of ours: it brings packages, and is no prison."""
        return (
            *("--rm", "--network", "host", "--ipc", "host", "--pids-limit", "-1"),
            *("--security-opt", "label=disable", "--security-opt", "apparmor=unconfined"),
            *("--label", LABEL, "--log-driver", "none", "--entrypoint", "python3"),
            *(self.engine.gpus if self.gpu else ()),
        )


class Contained:
    """A runner in a container.

    Args:
        place: What it is made of.
        command: How to start runners.
        mark: Its name among them.

    Raises:
        OSError: The engine cannot be started.
    """

    def __init__(self, place: Place, command: spawn.Command, mark: str) -> None:
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._name = f"dayfly-{mark}"
        self._folder = place.folder / mark
        self._folder.mkdir(parents=True)
        # Whoever the image's user is, here and only here: nobody else can enter the one above.
        self._folder.chmod(0o777)
        self._said: dict[str, int] = {}
        self._agent: socket.socket | None = None
        self._killed = False
        self._force: asyncio.TimerHandle | None = None
        self._begin = self._loop.call_later(BEGIN, self.kill)
        self._told = json.dumps(self._orders(command)).encode()
        self._reads: dict[int, int] = {}
        self._writes: list[int] = []
        self._owned = ExitStack()
        self._owned.callback(shutil.rmtree, self._folder, ignore_errors=True)
        try:
            errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with all else
            self._errors = self._owned.enter_context(errors)
            self._ends = spawn.Ends.make()
            self._owned.callback(self._ends.close)
            self._owned.callback(self._close_pipes)
            for number in (1, 2):
                self._reads[number], write = os.pipe()
                self._writes.append(write)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listener = self._owned.enter_context(listener)
            self._owned.callback(self._loop.remove_reader, listener)
            self._process = self._start()
        except OSError:
            self.close()
            raise
        self.pid = self._process.pid

    def _orders(self, command: spawn.Command) -> dict[str, object]:
        place = self._place
        arguments = [command.log_level, str(place.ours / "cloudpickle"), str(place.ours)]
        shown = {runner.IMAGE: place.image, runner.EXCHANGE: str(self._folder)}
        environment = {**place.environment, **shown}
        return {"arguments": arguments, "environment": environment}

    def _start(self) -> subprocess.Popen[bytes]:
        place, address = self._place, self._folder / "agent"
        self._listener.bind(str(address))
        address.chmod(0o666)
        self._listener.listen(1)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._on_call)
        mounts = (
            ("--volume", f"{self._folder}:{self._folder}"),
            ("--volume", f"{place.ours}:{place.ours}:ro"),
            ("--volume", f"{place.modules}:{place.modules}:ro"),
        )
        inside = place.ours / "dayfly" / "worker"
        return subprocess.Popen(
            [
                *place.engine.command,
                *("run", "--name", self._name, *place.limits),
                *(word for mount in mounts for word in mount),
                place.id,
                *("-u", str(inside / "containers" / Path(warden.__file__).name)),
                *(str(address), str(inside / Path(runner.__file__).name)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            start_new_session=True,
        )

    # -- see spawn.Body --

    @property
    def over(self) -> bool:
        """See :class:`spawn.Body`."""
        return bool(self._said)

    @property
    def ends(self) -> tuple[socket.socket, socket.socket, socket.socket]:
        """See :class:`spawn.Body`."""
        return self._ends.channel, self._ends.tickets, self._ends.tickets_far

    @property
    def pipes(self) -> dict[int, int]:
        """See :class:`spawn.Body`."""
        return self._reads

    def watch(self, ended: Callable[[], None]) -> Callable[[], None]:
        """See :class:`spawn.Body`."""
        return spawn.watch(self._process, self._loop, ended)

    def kill(self) -> None:
        """See :class:`spawn.Body`."""
        if self._killed:
            return
        self._killed = True
        if self._agent is not None:
            # It ends its runner, tells how that ended, and is gone.
            self._agent.shutdown(socket.SHUT_WR)
        self._force = self._loop.call_later(LEAVE, self._end_by_engine)

    def bury(self) -> spawn.Remains:
        """See :class:`spawn.Body`."""
        if self._agent is not None:
            self._on_word()
        status = self._process.wait()
        if self._said:
            return spawn.Remains(self._said["status"], self._said["peak"])
        if self._killed:
            return spawn.Remains(-signal.SIGKILL, cause="" if self._agent else self._failure(None))
        if self._agent is not None and status > SIGNALLED:
            return spawn.Remains(SIGNALLED - status)
        return spawn.Remains(status, cause=self._failure(status))

    def close(self) -> None:
        """See :class:`spawn.Body`."""
        for timer in (self._force, self._begin):
            if timer is not None:
                timer.cancel()
        self._hang_up()
        self._owned.close()

    # -- what the container does --

    def _on_call(self) -> None:
        with suppress(BlockingIOError):
            agent, _ = self._listener.accept()
            if self._killed or self._agent is not None:
                agent.close()
                return
            agent.setblocking(False)
            self._begin.cancel()
            given = array.array("i", [self._ends.far.fileno(), self._ends.tickets_far.fileno()])
            given.extend(self._writes)
            self._agent = agent
            self._loop.add_reader(agent, self._on_word)
            with suppress(OSError):  # it has gone already
                agent.sendmsg(
                    [self._told], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given.tobytes())]
                )
            # The runner alone has them now: so we see when it closes them.
            self._ends.far.close()
            self._close_writes()

    def _on_word(self) -> None:
        assert self._agent is not None  # noqa: S101  it has just spoken
        try:
            said = self._agent.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            self._said = json.loads(said)
        else:
            self._loop.remove_reader(self._agent)

    def _hang_up(self) -> None:
        if self._agent is not None:
            self._loop.remove_reader(self._agent)
            self._agent.close()

    def _close_writes(self) -> None:
        for each in self._writes:
            os.close(each)
        self._writes.clear()

    def _close_pipes(self) -> None:
        self._close_writes()
        for each in self._reads.values():
            os.close(each)

    def _end_by_engine(self) -> None:
        """End a container whose first process does not, or one that has not begun."""
        self._execute(*self._place.engine.command, "rm", "--force", self._name)
        self._force = self._loop.call_later(LEAVE, self._abandon)

    def _abandon(self) -> None:
        """Wait for the engine no more; the container ends as soon as it finds nobody here."""
        *root, _ = self._place.engine.command
        self._execute(*root, "kill", "-KILL", "--", f"-{self.pid}")

    def _execute(self, *command: str) -> None:
        """Start a command, and clear away what is left of it whenever it ends; nobody waits."""
        with suppress(OSError):  # then the container's deadline is the VM's
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors
            )

            def ended() -> None:
                let_go()
                process.wait()

            let_go = spawn.watch(process, self._loop, ended)

    def _failure(self, status: int | None) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip()[-WORDS:]
        what, hint = words.no_container(self._place.image, status, said)
        return "\n".join(part for part in (what, said, hint) if part)
