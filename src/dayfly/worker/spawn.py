"""Starting runner processes, and ending all that they have started."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from dayfly.worker import runner

#: In the environment of a runner and so of whatever it starts: how strays are found.
MARK = "DAYFLY_RUNNER"
#: Variables of the agent's service that are none of the user's functions' business.
PRIVATE = frozenset({"PYTHONPATH", "NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM"})
#: Bytes for tickets under way: the kernel counts some 800 for each that is sent alone.
TICKETS = 256 * 1024
#: How often strays are searched for.
SEARCHES = 5


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """How to start runners.

    Attributes:
        interpreter: The user's Python, by name or path.
        environment: Of the runners.
        directory: Where they start.
        log_level: From which level on functions' logging is shown.
    """

    interpreter: str
    environment: Mapping[str, str]
    directory: str
    log_level: str = "info"

    @classmethod
    def here(cls, interpreter: str, log_level: str) -> Command:
        """As the agent itself was started."""
        return cls(
            interpreter=interpreter,
            environment={name: text for name, text in os.environ.items() if name not in PRIVATE},
            directory=str(Path.home()),
            log_level=log_level,
        )


class Remains(msgspec.Struct, frozen=True):
    """What is known of a runner that has ended, beyond what it has said.

    Attributes:
        status: As of ``waitpid``, decoded: an exit status, or minus the signal.
        peak: The most memory that it held, in bytes.
        cause: Why it could not be, in words; empty: it was.
    """

    status: int
    peak: int = 0
    cause: str = ""


class Body(Protocol):
    """What a runner runs in. Whoever has one closes it once it has ended."""

    @property
    def pid(self) -> int:
        """The process that is waited for."""
        ...

    @property
    def over(self) -> bool:
        """Whether the runner is known to have ended, though its body may still be there."""
        ...

    @property
    def ends(self) -> tuple[socket.socket, socket.socket, socket.socket]:
        """Our end of its channel, and both ends of its tickets."""
        ...

    @property
    def pipes(self) -> dict[int, int]:
        """Where we read what it writes to its file descriptors 1 and 2."""
        ...

    def watch(self, ended: Callable[[], None]) -> Callable[[], None]:
        """Call ``ended`` once it has; returns what lets go of the watch."""
        ...

    def kill(self) -> None:
        """End it and what it has started, at once."""
        ...

    def bury(self) -> Remains:
        """Clear away what is left of it; it has ended."""
        ...

    def close(self) -> None:
        """Let go of its sockets and pipes."""
        ...


class Embody(Protocol):
    """How the body of a runner is made; :class:`Child` is the plain form."""

    def __call__(self, command: Command, mark: str, /) -> Body:
        """Start it.

        Raises:
            OSError: It cannot be started.
        """
        ...


class Ends(NamedTuple):
    """The sockets that join a runner to us, and its own ends of them."""

    channel: socket.socket
    far: socket.socket
    tickets: socket.socket
    tickets_far: socket.socket

    @classmethod
    def make(cls) -> Ends:
        """New ones."""
        ends = cls(*socket.socketpair(), *socket.socketpair())
        ends.channel.setblocking(False)
        ends.tickets.setblocking(False)
        ends.tickets.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TICKETS)
        return ends

    def close(self) -> None:
        """Close all."""
        for end in self:
            end.close()


class Child:
    """A process of ours, with the sockets that it inherits.

    Args:
        command: How to start it.
        mark: By which its strays are found.

    Raises:
        OSError: The interpreter cannot be started.
    """

    def __init__(self, command: Command, mark: str) -> None:
        self._mark = mark
        self._ends = ends = Ends.make()
        spare = importlib.util.find_spec("cloudpickle")
        arguments = [str(ends.far.fileno()), str(ends.tickets_far.fileno()), str(os.getpid())]
        arguments.append(command.log_level)
        arguments.append(str(Path(spare.origin).parent) if spare and spare.origin else "")
        arguments.append(str(Path(runner.__file__).parents[2]))
        try:
            self._process = subprocess.Popen(
                [command.interpreter, runner.__file__, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**command.environment, MARK: mark},
                cwd=command.directory,
                pass_fds=(ends.far.fileno(), ends.tickets_far.fileno()),
                start_new_session=True,
            )
        except OSError:
            ends.close()
            raise
        ends.far.close()
        self.pid = self._process.pid
        assert self._process.stdout is not None  # noqa: S101  we asked for pipes
        assert self._process.stderr is not None  # noqa: S101
        self._files = (self._process.stdout, self._process.stderr)

    @property
    def over(self) -> bool:
        """See :class:`Body`."""
        return False

    @property
    def ends(self) -> tuple[socket.socket, socket.socket, socket.socket]:
        """See :class:`Body`."""
        return self._ends.channel, self._ends.tickets, self._ends.tickets_far

    @property
    def pipes(self) -> dict[int, int]:
        """See :class:`Body`."""
        return {number: file.fileno() for number, file in enumerate(self._files, 1)}

    def watch(self, ended: Callable[[], None]) -> Callable[[], None]:
        """See :class:`Body`."""
        return watch(self._process, asyncio.get_running_loop(), ended)

    def kill(self) -> None:
        """See :class:`Body`."""
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            os.killpg(self.pid, signal.SIGKILL)

    def bury(self) -> Remains:
        """See :class:`Body`."""
        self.kill()  # what it started; its own number is not free before it is waited for
        _, status, usage = os.wait4(self.pid, 0)
        kill_marked(self._mark)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Remains(self._process.returncode, peak)

    def close(self) -> None:
        """See :class:`Body`."""
        self._ends.close()
        for file in self._files:
            file.close()


def watch(
    process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, ended: Callable[[], None]
) -> Callable[[], None]:
    """Call ``ended`` once the process has; returns what lets go of the watch."""
    if sys.platform == "linux":
        handle = os.pidfd_open(process.pid)
        loop.add_reader(handle, ended)

        def let_go() -> None:
            loop.remove_reader(handle)
            os.close(handle)

        return let_go

    # Elsewhere a thread waits; the process stays a zombie until it is waited for in _on_exit.
    def wait() -> None:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    waiting = loop.run_in_executor(None, wait)
    waiting.add_done_callback(lambda _: ended())
    return lambda: None


def kill_marked(mark: str) -> None:
    """Kill every process of ours whose environment carries the mark (Linux).

    A process group does not hold those that a function has put in a session of their own.
    """
    wanted = f"{MARK}={mark}\0".encode()
    proc = Path("/proc")
    if not proc.is_dir():
        return
    # Again while some are found: they may have started others during the search.
    for _ in range(SEARCHES):
        found = False
        for entry in os.listdir(proc):  # noqa: PTH208  names only, hundreds of them
            if entry.isdigit():
                with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                    if wanted in (proc / entry / "environ").read_bytes():
                        os.kill(int(entry), signal.SIGKILL)
                        found = True
        if not found:
            return
