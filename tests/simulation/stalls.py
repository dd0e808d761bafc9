"""A job that is awaited does not stand still while a worker that could serve it has nothing to do.

Without this, a call that was lost for good would only be seen as a job that its hard timer cuts,
which is a reason that a user can know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dayfly.model import UP, Tag
from tests.simulation.cloudstate import CloudState
from tests.simulation.evidence import Evidence
from tests.simulation.vms import Vm
from tests.simulation.world import Execution

#: Seconds between two looks.
LOOK = 20.0
#: Seconds for which nothing of a job may run beside an idle worker: what calls are made of may
#: have to be read from a slow storage first, and what came of them be written to it.
STILL = 240.0

PROMISE = "a job goes on while it has workers"


class Stalls:
    """Looks at jobs that are awaited.

    Args:
        live: Runs that have begun; those that have ended are taken out.
        executions: All that ever ran; it grows.
        retries: ``retries=`` of a job.
        awaited: The jobs whose clients are alive and awake.
        disturbed: When something happened last that may have interrupted the master or a worker.
        violated: Told of a job that stands still.
    """

    def __init__(
        self,
        cloud: CloudState,
        evidence: Evidence,
        live: list[Execution],
        *,
        executions: list[Execution],
        retries: Callable[[str], int],
        awaited: Callable[[], Iterable[str]],
        disturbed: Callable[[], float],
        violated: Callable[[str, str], None],
    ) -> None:
        self._cloud = cloud
        self._evidence = evidence
        self._live = live
        self._executions = executions
        self._retries = retries
        self._awaited = awaited
        self._disturbed = disturbed
        self._violated = violated
        self._look_at = 0.0
        self._since: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    def check(self, now: float) -> None:
        """To be called after every step; most often it looks at one number."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        for run in self._live:
            if run.ended is not None:
                for who in (run.job, run.instance):
                    self._ended[who] = max(run.ended, self._ended.get(who, 0.0))
        self._live[:] = [run for run in self._live if run.ended is None]
        busy = {run.instance for run in self._live}
        active = {run.job for run in self._live}
        still = {
            job: idle
            for job in self._awaited()
            if job in self._evidence.opened
            and job not in self._evidence.over
            and job not in active
            and (idle := self._idle(job, busy))
            and not self._waits_for_another(job, idle, busy)
        }
        self._since = {job: self._since.get(job, now) for job in still}
        for job, since in self._since.items():
            ended = [self._ended.get(who, 0.0) for who in (job, still[job])]
            if now - max(since, *ended, self._disturbed()) > STILL:
                self._since[job] = now
                self._violated(
                    PROMISE, f"nothing of {job} runs for {STILL:.0f} s while {still[job]} is idle"
                )

    def _waits_for_another(self, job: str, worker: str, busy: set[str]) -> bool:
        """A call that has failed is tried elsewhere while another worker is up, busy or not."""
        return (
            bool(busy)
            and self._retries(job) > 0
            and any(
                run.job == job
                and run.instance == worker
                and run.how in ("raised", "killed", "revoked")
                for run in self._executions
            )
        )

    def _idle(self, job: str, busy: set[str]) -> str:
        """A worker that could serve a job, and does nothing."""
        for vm in self._cloud.vms.values():
            if (
                vm.state in UP
                and vm.born.get(Tag.JOB, job) == job
                and vm.id not in busy
                and self._is_connected(vm)
                and not self._evidence.left[vm.id]
            ):
                return vm.id
        return ""

    def _is_connected(self, vm: Vm) -> bool:
        came_up = max(moment.at for moment in vm.history if moment.state in UP)
        return self._evidence.has_master(vm.id, up=came_up)
