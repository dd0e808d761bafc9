"""The truth about a simulated cloud, shared by all who use it: EC2's side of each call.

Each step is taken at one instant of the loop's time.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from dayfly.errors import ApiError, CloudError, InstanceNotFoundError
from dayfly.model import UP, Instance, InstanceSpec, InstanceState, Tag
from tests.simulation.lives import Lives, Times
from tests.simulation.orders import STALE, Order, pools_of
from tests.simulation.process import EPOCH
from tests.simulation.requestlimits import LIMITS, RequestLimits
from tests.simulation.surroundings import Strikes
from tests.simulation.vms import BY_USER, FOR_WANT, OVER, Pool, Vm

S = InstanceState

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
#: Seconds for which listings tell of an instance that is terminated (EC2: "usually one hour").
MEMORY = 3600.0


class CloudState(Lives):
    """All instances, launches and request limits of one account in one region.

    Args:
        loop: Its time is true time.
        stream: For how long things take, and where instances come from.
        faults: Which misfortunes strike.
        epoch: The date at which the loop's time is 0.
        times: How long things take.
        zones: Where there are instances.
        limits: Requests that are taken (:data:`~tests.simulation.requestlimits.LIMITS`).

    Attributes:
        orders: Every launch, by its token.
        throttled_until: When others on this account leave it room for calls again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: random.Random,
        faults: Strikes | None = None,
        *,
        epoch: float = EPOCH,
        times: Times | None = None,
        zones: Sequence[str] = ZONES,
        limits: Mapping[str, tuple[float, float]] = LIMITS,
    ) -> None:
        super().__init__(loop, stream, faults, epoch=epoch, times=times)
        self.zones = zones
        self.orders: dict[str, Order] = {}
        self._limits = RequestLimits(limits)
        self.throttled_until = 0.0
        self._dry_until: dict[tuple[str, bool], float] = {}

    def accepts(self, operation: str, instances: int = 0) -> bool:
        """Whether a call is taken, and not refused as one too many."""
        if self.faults.strikes("throttled"):
            # Somebody else calls on this account.
            busy = self.faults.amount("throttled", 0.5, 200.0)
            self.throttled_until = max(self.throttled_until, self.now + busy)
        if self.now < self.throttled_until:
            return False
        tokens = {operation: 1.0} | ({"instances": float(instances)} if instances else {})
        return self._limits.take(self.now, tokens)

    # -- launches --

    def order(self, token: str, spec: InstanceSpec, count: int, minimum: int) -> Order:
        """The launch of this token, as it was first said."""
        found = self.orders.get(token)
        if found is None:
            turn = self.stream.randrange(len(self.zones))
            zones = [*self.zones[turn:], *self.zones[:turn]]
            pools = pools_of(spec, zones)
            found = Order(token, spec, count, minimum, self.now, pools)
            self.orders[token] = found
        elif self.now - found.at > STALE:
            found.pools.clear()
        return found

    def run_instances(self, order: Order) -> None:
        """Make the next call of a launch, unless somebody else has made its last one."""
        if order.over:
            return
        spec, pool, asked = order.spec, order.pools.pop(0), order.missing
        room, doom = self._draw_room(pool, asked)
        tags = {**spec.tags, **spec.type_tags.get(pool.instance_type, {})}
        tags[Tag.LAUNCH.value] = order.token[:64]
        if pool.quoted is not None:
            tags[Tag.HOURLY.value] = f"{pool.quoted:g}"
        new = [
            self.create(pool, tags, spec.on_poweroff, spec.user_data, order.token)
            for _ in range(room)
        ]
        order.answer(pool, asked, [vm.id for vm in new])
        for vm in new:
            self.boot(vm, doom)
        if order.failed:
            self.terminate(order.ids)

    def add_users_vm(
        self,
        name: str = "mine",
        instance_type: str = "t3.medium",
        *,
        on_poweroff: Literal["stop", "terminate"] = "stop",
        running: bool = False,
        **tags: str,
    ) -> Instance:
        """A VM that the user made without us, listed at once; stopped unless it is ``running``."""
        pool = Pool(instance_type, self.zones[0], spot=False)
        vm = self.create(pool, {"Name": name, **tags}, on_poweroff, "", "")
        self.enter(vm, S.RUNNING if running else S.STOPPED)
        vm.views = [(self.now, vm.instance)]
        return vm.instance

    # -- instances that exist --

    def look(self) -> list[Instance]:
        """What a listing tells now."""
        return [found for vm in self.vms.values() if (found := self._seen(vm)) is not None]

    def knows(self, instance_id: str) -> bool:
        """Whether calls that name this instance find it."""
        return instance_id in self.vms and self._seen(self.vms[instance_id]) is not None

    def find(self, ids: Iterable[str]) -> list[Vm]:
        """The instances of these ids.

        Raises:
            InstanceNotFoundError: One is not known, or not yet.
        """
        wanted = list(dict.fromkeys(ids))
        if unknown := [each for each in wanted if not self.knows(each)]:
            raise InstanceNotFoundError(
                f"EC2 knows no such instance: {', '.join(unknown)}",
                cause="InvalidInstanceID.NotFound",
                hint="dayfly worker list",
            )
        return [self.vms[each] for each in wanted]

    def start(self, ids: Iterable[str]) -> None:
        """Start stopped instances, all or none."""
        vms = self.find(ids)
        _refuse("start", vms, OVER | {S.STOPPING})
        stopped = [vm for vm in vms if vm.state is S.STOPPED]
        for vm in stopped:
            if not self._draw_room(vm.pool, 1, late=False)[0]:
                raise ApiError(
                    f"EC2 cannot start {vm.id} now",
                    code="InsufficientInstanceCapacity",
                    status=500,
                    cause=f"InsufficientInstanceCapacity: there is no {vm.pool}",
                    hint="try again in some minutes",
                )
        for vm in stopped:
            vm.tries += 1
            vm.instance = msgspec.structs.replace(vm.instance, launched_at=self.date)
            self.boot(vm)

    def stop(self, ids: Iterable[str]) -> None:
        """Stop instances, all or none; their disks are kept."""
        vms = self.find(ids)
        if spot := [vm.id for vm in vms if vm.spot]:
            raise CloudError(
                f"{', '.join(spot)}: a one-time spot instance cannot be stopped, only terminated",
                cause="UnsupportedOperation",
            )
        _refuse("stop", vms, OVER)
        for vm in vms:
            if vm.state in UP:
                self.end(vm, "stop", BY_USER)

    def terminate(self, ids: Iterable[str]) -> None:
        """End instances for good; what ends already is left alone."""
        for each in ids:
            self.end(self.vms[each], "terminate", BY_USER)

    def tag(self, ids: Iterable[str], tags: Mapping[str, str]) -> None:
        """Add or replace tags, of all or none."""
        new = {str(key): value for key, value in tags.items()}
        for vm in self.find(ids):
            vm.instance = msgspec.structs.replace(vm.instance, tags=vm.instance.tags | new)
            self.show(vm)

    def _seen(self, vm: Vm) -> Instance | None:
        if vm.state is S.TERMINATED and self.now - vm.history[-1].at > MEMORY:
            return None
        return vm.seen(self.now)

    def _draw_room(self, pool: Pool, asked: int, *, late: bool = True) -> tuple[int, str]:
        """How many a pool gives, and why they will end instead of coming up."""
        faults, market = self.faults, (pool.instance_type, pool.spot)
        if self.now < self._dry_until.get(market, 0.0):
            return 0, ""
        room = max(0, min(asked, self.capacity.get(pool, asked)))
        if room and faults.strikes("no capacity"):
            # One time in four EC2 promises what it then cannot keep.
            if late and faults.amount("no capacity", 1.0, math.exp(4.0)) < math.e:
                return room, FOR_WANT
            self._dry_until[market] = self.now + faults.amount("no capacity", 1.0, 600.0)
            return 0, ""
        if room > 1 and faults.strikes("some capacity"):
            self._dry_until[market] = self.now + faults.amount("some capacity", 1.0, 600.0)
            return min(room - 1, int(faults.amount("some capacity", 1.0, room))), ""
        return room, ""


def _refuse(doing: str, vms: Iterable[Vm], states: Iterable[InstanceState]) -> None:
    if wrong := [f"{vm.id} is {vm.state}" for vm in vms if vm.state in states]:
        raise CloudError(
            f"EC2 does not {doing} it: {', '.join(wrong)}", cause="IncorrectInstanceState"
        )
