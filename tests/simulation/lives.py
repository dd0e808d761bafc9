"""The lives of a simulated cloud's instances: what happens to them, by itself or by accident.

It happens outside of every simulated process, whatever becomes of whoever asked for it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from dayfly.model import UP, Instance, InstanceState
from tests.simulation.process import EPOCH, outside
from tests.simulation.surroundings import NoFaults, Strikes, heavy
from tests.simulation.vms import BY_ACCIDENT, BY_GUEST, BY_SPOT, Pool, Vm

S = InstanceState
#: Told of an instance's id, the state before (``None`` for a new one) and that which it is in.
Listener = Callable[[str, InstanceState | None, InstanceState], object]
#: Told of an instance's id and when it will be taken back, in seconds of the loop's time.
Warned = Callable[[str, float], object]

#: Seconds by which listings lag at most, where they lag.
LAG = 20.0
#: Seconds from a spot instance's notice to its end.
NOTICE = 120.0


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds that things take most often; see :func:`~tests.simulation.surroundings.heavy`.

    Attributes:
        answer: From a question to its answer.
        launch: From ``pending`` to ``running``.
        stop: From ``stopping`` to ``stopped``, where the machine does not end sooner.
        terminate: From ``shutting-down`` to ``terminated``, likewise.
        off: From a machine's own end to the cloud's noticing it.
    """

    answer: float = 0.2
    launch: float = 8.0
    stop: float = 15.0
    terminate: float = 20.0
    off: float = 1.0


