"""No VM is up for longer than its timers let it: reckoned from the cloud's truth alone.

A worker may be up for ``hard`` after it booted or after a job that may be on it began; the master
for ``hard`` after it booted or after any job was submitted, began, or was read from its journal;
so may a worker, if a power cut has taken from that journal that the job had begun.
In a story without faults both may be up for ``soft`` after the last job was over. A worker that
is first heard of later has as long from then on; the master stays, for ``start_timeout`` at the
most, until it has heard of every worker, or told it to go. A worker of ``create`` mode may be up
for a minute after its job, or after it answered, if that was later: it goes by its job's end, and
not by its soft timer.

The slack (:func:`slack`) is what the product's own layers need at the most:

* 5 s by which a VM's own deadline lies behind the master's (``dismantle.SLACK``),
* 1 s in which moves of that deadline are gathered (``guest.GATHER``), 1 s between two looks at
  it, 1 s lost to whole seconds,
* 15 s in which the master tries to have it done by the agent (``fleet.POWER_OFF``, and a
  handshake), before it is left to the VM,
* what wall clocks differ by and were stepped by (a date is read after a restart), how late
  timers fire, and what messages take in this story.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dayfly.model import UP, InstanceState, Tag
from tests.simulation.cloudstate import CloudState
from tests.simulation.evidence import Evidence
from tests.simulation.knobs import Knobs
from tests.simulation.vms import Vm

#: Seconds of slack that every story has.
OWN = 5.0 + 1.0 + 1.0 + 1.0 + 15.0
#: Seconds for a worker of ``create`` to be gone after its job: told by the master, or ended by
#: its client, which has the cloud's word for it after some seconds.
ENDED = 60.0
#: Seconds for which a master stays for a worker that it has lost, until it has told it to go: it
#: may come back first (``fleet.TRIAL``), then it is told and reached (``POWER_OFF``,
#: ``REACH_AGAIN``).
GIVEN_UP = 25.0 + 10.0 + 30.0
#: Seconds after which every VM is looked at again.
AGAIN = 60.0


class Deadlines:
    """Watches every VM that is up.

    Args:
        booted: When a VM's system came up last, so that its own deadline is armed; ``None`` for
            one that has not booted.
        answered: When it answered SSH since; likewise.
        stepped: Seconds by which wall clocks were stepped so far.
        torn: When a master's journal lost its newest part; it grows.
        violated: Told of a VM that is up too long.
    """

    def __init__(
        self,
        cloud: CloudState,
        evidence: Evidence,
        knobs: Knobs,
        *,
        booted: Callable[[str], float | None],
        answered: Callable[[str], float | None],
        stepped: Callable[[], float],
        torn: list[float],
        violated: Callable[[str, str], None],
    ) -> None:
        self._cloud = cloud
        self._evidence = evidence
        self._knobs = knobs
        self._booted = booted
        self._answered = answered
        self._stepped = stepped
        self._torn = torn
        self._violated = violated
        self._up: dict[str, float] = {}
        self._next = math.inf
        self._told: set[str] = set()
        cloud.on_change(self._changed)
        evidence.on_over.append(self._over)
        evidence.on_left.append(self._left)

    def _changed(self, vm: str, _: InstanceState | None, new: InstanceState) -> None:
        if new in UP:
            if new is InstanceState.RUNNING or vm not in self._up:
                self._up[vm] = self._cloud.now
            self._next = min(self._next, self._cloud.now + self._knobs.soft)
        else:
            self._up.pop(vm, None)

    def _over(self, _: str) -> None:
        self._next = min(self._next, self._cloud.now + self._knobs.soft)

    def _left(self, worker: str, why: str) -> None:
        """Where nothing fails, the end of its job is what a worker of ``create`` mode goes by."""
        job = self._cloud.vms[worker].born.get(Tag.JOB)
        if why == "soft" and job in self._evidence.over and not self._knobs.faults:
            self._violated(
                "a worker of create mode goes with its job",
                f"{worker} was left to its soft timer, and {job} is over",
            )

    def check(self, now: float) -> None:
        """To be called after every step; most often it looks at one number."""
        if now < self._next:
            return
        self._next = math.inf
        for name in self._up:
            vm = self._cloud.vms[name]
            limit, why = self.limit(vm)
            if limit >= now:
                self._next = min(self._next, limit + 1e-6, now + AGAIN)
            elif name not in self._told:
                self._told.add(name)
                role = vm.born.get(Tag.ROLE, "user's")
                self._violated(
                    "no VM outlives its timers",
                    f"{role} {name} is up {now - limit:.1f} s past its limit ({why})",
                )

    @property
    def slack(self) -> float:
        """Seconds; see the module."""
        knobs = self._knobs
        clocks = 2 * knobs.skew + self._stepped()
        return OWN + clocks + 5 * knobs.late + min(60.0, 100 * knobs.network)

    def limit(self, vm: Vm) -> tuple[float, str]:
        """Until when a VM may be up, and by which rule."""
        if not self._knobs.auto or not vm.token:
            return math.inf, ""
        booted = self._booted(vm.id)
        if booted is None or vm.state is InstanceState.PENDING:
            # Nothing in it can end it: a client does, or the sweep of a later one.
            return math.inf, ""
        hard = max([booted, *self._touched(vm)]) + self._knobs.hard + self.slack
        if self._knobs.faults or self._open(vm):
            return hard, "hard"
        overs = [at for job, (at, _) in self._evidence.over.items() if self._may_serve(vm, job)]
        if not overs:
            return hard, "hard, no job has ended"
        over = max(overs)
        if vm.born.get(Tag.JOB):
            answered = self._answered(vm.id)
            if answered is None or answered > vm.history[0].at + self._knobs.start_timeout:
                return hard, "hard"  # it was given up long before it could be told to go
            # One that still boots is told as soon as it answers.
            ended = max(over, answered) + ENDED + self.slack
            return min((hard, "hard"), (ended, "its job is over"))
        if vm.born.get(Tag.ROLE) == "worker":
            heard = self._heard(vm, booted)
            if heard is None:
                return hard, "hard"  # one that was given up has no timer but its own
            # One that comes when all jobs are over is spare from then on, however slow its boot.
            soft = max(over, heard) + self._knobs.soft + self.slack
            return min((hard, "hard"), (soft, "soft"))
        if over < booted:
            return hard, "hard"  # it was started for a job which never reached it
        soft = self._awaited(over + self._knobs.soft) + self.slack
        return min((hard, "hard"), (soft, "soft"))

    def _heard(self, vm: Vm, since: float) -> float | None:
        """When a worker that came up then was first heard of by its master."""
        return min((at for at in self._evidence.connected[vm.id] if at >= since), default=None)

    def _awaited(self, due: float) -> float:
        """Until when a master that is due stays for workers that it has not told to go."""
        until = due
        for vm in self._cloud.vms.values():
            begun = [at for at, state, _ in vm.history if state is InstanceState.PENDING]
            begun = [at for at in begun if at < due]
            if vm.born.get(Tag.ROLE) != "worker" or not begun:
                continue
            heard = self._heard(vm, begun[-1])
            most = due + self._knobs.start_timeout
            lost = [at + GIVEN_UP for at, _ in self._evidence.lost[vm.id] if at < due]
            until = max(until, min(most, max([math.inf if heard is None else heard, *lost])))
        return until

    def _touched(self, vm: Vm) -> list[float]:
        evidence = self._evidence
        if vm.born.get(Tag.ROLE) == "master":
            dates = (*evidence.opened.values(), *evidence.restored.values())
            return [at for times in (dates, evidence.started.values()) for at in times]
        begun = {job: at for job, at in evidence.started.items() if self._may_serve(vm, job)}
        # A power cut may take from the journal that a job has begun: it begins as that is read.
        read = [
            back
            for job, at in begun.items()
            if (back := evidence.restored.get(job)) and any(at <= cut <= back for cut in self._torn)
        ]
        return [*begun.values(), *read]

    def _open(self, vm: Vm) -> bool:
        evidence = self._evidence
        return any(job not in evidence.over and self._may_serve(vm, job) for job in evidence.opened)

    def _may_serve(self, vm: Vm, job: str) -> bool:
        return vm.born.get(Tag.JOB, job) == job
