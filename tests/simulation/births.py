"""Every VM carries its tags from birth; a cluster has one master; a launch is made once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dayfly.model import InstanceState, Tag
from tests.simulation.cloudstate import CloudState
from tests.simulation.evidence import Evidence
from tests.simulation.vms import OVER, Vm

#: What every instance is born with, whoever launched it.
TAGS = (Tag.NAME, Tag.MANAGED, Tag.CLUSTER, Tag.ROLE, Tag.OWNER, Tag.LAUNCH, Tag.EXPIRES_AT)
#: And every worker.
WORKER_TAGS = (Tag.MODE, Tag.RUNTIME, Tag.KIND, Tag.PROCESSES)


class Births:
    """Looks at each instance that comes into being.

    Args:
        most: ``max_workers``.
        violated: Told of what is wrong with it.
    """

    def __init__(
        self,
        cloud: CloudState,
        evidence: Evidence,
        *,
        most: int,
        violated: Callable[[str, str], None],
    ) -> None:
        self._cloud = cloud
        self._evidence = evidence
        self._most = most
        self._violated = violated
        self._launched: Counter[str] = Counter()
        cloud.on_change(self._changed)

    def _changed(self, name: str, old: InstanceState | None, _: InstanceState) -> None:
        vm = self._cloud.vms[name]
        if old is not None or not vm.token:
            return
        master = vm.born.get(Tag.ROLE) == "master"
        wanted = TAGS if master else TAGS + WORKER_TAGS
        if missing := [tag.value for tag in wanted if not vm.born.get(tag.value)]:
            self._violated("every VM carries its tags from birth", f"{name} lacks {missing}")
        if master:
            self._one_master(vm)
        else:
            self._launched_once(vm)

    def _one_master(self, new: Vm) -> None:
        others = [
            vm.id
            for vm in self._cloud.vms.values()
            if vm.born.get(Tag.ROLE) == "master" and vm.state not in OVER and vm is not new
        ]
        if others:
            self._violated("a cluster has one master", f"{new.id} is launched beside {others}")

    def _launched_once(self, vm: Vm) -> None:
        """A job's workers bear its name."""
        name = vm.born.get(Tag.NAME, "")
        self._launched[name] += 1
        asked = sum(n for job, n in self._evidence.asked.items() if name.endswith(job[-6:]))
        if self._launched[name] > self._most + asked:
            self._violated(
                "a launch is made once",
                f"{vm.id} is the {self._launched[name]}th worker of {name}; it may have"
                f" {self._most}, and {asked} more were asked for",
            )
