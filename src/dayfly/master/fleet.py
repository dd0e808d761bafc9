"""The workers' lives: reached, installed, watched, and powered off in time.

Each adopted instance has two coroutines: its *life* brings it up and notices when it is lost;
its *timers* power it off when its deadline comes. Either ends the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import msgspec

from dayfly.clock import Clock, happens
from dayfly.dismantle import SLACK, Due, obey
from dayfly.environment.report import EnvironmentFailure
from dayfly.errors import DayflyError, ProvisionError
from dayfly.master.events import Pool
from dayfly.master.installer import Installer
from dayfly.master.journal import KeptInstance
from dayfly.master.listener import Listener
from dayfly.master.member import Member, Say, awaited
from dayfly.model import DismantlePolicy, ExecMode, WorkerRow
from dayfly.phases import SERVICE, Phase
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Seconds that an agent which was just started has at least, to call.
CALL = 30.0
#: Seconds that a worker whose connection broke may take to come back: its service restarts.
COMEBACK = 5.0
#: Seconds before the cloud takes a VM back at which it is powered off, whatever it runs.
AHEAD = 2.0
#: Seconds for a VM to power off when it is told to, and to be reached when it must be told.
POWER_OFF = 10.0
REACH_AGAIN = 30.0
#: Seconds more for a silent worker to come back, when a call is failed if it does not.
TRIAL = 25.0
#: What a cloud says of VMs that it took back, or that a user ended. Source: EC2's ``StateReason``.
TAKEN = ("SpotInstance", "UserInitiated")


class Fleet:
    """All adopted instances. Close it with :meth:`aclose`; the VMs live on.

    Args:
        own: The id of the master's own instance.
        own_due: The master's own deadline.
        installer: Makes a VM a worker.
        listener: Who is told.
        start_timeout: Seconds for a VM to become a worker.
        clock: Where time comes from.
    """

    def __init__(
        self,
        *,
        own: str,
        own_due: Callable[[], Due | None],
        installer: Installer,
        listener: Listener,
        start_timeout: float,
        clock: Clock,
    ) -> None:
        self._own = own
        self._own_due = own_due
        self._installer = installer
        self._listener = listener
        self._start_timeout = start_timeout
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._gone: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- who belongs to it --

    def adopt(self, kept: KeptInstance, *, returning: bool = False) -> None:
        """Care for an instance from now on; one that is cared for already is left alone.

        Args:
            kept: The instance; one that was given up before counts again only once it has
                been launched or started anew.
            returning: It was adopted before the master restarted.
        """
        instance = kept.instance
        if kept.gone:
            self._gone[instance.id] = instance.launched_at
            return
        if instance.launched_at <= self._gone.get(instance.id, float("-inf")):
            return
        if (known := self._members.get(instance.id)) is not None:
            if instance.launched_at <= known.instance.launched_at:
                return
            over = msgspec.structs.replace(known.kept(gone=True), ended=instance.launched_at)
            self._listener.keep(over)  # each start is paid for by itself
            if not known.silent:
                known.was_started_anew(instance)  # what brings it up, or is on it, goes on
                self._facts_changed(known)
                return
            self._stop(known)
            self._listener.worker_gone(known.id)
        member = Member(kept, self._clock, here=instance.id == self._own)
        self._members[instance.id] = member
        self._listener.keep(member.kept())
        self._begin(member, returning=returning)

    def _begin(self, member: Member, *, returning: bool) -> None:
        self._listener.worker_coming(
            member.id,
            member.pool,
            returning=returning and member.ready,
            engaged=list(member.engaged),
        )
        member.life = self._spawn(self._live(member), f"dayfly worker {member.id}")
        if not member.here:
            member.timers = self._spawn(
                obey(member.certain, member.changed, partial(self._retire, member), self._clock),
                f"dayfly timers {member.id}",
            )
        self._listener.fleet_changed()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _stop(self, member: Member) -> None:
        for task in (member.life, member.timers):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    async def aclose(self) -> None:
        """Let go of the workers; each has a deadline of its own."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- a worker's life --

    async def _live(self, member: Member) -> None:
        try:
            await self._bring_up(member)
            reason = await self._until_lost(member)
        except DayflyError as error:
            reason = str(error)
            if isinstance(error, ProvisionError) and not (member.ready or member.here):
                reason = error.what  # the rest is told with the job that fails of it
                self._listener.worker_unfit(member.id, EnvironmentFailure.of(error))
            if (why := member.overdue()) is not None:
                await self._retire(member, why)
                return
        except Exception as error:  # a fault of ours must not leave a VM without a keeper
            log.exception("worker %s: its keeper failed", member.id)
            await self._give_up(member, f"the master's keeper failed: {error!r}", innocent=True)
            return
        await self._give_up(member, reason, innocent=member.drain is not None)

    async def _bring_up(self, member: Member) -> None:
        deadline = self._clock.monotonic() + self._start_timeout
        if not (member.here or member.ready or member.linked.is_set()):
            await self._installer.install(
                member.instance,
                member.policy,
                reached=partial(self._set_phase, member, "installing"),
                timeline=member.timeline,
                deadline=deadline,
            )
            deadline = max(deadline, self._clock.monotonic() + CALL)
            if not member.linked.is_set():
                self._set_phase(member, "starting")
        if member.ready:
            # It was a worker before this master's service restarted.
            deadline = self._clock.monotonic() + COMEBACK
        if not await happens(member.linked, deadline, self._clock):
            raise ProvisionError(
                f"the agent of {member.instance.name} ({member.id}) did not come back"
                if member.ready
                else f"the agent of {member.instance.name} ({member.id}) never called",
                cause="its service was started, but it did not connect to the master",
                hint="read worker-service.log in /tmp/dayfly on that VM",
            )

    async def _until_lost(self, member: Member) -> str:
        while True:
            await member.unlinked.wait()
            since = self._clock.monotonic()
            if not await happens(member.linked, since + COMEBACK, self._clock):
                return (
                    f"the connection with {member.instance.name} ({member.id}) broke"
                    f" and it did not come back within {COMEBACK:g} s"
                )

    async def _give_up(
        self, member: Member, reason: str, *, innocent: bool, over: bool = False
    ) -> None:
        silent = member.phase == "connecting"
        member.dismissed = not over
        self._set_phase(member, "lost")
        if member.timers is not None:
            member.timers.cancel()
        log.warning("worker %s is lost: %s", member.id, reason)
        if self._listener.worker_lost(member.id, reason, innocent=innocent):
            if not over:
                await self._clock.sleep(TRIAL)  # from where it is sent then it cannot come back
            self._listener.worker_gone(member.id, innocent=innocent)
        lost = "" if member.here else member.id
        self._listener.notice(
            "warning", f"worker lost: {reason}", member.pool, lost=lost, silent=silent
        )
        if not over:
            await self._power_off(member, "the master has given it up")
        self._remove(member)

    async def _retire(self, member: Member, why: str) -> None:
        """Its time has come; no await lies between that decision and its being made known."""
        member.dismissed = why not in {"soft", "hard", "spot"}
        self._set_phase(member, "leaving")
        self._stop(member)
        log.info("worker %s goes: %s", member.id, why)
        words = {"spot": "the cloud takes it back"}
        words |= {timer: f"it was dismantled by its {timer} timer" for timer in ("soft", "hard")}
        reason = f"{member.instance.name} ({member.id}): {words.get(why, why)}"
        self._listener.worker_lost(member.id, reason, innocent=True)
        await self._power_off(member, why)
        self._remove(member)

    async def _power_off(self, member: Member, why: str) -> None:
        if member.here:
            return
        now = self._clock.monotonic()
        # One that still boots is told as soon as it can be.
        patience = REACH_AGAIN if member.ready else max(REACH_AGAIN, self._start_timeout)
        if member.say is not None:
            member.say(m.PowerOff(why=why))
            if await happens(member.unlinked, now + POWER_OFF, self._clock):
                return
        try:
            await self._installer.power_off(
                member.instance, deadline=self._clock.monotonic() + patience
            )
        except DayflyError as error:
            log.warning("worker %s is left to its own deadline: %s", member.id, error)

    def _remove(self, member: Member) -> None:
        self._listener.worker_gone(member.id, innocent=True)
        if member.here or self._members.get(member.id) is not member:
            return  # the VM under our feet is not gone: its agent may come back at any time
        del self._members[member.id]
        self._gone[member.id] = member.instance.launched_at
        kept = msgspec.structs.replace(member.kept(gone=True), ended=self._clock.now())
        self._listener.keep(kept)
        self._listener.fleet_changed()

    # -- what happens to it --

    def link_opened(self, worker: str, say: Say) -> bool:
        """A worker's agent is connected; whether it is one of ours, or was."""
        member = self._members.get(worker)
        if member is None and worker not in self._gone:
            return False
        if member is None or member.phase == "leaving":
            log.info("worker %s has called again, and is told to go", worker)
            say(m.PowerOff(why="it was given up or told to go before"))
            return True
        if member.phase == "lost":
            log.info("worker %s is back", worker)
            self._stop(member)
            member.dismissed = False
            self._begin(member, returning=False)
        member.timeline.add_next(member.id, SERVICE)
        member.say = say
        member.unlinked.clear()
        member.linked.set()
        self._set_phase(member, "starting")
        self._say_deadline(member)
        return True

    def link_closed(self, worker: str) -> None:
        """A worker's agent is not connected any more."""
        if (member := self._members.get(worker)) is not None:
            member.say = None
            member.linked.clear()
            member.unlinked.set()

    def ended(self, worker: str, reason: str) -> None:
        """The cloud tells that an instance has ended."""
        member, taken = self._members.get(worker), any(words in reason for words in TAKEN)
        if member is not None and member.leaving and not member.here:
            self._stop(member)
            self._listener.worker_gone(worker, innocent=taken)
            self._remove(member)
        elif member is not None and not member.leaving:
            self._stop(member)
            member.life = self._spawn(
                self._give_up(member, reason, innocent=taken, over=True), f"dayfly end of {worker}"
            )

    def drain(self, worker: str, seconds: float, reason: str) -> None:
        """The cloud takes a worker back in so many seconds."""
        member = self._members.get(worker)
        if member is None or member.leaving or member.here:
            return  # a master that is its own worker goes with it
        member.drain = Due(self._clock.monotonic() + max(0.0, seconds - AHEAD), "spot")
        self._set_phase(member, "draining")
        self._facts_changed(member)
        name = f"{member.instance.name} ({member.id})"
        self._listener.worker_drains(worker, f"{name} goes in {seconds:.0f} s: {reason}")

    def let_go(self, worker: str, why: str) -> None:
        """A worker with nothing in hand is of no more use: it goes, unless it is the user's own.

        ``why`` is told in words, which ``auto_dismantle: False`` overrules, or ``spot``: it drains.
        """
        member = self._members.get(worker)
        if member is None or member.leaving or member.here:
            return
        if member.policy.auto or why == "spot":
            self._let_go(member, why)

    def asked_for_work(self, worker: str, *, spare: bool, holds: bool = False) -> None:
        """A worker's agent is ready; see :meth:`dayfly.master.member.Member.asks`."""
        if (member := self._members.get(worker)) is not None and not member.leaving:
            member.asks(spare=spare, holds=holds)
            self._set_phase(member, "draining" if member.drain else "idle")
            self._facts_changed(member)

    def engage(self, worker: str, job: str, policy: DismantlePolicy, started: float) -> None:
        """A job is on a worker from now on."""
        if (member := self._members.get(worker)) is not None:
            member.engage(job, policy, started)
            self._facts_changed(member)

    def disengage(self, worker: str, job: str) -> None:
        """A job on a worker is over."""
        if (member := self._members.get(worker)) is not None:
            member.disengage(job)
            self._facts_changed(member)

    def job_over(self, job: str, pool: Pool) -> None:
        """A job is over: the workers that were made for it go with it, others are spare."""
        for member in list(self._members.values()):
            if member.pool == pool and member.over(job):
                self._facts_changed(member)
        self.dismiss(Pool(ExecMode.CREATE, job=job), "the job that it was made for is over")

    def dismiss(self, pool: Pool, why: str) -> None:
        """The workers of a pool go now, unless ``auto_dismantle`` is off."""
        for member in list(self._members.values()):
            going = member.pool == pool and not member.here and member.policy.auto
            if going and not member.leaving:
                self._let_go(member, why)

    def _let_go(self, member: Member, why: str) -> None:
        self._stop(member)
        member.timers = self._spawn(self._retire(member, why), f"dayfly end of {member.id}")

    def own_due_changed(self) -> None:
        """The master's own deadline has moved."""
        if (member := self._members.get(self._own)) is not None:
            self._say_deadline(member)

    # -- what can be asked --

    @property
    def awaits_any(self) -> bool:
        """Whether any worker would be left to its hard timer if the master went now."""
        return any(member.awaited for member in self._members.values())

    def pool(self, worker: str) -> Pool | None:
        """The pool of a worker."""
        member = self._members.get(worker)
        return member.pool if member else None

    def rows(self, running: Callable[[str], int]) -> list[WorkerRow]:
        """The workers' rows; ``running`` tells the calls in a worker's hands."""
        return [
            member.row(running(member.id), self._due(member)) for member in self._members.values()
        ]

    def waiting(self, workers: Iterable[str], among: int) -> str:
        """What these workers on their way are waited for, in words."""
        return awaited(map(self._members.get, workers), among)

    def phases(self, worker: str) -> list[Phase]:
        """What took how long while a worker was brought up; told once."""
        member = self._members.get(worker)
        return member.timeline.take() if member else []

    # -- its deadline --

    def _due(self, member: Member) -> Due | None:
        return self._own_due() if member.here else member.due()

    def _facts_changed(self, member: Member) -> None:
        member.changed.set()
        self._listener.keep(member.kept())
        self._say_deadline(member)

    def _say_deadline(self, member: Member) -> None:
        if member.say is None or member.leaving or not member.heard:
            return
        due = self._due(member)
        seconds = None if due is None else max(0.0, due.at - self._clock.monotonic()) + SLACK
        member.say(m.SetDeadline(seconds=seconds))

    def _set_phase(self, member: Member, phase: str) -> None:
        if member.phase != phase:
            member.phase = phase
            log.info("worker %s: %s", member.id, phase)
            self._listener.fleet_changed()
