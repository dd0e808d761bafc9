"""The seam to the simulated cloud, for one simulated process: the client's side of each call.

It behaves as :class:`dayfly.cloud.ec2.Ec2Cloud` does: what is refused as too much is said again,
what was launched here just now is known here, whatever listings tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from dayfly.cloud.base import Finding, Notes, Resource
from dayfly.environment.lock import Platform
from dayfly.errors import (
    ApiError,
    CapacityError,
    CloudError,
    ConfigError,
    DayflyError,
    InstanceNotFoundError,
)
from dayfly.model import Instance, InstanceSpec, InstanceState, Launch, Price, Tag
from tests.simulation.cloudstate import CloudState
from tests.simulation.lives import Times
from tests.simulation.orders import Order
from tests.simulation.surroundings import Immortal, Mortal, heavy
from tests.simulation.vms import TYPES, Pool

__all__ = ["CloudState", "SimCloud", "Times"]

#: Seconds within which a call must be taken.
DEADLINE: Final = 120.0
#: Seconds of the first and of the longest pause between two attempts, before jitter.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Seconds after a launch within which an instance that is not known is one that is not known yet.
YOUNG: Final = 60.0
#: Seconds between two attempts at what is not known yet.
LOOK: Final = 2.0
#: Instances in a page of a listing.
PAGE: Final = 100
#: Seconds that ``purge`` waits for instances to be gone.
PATIENCE: Final = 300.0
#: What is said of a launch of which nobody heard whether it was made.
NO_ANSWER: Final = "it could not be asked, or did not answer"

T = TypeVar("T")


class SimCloud:
    """The simulated form of :class:`~dayfly.cloud.base.Cloud`.

    Args:
        state: The truth.
        process: Whose calls these are; the dead call no more, and are told nothing.
        owner: Whom the account takes it for.
        notes: Where launches are written down, as on EC2; ``None``: nowhere.
        pace: See :class:`~dayfly.cloud.base.Cloud`.
    """

    def __init__(
        self,
        state: CloudState,
        process: Mortal | None = None,
        *,
        owner: str = "alice@123456789012",
        notes: Notes | None = None,
        pace: float = 1.0,
    ) -> None:
        self._state = state
        self._process: Mortal = process or Immortal()
        self._owner = owner
        self._notes = notes
        self._pace = pace
        #: What was launched here and was not listed yet, and until when that is no wonder.
        self._young: dict[str, tuple[Instance, float]] = {}

    @property
    def name(self) -> str:
        return "aws_ec2"

    @property
    def region(self) -> str:
        return "us-east-1"

    @property
    def pace(self) -> float:
        return self._pace

    async def owner(self) -> str:
        return await self._call("get_caller_identity", lambda: self._owner)

    async def platform(self, instance_type: str) -> Platform:
        await self.processes(instance_type)
        return Platform()

    async def python(self, instance_type: str) -> str:
        return ""

    async def processes(self, instance_type: str) -> int:
        if instance_type not in TYPES:
            raise ConfigError(
                f"there is no instance type {instance_type!r} in {self.region}",
                cause="InvalidInstanceType",
                hint=f"its types are {', '.join(TYPES)}",
            )
        return await self._call("describe_types", lambda: TYPES[instance_type].vcpus)

    async def launch(
        self, spec: InstanceSpec, count: int, *, minimum: int = 1, token: str
    ) -> Launch:
        for instance_type in spec.instance_types:
            await self.processes(instance_type)
        if spec.spot and spec.on_poweroff == "stop":
            raise CloudError(
                "a one-time spot instance cannot be stopped, and so not by its own shutdown",
                cause="InvalidParameterCombination",
            )
        if self._notes is not None:
            await self._notes.claim(f"{token}/wave-000", b"{}")
        self._process.check()
        order = self._state.order(token, spec, count, minimum)
        again = order.over
        while not order.over:
            await self._ask(order)
        if order.failed and not again:
            reasons = dict.fromkeys(f"{s.pool}: {s.code}: {s.message}" for s in order.shortfalls)
            raise CapacityError(
                f"{order.count} VMs ({order.spec.role}) were asked for, and at least "
                f"{order.minimum}; EC2 gave {len(order.ids)}",
                cause="; ".join(reasons),
                hint="give more types in worker_instance_type, or on_demand_fallback: True",
            )
        # What failed is over, and what is said again is not tried again.
        instances = self._collect([] if order.failed else order.ids)
        return Launch(instances=[*instances], shortfalls=order.shortfalls)

    async def _ask(self, order: Order) -> None:
        """Make the next call of a launch, or lose it or its answer on the way."""
        faults = self._state.faults
        if faults.strikes("launch lost before"):
            await asyncio.sleep(faults.amount("launch lost before", 0.1, DEADLINE))
            order.silences += 1
            raise _no_answer()
        lost = faults.strikes("ambiguous launch")
        launch = partial(self._state.run_instances, order)
        await self._call("run_instances", launch, instances=order.missing)
        if lost:
            await asyncio.sleep(faults.amount("ambiguous launch", 0.1, DEADLINE))
            order.silences += 1
            raise _no_answer()

    def _collect(self, ids: Sequence[str]) -> Iterable[Instance]:
        """The instances of a launch, as EC2 tells of them now, or told when it was made."""
        now = self._state.now
        fresh = [each for each in ids if now - self._state.vms[each].history[0].at < YOUNG]
        unseen = {each for each in fresh if not self._state.knows(each)}
        vms = [self._state.vms[each] for each in ids if each in unseen or self._state.knows(each)]
        found = [vm.seen(now) or vm.views[0][1] for vm in vms]
        self._young |= {i.id: (i, now + YOUNG) for i in found if i.id in unseen}
        return found

    async def list(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        ids: Collection[str] | None = None,
        states: Collection[InstanceState] | None = None,
    ) -> list[Instance]:
        wanted = {str(key): value for key, value in (tags or {}).items()}.items()

        def matches(instance: Instance) -> bool:
            return (
                (ids is None or instance.id in ids)
                and (states is None or instance.state in states)
                and wanted <= instance.tags.items()
            )

        listed = {i.id: i for i in await self._call("describe_instances", self._state.look)}
        found = [instance for instance in listed.values() if matches(instance)]
        for _ in range(PAGE, len(found), PAGE):
            await self._travel()
        young = [instance for instance in self._unlisted(listed) if matches(instance)]
        return sorted([*found, *young], key=lambda each: (each.launched_at, each.id))

    def _unlisted(self, listed: Collection[str]) -> Iterable[Instance]:
        now = self._state.now
        self._young = {
            each: (instance, until)
            for each, (instance, until) in self._young.items()
            if each not in listed and now < until
        }
        return [instance for instance, _ in self._young.values()]

    async def start(self, ids: Sequence[str]) -> None:
        await self._call("start_instances", lambda: self._state.start(ids))

    async def stop(self, ids: Sequence[str]) -> None:
        await self._call("stop_instances", lambda: self._state.stop(ids))

    async def terminate(self, ids: Sequence[str]) -> None:
        left = set(ids)
        while left:
            left -= set(await self._call("terminate_instances", partial(self._end, left)))
            left &= {each for each, (_, until) in self._young.items() if self._state.now < until}
            if left:  # launched here just now: left alone, it would run
                await asyncio.sleep(LOOK)

    def _end(self, ids: Collection[str]) -> Sequence[str]:
        """End what is known."""
        known = sorted(each for each in ids if self._state.knows(each))
        self._state.terminate(known)
        for each in known:
            self._young.pop(each, None)
        return known

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        deadline = self._state.now + YOUNG
        while True:
            try:
                await self._call("create_tags", lambda: self._state.tag(ids, tags))
            except InstanceNotFoundError:
                if not self._young.keys() & set(ids) or self._state.now > deadline:
                    raise
                await asyncio.sleep(LOOK)
            else:
                return

    async def console(self, instance_id: str) -> str:
        printed = await self._call(
            "describe_console", lambda: self._state.find([instance_id])[0].console
        )
        return "" if self._state.faults.strikes("console empty") else printed

    @property
    def imaging(self) -> None:
        return None

    async def admit(self) -> None:
        await self._call("describe_security_groups", lambda: None)

    async def check_consumable(self, instance: Instance) -> None:
        (vm,) = await self._call("describe_attribute", lambda: self._state.find([instance.id]))
        if vm.spot or vm.on_poweroff == "terminate":
            raise ConfigError(
                f"the VM {instance.id} cannot be consumed: a poweroff in it would delete it",
                cause="it is a spot instance, or its shutdown behaviour is terminate",
                hint="give an on-demand instance that stops in aws_ec2.instance_id",
            )

    async def prices(self, instance_types: Collection[str], *, spot: bool) -> dict[str, Price]:
        def price(name: str) -> Price:
            quoted = Pool(name, "", spot).quoted if name in TYPES else None
            return Price(hourly=quoted, source="simulated, of 2025-06-15")

        return await self._call("describe_prices", lambda: {n: price(n) for n in instance_types})

    async def examine(self, workers: int) -> Sequence[Finding]:
        return [Finding(what="the simulated cloud", verdict="ok")]

    async def aclose(self) -> None:
        pass

    async def inventory(self) -> Sequence[Resource]:
        return [
            Resource(kind="instance", id=each.id, detail=f"{each.name}, {each.state}")
            for each in await self.list(tags={Tag.MANAGED: "true", Tag.OWNER: self._owner})
            if each.state is not InstanceState.TERMINATED
        ]

    async def purge(self) -> None:
        deadline = self._state.now + PATIENCE
        while found := [each.id for each in await self.inventory()]:
            if self._state.now > deadline:
                raise CloudError(
                    f"{len(found)} things that dayfly made could not be removed",
                    cause=", ".join(found),
                    hint="dayfly clean --all again, which goes on from there",
                )
            await self.terminate(found)
            await asyncio.sleep(self._pace)

    async def _call(self, operation: str, do: Callable[[], T], *, instances: int = 0) -> T:
        """Travel there, do it at one instant unless it is one call too many, and travel back."""
        state, deadline, pause = self._state, self._state.now + DEADLINE, FIRST_PAUSE
        while True:
            await self._travel()
            if state.accepts(operation, instances):
                try:
                    answer = do()
                except DayflyError:
                    await self._travel()
                    raise
                await self._travel()
                return answer
            await self._travel()
            waits = state.stream.random() * pause
            if state.now + waits > deadline:
                raise ApiError(
                    f"AWS did not do {operation}",
                    code="RequestLimitExceeded",
                    status=503,
                    cause="RequestLimitExceeded: the account calls EC2 faster than its rate limit",
                )
            pause = min(LONGEST_PAUSE, 2.0 * pause)
            await asyncio.sleep(waits)

    async def _travel(self) -> None:
        self._process.check()
        await asyncio.sleep(heavy(self._state.stream, self._state.times.answer / 2.0))
        self._process.check()


def _no_answer() -> CloudError:
    return CloudError(
        f"AWS did not do RunInstances: {NO_ANSWER}",
        cause="ConnectionClosedError",
        hint="look at the connection of this machine",
    )
