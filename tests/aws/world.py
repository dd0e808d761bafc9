"""What the emulated account is like beyond what moto keeps; one per test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from moto.ec2.models import ec2_backends

from tests.aws.buckets import Buckets
from tests.aws.calls import Call
from tests.aws.faults import Faults
from tests.aws.life import BY_USER, Life
from tests.aws.pools import Pools
from tests.aws.refusals import Refusal

ACCOUNT = "123456789012"
REGION = "us-east-1"
#: Seconds for which a terminated instance stays listed.
REMEMBERED = 3600.0
#: Machines are asked for their states at most this often, in seconds.
_ASK_EVERY = 0.02


@dataclass(frozen=True, kw_only=True)
class Birth:
    """An instance that needs a machine.

    Attributes:
        user_data: Decoded.
        on_poweroff: What a ``poweroff`` inside the machine does to it: ``stop`` or ``terminate``.
        public: Whether it is to have a public address.
        details: All parameters of the launch, by the names of EC2's model.
    """

    id: str
    instance_type: str
    user_data: str
    on_poweroff: str
    spot: bool
    tags: dict[str, str]
    public: bool = True
    details: dict[str, Any] = field(default_factory=dict)


class Machines(Protocol):
    """The machines behind the instances."""

    def launch(self, births: list[Birth]) -> dict[str, str]:
        """Make machines; returns instance id -> address."""
        ...

    def start(self, ids: Sequence[str]) -> None: ...

    def stop(self, ids: Sequence[str]) -> None: ...

    def terminate(self, ids: Sequence[str]) -> None: ...

    def states(self) -> dict[str, str]:
        """Instance id -> EC2's state, as the machine has it; one that is gone may be missing."""
        ...

    def console(self, instance_id: str) -> str: ...


@dataclass
class SpotRequest:
    """A one-time spot request that came with a launch."""

    id: str
    instance: str
    instance_type: str
    zone: str
    image: str
    created: float
    max_price: str = ""
    state: str = "active"
    status: str = "fulfilled"


@dataclass
class Launched:
    """A client token that was used.

    Attributes:
        digest: Of the other parameters.
        done: Set when the launch is over.
    """

    digest: str
    done: threading.Event = field(default_factory=threading.Event)
    reservation: str = ""


