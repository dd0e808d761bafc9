"""A worker that the cloud takes back takes no more calls, and goes as soon as it has none."""

from __future__ import annotations

from collections.abc import Callable

from dayfly.model import UP
from tests.simulation.cloudstate import CloudState
from tests.simulation.evidence import Evidence
from tests.simulation.world import Execution

#: Seconds between two looks.
LOOK = 2.0
#: Seconds for the last outcomes to be with the master, and for the worker to be told to go.
GOES = 25.0

PROMISE = "a worker that the cloud takes back takes no more, and goes when it has nothing in hand"


class Drains:
    """Looks at workers that drain.

    Args:
        executions: All that ever ran; it grows.
        disturbed: When something happened last that may have interrupted the master or a worker.
        slack: Seconds by which the story's timers and messages are late.
        violated: Told of a worker that stays.
    """

    def __init__(
        self,
        cloud: CloudState,
        evidence: Evidence,
        executions: list[Execution],
        *,
        disturbed: Callable[[], float],
        slack: Callable[[], float],
        violated: Callable[[str, str], None],
    ) -> None:
        self._cloud = cloud
        self._evidence = evidence
        self._executions = executions
        self._disturbed = disturbed
        self._slack = slack
        self._violated = violated
        self._look_at = 0.0

    def check(self, now: float) -> None:
        """To be called after every step; most often it looks at one number."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        draining = self._evidence.draining
        for worker, since in list(draining.items()):
            if self._went(worker, since):
                del draining[worker]
            elif now - self._idle_since(worker, since, now) > GOES + self._slack():
                del draining[worker]
                self._violated(
                    PROMISE,
                    f"{worker} drains since {since:.3f} s, runs nothing, and is still there",
                )

    def _went(self, worker: str, since: float) -> bool:
        evidence = self._evidence
        ends = (*evidence.left[worker], *evidence.lost[worker])
        return self._cloud.vms[worker].state not in UP or any(at >= since for at, _ in ends)

    def _idle_since(self, worker: str, since: float, now: float) -> float:
        if not self._evidence.has_master(worker):
            return now  # nobody could tell it to go
        ends = (
            now if run.ended is None else run.ended
            for run in self._executions
            if run.instance == worker
        )
        return max(since, self._evidence.connected[worker][-1], self._disturbed(), *ends)
