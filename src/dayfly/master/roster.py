"""The workers as the scheduler knows them: by pool, with what each has in hand."""

from __future__ import annotations

from collections.abc import Iterator

from dayfly.master.events import Pool


class Worker:
    """One worker.

    Attributes:
        number: How ledgers name it.
        group: The workers and the open jobs of its pool.
        ready: Whether it has asked for work; until then it is on its way.
        held: Calls in its hands, of all jobs.
        jobs: The jobs whose calls it may have in hand.
        engaged: The jobs that it has taken part in.
        recalled: How many calls it has been asked to hand back, and has not answered.
        begun: The jobs of which it has begun every call that it holds.
        turn: The job that it stays with among those with as little load, until ``turn_ends``.
        draining: Whether the cloud takes it back: it is given nothing more.
        kept: Whether it is kept free of other calls, for one that is handed out alone.
        alone: That call, as its job and index, once it has it in hand.
        unfit: The jobs whose functions it cannot be given what they need.
    """

    def __init__(self, name: str, number: int, pool: Pool, group: Group) -> None:
        self.name = name
        self.number = number
        self.pool = pool
        self.group = group
        self.ready = False
        self.incarnation = ""
        self.processes = 1
        self.held = 0
        self.jobs: dict[str, None] = {}
        self.engaged: dict[str, None] = {}
        self.recalled = 0
        self.begun: set[str] = set()
        self.turn = ""
        self.turn_ends = float("-inf")
        self.draining = False
        self.kept = False
        self.alone: tuple[str, int] | None = None
        self.unfit: set[str] = set()

    @property
    def serves(self) -> bool:
        """Whether it is up, and stays."""
        return self.ready and not self.draining

    @property
    def open(self) -> bool:
        """Whether it may be given calls in company."""
        return self.serves and not self.kept

    @property
    def queued(self) -> int:
        """Calls in its hands that no process of it can be running."""
        return max(0, self.held - self.processes)


class Group:
    """The workers and the open jobs of one pool.

    Attributes:
        hungry: Open workers with a free process, the one that waits longest first.
        kept: Workers that are kept for calls that are handed out alone.
        donors: Workers with queued calls, of whom none has been asked back that is not answered.
        unfit: Workers that cannot serve each of its jobs.
        queued: The sum over workers of their queued calls.
        ready: How many workers serve.
        returning: Workers that may hold calls from before the master restarted, and until
            when they may say so.
    """

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.jobs: dict[str, None] = {}
        self.hungry: dict[str, Worker] = {}
        self.kept: dict[str, Worker] = {}
        self.donors: dict[str, Worker] = {}
        self.unfit: dict[str, Worker] = {}
        self.queued = 0
        self.ready = 0
        self.returning: dict[str, float] = {}

    def serving(self, job: str) -> int:
        """How many of them serve a job."""
        return self.ready - sum(w.serves and job in w.unfit for w in self.unfit.values())

    def staying(self, job: str) -> int:
        """How many of them serve a job, or may come to."""
        return sum(not w.draining and job not in w.unfit for w in self.workers.values())


