"""What is left where nothing should be: once timers have fired, of killed clients, by ``clean``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dayfly.cloud.base import Resource
from dayfly.model import UP, Tag
from dayfly.model import InstanceState as S
from dayfly.storage import keys
from tests.simulation.evidence import Evidence
from tests.simulation.knobs import Knobs
from tests.simulation.machine import JOURNAL
from tests.simulation.replay import adopted
from tests.simulation.vms import OVER
from tests.simulation.world import World


class Remains:
    """Looks for what is left at the end of a story.

    Args:
        orphans: Jobs whose client died at some time, and on which laptop; it grows.
        violated: Told of what is left.
    """

    def __init__(
        self,
        world: World,
        knobs: Knobs,
        evidence: Evidence,
        *,
        orphans: Mapping[str, str],
        violated: Callable[[str, str], None],
    ) -> None:
        self._world = world
        self._knobs = knobs
        self._evidence = evidence
        self._orphans = orphans
        self._violated = violated

    def timers_have_fired(self, up: Sequence[str]) -> None:
        """Nothing should be up any more, but what has never booted; no worker keeps its disk."""
        left = [name for name in up if self._world.booted_at(name) is not None]
        if left:
            self._violated("nothing is up once all timers have fired", f"up: {', '.join(left)}")
        workers = [v for v in self._world.cloud.vms.values() if v.born.get(Tag.ROLE) == "worker"]
        kept = [vm.id for vm in workers if vm.state in (S.STOPPING, S.STOPPED)]
        if kept and self._knobs.delete:
            self._violated("nothing is left once all timers have fired", f"stopped: {kept}")

    def swept(self, late: Sequence[str], since: float, what: str) -> None:
        """A later client has come and gone: it should have ended these workers' lives.

        Args:
            late: Which ones.
            since: When it came; it may have started them anew, which is another life.
            what: Which ones, in words.
        """
        vms = [self._world.cloud.vms[name] for name in late]
        left = [
            vm.id
            for vm in vms
            if vm.state in UP
            and vm.born.get(Tag.ROLE) == "worker"
            and not any(moment.at > since for moment in vm.history)
        ]
        if left:
            self._violated(f"a later client ends {what}", f"up: {', '.join(left)}")

    def cleaned(self, left: list[Resource], *, everything: bool) -> None:
        """``clean`` has returned: what the truth says of that."""
        promise = "clean leaves nothing behind"
        vms = [vm for vm in self._world.cloud.vms.values() if vm.token and vm.state not in OVER]
        if not everything:
            vms = [vm for vm in vms if vm.born.get(Tag.ROLE) == "worker"]
        if vms:
            self._violated(promise, f"VMs: {[f'{vm.id} is {vm.state}' for vm in vms]}")
        if left and everything:
            self._violated(promise, f"it lists {left[:3]}")
        prefixes = (
            ("",) if everything else [each.removeprefix(keys.ROOT) for each in keys.TEMPORARY]
        )
        found = [
            key
            for key in self._world.storage.objects
            if any(key.partition("/")[2].partition("/")[2].startswith(each) for each in prefixes)
        ]
        if found:
            self._violated(promise, f"objects: {sorted(found)[:5]}")

    def deserted(self) -> dict[str, str]:
        """Workers of ``create`` mode whose client died before it could tell a master of them.

        A master that was told lets them go with their job, unless ``auto_dismantle`` is off:
        then they stay, whether they have come up yet or not.

        Returns:
            The laptop of that client, by the worker's id.
        """
        found = {}
        stay = set() if self._knobs.auto else self._adopted()
        for vm in self._world.cloud.up():
            job = vm.born.get(Tag.JOB, "")
            evidence = self._evidence
            open_ = job in evidence.opened and job not in evidence.over
            known = evidence.connected[vm.id] or evidence.lost[vm.id] or evidence.left[vm.id]
            if job in self._orphans and not open_ and not known and vm.id not in stay:
                found[vm.id] = self._orphans[job]
        return found

    def _adopted(self) -> set[str]:
        """The instances that masters were told of, whether these are up or not."""
        disks = [machine.disk for machine in self._world.machines.values()]
        return {name for disk in disks for name in adopted(disk / JOURNAL)}
