"""An event loop on virtual time, with an order of its own making.

Nobody waits: when nothing is ready, time goes to the next timer. Nothing is left to chance
but what is drawn from the seed: the order in which ready tasks go on (plain callbacks keep the
order that asyncio promises), and by how much timers ring late.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVarTuple

from tests.simulation.chance import Chance
from tests.simulation.diary import Diary
from tests.simulation.endings import Busy, Deadlock, Endless, Refused
from tests.simulation.graveyard import Graveyard
from tests.simulation.process import CURRENT, Host, Process
from tests.simulation.refusals import Unreal
from tests.simulation.tasks import Errand, SimFuture, SimTask, whereabouts
from tests.simulation.timers import Timers
from tests.simulation.watchdog import watched

__all__ = ["Busy", "Deadlock", "Endless", "Refused", "SeededLoop"]

#: In how many rounds only a part of what is ready gets its turn, the rest later.
_CUT = 0.25
#: After how many steps the loop looks after itself: garbage, limits, the diary.
_CHORES = 5_000
#: How many of the tasks that wait are told of.
_TOLD = 30

_Ts = TypeVarTuple("_Ts")


class _Step(asyncio.Handle):
    """A callback that comes in no promised order: a task's next step, a thread's work."""

    __slots__ = ()


class SeededLoop(Unreal):
    """The loop of one scenario.

    Args:
        chance: Where the order is drawn from, if it is ``shuffled``; else it is asyncio's own.
        max_steps: How many steps a run may take.
        max_steps_at_once: How many of them without time going on.
        patience: How many seconds of the processor's time one step may take.
        recorded: Whether :attr:`record` is kept.

    Attributes:
        steps: How many callbacks and steps of tasks were run.
        after_step: Called after each of them, as nobody's process; what it raises ends the run.
        complaints: What asyncio would have logged: exceptions never retrieved, callbacks that
            raised, tasks that were lost while they were pending. Those of the dead are not heard.
        failure: What ended the run before its time, if anything did.
    """

    def __init__(
        self,
        chance: Chance,
        *,
        shuffled: bool = True,
        max_steps: int = 5_000_000,
        max_steps_at_once: int = 200_000,
        patience: float = 10.0,
        recorded: bool = False,
    ) -> None:
        super().__init__()
        self.steps = 0
        self.max_steps = max_steps
        self.max_steps_at_once = max_steps_at_once
        self.patience = patience
        self.after_step: Callable[[], object] | None = None
        self.complaints: list[str] = []
        self.failure: BaseException | None = None
        self._failing: BaseException | None = None
        self._shuffled = shuffled
        self._draw = chance.stream("order of steps").random
        self._made = 0
        self._queue: deque[Any] = deque()
        self._thawed: list[Process] = []
        self._graves = Graveyard()
        self._timers = Timers(self._graves.keep)
        self._diary = Diary(recorded=recorded)
        self._moved_at = 0  # the step at which time went on
        self._chores_at = _CHORES
        self._frozen = False
        # In the order of their making, which the parent's set does not keep.
        self._generators = weakref.WeakValueDictionary[int, AsyncGenerator[Any, Any]]()
        # By address: no weak reference is left when a generator is finalized.
        self._begun_by: dict[int, Process | None] = {}

    # What a scenario asks.

    @property
    def lateness(self) -> Callable[[Process], float] | None:
        """By how many seconds a timer of this process rings late; None: never."""
        return self._timers.lateness

    @lateness.setter
    def lateness(self, lateness: Callable[[Process], float] | None) -> None:
        self._timers.lateness = lateness

    @property
    def record(self) -> list[str]:
        """The time, and the name of each step, in their order, if the loop is recorded."""
        self._diary.take_down()
        return self._diary.record or []

    def digest(self) -> str:
        """What ran so far, and when: a short text that is the same after every equal run."""
        return self._diary.digest()

    def fail(self, error: BaseException) -> None:
        """End the run with this error after the current step, whoever catches it there."""
        self.failure = self.failure or error
        self._failing = self._failing or error

    def waiting(self) -> list[str]:
        """Which tasks are pending, and where; those of the dead are left out."""
        return [whereabouts(task) for task in self._pending()]

    def bury(self) -> None:
        """Close what killed processes left behind: when the scenario is over, before ``close``.

        Tasks that are nobody's are closed as well, unless the loop is still running.
        """
        if not self.is_running():
            for task in self._pending():
                if task.process is None:
                    self._graves.lay(task)
        self._graves.bury()

    # What processes ask.

    def entomb(self, process: Process) -> None:
        """Keep what a process leaves behind that was just killed."""
        pending = (task for task in process.tasks if not task.done())
        self._graves.entomb(process, sorted(pending, key=lambda task: task.number))

    def thaw(self, process: Process) -> None:
        """Let a process go on before anything else, beginning with what it held."""
        self._thawed.append(process)

    def postpone(self, host: Host, seconds: float) -> None:
        """Have all timers of a host ring later: it was suspended for so long."""
        self._timers.postpone(host, seconds)

    # What asyncio's users ask.

    def time(self) -> float:
        return self._timers.time

    def create_future(self) -> SimFuture:
        future = SimFuture(loop=self)
        self._made = future.number = self._made + 1
        future.process = CURRENT.get()
        return future

    def create_task(  # type: ignore[override]  # each version has options of its own
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> SimTask:
        self._check_closed()
        self._made += 1
        task = SimTask(coro, loop=self, number=self._made, name=name, context=context, **options)
        if task.process is not None and not task.process.alive:
            self._graves.lay(task)
        return task

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_closed()
        owner = getattr(callback, "__self__", None)
        kind = _Step if isinstance(owner, (asyncio.Task, Errand)) else asyncio.Handle
        handle = kind(callback, args, self, context)
        self._queue.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self._thread_id not in {None, threading.get_ident()}:
            error = Refused(f"{callback!r}, called by a real thread: a simulation has none")
            self.fail(error)
            raise error
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._check_closed()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers.add(timer)
        return timer

    def run_in_executor(  # type: ignore[override]  # any function, and our own future
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> SimFuture:
        future = self.create_future()
        self.call_soon(Errand(future, func, args).run)
        return future

    def run_forever(self) -> None:
        if not self._frozen:
            # What was there before is none of this run's garbage.
            gc.freeze()
            self._frozen = True
        collecting = gc.isenabled()
        # When garbage is collected must not hang on what ran before: see `_do_chores`.
        gc.disable()
        try:
            with watched(lambda: self.steps, self.patience, self._bark):
                super().run_forever()
        finally:
            if collecting:
                gc.enable()

    def close(self) -> None:
        super().close()
        self._queue.clear()
        self._timers = Timers(self._graves.keep)
        if self._frozen:
            gc.unfreeze()
            self._frozen = False

    async def shutdown_asyncgens(self) -> None:
        for generator in list(self._generators.values()):
            await generator.aclose()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        culprit = context.get("task") or context.get("future")
        process = getattr(culprit, "process", None)
        if process is None or process.alive:
            super().call_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        culprit = context.get("task") or context.get("future") or context.get("asyncgen")
        who = culprit.get_name() if isinstance(culprit, asyncio.Task) else repr(culprit)
        what = context.get("message") or "an exception that nobody heeded"
        self.complaints.append(f"{self.time():.3f} {what} ({who}): {context.get('exception')!r}")

    # What the parent and its futures ask.

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._made += 1
        self._generators[self._made] = agen
        self._begun_by[id(agen)] = CURRENT.get()

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        process = self._begun_by.pop(id(agen), None)
        if self.is_closed() or (process is not None and not process.alive):
            self._graves.keep(agen)
        else:
            # Whoever lets go of it: it is closed by the process that began it.
            context = Context() if process is None else process.context()
            self.create_task(agen.aclose(), context=context)

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        self._timers.cancelled()

    def _run_once(self) -> None:
        while self._thawed:
            self._let_go_on(self._thawed.pop())
        if self._timers.ring(self._queue, wait=not self._stopping):
            self._moved_at = self.steps
            self._diary.lines.append(f"@{self.time()!r}")
        if not self._queue and not self._stopping:
            self.fail(Deadlock(self._told("nothing is ready and no timer is left")))
        if self.steps >= self._chores_at:
            self._do_chores()
        if self._failing is not None:
            self._give_up()
        self._run_some()

    def _run_some(self) -> None:
        """Give what is ready its turn, in a drawn order: all of it, or only a part."""
        batch, self._queue = self._queue, deque()
        count = len(batch)
        if count > 1 and self._shuffled:
            batch = self._mixed(batch)
            if self._draw() < _CUT:
                count = 1 + int(self._draw() * count)
        lines = self._diary.lines
        try:
            for _ in range(count):
                handle = batch.popleft()
                if handle._cancelled:
                    continue
                process = handle._context.get(CURRENT)
                if process is not None and process.halted:
                    # Nothing of the dead is let go of: see `Graveyard`.
                    if process.alive:
                        process.held.append(handle)
                    else:
                        self._graves.keep(handle)
                    continue
                callback = handle._callback
                if type(handle) is _Step:
                    name = callback.__self__.get_name()
                else:
                    name = getattr(callback, "__qualname__", "callback")
                lines.append(name)
                self.steps += 1
                try:
                    handle._context.run(callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001  (as in asyncio's own loop)
                    self._callback_raised(name, process, error)
                if self.after_step is not None and self._failing is None:
                    self._look(self.after_step)
                if self._failing is not None:
                    self._give_up()
        finally:
            if batch:
                batch.extend(self._queue)
                self._queue = batch

    def _mixed(self, batch: deque[Any]) -> deque[Any]:
        draw = self._draw
        mixed = sorted(batch, key=lambda _: draw())
        plain = [handle for handle in batch if type(handle) is not _Step]
        # They take their places among the steps in the order in which they came.
        in_order = iter(plain)
        return deque(each if type(each) is _Step else next(in_order) for each in mixed)

    def _let_go_on(self, process: Process) -> None:
        # It may have been stopped again, or killed, since.
        if process.alive and not process.paused and not process.host.paused:
            process.halted = False
            self._queue.extendleft(reversed(process.held))
            process.held.clear()

    def _callback_raised(self, name: str, process: Process | None, error: BaseException) -> None:
        if process is None or process.alive:
            self.call_exception_handler({"message": f"{name} raised", "exception": error})

    def _look(self, after_step: Callable[[], object]) -> None:
        try:
            after_step()
        except BaseException as error:  # noqa: BLE001  (it ends the run as it is)
            self.fail(error)

    def _give_up(self) -> None:
        error, self._failing = self._failing, None
        # What follows is the clearing up, which nobody judges.
        self.after_step = None
        self._moved_at = self.steps
        self.max_steps = max(self.max_steps, self.steps) + self.max_steps_at_once
        assert error is not None
        raise error

    def _do_chores(self) -> None:
        self._chores_at = self.steps + _CHORES
        at_once = self.steps - self._moved_at > self.max_steps_at_once
        if at_once or self.steps > self.max_steps:
            what = "while time stood still" if at_once else "in all"
            busiest = self._diary.busiest()
            self.fail(Endless(self._told(f"too many steps {what}; the last were of {busiest}")))
        self._diary.take_down()
        gc.collect(1)

    def _bark(self, place: str) -> BaseException:
        name = self._diary.lines[-1] if self._diary.lines else "?"
        error = Busy(
            f"a step of {name} has not ended after {self.patience:g} s of the processor's time, "
            f"at {self.time():.3f} s of virtual time:\n{place}"
        )
        self.fail(error)
        return error

    def _pending(self) -> list[SimTask]:
        pending = [task for task in asyncio.all_tasks(self) if isinstance(task, SimTask)]
        return sorted(pending, key=lambda task: task.number)

    def _told(self, what: str) -> str:
        waiting = self.waiting()
        if len(waiting) > _TOLD:
            waiting[_TOLD:] = [f"... and {len(waiting) - _TOLD} more"]
        lines = "".join(f"\n  {line}" for line in waiting)
        return f"{what}, at {self.time():.3f} s of virtual time, step {self.steps}{lines}"
