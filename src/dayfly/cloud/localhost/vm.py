"""A VM's supervisor: its power supply, and the last word on its state.

It starts the VM's init, adopts what that one's descendants orphan, and is done when init is:
then it kills what is left, writes the final state and deletes the disk of a terminated VM.
It imports no SSH, so that it stays small.

    python -m dayfly.cloud.localhost.vm INSTANCE DIRECTORY

A supervisor is told that its VM's record has changed by SIGUSR1; SIGTERM is the power button.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dayfly.cloud.localhost import processes
from dayfly.cloud.localhost.record import BY_GUEST, BY_SPOT, POWERED, Record
from dayfly.cloud.localhost.registry import Registry
from dayfly.errors import InstanceNotFoundError
from dayfly.model import InstanceState

#: Seconds for an orderly shutdown, before the power is cut. EC2 gives some minutes.
GRACE = 2.0
#: Seconds between looks at whether the VM's folder still exists.
_LOOK = 1.0
#: Names of what a launcher tells its supervisor, and a supervisor its init, by environment.
LOCK_VARIABLE = "DAYFLY_VM_LOCK"
SSH_AT_VARIABLE = "DAYFLY_VM_SSH_AT"


class Supervisor:
    """One VM's power supply.

    Args:
        registry: The cloud's records.
        instance_id: Which VM.
        lock: Descriptor of its lock, held since the launch.
    """

    def __init__(self, registry: Registry, instance_id: str, lock: int) -> None:
        self._registry = registry
        self._layout = registry.layout(instance_id)
        self._id = instance_id
        self._lock = lock
        self._init: int | None = None
        self._accident = ""
        self._signalled = True
        self._pressed = False
        self._wake, waker = os.pipe()
        for end in (self._wake, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        # Only now may others send signals; a request older than this is found in the record.
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signalled |= number == signal.SIGUSR1
        self._pressed |= number == signal.SIGTERM

    def run(self) -> None:
        """Keep the VM up until its end, and end it for good."""
        try:
            self._keep()
        except InstanceNotFoundError:
            pass  # its folder was deleted, and the VM goes with it
        finally:
            me = os.getpid()
            processes.exterminate(self._reaped(lambda: processes.descendants(me)))
        if self._exists():
            self._registry.close(self._id, time.time(), self._accident)

    def _keep(self) -> None:
        record = self._registry.read(self._id)
        powered = time.monotonic()
        boots_at = powered + record.boot_time / 4
        cut_at: float | None = None
        while self._exists():
            if self._pressed:
                self._pressed = False
                record = self._change(lambda old: old.leave(old.on_poweroff, BY_GUEST))
            if self._signalled:
                self._signalled = False
                record = self._registry.read(self._id)
            if record.interrupt_at is not None and time.time() >= record.interrupt_at:
                record = self._change(lambda old: old.leave("terminate", BY_SPOT))
            now = time.monotonic()
            if record.state is InstanceState.PENDING and now >= boots_at:
                record = self._change(_running)
                if record.state is InstanceState.RUNNING and record.fault != "never_boot":
                    self._start_init(ssh_at=powered + record.boot_time)
            if record.state in POWERED - {InstanceState.PENDING, InstanceState.RUNNING}:
                if self._init is None:
                    return
                if cut_at is None:
                    cut_at = now + GRACE
                    os.kill(self._init, signal.SIGTERM)
                elif now >= cut_at:
                    os.kill(self._init, signal.SIGKILL)
            if self._reap():
                return
            self._sleep(record, boots_at, cut_at)

    def _exists(self) -> bool:
        """Whether the VM's folder is still there: a VM without one is nobody's."""
        return os.fstat(self._lock).st_nlink > 0

    def _change(self, how: Callable[[Record], Record]) -> Record:
        return self._registry.change(self._id, how)

    def _start_init(self, ssh_at: float) -> None:
        command = [sys.executable, "-m", "dayfly.cloud.localhost.init", self._id]
        command.append(str(self._registry.directory))
        environment = dict(os.environ) | {SSH_AT_VARIABLE: repr(ssh_at)}
        self._init = os.posix_spawn(sys.executable, command, environment)

    def _sleep(self, record: Record, boots_at: float, cut_at: float | None) -> None:
        now = time.monotonic()
        waits = [_LOOK]
        if record.state is InstanceState.PENDING:
            waits.append(boots_at - now)
        if cut_at is not None:
            waits.append(cut_at - now)
        if record.interrupt_at is not None:
            waits.append(record.interrupt_at - time.time())
        if self._signalled or self._pressed:
            return
        ready, _, _ = select.select([self._wake], [], [], max(0.0, min(waits)))
        if ready:
            os.read(self._wake, 1024)

    def _reap(self) -> bool:
        """Collect the dead; whether init is among them."""
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if pid == self._init:
                ended = True
                self._accident = f"init {_fate(status)}"

    def _reaped(self, find: Callable[[], set[int]]) -> Callable[[], set[int]]:
        def look() -> set[int]:
            self._reap()
            return find()

        return look


def _running(record: Record) -> Record:
    if record.state is not InstanceState.PENDING:
        return record  # its end was asked for while it was pending
    return record.become(InstanceState.RUNNING)


def _fate(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"


def main() -> None:
    """Run the supervisor of one VM."""
    os.setsid()
    instance_id, directory = sys.argv[1:3]
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # a shell's background job inherits them ignored
    lock = int(os.environ.pop(LOCK_VARIABLE))
    os.set_inheritable(lock, False)
    processes.adopt_orphans()
    Supervisor(Registry(Path(directory)), instance_id, lock).run()


if __name__ == "__main__":
    main()
