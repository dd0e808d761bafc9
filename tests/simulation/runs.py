"""A call runs again only for a reason, and only for somebody.

Every run of a call that is not its first must be excused, for each of its earlier runs, by one of:

* the master gave the worker of that run up, or retired it, after the run had begun, or before and
  had not heard of it again, or only just: a worker that is cut off goes on with what it holds,
  until it is told what others have meanwhile;
* the agent of that run was started anew since, and so its predecessor had died;
* the job was submitted anew since, to a master that did not know it (its VM was lost);
* the master's service was restarted since, and the worker was not back within
  ``fleet.COMEBACK``;
* a power cut cost a master the newest part of its journal since, and with it the outcome: the
  worker had let go of that when the master told it that it was kept; or before, and with it all
  that it knew of the worker, which has called none since and goes on with what it holds;
* the user asked for retries, and the run failed;
* it is by a worker that was given up before the earlier run began, or was not back in time, and
  that has heard no master since but a new one, which does not know it: it goes on with what it
  holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from dayfly.master.fleet import COMEBACK
from dayfly.master.scheduler import CLIENT_GRACE
from tests.simulation.evidence import Evidence
from tests.simulation.world import Execution

#: Seconds that a master needs to act on what it has decided.
LEISURE = 15.0
#: Seconds, beside the network's, until a worker that is heard again does as it is told.
OBEYED = 1.0


@dataclass(frozen=True)
class Death:
    """The end of a client's process: when, on which host, and its id there."""

    at: float
    host: str
    pid: int

    def of(self, client: str) -> bool:
        """Whether it is that of the client which a master calls so."""
        return client.endswith(f"@{self.host} {self.pid}")