class World:
    """The account: its clock, its instances, its limits."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.skew = 0.0
        self.pending = self.shutting_down = self.stopping = 0.05
        self.lag = 0.0
        self.throttle = False
        self.quota_on_demand = self.quota_spot = 100_000
        self.lives: dict[str, Life] = {}
        self.pools = Pools()
        self.buckets = Buckets()
        self.faults = Faults()
        self.tokens: dict[tuple[str, str], Launched] = {}
        self.requests: dict[str, SpotRequest] = {}
        self.consoles: dict[str, str] = {}
        self.dooms: list[tuple[str, str]] = []
        self.machines: Machines | None = None
        #: Copies the disk of an instance (by id, rebooting it or not) for an image that is
        #: pending, and sees to what becomes of it; not to wait.
        self.on_image: Callable[[str, Any, bool], None] | None = None
        self.calls: list[Call] = []
        self.crashes: list[str] = []
        self.foreign_buckets: set[str] = set()
        self.writing = threading.Lock()
        self._asked = float("-inf")
        self._serial = 0

    @property
    def backend(self) -> Any:
        """moto's EC2."""
        return ec2_backends[ACCOUNT][REGION]

    def now(self) -> float:
        """The account's clock: monotonic, put forward by tests."""
        return time.monotonic() + self.skew

    def wall(self) -> float:
        return time.time() + self.skew

    def life(self, instance_id: str) -> Life:
        """Raises Refusal: there is none, or it is too new to be known everywhere."""
        return self.lives_of([instance_id])[0]

    def lives_of(self, ids: Sequence[str]) -> list[Life]:
        """Instances by id: all of them, or an error that names those that are not known."""
        for each in ids:
            if not each.startswith("i-"):
                raise Refusal("InvalidInstanceID.Malformed", f'Invalid id: "{each}"')
        known = {life.id: life for life in self.visible()}
        unknown = [each for each in ids if each not in known]
        if unknown:
            verb = "IDs" if len(unknown) > 1 else "ID"
            tail = "do not exist" if len(unknown) > 1 else "does not exist"
            raise Refusal(
                "InvalidInstanceID.NotFound", f"The instance {verb} '{', '.join(unknown)}' {tail}"
            )
        return [known[each] for each in dict.fromkeys(ids)]

    def visible(self) -> list[Life]:
        """The instances that listings show, in the order of their launch."""
        now = self.now()
        return [
            life
            for life in self.lives.values()
            if life.ready
            and now - life.born >= self.lag
            and (life.ended is None or now - life.ended < REMEMBERED)
        ]

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def forget(self, life: Life) -> None:
        """Undo a launch that came to nothing."""
        self.pools.give_back(life.pool)
        self._tear_down(life)
        self.requests.pop(life.request, None)
        del self.lives[life.id]

    def settle(self) -> None:
        """Let time pass for all instances."""
        now = self.now()
        for life in self.lives.values():
            if life.settle(now):
                self._entered(life)

    def listen(self) -> None:
        """Take in what the machines say; not under the lock, since they may be slow."""
        machines, asked = self.machines, self.now()
        if machines is None or not self.lives or asked - self._asked < _ASK_EVERY:
            return
        self._asked = asked
        told = machines.states()
        with self.lock:
            now = self.now()
            for life in self.lives.values():
                if not life.ready or life.deaf or (life.id not in told and not life.over):
                    continue
                before, was_up = life.state, life.up
                life.hear(told.get(life.id, ""), asked, now)
                if was_up and not life.up:
                    self.pools.give_back(life.pool)
                if life.state != before:
                    self._entered(life)

    def end(self, lives: Collection[Life], reason: tuple[str, str] = BY_USER) -> None:
        """Begin to terminate instances."""
        for life in lives:
            if not life.over:
                self.release(life)
                life.enter("shutting-down", self.now(), self.shutting_down, reason)

    def halt(self, lives: Collection[Life], reason: tuple[str, str] = BY_USER) -> None:
        """Begin to stop instances."""
        for life in lives:
            if life.up:
                self.release(life)
                life.enter("stopping", self.now(), self.stopping, reason)

    def release(self, life: Life) -> None:
        """Give an instance's capacity back to its pool, unless EC2 itself has taken it."""
        if life.up and not life.doom:
            self.pools.give_back(life.pool)

    def _entered(self, life: Life) -> None:
        """What follows from a change of state that nobody called for."""
        request = self.requests.get(life.request)
        for nic in life.instance.nics.values():
            if life.state in ("stopped", "terminated"):
                nic.stop()
        if life.state == "terminated":
            self._tear_down(life)
            if request is not None and request.state == "active":
                request.state = "closed"
                request.status = (
                    "instance-terminated-no-capacity"
                    if life.reclaimed
                    else "instance-terminated-by-user"
                )

    def _tear_down(self, life: Life) -> None:
        """Delete what goes with an instance, and let go of what stays."""
        backend, instance = self.backend, life.instance
        for device, block in list(instance.block_device_mapping.items()):
            volume = backend.volumes.get(block.volume_id)
            del instance.block_device_mapping[device]
            if volume is not None:
                volume.attachment = None
                if block.delete_on_termination:
                    del backend.volumes[volume.id]
        for nic in list(instance.nics.values()):
            if nic.id not in backend.enis:
                continue
            if nic.delete_on_termination:
                nic.delete()
            else:
                instance.detach_eni(nic)
        instance.nics.clear()

    def check_capacity(self, pool: tuple[str, str, bool]) -> None:
        """Refuse to start what the pool has no room for."""
        if self.pools.draw(pool, 1) == 0:
            raise Refusal(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {pool[0]} capacity in the Availability Zone "
                f"of the instance ({pool[1]}).",
            )
        self.pools.give_back(pool)

    def check_quota(self, spot: bool, wanted: int) -> None:
        """Refuse more vCPUs than the account may have.

        Spot instances count until EC2 has seen their end.
        """
        ended = ("terminated", "stopped") if spot else ("terminated", "stopped", "shutting-down")
        lives = [x for x in self.lives.values() if x.spot is spot and x.state not in ended]
        used = sum(life.vcpus for life in lives)
        if spot and used + wanted > self.quota_spot:
            raise Refusal("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
        if not spot and used + wanted > self.quota_on_demand:
            raise Refusal(
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current vCPU limit of "
                f"{self.quota_on_demand} allows for the instance bucket that the specified "
                "instance type belongs to. Please visit http://aws.amazon.com/contact-us/"
                "ec2-request to request an adjustment to this limit.",
            )
