"""Whom spontaneous faults strike, and how each of them is done to this world."""

from __future__ import annotations

import random
from collections.abc import Callable

from dayfly.model import Tag
from tests.simulation.faults import Faults
from tests.simulation.invariants import Judge
from tests.simulation.process import Host, Process, outside
from tests.simulation.vms import Vm

#: Seconds for which a laptop sleeps, a process is stopped, a network is parted.
SLEEP, PAUSE, PART = (20.0, 7200.0), (0.2, 90.0), (0.2, 300.0)
#: Seconds of silence after which a worker that comes back was given up (``fleet.COMEBACK``).
SILENCE = (4.0, 60.0)
#: Seconds that are waited at the most for something to race with, and by which a strike comes
#: before a job begins at the most: a service that is killed then is just about to be back.
PATIENCE, BEFORE = 120.0, 3.0
#: Kinds whose strikes race with the end of a call, or with the beginning of a job.
RACING = {
    "vm dies",
    "spot notice",
    "master service killed",
    "master vm lost",
    "master vm stopped",
    "worker service killed",
    "client killed",
    "partition",
    "lease expiry race",
    "connection reset",
}
#: Seconds after a job was left to its master at which that master's VM may be stopped, and the
#: share of jobs at which one is.
LEFT, BETRAYED = (0.01, 20.0), 0.5
#: Seconds before and after a job's beginning at which connections of workers may break, the share
#: of these moments at which they do, and seconds for which those workers are not heard then.
SOON, JUST, TORN, UNHEARD = (0.0, 2.0), (0.001, 1.0), 0.7, (0.2, 6.0)
#: What that is drawn from: connections that break at any time keep their own stream.
BEGINNING = "connection reset at a job's beginning"
#: The share of broken connections that break again and again.
FLAPPING = 0.5
#: Seconds by which a wall clock is stepped.
STEP = (0.5, 90.0)


