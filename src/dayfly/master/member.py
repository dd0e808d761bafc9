"""One adopted instance, as the fleet knows it at one moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeAlias

from dayfly.clock import Clock
from dayfly.dismantle import Due, Why, deadline
from dayfly.master.events import Pool
from dayfly.master.journal import KeptInstance
from dayfly.model import DismantlePolicy, ExecMode, Instance, InstanceState, Tag, WorkerRow
from dayfly.phases import Timeline
from dayfly.wire import messages as m

Say: TypeAlias = Callable[[m.SetDeadline | m.PowerOff], None]


def pool_of_instance(instance: Instance, job: str, *, here: bool) -> Pool:
    """Which jobs an instance may serve, by its tags."""
    mode = ExecMode.CONSUME if here else instance.tags.get(Tag.MODE, ExecMode.REUSE)
    if mode == ExecMode.CONSUME:
        return Pool(ExecMode.CONSUME)
    if mode == ExecMode.CREATE:
        return Pool(ExecMode.CREATE, job=job or instance.tags.get(Tag.JOB, ""))
    return Pool(ExecMode.REUSE, instance.tags.get(Tag.RUNTIME, ""), instance.tags.get(Tag.KIND, ""))


def processes_of(instance: Instance) -> int:
    """Parallel processes of a worker, by its tags."""
    text = instance.tags.get(Tag.PROCESSES, "")
    return int(text) if text.isdecimal() else 1


def awaited(members: Iterable[Member | None], among: int) -> str:
    """What workers on their way are waited for, in words."""
    phases = Counter(member.phase for member in members if member is not None)
    words = []
    if count := phases["connecting"]:
        words.append(f"{count} of {among} {_vms(among)} to answer SSH")
    if count := phases["installing"]:
        words.append(f"packages on {count} {_vms(count)}")
    if count := phases["starting"]:
        words.append(f"the agent on {count} {_vms(count)}")
    return ", ".join(words)


def _vms(count: int) -> str:
    return "VM" if count == 1 else "VMs"


class Member:
    """One adopted instance.

    Times are on the clock's monotonic scale; :meth:`kept` turns them into dates.

    Attributes:
        here: It is the master's own VM (``consume`` mode): nothing is installed on it from
            here, and its timers are the master's own.
        phase: As :class:`~dayfly.model.WorkerRow` has it.
        say: Says something to its agent; ``None`` while that is not connected.
        linked: Set while its agent is connected.
        unlinked: Set while it is not.
        changed: Set when its deadline may have moved.
        ready: Whether its agent has ever asked for work.
        heard: Whether it has told what it holds since this service began. A power cut may have
            taken from the journal that a job is on it; until it is back its own deadline holds.
        engaged: The jobs that are on it.
        drain: When the cloud takes it back, once it has told so.
        dismissed: Whether it is to go ahead of its timers, which it may not know yet.
        timeline: What took how long while it was brought up.
        life: What brings it up and watches over it.
        timers: What powers it off in time.
    """

    def __init__(self, kept: KeptInstance, clock: Clock, *, here: bool) -> None:
        self._clock = clock
        self.instance = kept.instance
        self.policy: DismantlePolicy = kept.policy
        self.job = kept.job
        self.here = here
        self.pool = pool_of_instance(kept.instance, kept.job, here=here)
        self.ready = kept.ready
        self.heard = not kept.ready
        self.engaged: dict[str, None] = dict.fromkeys(kept.engaged)
        self.launched = self._scale(kept.instance.launched_at)
        self.started = None if kept.started is None else self._scale(kept.started)
        self.completed = None if kept.completed is None else self._scale(kept.completed)
        self.phase = "starting" if here or kept.ready else "connecting"
        self.say: Say | None = None
        self.linked = asyncio.Event()
        self.unlinked = asyncio.Event()
        self.unlinked.set()
        self.changed = asyncio.Event()
        self.drain: Due | None = None
        self.dismissed = False
        self.timeline = Timeline(clock)
        self.life: asyncio.Task[None] | None = None
        self.timers: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The instance's id, which is also the worker's name on the wire."""
        return self.instance.id

    @property
    def leaving(self) -> bool:
        """Whether it is lost or on its way out."""
        return self.phase in {"lost", "leaving"}

    @property
    def awaited(self) -> bool:
        """Whether its VM would go by the hard timer if the master were gone now.

        One that is on its way has not heard of any other, nor has one that is dismissed.
        """
        coming = not self.ready and not self.leaving
        return (coming or self.dismissed) and self.policy.auto and not self.here

    def due(self) -> Due | None:
        """When it must go, by what is known of it."""
        due = deadline(
            self.policy,
            launched=self.launched,
            started=self.started,
            completed=self.completed,
            busy=bool(self.engaged),
        )
        known = [each for each in (due, self.drain) if each is not None]
        return min(known, key=lambda each: each.at, default=None)

    def certain(self) -> Due | None:
        """When it must go, for all that it may hold; ``None`` until it has told that."""
        return self.due() if self.heard else self.drain

    def overdue(self) -> Why | None:
        """By which timer it goes if it does not come back after a restart; ``None`` for none."""
        due = None if self.heard or self.here else self.due()
        return None if due is None or due.at > self._clock.monotonic() else due.why

    @property
    def silent(self) -> bool:
        """Whether it is lost, on its way out, or not back since this service began."""
        return self.leaving or not self.heard

    def was_started_anew(self, instance: Instance) -> None:
        """Its VM was started later than was known: whoever says so again says nothing new."""
        self.instance = instance
        self.launched = self._scale(instance.launched_at)

    def engage(self, job: str, policy: DismantlePolicy, started: float) -> None:
        """A job is on it from now on; the hard deadline is that of the job started last."""
        self.engaged[job] = None
        self.completed = None
        if self.started is None or started >= self.started:
            self.started, self.policy = started, policy

    def disengage(self, job: str) -> None:
        """A job on it is over."""
        self.engaged.pop(job, None)
        if not self.engaged:
            self.completed = self._clock.monotonic()

    def over(self, job: str) -> bool:
        """A job that it may serve is over; whether that changes what is kept of it."""
        if job in self.engaged:  # it was lost, and may come back
            self.disengage(job)
            return True
        return self.ready and self.spare()

    def asks(self, *, spare: bool, holds: bool) -> None:
        """Its agent is ready.

        Args:
            spare: Whether no job is left that it could serve.
            holds: Whether it has calls in hand.
        """
        self.ready = self.heard = True
        if holds and not self.engaged:
            self.completed = self._clock.monotonic()  # of a job that may be told of anew
        elif spare:
            self.spare()

    def spare(self) -> bool:
        """The job that it came for is over, and had no call for it: that counts as served.

        Returns:
            Whether that moves its deadline; not when it has served, or is serving, a job.
        """
        if self.engaged or self.completed is not None:
            return False
        self.completed = self._clock.monotonic()
        return True

    def kept(self, *, gone: bool = False) -> KeptInstance:
        """What the journal must remember of it."""
        return KeptInstance(
            instance=self.instance,
            policy=self.policy,
            job=self.job,
            ready=self.ready,
            started=None if self.started is None else self._date(self.started),
            completed=None if self.completed is None else self._date(self.completed),
            engaged=list(self.engaged),
            gone=gone,
        )

    def row(self, running: int, due: Due | None) -> WorkerRow:
        """Its row in ``worker list``."""
        phase, tags = self.phase, self.instance.tags
        if phase == "idle" and running:
            phase = "busy"
        up = self.ready or self.linked.is_set() or phase in {"installing", "starting"}
        state = InstanceState.RUNNING if up else self.instance.state
        if phase == "leaving":
            state = InstanceState.SHUTTING_DOWN
        return WorkerRow(
            name=self.instance.name,
            instance=self.id,
            role="worker",
            instance_type=self.instance.instance_type,
            processes=processes_of(self.instance),
            runtime=tags.get(Tag.RUNTIME, ""),
            mode=self.pool.mode.value,
            state=state,
            phase=phase,
            running=running,
            kind=self.pool.kind,
            dismantle_in=None if due is None else max(0.0, due.at - self._clock.monotonic()),
            dismantle_why="" if due is None else due.why,
        )

    def _scale(self, date: float) -> float:
        # A wall clock that was set back must not put the past into the future.
        return self._clock.monotonic() - max(0.0, self._clock.now() - date)

    def _date(self, moment: float) -> float:
        return self._clock.now() - (self._clock.monotonic() - moment)