class Lives:
    """All instances of one account in one region.

    Args:
        loop: Its time is true time.
        stream: For how long things take.
        faults: Which misfortunes strike.
        epoch: The date at which the loop's time is 0.
        times: How long things take.

    Attributes:
        vms: Every instance that ever was, by id, the oldest first.
        capacity: Instances that each pool has left; one that is not here has enough.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: random.Random,
        faults: Strikes | None = None,
        *,
        epoch: float = EPOCH,
        times: Times | None = None,
    ) -> None:
        self.loop = loop
        self.stream = stream
        self.faults: Strikes = faults or NoFaults()
        self.epoch = epoch
        self.times = times or Times()
        self.vms: dict[str, Vm] = {}
        self.capacity: dict[Pool, int] = {}
        self._listeners: list[Listener] = []
        self._warned: list[Warned] = []
        self._news: deque[Callable[[], object]] = deque()
        self._telling = False

    @property
    def now(self) -> float:
        """Seconds of true time, as histories count them."""
        return self.loop.time()

    @property
    def date(self) -> float:
        """Seconds since 1970, in truth."""
        return self.epoch + self.now

    def on_change(self, listener: Listener) -> None:
        """Have a listener told of each state that is entered, at that instant."""
        self._listeners.append(listener)

    def on_notice(self, listener: Warned) -> None:
        """Have a listener told of each spot notice."""
        self._warned.append(listener)

    # -- the truth --

    def up(self) -> list[Vm]:
        """The instances that run, or soon will."""
        return [vm for vm in self.vms.values() if vm.state in UP]

    def cost(self, ids: Iterable[str] | None = None) -> float:
        """US dollars that instances truly cost so far; by default all."""
        return sum(self.vms[each].cost(self.now) for each in (self.vms if ids is None else ids))

    # -- what befalls instances --

    def printed(self, instance_id: str, text: str) -> None:
        """A VM has printed something on its console."""
        self.vms[instance_id].console += text

    def powered_off(self, instance_id: str) -> None:
        """A machine has ended: by itself, or as it was told."""
        vm = self.vms[instance_id]
        if vm.state in UP:
            self.end(vm, vm.on_poweroff, BY_GUEST)
        if vm.state in (S.STOPPING, S.SHUTTING_DOWN):
            self._follow(vm, heavy(self.stream, self.times.off), self._ended)

    def interrupt(self, instance_id: str, notice: float = NOTICE) -> bool:
        """Take a spot instance back, and say so before; whether it was there to be taken."""
        vm = self.vms[instance_id]
        if not vm.spot or vm.state not in UP or vm.interrupted_at is not None:
            return False
        vm.interrupted_at = self.now + notice
        take_back = partial(self.end, vm, "terminate", BY_SPOT)
        self.loop.call_later(notice, take_back, context=outside())
        self._tell([partial(heed, vm.id, vm.interrupted_at) for heed in self._warned])
        return True

    def reclaim(self, instance_id: str) -> bool:
        """Take a spot instance back without a word; whether it was there to be taken."""
        return self.vms[instance_id].spot and self.lose(instance_id, BY_SPOT)

    def lose(self, instance_id: str, reason: str = BY_ACCIDENT) -> bool:
        """End an instance for good, at once and unannounced; whether it was up."""
        return self._cut(instance_id, S.TERMINATED, reason)

    def crash(self, instance_id: str) -> bool:
        """Have an instance lose its host: what a ``poweroff`` does, but at once."""
        stays = self.vms[instance_id].on_poweroff == "stop"
        return self._cut(instance_id, S.STOPPED if stays else S.TERMINATED, BY_ACCIDENT)

    # -- steps --

    def create(
        self,
        pool: Pool,
        tags: dict[str, str],
        on_poweroff: Literal["stop", "terminate"],
        user_data: str,
        token: str,
    ) -> Vm:
        """A new instance; to be booted, or put in a state, at once."""
        number = len(self.vms) + 1
        instance = Instance(
            id=f"i-{number:017x}",
            instance_type=pool.instance_type,
            state=S.PENDING,
            tags=dict(tags),
            launched_at=self.date,
            zone=pool.zone,
            spot=pool.spot,
            hourly=pool.quoted,
        )
        vm = Vm(number, pool, on_poweroff, user_data, dict(tags), token, instance)
        self.vms[instance.id] = vm
        return vm

    def boot(self, vm: Vm, doom: str = "") -> None:
        """Begin a life; with a ``doom``, it ends instead of coming up."""
        self.enter(vm, S.PENDING)
        takes = heavy(self.stream, self.times.launch)
        if self.faults.strikes("slow boot"):
            takes += self.faults.amount("slow boot", 20.0, 600.0)
        state = S.TERMINATED if doom else S.RUNNING
        self._follow(vm, takes, lambda vm: self.enter(vm, state, doom))

    def end(self, vm: Vm, how: Literal["stop", "terminate"], reason: str) -> None:
        """Begin an end; one for good is not undone."""
        if vm.over:
            return
        if how == "terminate":
            state, takes = S.SHUTTING_DOWN, self.times.terminate
        else:
            state, takes = S.STOPPING, self.times.stop
        self.enter(vm, state, reason)
        if vm.state is state and vm.following is None:  # no listener said that the machine is off
            self._follow(vm, heavy(self.stream, takes), self._ended)

    def enter(self, vm: Vm, state: InstanceState, reason: str = "") -> None:
        """Be in another state."""
        old = vm.state if vm.history else None
        if vm.following is not None:
            vm.following.cancel()
            vm.following = None
        vm.become(state, reason, self.now)
        if vm.pool in self.capacity:
            self.capacity[vm.pool] += (old in UP) - (state in UP)
        self.show(vm)
        self._tell([partial(listener, vm.id, old, state) for listener in self._listeners])

    def show(self, vm: Vm) -> None:
        """Have listings tell of it as it is, sooner or later."""
        lags = self.faults.strikes("listing lag")
        vm.show(self.now + (self.faults.amount("listing lag", 0.2, LAG) if lags else 0.0))

    def _ended(self, vm: Vm) -> None:
        final = S.TERMINATED if vm.state is S.SHUTTING_DOWN else S.STOPPED
        self.enter(vm, final, vm.instance.state_reason)

    def _cut(self, instance_id: str, state: InstanceState, reason: str) -> bool:
        vm = self.vms[instance_id]
        if vm.state not in UP:
            return False
        self.enter(vm, state, reason)
        return True

    def _follow(self, vm: Vm, delay: float, step: Callable[[Vm], None]) -> None:
        if vm.following is not None:
            vm.following.cancel()
        vm.following = self.loop.call_later(delay, step, vm, context=outside())

    def _tell(self, news: Iterable[Callable[[], object]]) -> None:
        """Tell of what has happened, in its order: a listener may change something itself."""
        self._news += news
        if self._telling:
            return
        self._telling = True
        try:
            while self._news:
                outside().run(self._news.popleft())
        finally:
            self._telling = False
