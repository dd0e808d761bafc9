"""Hosts and processes, as fences around what runs on the one loop.

Which process a callback belongs to is told by the context it runs in, and contexts are
inherited: whatever a process starts (tasks, timers, callbacks of futures) is its own. A
process that is killed is never run again; one that is paused is run later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, TypeVarTuple
from weakref import WeakSet

if TYPE_CHECKING:
    from tests.simulation.loop import SeededLoop
    from tests.simulation.tasks import SimTask

#: When each simulation begins, in seconds since 1970 (2025-06-15 15:06:40 UTC).
EPOCH = 1_750_000_000.0

CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Killed(BaseException):
    """A killed process tried to do something: nothing of it may come to pass."""


def current() -> Process | None:
    """The process whose code is running; None for the world's own code."""
    return CURRENT.get()


def outside() -> Context:
    """A context that belongs to no process: for what happens by itself, on a wire or in a cloud.

    Given to ``call_later(..., context=outside())``, the callback is run whatever becomes of
    the process that caused it, and is never woken late.
    """
    return Context()


class SimClock:
    """A host's clock: its wall clock may be wrong and may jump, its monotonic one never."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def now(self) -> float:
        return EPOCH + self._host.loop.time() + self._host.skew

    def monotonic(self) -> float:
        return self._host.loop.time() + self._host.uptime

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Host:
    """A machine's operating system: a laptop's or a VM's.

    Attributes:
        skew: Its wall clock minus true time, in seconds.
        uptime: Its monotonic clock minus true time, in seconds.
        processes: Those that are alive, the oldest first.
    """

    def __init__(
        self, loop: SeededLoop, name: str, *, skew: float = 0.0, uptime: float = 1000.0
    ) -> None:
        self.loop = loop
        self.name = name
        self.skew = skew
        self.uptime = uptime
        self.paused = False
        self.suspended_at: float | None = None
        self.processes: list[Process] = []
        #: Called whenever one of its processes may have fallen asleep or woken up.
        self.watchers: list[Callable[[], object]] = []
        self.clock = SimClock(self)
        self._last_pid = 100

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    def start(self, name: str) -> Process:
        """A new process, paused if the host is."""
        return Process(self, name)

    def admit(self, process: Process) -> int:
        """Take in a process that has just begun; its id."""
        self.processes.append(process)
        self._last_pid += 1
        return self._last_pid

    def step(self, seconds: float) -> None:
        """Set the wall clock forward (back if negative)."""
        self.skew += seconds

    def kill(self) -> None:
        """Cut the power. New processes may be started at once, as after a reboot."""
        self.paused = False
        self.suspended_at = None
        for process in tuple(self.processes):
            process.kill()

    def pause(self) -> None:
        """Let nothing run until :meth:`resume`; then the timers that are due ring at once."""
        self.paused = True
        for process in self.processes:
            process.heed()

    def suspend(self) -> None:
        """Fall asleep, as a laptop does whose lid is closed, until :meth:`resume`.

        Unlike :meth:`pause`, this stops the monotonic clock (``CLOCK_MONOTONIC`` does not count
        the time asleep), and with it all timers: they have as long to go as before.
        """
        if self.suspended_at is None:
            self.suspended_at = self.loop.time()
        self.pause()

    def resume(self) -> None:
        """Go on after :meth:`pause` or :meth:`suspend`."""
        self.paused = False
        if self.suspended_at is not None:
            slept, self.suspended_at = self.loop.time() - self.suspended_at, None
            self.uptime -= slept
            self.loop.postpone(self, slept)
        for process in self.processes:
            process.heed()


class Process:
    """One process of a host.

    Attributes:
        halted: Whether the loop must not run what belongs to it, for now or for ever.
        held: What it would have run while it was halted (callbacks, steps of tasks).
        asleep_until: When its timers ring at the earliest, in the loop's time (a late wake-up).
        tasks: Its own, those that are done too.
    """

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.loop = host.loop
        self.alive = True
        self.paused = False
        self.halted = False
        self.held: list[asyncio.Handle] = []
        self.asleep_until = 0.0
        self.tasks: WeakSet[SimTask] = WeakSet()
        self._context = Context()
        self._context.run(CURRENT.set, self)
        self._on_kill: list[Callable[[], object]] = []
        self.pid = host.admit(self)
        self.heed()

    def __repr__(self) -> str:
        state = "dead" if not self.alive else "paused" if self.halted else "alive"
        return f"<Process {self.name} on {self.host.name}, {state}>"

    @property
    def clock(self) -> SimClock:
        return self.host.clock

    def context(self) -> Context:
        """A new context of this process, as each of its tasks gets one."""
        return self._context.copy()

    def run(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
        """Call a plain function as this process, here and now."""
        self.check()
        return self.context().run(function, *args)

    def spawn(
        self, coroutine: Coroutine[Any, Any, _T], name: str | None = None
    ) -> asyncio.Task[_T]:
        """Start a task of this process; what that starts belongs to the process as well."""
        if not self.alive:
            coroutine.close()
            self.check()
        return self.loop.create_task(coroutine, name=name, context=self.context())

    def check(self) -> None:
        """Let nobody act in the name of the dead.

        Raises:
            Killed: The process was killed.
        """
        if not self.alive:
            raise Killed(f"{self.name} on {self.host.name} is dead")

    def kill(self) -> None:
        """SIGKILL: nothing of it runs from now on; then those are told who asked for it."""
        if not self.alive:
            return
        self.alive = False
        self.halted = True
        self.host.processes.remove(self)
        self.loop.entomb(self)
        callbacks, self._on_kill = self._on_kill, []
        for callback in callbacks:
            outside().run(callback)

    async def perish(self) -> NoReturn:
        """Be killed at this very await: unlike :meth:`check`, no ``finally`` is run."""
        self.kill()
        await self.loop.create_future()
        raise AssertionError("the dead were woken")

    def on_kill(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called once it was killed, as nobody's process."""
        self._on_kill.append(callback)

    def pause(self) -> None:
        """SIGSTOP: what it would run is kept until :meth:`resume`."""
        self.paused = True
        self.heed()

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False
        self.heed()

    def heed(self) -> None:
        """Stop or go on, as its own state and its host's want it."""
        if not self.alive:
            return
        if self.paused or self.host.paused:
            self.halted = True
        elif self.halted:
            # The loop lets it go on once what was held is back in its queue, in order.
            self.loop.thaw(self)
        else:
            return
        for watcher in self.host.watchers:
            watcher()
