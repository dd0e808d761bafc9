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

import msgspec

from dayfly.worker import runner

#: In the environment of a runner and so of whatever it starts: how strays are found.
MARK = "DAYFLY_RUNNER"
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


def start(
    command: Command, mark: str
) -> tuple[subprocess.Popen[bytes], socket.socket, socket.socket, socket.socket]:
    """Start a runner.

    Returns:
        The process, our end of its channel, and both ends of its tickets.

    Raises:
        OSError: The interpreter cannot be started.
    """
    channel, far = socket.socketpair()
    tickets, tickets_far = socket.socketpair()
    spare = importlib.util.find_spec("cloudpickle")
    arguments = [str(far.fileno()), str(tickets_far.fileno()), str(os.getpid()), command.log_level]
    arguments.append(str(Path(spare.origin).parent) if spare and spare.origin else "")
    arguments.append(str(Path(runner.__file__).parents[2]))
    try:
        process = subprocess.Popen(
            [command.interpreter, runner.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**command.environment, MARK: mark},
            cwd=command.directory,
            pass_fds=(far.fileno(), tickets_far.fileno()),
            start_new_session=True,
        )
    except OSError:
        for end in (channel, tickets, tickets_far):
            end.close()
        raise
    finally:
        far.close()
    channel.setblocking(False)
    tickets.setblocking(False)
    tickets.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TICKETS)
    return process, channel, tickets, tickets_far


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
