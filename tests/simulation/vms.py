"""What the simulated cloud knows of its instances: types and prices, each one's whole life."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from dayfly.cost import all_in, bill
from dayfly.model import UP, Instance, InstanceState

_S = InstanceState

# EC2's own state reasons: the API reference, "StateReason".
BY_USER = "Client.UserInitiatedShutdown: User initiated shutdown"
BY_GUEST = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
BY_SPOT = "Server.SpotInstanceTermination: Spot instance termination"
BY_ACCIDENT = "Server.InternalError: Internal error on launch or in the host"
FOR_WANT = "Server.InsufficientInstanceCapacity: Insufficient capacity to launch instance"

#: States that lead to nothing but an end.
OVER = frozenset({_S.SHUTTING_DOWN, _S.TERMINATED})
#: What a spot instance costs of the full price.
SPOT_SHARE = 0.35


class Type(NamedTuple):
    """An instance type.

    Attributes:
        hourly: US dollars, as it is billed.
        listed: Whether the price list has it.
    """

    vcpus: int
    hourly: float
    listed: bool = True


TYPES = {
    "t2.micro": Type(1, 0.0116),
    "t2.medium": Type(2, 0.0464),
    "t3.micro": Type(2, 0.0104),
    "t3.medium": Type(2, 0.0416),
    "m5.large": Type(2, 0.096),
    "m5.xlarge": Type(4, 0.192),
    "c5.4xlarge": Type(16, 0.68),
    # Newer than the price list.
    "m99.large": Type(2, 0.12, listed=False),
}


class Pool(NamedTuple):
    """Where instances are drawn from."""

    instance_type: str
    zone: str
    spot: bool

    def __str__(self) -> str:
        return f"{self.instance_type} {'spot' if self.spot else 'on-demand'} in {self.zone}"

    @property
    def hourly(self) -> float:
        """US dollars, as it is billed."""
        return TYPES[self.instance_type].hourly * (SPOT_SHARE if self.spot else 1.0)

    @property
    def quoted(self) -> float | None:
        """US dollars, as the price list tells."""
        return round(self.hourly, 6) if TYPES[self.instance_type].listed else None


class Moment(NamedTuple):
    """A state that was entered; ``at`` is in seconds of the loop's time."""

    at: float
    state: InstanceState
    reason: str


@dataclass
class Vm:
    """One instance: the truth, its past, and what listings tell of it.

    Attributes:
        born: The tags that it had when it came into being.
        user_data: What it was launched with.
        token: Of the launch; empty for a user's own.
        instance: As it is now.
        history: Every state that it was in, the first one first.
        views: What listings tell, by when they do, in seconds of the loop's time.
        tries: Starts so far: a new life has a new public address.
        interrupted_at: When the cloud takes it back, once it gave notice.
        following: The change of state that comes by itself.
    """

    number: int
    pool: Pool
    on_poweroff: Literal["stop", "terminate"]
    user_data: str
    born: dict[str, str]
    token: str
    instance: Instance
    history: list[Moment] = field(default_factory=list)
    views: list[tuple[float, Instance]] = field(default_factory=list)
    tries: int = 1
    interrupted_at: float | None = None
    console: str = ""
    following: asyncio.TimerHandle | None = None

    @property
    def id(self) -> str:
        return self.instance.id

    @property
    def state(self) -> InstanceState:
        return self.instance.state

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def spot(self) -> bool:
        return self.pool.spot

    def become(self, state: InstanceState, reason: str, now: float) -> None:
        """Enter a state, with the addresses that go with it."""
        private = f"10.{self.number >> 16}.{self.number >> 8 & 255}.{self.number & 255}"
        public = f"54.{self.tries & 255}.{self.number >> 8 & 255}.{self.number & 255}"
        # As EC2 tells of them: a public one once it runs, the private one as long as it exists.
        address = {_S.PENDING: "", _S.TERMINATED: "", _S.RUNNING: public}.get(state, private)
        self.instance = msgspec.structs.replace(
            self.instance,
            state=state,
            state_reason="" if state in UP else reason,
            address=address,
            private_address="" if state is _S.TERMINATED else private,
        )
        self.history.append(Moment(now, state, reason))

    def show(self, at: float) -> None:
        """Have listings tell of it as it is, from ``at`` on; never before what was earlier."""
        self.views.append((max([at, *(shown for shown, _ in self.views[-1:])]), self.instance))

    def seen(self, now: float) -> Instance | None:
        """As listings tell of it now."""
        while len(self.views) > 1 and self.views[1][0] <= now:
            del self.views[0]
        return self.views[0][1] if self.views and self.views[0][0] <= now else None

    def runs(self, now: float) -> Iterator[tuple[float, float]]:
        """From when to when it ran, each time that it was started; the last one up to now."""
        begun: float | None = None
        for moment in self.history:
            if moment.at > now:
                break
            if moment.state is _S.RUNNING:
                begun = moment.at
            elif begun is not None:
                yield begun, moment.at
                begun = None
        if begun is not None:
            yield begun, now

    def cost(self, now: float) -> float:
        """US dollars that it truly cost up to now, all in."""
        hourly = all_in(self.pool.hourly)
        return sum(bill(end - begun, hourly, started=True) for begun, end in self.runs(now))
