"""The promises, checked after every step and at the end.

* No VM is up past its timers, plus a slack: :mod:`.deadlines`.
* Every VM carries all of its tags from birth; a cluster has one master; a launch is made once:
  :mod:`.births`.
* A call runs again only if its worker was lost, and only for somebody: :mod:`.runs`.
* No job costs more than ``max_cost`` and a bound: :mod:`.bills`.
* A master's journal replays to the state that its service is in: :mod:`.replay`.
* No await hangs: :mod:`.awaits`; and a job goes on while it has workers: :mod:`.stalls`.
* A result is kept until storage has it: :mod:`.records`.
* A worker that the cloud takes back takes no more calls: :mod:`.drains`.
* What users are given is right, and each outcome comes once: :mod:`.expectations`.
* Timers, ``clean`` and later clients leave nothing that the mode does not promise to keep:
  :mod:`.remains`.
* Leaving does not fail; nobody's exception goes unheard; no service crashes: here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from dayfly import errors
from dayfly.client.job import Job
from dayfly.master.hub import Hub
from dayfly.model import UP, ExecMode, Tag
from tests.simulation.awaits import Awaits
from tests.simulation.bills import Bills
from tests.simulation.births import Births
from tests.simulation.deadlines import Deadlines
from tests.simulation.drains import Drains
from tests.simulation.evidence import Evidence
from tests.simulation.faults import Faults
from tests.simulation.knobs import JobKnobs, Knobs
from tests.simulation.process import Process
from tests.simulation.records import Records, record_of
from tests.simulation.remains import Remains
from tests.simulation.replay import differences
from tests.simulation.report import Violation
from tests.simulation.runs import Death, Runs
from tests.simulation.services import Master
from tests.simulation.stalls import Stalls
from tests.simulation.vms import OVER
from tests.simulation.world import World

#: What a machine notes when it goes by its own deadline.
OWN_DEADLINE = "powers itself off: its own deadline"
#: Violations of one promise that are kept.
KEPT = 3
#: Seconds for a client to hear of a job's end.
TOLD = 10.0
#: Seconds for a job's beginning and end, beside its timers: SSH, installation, told cancels.
MARGIN = 180.0


class Judge:
    """All promises of one story.

    Attributes:
        violations: Those that were broken.
        jobs: Each job that was begun, by its id: the client tells.
        begun: When that was, in virtual time.
        clients: Processes of users' programs that are alive.
        resumed: When a process that slept or was stopped went on last.
        stepped: Seconds by which wall clocks were stepped so far, in all.
        outages: When a master's service died, or was cut off from others.
        cleaning: Whether ``clean`` has begun, which cancels jobs.
        delivered: Outcomes that users were given.
        replays: Journals that were compared.
        orphans: Jobs whose client died at some time, and on which laptop.
        attached: Jobs that another process attached to than the one that began them.
        begins: When the next jobs of programs will begin.
        on_begins: Called with the moment at which a job will begin, and when it does.
        on_left_alone: Called when a job was left to its master.
        entrusted: When jobs were left to their master, to go on there, by their id.
        disowned: Jobs that were left, and of which leaving said that they may not go on.
        config: The configuration of every client.
    """

    def __init__(self, world: World, knobs: Knobs, evidence: Evidence, faults: Faults) -> None:
        self.world = world
        self.knobs = knobs
        self.evidence = evidence
        self.faults = faults
        self.violations: list[Violation] = []
        self.jobs: dict[str, JobKnobs] = {}
        self.begun: dict[str, float] = {}
        self.clients: list[Process] = []
        self.resumed: dict[Process, float] = {}
        self.stepped = 0.0
        self.outages: list[float] = []
        self.cleaning = False
        self.delivered = 0
        self.orphans: dict[str, str] = {}
        self.entrusted: dict[str, float] = {}
        self.disowned: set[str] = set()
        self.attached: set[str] = set()
        self.begins: list[float] = []
        self.on_begins: list[Callable[[float], None]] = []
        self.on_left_alone: list[Callable[[], None]] = []
        self.replays = 0
        consumed = {}
        if knobs.mode is ExecMode.CONSUME:
            consumed["instance_id"] = world.add_users_vm()
            consumed["ssh_key_filename"] = world.users_key_file
        self.config = knobs.config(**consumed)
        self._kept: Counter[str] = Counter()
        self._client_of: dict[str, Process] = {}
        self._attached: dict[str, float] = {}
        self._any_gone = False
        #: Jobs whose completion is in storage, and that have ended otherwise since.
        self._completed: dict[str, str] = {}
        self._awaits = Awaits(world.loop.time, self.violated)
        self.bounded = self._awaits.bounded
        self.deadlines = Deadlines(
            world.cloud,
            evidence,
            knobs,
            booted=world.booted_at,
            answered=world.answered_at,
            stepped=lambda: self.stepped,
            torn=world.torn,
            violated=self.violated,
        )
        self.runs = Runs(
            world.executions,
            evidence,
            torn=world.torn,
            retries=self._retries,
            timeout=lambda job: self.jobs[job].timeout if job in self.jobs else None,
            slack=lambda: knobs.late + 20 * knobs.network,
            violated=self.violated,
        )
        self.stalls = Stalls(
            world.cloud,
            evidence,
            self.runs.live,
            executions=world.executions,
            retries=self._retries,
            awaited=self._awaited_jobs,
            disturbed=self._disturbed,
            violated=self.violated,
        )
        self.bills = Bills(
            world.cloud, blind=self._blind, astray=self._astray, violated=self.violated
        )
        self.records = Records(
            world.storage,
            hubs=self._hubs,
            cleaned=lambda: self.cleaning,
            violated=self.violated,
        )
        self.drains = Drains(
            world.cloud,
            evidence,
            world.executions,
            disturbed=self._disturbed,
            slack=self._drain_slack,
            violated=self.violated,
        )
        self.remains = Remains(world, knobs, evidence, orphans=self.orphans, violated=self.violated)
        self.births = Births(world.cloud, evidence, most=knobs.vms, violated=self.violated)
        evidence.on_over.append(self._over)

    @property
    def now(self) -> float:
        return self.world.loop.time()

    def violated(self, promise: str, what: str) -> None:
        """A promise is broken."""
        self._kept[promise] += 1
        if self._kept[promise] <= KEPT:
            violation = Violation(promise, what, self.now)
            self.violations.append(violation)
            self.world.note(f"VIOLATED {violation}")

    def step(self) -> None:
        """After every step of the loop."""
        now = self.now
        self.deadlines.check(now)
        self.runs.check()
        self.stalls.check(now)
        self.records.check(now)
        self.drains.check(now)
        self._awaits.check(now)

    # -- what clients tell --

    def begins_in(self, seconds: float) -> None:
        """A program's next job, or all that it has, will begin then."""
        self.begins.append(self.now + seconds)
        if seconds:
            self._begins(self.now + seconds)

    def _begins(self, at: float) -> None:
        for listener in self.on_begins:
            listener(at)

    def begin(self, job: str, knobs: JobKnobs, process: Process) -> None:
        """A job has begun, or is attached to."""
        self.jobs[job] = knobs
        if job in self.begun:
            self.attached.add(job)
        self.begun.setdefault(job, self.now)
        self.runs.abandoned.pop(job, None)
        self._client_of[job] = process
        self._attached[job] = self.now
        self._begins(self.now)

    def end(self, job: str) -> None:
        """A job has ended for its client."""
        self._client_of.pop(job, None)
        at, how = self.evidence.over.get(job, (self.now, ""))
        at = max(at, self._attached[job])
        if not self.knobs.faults and self.now - at > TOLD + self.deadlines.slack:
            late = self.now - at
            self.violated(
                "who awaits a job is told of its end", f"{job} was over {late:.1f} s ago: {how}"
            )

    def left_alone(self, job: Job[Any]) -> None:
        """A program has ended, but not its job, if its master took charge of it."""
        course = job._course
        if job.id in self.disowned:
            return
        if course.left:
            self.entrusted[job.id] = self.now
            self._still_wanted(job.id)
            for listener in self.on_left_alone:
                listener()
        elif course._last_word is None and course.failure is not job._first_failure:
            self.violated(
                "a job that is left is in its master's hands, or its user is told",
                f"{job.id}: {course.failure!r}, and leaving said nothing",
            )

    def forgotten(self, job: str, error: BaseException) -> bool:
        """Whether a master with all of its disks has lost a job that was left to it."""
        if job not in self.entrusted or self.cleaning or not isinstance(error, errors.JobError):
            return False
        masters = [v for v in self.world.cloud.vms.values() if v.born.get(Tag.ROLE) == "master"]
        return "the master does not know it" in str(error.cause) and not any(
            vm.state in OVER and vm.history[-1].at > self.begun[job] for vm in masters
        )

    def gone(self, process: Process) -> None:
        """A client's process has ended, or was killed."""
        self._any_gone = True
        if process in self.clients:
            self.clients.remove(process)
        for job in [job for job, client in self._client_of.items() if client is process]:
            del self._client_of[job]
            if not self.jobs[job].detach:
                self.runs.abandoned[job] = Death(self.now, process.host.name, process.pid)
                self.orphans[job] = process.host.name

    def bound(self, begun: float, process: Process) -> float:
        """Until when an await of a job may take.

        The master is up within ``start_timeout``, or the job fails; it has a worker within
        ``start_timeout``, or fails; it ends within ``hard`` of its start. Whatever interrupts
        this begins it anew, so that with faults it counts from their end, and twice: a job that
        was read from a journal has its whole time again. Without timers calls of all other jobs
        may go before its own: they share their workers.
        """
        knobs = self.knobs
        once = 2 * knobs.start_timeout + MARGIN + self.deadlines.slack
        if knobs.auto:
            once += knobs.hard
        else:
            jobs = [job for client in knobs.clients for job in client.jobs]
            once += 2 * sum(job.work * (1 + job.retries) for job in jobs)
        if not knobs.faults:
            return begun + once
        return max(begun, knobs.heal, self.resumed.get(process, 0.0)) + 2 * once

    def _retries(self, job: str) -> int:
        return self.jobs[job].retries if job in self.jobs else 0

    def _awaited_jobs(self) -> list[str]:
        return [job for job, client in self._client_of.items() if not client.halted]

    def _disturbed(self) -> float:
        """When a master, a worker or a client was interrupted last."""
        evidence = self.evidence
        given_up = [at for losses in evidence.lost.values() for at, _ in losses[-1:]]
        served = evidence.served[-1:]
        return max([0.0, *self.outages, *self.resumed.values(), *served, *given_up])

    def _drain_slack(self) -> float:
        """Seconds; large outcomes wait for storage, however long that takes."""
        knobs = self.knobs
        large = any(job.large for client in knobs.clients for job in client.jobs)
        if large and knobs.faults.keys() & {"slow storage", "storage error"}:
            return math.inf
        return knobs.late + 20 * knobs.network

    @property
    def haunted(self) -> bool:
        """Whether a master's VM is up that has never booted: only a sweep can end it."""
        return any(
            vm.born.get(Tag.ROLE) == "master"
            and vm.state in UP
            and not self.world.machine(vm.id).up
            for vm in self.world.cloud.vms.values()
        )

    # -- costs --

    def _over(self, job: str) -> None:
        self._still_recorded(job)
        self._still_wanted(job)
        if self.knobs.max_cost is None or job not in self.begun:
            return
        slack = self.deadlines.slack
        heard = min(self.evidence.submissions[job], default=0.0)
        self.bills.over(job, self.knobs.max_cost, self.begun[job], heard, self.now, slack)

    def _blind(self, since: float, until: float) -> float:
        """Seconds in which no master served, between two moments."""
        served = self.evidence.served
        down = [at for at in self.outages if since < at < until]
        if not any(at <= since for at in served):
            down.append(since)
        return sum(min([at for at in served if at > out], default=until) - out for out in down)

    def _astray(self, worker: str) -> bool:
        """Whether a worker has lost its master, or its client before it had one."""
        if not self.evidence.connected[worker]:
            return self._any_gone
        return not self.evidence.has_master(worker)

    # -- journals --

    def replay(self) -> None:
        """Compare each master's journal with its service."""
        for hub in self._hubs():
            found = differences(hub)
            if found is None:
                continue
            self.replays += 1
            for line in found:
                self.violated("the master's journal replays to the same state", line)

    def _still_wanted(self, job: str) -> None:
        """What was left to its master is not cancelled by whoever left it, or is there no more."""
        _, how = self.evidence.over.get(job, (0.0, ""))
        left = self.entrusted.get(job)
        if left is None or self._attached[job] > left or self.cleaning:
            return
        if "cancelled by" in how:
            self.violated("leaving a detached job does not cancel it", f"{job} is over: {how}")

    def _hubs(self) -> list[Hub]:
        """The masters that serve."""
        found = []
        for machine in self.world.machines.values():
            unit = machine.units.get("master")
            program = unit._program if unit is not None and machine.service("master") else None
            if isinstance(program, Master) and program.hub is not None:
                found.append(program.hub)
        return found

    def _still_recorded(self, job: str) -> None:
        """A job that is over again is so by the end in storage, for whoever awaits it."""
        before = record_of(self.world.storage, job)
        _, how = self.evidence.over[job]
        if before is None or before.state != "completed" or how.partition(" ")[0] == "completed":
            return
        self._completed[job] = how
        if job in self._client_of:
            self.violated("a job that was completed stays so", f"{job} is over again: {how}")

    def _completed_stayed_so(self) -> None:
        for job, how in self._completed.items():
            now = record_of(self.world.storage, job)
            kept = self.cleaning if now is None else now.state == "completed"
            if not kept:
                self.violated("a job that was completed stays so", f"{job} is over again: {how}")

    # -- ends --

    def left_by(self, error: BaseException) -> None:
        """A program ended by an error that no reader was told: of its leaving."""
        if not self.knobs.faults:
            self.violated("leaving an executor does not fail", repr(error))

    def at_the_end(self) -> None:
        """Everything is over."""
        self.replay()
        self._completed_stayed_so()
        counts = self.evidence.counts
        counts["master restarted"] += max(0, len(self.evidence.served) - 1)
        counts["own deadline"] += self._own_deadlines()
        for line in self.world.loop.complaints:
            self.violated("no exception is left unheard", line)
        for at, where, error in self.world.crashes:
            self.violated("no service crashes", f"{where} at {at:.3f} s: {error!r}")

    def _own_deadlines(self) -> int:
        """How many VMs went by their own deadline; none that has a master, where nothing failed.

        The master's timer comes 5 s before it, and so has failed if it does.
        """
        fired = [(at, text.split()[0]) for at, text in self.world.trace if OWN_DEADLINE in text]
        evidence = self.evidence
        for at, name in fired if not self.knobs.faults else []:
            kept = evidence.connected[name] and evidence.parted.get(name, math.inf) > at - 1.0
            served = max((since for since in evidence.served if since <= at), default=0.0)
            # A worker may hear late that its master has gone, of its own accord.
            lives = not any(served <= gone <= at for gone in evidence.leaving)
            if kept and lives and not evidence.left[name]:
                self.violated(
                    "a VM's own deadline is not needed while its master lives",
                    f"{name}, {at:.1f} s",
                )
        return len(fired)

    def sizes(self) -> Counter[str]:
        """Counts for the summary."""
        return Counter(
            {
                "max_workers": self.knobs.vms,
                "vms": len(self.world.cloud.vms),
                "jobs": len(self.jobs),
                "calls": sum(job.calls for job in self.jobs.values()),
                "executions": len(self.world.executions),
                "delivered": self.delivered,
                "replays": self.replays,
            }
        )