class Roster:
    """All workers, by name, by number and by pool."""

    def __init__(self) -> None:
        self._by_name: dict[str, Worker] = {}
        self._by_number: dict[int, Worker] = {}
        self._groups: dict[Pool, Group] = {}
        self._last_number = 0
        self._leaving: dict[str, Worker] = {}

    def get(self, name: str) -> Worker | None:
        """A worker by name."""
        return self._by_name.get(name)

    def number(self, number: int) -> Worker | None:
        """A worker by its number."""
        return self._by_number.get(number)

    def group(self, pool: Pool) -> Group:
        """The workers and jobs of a pool."""
        return self._groups.get(pool) or Group()

    def groups(self) -> Iterator[Group]:
        """All pools that have a worker or a job."""
        return iter(self._groups.values())

    def open_job(self, job: str, pool: Pool) -> Group:
        """A job may be served by the workers of this pool."""
        group = self._groups.setdefault(pool, Group())
        group.jobs[job] = None
        return group

    def close_job(self, job: str, pool: Pool) -> None:
        """A job is over."""
        del self._groups[pool].jobs[job]
        self._forget_empty(pool)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._by_name.values())

    def add(self, name: str, pool: Pool) -> Worker:
        """A worker is on its way."""
        self._last_number += 1
        group = self._groups.setdefault(pool, Group())
        worker = Worker(name, self._last_number, pool, group)
        self._by_name[name] = self._by_number[worker.number] = worker
        group.workers[name] = worker
        return worker

    def remove(self, worker: Worker) -> None:
        """A worker is gone, with nothing in its hands."""
        group = worker.group
        del self._by_name[worker.name], self._by_number[worker.number]
        del group.workers[worker.name]
        group.hungry.pop(worker.name, None)
        group.kept.pop(worker.name, None)
        group.donors.pop(worker.name, None)
        group.unfit.pop(worker.name, None)
        self._leaving.pop(worker.name, None)
        group.returning.pop(worker.name, None)
        group.ready -= worker.serves
        self._forget_empty(worker.pool)

    def _forget_empty(self, pool: Pool) -> None:
        group = self._groups.get(pool)
        if group is not None and not group.workers and not group.jobs:
            del self._groups[pool]

    def set_ready(self, worker: Worker, incarnation: str, processes: int) -> None:
        """A worker has asked for work."""
        group = worker.group
        group.ready -= worker.serves
        group.queued -= worker.queued
        worker.ready = True
        group.ready += worker.serves
        worker.incarnation = incarnation
        worker.processes = max(1, processes)
        worker.recalled = 0
        worker.begun.clear()
        group.returning.pop(worker.name, None)
        group.queued += worker.queued
        self.hold(worker, 0)

    def set_away(self, worker: Worker) -> None:
        """A worker cannot be talked to; what it has in hand it keeps."""
        group = worker.group
        group.ready -= worker.serves
        worker.ready = False
        self.hold(worker, 0)

    def hold(self, worker: Worker, more: int) -> None:
        """A worker has ``more`` calls in hand than before."""
        group = worker.group
        group.queued -= worker.queued
        worker.held += more
        group.queued += worker.queued
        if worker.held <= worker.processes:
            worker.recalled = 0
        if worker.held >= worker.processes or not worker.open:
            group.hungry.pop(worker.name, None)
        elif worker.name not in group.hungry:
            group.hungry[worker.name] = worker
        self.recall(worker, worker.recalled)

    def recall(self, worker: Worker, count: int) -> None:
        """A worker is asked to hand back so many calls; it has answered when that is none."""
        worker.recalled = count
        if worker.ready and worker.queued and not count:
            worker.group.donors[worker.name] = worker
        else:
            worker.group.donors.pop(worker.name, None)

    def drain(self, worker: Worker) -> None:
        """A worker takes no more."""
        group = worker.group
        group.ready -= worker.serves
        worker.draining = True
        self._leaving[worker.name] = worker
        self.keep(worker, kept=False)

    def drained(self) -> list[Worker]:
        """Workers that drain and have said what they hold, which is nothing; told once."""
        if not self._leaving:
            return []
        found = [worker for worker in self._leaving.values() if worker.ready and not worker.held]
        for worker in found:
            del self._leaving[worker.name]
        return found

    def set_aside(self, worker: Worker, job: str, *, aside: bool = True) -> None:
        """A worker cannot serve a job of its pool, or that one is over."""
        if aside:
            worker.unfit.add(job)
            worker.group.unfit[worker.name] = worker
        else:
            worker.unfit.discard(job)
            if not worker.unfit:
                worker.group.unfit.pop(worker.name, None)

    def keep(self, worker: Worker, *, kept: bool) -> None:
        """A worker is kept for a call that is handed out alone, or not any more."""
        group = worker.group
        worker.kept, worker.alone = kept, None
        if kept:
            group.kept[worker.name] = worker
        else:
            group.kept.pop(worker.name, None)
        self.hold(worker, 0)
