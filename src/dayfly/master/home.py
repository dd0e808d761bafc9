"""The timers of the master's own VM, over all jobs.

The soft timer waits, for a bounded time, for workers that only the master can end in time: see
:attr:`dayfly.master.member.Member.awaited`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dayfly.clock import Clock
from dayfly.dismantle import SLACK, Due, deadline, obey
from dayfly.guest import Vm
from dayfly.model import DismantlePolicy, Instance, InstanceState, Tag, WorkerRow

log = logging.getLogger(__name__)


class Home:
    """The master's own timers.

    Args:
        policy: Until a job brings another.
        launched: When the VM was launched or started last.
        vm: The VM.
        awaits: Whether any worker would be left to its hard timer now.
        patience: Seconds for which the soft timer waits for such workers, at the most.
        before: Called before the VM is powered off.
        moved: Called when the deadline has moved.
        clock: Where time comes from; all times are on its monotonic scale.
    """

    def __init__(
        self,
        policy: DismantlePolicy,
        launched: float,
        vm: Vm,
        *,
        awaits: Callable[[], bool],
        patience: float,
        before: Callable[[str], Awaitable[None]],
        moved: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._policy = policy
        self._launched = launched
        self._vm = vm
        self._awaits = awaits
        self._waiting = False
        self._patience = patience
        self._before = before
        self._moved = moved
        self._clock = clock
        self._changed = asyncio.Event()
        self._jobs: dict[str, None] = {}
        self._started: float | None = None
        self._completed: float | None = None
        self._gone = False

    def due(self) -> Due | None:
        """When the master's VM must go."""
        due = self._deadline(busy=bool(self._jobs))
        if due is None or due.why != "soft" or not self._awaits():
            return due
        later = Due(due.at + self._patience, "soft")
        hard = self._deadline(busy=True)
        return later if hard is None else min(later, hard, key=lambda due: due.at)

    def _deadline(self, *, busy: bool) -> Due | None:
        return deadline(
            self._policy,
            launched=self._launched,
            started=self._started,
            completed=self._completed,
            busy=busy,
        )

    def row(self, instance: Instance, runtime: str, running: int) -> WorkerRow:
        """The master's row in ``worker list``; ``running`` are the calls of all workers."""
        due = self.due()
        return WorkerRow(
            name=instance.name,
            instance=instance.id,
            role="master",
            instance_type=instance.instance_type,
            processes=0,
            runtime=runtime,
            mode=instance.tags.get(Tag.MODE, ""),
            state=InstanceState.RUNNING,
            phase="busy" if self._jobs else "idle",
            running=running,
            dismantle_in=None if due is None else max(0.0, due.at - self._clock.monotonic()),
            dismantle_why="" if due is None else due.why,
        )

    def job_began(self, job: str, policy: DismantlePolicy, at: float) -> None:
        """A job was submitted at ``at``, or started then."""
        self._jobs[job] = None
        self._completed = None
        if self._started is None or at >= self._started:
            self._started, self._policy = at, policy
        self._facts_changed()

    def job_over(self, job: str) -> None:
        """A job is over."""
        self._jobs.pop(job, None)
        if not self._jobs:
            self._completed = self._clock.monotonic()
        self._facts_changed()

    def workers_changed(self) -> None:
        """Whether any worker is waited for may have another answer now."""
        if (waiting := self._awaits()) != self._waiting:
            self._waiting = waiting
            self._facts_changed()

    def remember(self, started: float, completed: float) -> None:
        """A job that was over before this process began; stamps from before a boot are void."""
        if completed < self._launched:
            return
        self._started = max(started, self._started or started)
        self._completed = max(completed, self._completed or completed)

    async def run(self) -> None:
        """Power the VM off when its time has come."""
        self._facts_changed()
        while not self._gone:
            await obey(self.due, self._changed, self._power_off, self._clock)

    async def _power_off(self, why: str) -> None:
        log.info("the master goes: its %s timer fired", why)
        await self._before(why)
        due = self.due()
        if due is None or due.at > self._clock.monotonic():
            log.info("the master stays: a job has come")
            return
        self._gone = True
        await self._vm.power_off()

    def _facts_changed(self) -> None:
        due = self.due()
        left = None if due is None else max(0.0, due.at - self._clock.monotonic())
        self._vm.set_deadline(None if left is None else left + SLACK)
        self._changed.set()
        self._moved()
