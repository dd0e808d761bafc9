"""How many workers a job lacks, and their launch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from dayfly.client.ascent import consumed
from dayfly.client.cluster import Cluster
from dayfly.errors import CapacityError, NoWorkersError
from dayfly.model import ExecMode, Instance, JobSpec, Launch, WorkerRow

#: Phases of a worker that can take, or will soon take, the calls of a new job.
FREE = frozenset({"connecting", "installing", "starting", "idle"})


def wanted(calls: int, processes: int, most: int) -> int:
    """Workers that a job of ``calls`` needs: ``min(most, ceil(calls / processes))``."""
    return max(1, min(most, -(-calls // processes)))


def missing(spec: JobSpec, rows: list[WorkerRow], most: int) -> int:
    """Workers to launch beside those that the master has.

    Args:
        spec: The job.
        rows: The master's workers.
        most: ``max_workers``, which counts busy workers too.
    """
    if spec.mode is ExecMode.CREATE:
        return spec.wanted
    there = _alike(spec, rows)
    free = sum(row.phase in FREE for row in there)
    return max(0, min(spec.wanted - free, most - len(there)))


def alike(spec: JobSpec, rows: list[WorkerRow]) -> list[str]:
    """The ids of the master's workers that may serve a job beside others."""
    return [row.instance for row in _alike(spec, rows)] if spec.mode is ExecMode.REUSE else []


def _alike(spec: JobSpec, rows: list[WorkerRow]) -> list[WorkerRow]:
    return [
        row
        for row in rows
        if row.role == "worker"
        and row.mode == spec.mode.value
        and row.runtime == spec.runtime
        and row.kind == spec.kind
        and row.phase not in {"draining", "lost", "leaving"}
    ]


def kind_of(processes: Mapping[str, int]) -> str:
    """Workers in words, by their types in order of preference: ``t3.medium x 2 + m5.large x 2``.

    It is a tag, and those hold 256 characters at most.
    """
    words = " + ".join(f"{name} x {count}" for name, count in processes.items())
    if len(words) <= 256:
        return words
    return f"{len(processes)} types {hashlib.sha256(words.encode()).hexdigest()[:16]}"


class Supplied(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch for a job brought: instances for the master, words for the user.

    Attributes:
        tokens: Of the launches, to be settled once the master has the instances.
        warm: Ids of the master and those of its workers that serve already: they are kept longer.
    """

    instances: list[Instance] = []
    notice: str = ""
    tokens: list[str] = []
    warm: list[str] = []


@dataclass
class Supply:
    """The workers of one job: launched in rounds, the first and then for those lost.

    Attributes:
        processes: Parallel processes, by instance type in order of preference.
        series: Tells the launches of one client from those of another for the same job, whose
            replay launches nothing new. The first one's has no name.
        spared: Workers that went for no fault of the job, as when the cloud took them back.
    """

    cluster: Cluster
    spec: JobSpec
    processes: Mapping[str, int]
    series: str = ""
    rounds: int = 0
    launched: list[str] = field(default_factory=list)
    spared: int = 0

    @property
    def budget(self) -> int:
        """Workers that may still be launched.

        Each may be replaced twice on average, and three times more: that many go with a call that
        takes machines down, before it is known.
        """
        return max(0, 3 * self.spec.wanted + 3 + self.spared - len(self.launched))

    @property
    def fits(self) -> bool:
        """Whether what is launched here is what the job asks for."""
        return self.spec.mode is ExecMode.CONSUME or kind_of(self.processes) == self.spec.kind

    async def launch(self, count: int, *, others: bool) -> Supplied:
        """Launch ``count`` workers, or as many as can be had.

        Args:
            count: How many.
            others: Whether the job has other workers, so that none at all is no error.

        Raises:
            NoWorkersError: None could be had, and there are no others.
        """
        count = min(count, self.budget)
        if count <= 0:
            return Supplied()
        round_, self.rounds = f"{self.series}{self.rounds}", self.rounds + 1
        try:
            token, launch = await self.cluster.launches.workers(
                self.spec, self.processes, count, round_
            )
        except CapacityError as error:
            if others:
                return Supplied(notice=f"no further worker could be had: {error.what}")
            raise NoWorkersError(
                f"job {self.spec.id}: none of {count} workers could be had",
                cause=f"{error.what} {error.cause}".strip(),
                hint=error.hint or "try again later, or another worker_instance_type",
            ) from error
        self.launched += [instance.id for instance in launch.instances]
        return Supplied(instances=launch.instances, notice=_report(launch, count), tokens=[token])

    async def take_over(self, most: int) -> Supplied:
        """The workers that a client was about to launch when it was killed, up to ``most``."""
        if self.spec.mode is not ExecMode.REUSE or most <= 0:
            return Supplied()
        made = await self.cluster.launches.take_over(self.spec, most)
        return Supplied(
            instances=[instance for launch in made.values() for instance in launch.instances],
            tokens=list(made),
        )

    async def adoptable(self) -> list[Instance]:
        """Workers that are up already, to be handed to a master that does not know them."""
        return await self.cluster.idle_workers(self.spec)

    def unclaimed(self, instances: Iterable[Instance]) -> list[str]:
        """Those that were launched for this job, and that nobody else would end for a while."""
        if self.spec.mode is not ExecMode.REUSE or not self.spec.policy.auto:
            return []  # create mode ends its own with the job
        return [instance.id for instance in instances if instance.id in self.launched]

    def itself(self, instance: Instance) -> Instance:
        """The VM of consume mode, as the worker of its own job."""
        return consumed(instance, self.spec.runtime, self.spec.processes)


def _report(launch: Launch, asked: int) -> str:
    if len(launch.instances) >= asked:
        return ""
    pools = "; ".join(
        f"{s.pool} gave {s.got} of {s.asked}: {s.code} ({s.message})" for s in launch.shortfalls
    )
    return f"running with {len(launch.instances)} of {asked} workers: {pools}"
