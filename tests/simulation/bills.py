"""No job costs more than its ``max_cost`` and a bound.

What a job has truly cost when it is over may lie above its cap by no more than

* what all of its VMs and the master cost in the seconds in which no master could know it: until
  the first one served, in each outage of its service, and until workers that had just been
  launched were told of (:data:`TOLD`);
* what they cost in the seconds that it takes to act (:data:`SETTLE`);
* the minute that EC2 bills for each VM at the least, for those that were launched while nobody
  could know.
"""

from __future__ import annotations

from collections.abc import Callable

from dayfly.cost import all_in, bill
from dayfly.model import Tag
from tests.simulation.cloudstate import CloudState
from tests.simulation.vms import Vm

SETTLE = 10.0
TOLD = 30.0


class Bills:
    """Looks at each job that ends.

    Args:
        blind: The seconds between two moments in which no master served.
        astray: Whether a worker has no master any more, by its id: it is no job's, and goes by
            its own deadline.
        violated: Told of what costs too much.
    """

    def __init__(
        self,
        cloud: CloudState,
        *,
        blind: Callable[[float, float], float],
        astray: Callable[[str], bool],
        violated: Callable[[str, str], None],
    ) -> None:
        self._cloud = cloud
        self._blind = blind
        self._is_astray = astray
        self._violated = violated

    def over(
        self, job: str, cap: float, since: float, heard: float, now: float, slack: float
    ) -> None:
        """A job with a cap is over.

        Args:
            job: Which one.
            cap: Its ``max_cost``.
            since: When it was begun.
            heard: When a master heard of it first: what was off by then is nobody's.
            now: When it is over.
            slack: Seconds by which the story's clocks and timers are wrong.
        """
        spent = rate = minutes = 0.0
        for vm in self._cloud.vms.values():
            if not vm.token or vm.born.get(Tag.JOB, job) != job or self._astray(vm):
                continue
            hourly = all_in(vm.pool.hourly)
            cost, runs = _charge(vm, since, heard, now, hourly)
            spent += cost
            if cost:
                rate += hourly
                minutes += bill(0.0, hourly, started=True) * runs
        blind = self._blind(since, now) + TOLD + SETTLE + slack
        bound = cap + rate * blind / 3600.0 + minutes
        if spent > bound:
            self._violated(
                "no job costs more than max_cost and the stated bound",
                f"{job} has cost ${spent:.4f}, its cap is ${cap:.4f}, the bound ${bound:.4f}"
                f" (${rate:.4f} per hour, {blind:.0f} s blind)",
            )

    def _astray(self, vm: Vm) -> bool:
        return vm.born.get(Tag.ROLE) == "worker" and self._is_astray(vm.id)


def _charge(vm: Vm, since: float, heard: float, now: float, hourly: float) -> tuple[float, int]:
    cost, starts = 0.0, 0
    for begun, end in vm.runs(now):
        if end <= max(since, heard):
            continue
        starts += begun >= since
        cost += bill(end - max(begun, since), hourly, started=begun >= since)
    return cost, starts