class Everyone:
    """All that can be struck (:class:`tests.simulation.faults.Victims`)."""

    def __init__(self, judge: Judge, faults: Faults) -> None:
        self._judge = judge
        self._world = judge.world
        self._faults = faults
        self._kinds: dict[str, Callable[[str, random.Random], str]] = {
            "vm dies": self._vm_dies,
            "spot notice": self._spot,
            "spot loss": self._spot,
            "master service killed": self._master,
            "master vm lost": self._master,
            "master vm stopped": self._master,
            "worker service killed": self._worker_service,
            "client killed": self._client,
            "client asleep": self._laptop,
            "client paused": self._client,
            "partition": self._part,
            "lease expiry race": self._silent_worker,
            "connection reset": self._reset,
            "clock step": self._step,
        }
        judge.evidence.on_agent.append(self._agent_started)
        judge.evidence.on_connected.append(self._worker_connected)
        judge.on_begins.append(self._job_begins)
        judge.on_left_alone.append(self._left_alone)
        #: Workers that nobody will hear at first when they call again.
        self._unheard: set[str] = set()
        #: What is undone at the latest when everything heals.
        self._undo: dict[int, Callable[[], object]] = {}

    def strike(self, kind: str, stream: random.Random) -> str:
        """Strike somebody; returns whom, or nothing if nobody was there."""
        return self._kinds[kind](kind, stream)

    def race(self, kind: str, stream: random.Random) -> float:
        """Seconds until a call ends or a job begins, about, if that can be told."""
        if kind not in RACING:
            return 0.0
        now, world = self._judge.now, self._world
        delay = 4.0 * world.network.latency() * stream.random()
        ends = [
            run.started + world.seconds(run.job, run.index) + delay - now
            for run in self._judge.runs.live
            if run.ended is None
        ]
        begins = [at - BEFORE * stream.random() + delay - now for at in self._judge.begins]
        soon = [wait for wait in (*ends, *begins) if 0.0 < wait < PATIENCE]
        return stream.choice(soon) if soon else 0.0

    def heal(self) -> None:
        """Undo all that can be undone."""
        for number in list(self._undo):
            self._undo_one(number)

    def _for_a_while(self, seconds: float, undo: Callable[[], object]) -> None:
        number = len(self._undo) + 1 + max(self._undo, default=0)
        self._undo[number] = undo
        self._world.loop.call_later(seconds, self._undo_one, number, context=outside())

    def _undo_one(self, number: int) -> None:
        if undo := self._undo.pop(number, None):
            undo()

    # -- VMs --

    def _up(self, role: str) -> list[Vm]:
        return [vm for vm in self._world.cloud.up() if vm.born.get(Tag.ROLE) == role]

    def _hosts(self, role: str) -> list[Host]:
        machines = (self._world.machines.get(vm.id) for vm in self._up(role))
        return [machine.host for machine in machines if machine and machine.host]

    def _vm_dies(self, _: str, stream: random.Random) -> str:
        if not (vms := self._up("worker")):
            return ""
        vm = stream.choice(vms)
        cloud = self._world.cloud
        done = cloud.lose(vm.id) if stream.random() < 0.5 else cloud.crash(vm.id)
        return vm.id if done else ""

    def _spot(self, kind: str, stream: random.Random) -> str:
        vms = [vm for vm in self._up("worker") if vm.spot]
        if not vms:
            return ""
        cloud = self._world.cloud
        take = cloud.interrupt if kind == "spot notice" else cloud.reclaim
        running = {run.instance for run in self._judge.runs.live if run.ended is None}
        if stream.random() < 0.5:  # those that have something to lose
            vms = [vm for vm in vms if vm.id in running] or vms
        # A pool that runs dry takes many at once.
        count = len(vms) if stream.random() < 0.2 else 1
        struck = [vm.id for vm in stream.sample(vms, count) if take(vm.id)]
        return ", ".join(struck)

    def _master(self, kind: str, stream: random.Random) -> str:
        masters = self._up("master")
        if not masters:
            return ""
        vm = stream.choice(masters)
        world = self._world
        self._judge.replay()
        self._judge.outages.append(self._judge.now)
        if kind == "master service killed":
            return vm.id if world.kill_service(vm.id, "master") else ""
        done = world.cloud.lose(vm.id) if kind == "master vm lost" else world.cloud.crash(vm.id)
        return vm.id if done else ""

    def _worker_service(self, _: str, stream: random.Random) -> str:
        if not (vms := self._up("worker")):
            return ""
        vm = stream.choice(vms)
        return vm.id if self._world.kill_service(vm.id, "worker") else ""

    # -- users --

    def _client(self, kind: str, stream: random.Random) -> str:
        clients = self._judge.clients
        if not clients:
            return ""
        process = stream.choice(clients)
        if kind == "client killed":
            process.kill()
        else:
            process.pause()
            seconds = self._faults.amount(kind, *PAUSE)
            self._for_a_while(seconds, lambda: self._resume(process))
        return _name(process)

    def _laptop(self, kind: str, stream: random.Random) -> str:
        hosts = [host for host in self._world.laptops.values() if host.processes]
        if not hosts:
            return ""
        host = stream.choice(hosts)
        if host.paused:
            return ""
        host.pause()
        self._world.network.stir()
        seconds = 3600.0 if stream.random() < 0.3 else self._faults.amount(kind, *SLEEP)

        def wake() -> None:
            host.resume()
            self._world.network.stir()
            self._world.note(f"{host.name} wakes up")
            for process in host.processes:
                self._judge.resumed[process] = self._judge.now

        self._for_a_while(seconds, wake)
        return f"{host.name} for {seconds:.0f} s"

    def _resume(self, process: Process) -> None:
        process.resume()
        self._judge.resumed[process] = self._judge.now
        self._world.note(f"{_name(process)} goes on")

    # -- networks and clocks --

    def _part(self, kind: str, stream: random.Random) -> str:
        masters, workers = self._hosts("master"), self._hosts("worker")
        clients = list(self._world.laptops.values())
        if not masters:
            return ""
        others = clients if stream.random() < 0.3 else workers
        if not others:
            return ""
        count = len(others) if stream.random() < 0.4 else stream.randint(1, len(others))
        others = stream.sample(others, count)
        return self._silence(masters, others, self._faults.amount(kind, *PART))

    def _silent_worker(self, kind: str, stream: random.Random) -> str:
        masters, workers = self._hosts("master"), self._hosts("worker")
        if not masters or not workers:
            return ""
        return self._silence(masters, [stream.choice(workers)], self._faults.amount(kind, *SILENCE))

    def _agent_started(self, worker: str) -> None:
        """At times an agent that was just started is stopped: it never calls, or far too late."""
        kind = "lease expiry race"
        if not self._faults.rate(kind) or self._faults.stream(kind).random() > 0.03:
            return
        if process := self._world.machine(worker).service("worker"):
            process.pause()
            self._faults.struck(kind, f"the agent of {worker} is stopped")
            self._for_a_while(self._faults.amount(kind, 20.0, 600.0), process.resume)

    def _silence(self, some: list[Host], others: list[Host], seconds: float) -> str:
        heal = self._world.network.partition(some, others)

        def mend() -> None:
            heal()
            self._world.note("the network is whole again")

        self._judge.outages.append(self._judge.now)
        self._for_a_while(seconds, mend)
        names = ", ".join(host.name for host in others)
        return f"{some[0].name} from {names} for {seconds:.1f} s"

    def _reset(self, kind: str, stream: random.Random) -> str:
        """What agents and their master say to each other is cut off, and may begin anew at once."""
        workers = self._hosts("worker")
        count = len(workers) if stream.random() < 0.3 else min(1, len(workers))
        chosen = stream.sample(workers, count)
        struck = [worker.name for worker in chosen if self._cut_off(worker)]
        if struck and stream.random() < FLAPPING:
            for worker in chosen:
                self._flap(kind, worker, round(self._faults.amount(kind, 2.0, 60.0)))
        return ", ".join(struck)

    def _cut_off(self, worker: Host) -> bool:
        masters = self._hosts("master")
        return any(self._world.network.reset(worker, master) for master in masters)

    def _flap(self, kind: str, worker: Host, times: int) -> None:
        """It happens again and again."""

        def again() -> None:
            if self._faults.rate(kind):
                self._cut_off(worker)
                self._flap(kind, worker, times - 1)

        if times:
            seconds = self._faults.amount(kind, 0.05, 2.0)
            self._world.loop.call_later(seconds, again, context=outside())

    def _job_begins(self, at: float) -> None:
        """At times workers have called again, and said nothing yet, when a job's calls come."""
        kind, stream = "connection reset", self._faults.stream(BEGINNING)
        if not self._faults.rate(kind) or stream.random() > TORN:
            return

        def cut_off() -> None:
            workers = self._hosts("worker")
            if not workers or not self._faults.rate(kind):
                return
            chosen = stream.sample(workers, stream.randint(1, len(workers)))
            struck = [worker.name for worker in chosen if self._cut_off(worker)]
            self._unheard.update(struck)
            if struck:
                self._faults.struck(kind, ", ".join(struck))

        seconds = at - self._judge.now
        if seconds:
            seconds = max(0.0, seconds - stream.uniform(*SOON))
        else:
            seconds = self._faults.amount(BEGINNING, *JUST)
        self._world.loop.call_later(seconds, cut_off, context=outside())

    def _worker_connected(self, worker: str) -> None:
        """What one says that was cut off as a job began is lost at first, and sent again."""
        if worker not in self._unheard:
            return
        self._unheard.discard(worker)
        masters = self._hosts("master")
        itself = [host for host in self._hosts("worker") if host.name == worker]
        if masters and itself and self._faults.rate("connection reset"):
            self._silence(masters, itself, self._faults.amount(BEGINNING, *UNHEARD))

    def _left_alone(self) -> None:
        """At times a master's VM is stopped just after a job was left to it."""
        kind = "master vm stopped"
        stream = self._faults.stream(kind)
        if not self._faults.rate(kind) or stream.random() > BETRAYED:
            return

        def stop() -> None:
            if self._faults.rate(kind) and (whom := self._master(kind, stream)):
                self._faults.struck(kind, whom)

        seconds = self._faults.amount(kind, *LEFT)
        self._world.loop.call_later(seconds, stop, context=outside())

    def _step(self, kind: str, stream: random.Random) -> str:
        hosts = [*self._world.laptops.values(), *self._hosts("master"), *self._hosts("worker")]
        if not hosts:
            return ""
        host = stream.choice(hosts)
        seconds = self._faults.amount(kind, *STEP) * stream.choice([-1.0, 1.0])
        host.step(seconds)
        self._judge.stepped += abs(seconds)
        return f"{host.name} by {seconds:+.1f} s"


def _name(process: Process) -> str:
    return f"{process.name} on {process.host.name}"