class Runs:
    """Watches what runs.

    Args:
        executions: All that ever ran, in the order in which it began; it grows.
        torn: When a master's journal lost its newest part; it grows.
        retries: ``retries=`` of a job.
        timeout: ``timeout=`` of a job.
        violated: Told of runs without excuse.

    Attributes:
        live: Runs that have begun; whoever looks takes out what has ended.
        abandoned: How the last client of a job died, for jobs that are not detached.
    """

    def __init__(
        self,
        executions: list[Execution],
        evidence: Evidence,
        *,
        torn: list[float],
        retries: Callable[[str], int],
        timeout: Callable[[str], float | None],
        slack: Callable[[], float],
        violated: Callable[[str, str], None],
    ) -> None:
        self._executions = executions
        self._evidence = evidence
        self._torn = torn
        self._retries = retries
        self._timeout = timeout
        self._slack = slack
        self._violated = violated
        self.live: list[Execution] = []
        self._seen = 0
        self._of_call: dict[tuple[str, int], list[Execution]] = defaultdict(list)
        self.abandoned: dict[str, Death] = {}
        evidence.on_left.append(self._left)

    def check(self) -> None:
        """To be called after every step; most often it compares two numbers."""
        while self._seen < len(self._executions):
            run = self._executions[self._seen]
            self._seen += 1
            self.live.append(run)
            earlier = self._of_call[run.job, run.index]
            if earlier:
                self._excuse(run, earlier)
            earlier.append(run)
            if run.job in self.abandoned:
                self._awaited(run)

    def _excuse(self, run: Execution, earlier: list[Execution]) -> None:
        failures = 0
        for before in earlier:
            if self._excused(before, run):
                continue
            failures += self._failed(before)
            if not self._failed(before) or failures > self._retries(run.job):
                how = before.how or "still running"
                self._violated(
                    "a call runs again only if its worker was lost",
                    f"call {run.index} of {run.job} runs on {run.instance} at {run.started:.3f} s,"
                    f" and ran on {before.instance} from {before.started:.3f} s ({how})",
                )
                return

    def _failed(self, run: Execution) -> bool:
        """Whether a run counts as a try: one over its ``timeout`` was ended by its agent."""
        if run.how == "revoked":
            timeout = self._timeout(run.job)
            return timeout is not None and (run.ended or 0.0) - run.started > 0.9 * timeout
        # What could not be stored has failed, too.
        return run.how != "value" or (run.job, run.index) in self._evidence.unstored

    def _excused(self, before: Execution, run: Execution) -> bool:
        evidence, since, by = self._evidence, before.started, run.started
        if self._given_up(before.instance, since, by):
            return True
        if any(since < at <= by for at in evidence.agents[before.instance]):
            return True
        if any(since < at <= by for at in evidence.submissions[run.job]):
            return True
        if any(at <= by and not self._knows(before.instance, at, since) for at in self._torn):
            return True
        return self._went_on(run, before) or any(
            at <= by
            and not self._knows(before.instance, at, since)
            and not self._came_back(before.instance, at)
            for at in evidence.served
        )

    def _went_on(self, run: Execution, before: Execution) -> bool:
        """Whether a run is that of a worker without a master, which had the call before others."""
        evidence, worker = self._evidence, run.instance
        given_up = [at for at, _ in (*evidence.lost[worker], *evidence.left[worker])]
        missed = [at for at in evidence.served if not self._came_back(worker, at)]
        return any(
            at <= before.started
            and not self._knows(worker, at, run.started)
            and not self._turned_away(worker, at, run.started - OBEYED - self._slack())
            for at in (*given_up, *missed)
        )

    def _turned_away(self, worker: str, after: float, by: float) -> bool:
        """Whether a worker was refused between two moments by the master that served before."""
        evidence = self._evidence
        return any(
            after < at <= by and not any(after <= served <= at for served in evidence.served)
            for at in evidence.refused[worker]
        )

    def _given_up(self, worker: str, since: float, by: float) -> bool:
        """Whether a worker was given up during a run, or before it and was told nothing since."""
        evidence = self._evidence
        return any(
            at <= by and not self._knows(worker, at, since)
            for at, _ in (*evidence.lost[worker], *evidence.left[worker])
        )

    def _knows(self, worker: str, after: float, by: float) -> bool:
        """Whether a worker that has called a master since a moment does by another as it said."""
        by -= OBEYED + self._slack()
        return any(after < at <= by for at in self._evidence.connected[worker])

    def _came_back(self, worker: str, served: float) -> bool:
        """Whether a worker was there again in time after a restart of the master's service."""
        until = served + COMEBACK - self._slack()
        return any(served - 0.001 <= at <= until for at in self._evidence.connected[worker])

    def _awaited(self, run: Execution) -> None:
        """No call begins once a master that could know and be heard has had its grace."""
        evidence = self._evidence
        death = self.abandoned[run.job]
        # For all that its master can know it may be asleep: the timers bound the job.
        if any(at >= evidence.opened.get(run.job, 0.0) for at in evidence.silent):
            return
        restored = evidence.restored.get(run.job, 0.0)
        if restored > death.at:
            known = self._told(death, restored)
        else:
            known = not restored or any(restored < at <= death.at for at in evidence.here)
        connected = max(evidence.connected[run.instance], default=0.0)
        # A worker without a master cannot be told, and goes on with what it holds.
        cut_off = evidence.parted.get(run.instance, 0.0) >= connected
        if not known or cut_off:
            return
        # A master that is started again knows of the death, and gives the grace anew.
        by = max(max(death.at, restored) + CLIENT_GRACE, connected)
        if run.started > by + LEISURE + self._slack():
            self._violated(
                "nobody pays for a job that nobody awaits",
                f"call {run.index} of {run.job} begins {run.started - death.at:.1f} s after the"
                " last client of the job has died",
            )

    def _told(self, death: Death, by: float) -> bool:
        """Whether a master heard of a client's end, and has it on its disk since."""
        ends = self._evidence.ended.items()
        heard = [at for name, times in ends if death.of(name) for at in times]
        return any(death.at <= at < by for at in heard) and not any(
            death.at <= at for at in self._torn
        )

    def _left(self, worker: str, why: str) -> None:
        if why != "soft":
            return
        busy = [
            run
            for run in self._executions
            if run.instance == worker and run.ended is None and run.job not in self._evidence.over
        ]
        if busy:
            self._violated(
                "no VM is powered off under a job by its soft timer",
                f"{worker} goes by its soft timer while it runs call {busy[0].index} of"
                f" {busy[0].job}",
            )
