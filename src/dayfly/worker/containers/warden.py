"""The first process of a runner's container: starts the runner, and tells the agent of its end.

Started by path under the image's own Python, like the runner: the standard library only, and any
Python 3.8 or newer. The agent listens at a socket in a folder that the container sees. By it come
the descriptors that a runner inherits, which no engine would hand on, and the word to end; when it
closes, the agent is gone. Whatever a function has started ends with the first process of its
container.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

#: Of the agent's one message: JSON {arguments, environment}, and the descriptors.
LONGEST = 256 * 1024
#: The runner's channel and tickets, and what are its file descriptors 1 and 2.
DESCRIPTORS: Final = 4
#: Exit status where the agent was gone before the runner could be started.
ORPHANED = 70


def main(address: str, runner: str) -> int:
    """Start a runner and wait for its end.

    Args:
        address: Of the agent's socket.
        runner: Path of the runner's file.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        try:
            agent.connect(address)
            told, descriptors = _receive(agent)
        except OSError:
            return ORPHANED
        if not told:
            return ORPHANED
        waking, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        child = 0

        def pass_on(number: int, _: object) -> None:
            if child:
                os.kill(child, number)

        # A first process is asked to end in vain, unless it listens.
        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        child = _start(runner, json.loads(told), descriptors)
        for each in descriptors:
            os.close(each)
        status, peak = _wait(agent, waking, child)
        with contextlib.suppress(OSError):  # the first process of a container has no need of it
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(OSError):  # it is gone
            agent.send(json.dumps({"status": status, "peak": peak}).encode())
    return 0


def _receive(agent: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    size = socket.CMSG_SPACE(DESCRIPTORS * descriptors.itemsize)
    told, ancillary, _, _ = agent.recvmsg(LONGEST, size)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return told, list(descriptors)


def _start(runner: str, told: dict[str, Any], descriptors: list[int]) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        _become(runner, told, descriptors, parent)
    finally:
        os._exit(127)


def _become(runner: str, told: dict[str, Any], descriptors: list[int], parent: int) -> NoReturn:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    channel, tickets, out, errors = descriptors
    os.dup2(out, 1)
    os.dup2(errors, 2)
    os.close(out)
    os.close(errors)
    for each in (channel, tickets):
        os.set_inheritable(each, True)
    os.environ.update(told["environment"])
    arguments = [str(channel), str(tickets), str(parent), *told["arguments"]]
    os.execv(sys.executable, [sys.executable, runner, *arguments])  # noqa: S606


def _wait(agent: socket.socket, waking: int, child: int) -> tuple[int, int]:
    """Wait for the runner's end, and bury whatever else ends here.

    Returns:
        Its exit status, or minus the signal; the most memory that it held, in bytes.
    """
    listens = [agent.fileno(), waking]
    while True:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return -signal.SIGKILL, 0
            if pid == child:
                ended = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
                return ended, usage.ru_maxrss * 1024
            if not pid:
                break
        ready, _, _ = select.select(listens, [], [])
        if waking in ready:
            os.read(waking, 4096)
        if agent.fileno() in ready:
            # Whether it says that we are to end, or is gone.
            listens = [waking]
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
