"""What is known of a VM: its record, and where its things lie. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from dayfly.cloud.localhost.faults import Fault
from dayfly.model import Instance, InstanceState

_S = InstanceState

#: States in which a VM's supervisor lives.
POWERED = frozenset({_S.PENDING, _S.RUNNING, _S.SHUTTING_DOWN, _S.STOPPING})

# EC2's own state reasons: the API reference, "StateReason".
BY_USER = "Client.UserInitiatedShutdown: User initiated shutdown"
BY_GUEST = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
BY_SPOT = "Server.SpotInstanceTermination"
BY_ACCIDENT = "Server.InternalError"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A VM as its folder tells of it; every change is a new value.

    Attributes:
        on_poweroff: What a ``poweroff`` inside it, or the death of its processes, makes of it.
        token: Of the launch call that made it.
        asked: How many instances that call asked for.
        boot_time: Seconds from power-on until SSH answers, at least.
        ended_at: When it was terminated.
        interrupt_at: When the cloud takes this spot instance back.
    """

    instance: Instance
    on_poweroff: Literal["stop", "terminate"]
    token: str
    asked: int
    boot_time: float = 0.0
    fault: Fault = ""
    ended_at: float = 0.0
    interrupt_at: float | None = None

    @property
    def id(self) -> str:
        """The instance's id."""
        return self.instance.id

    @property
    def state(self) -> InstanceState:
        """The instance's state."""
        return self.instance.state

    def become(self, state: InstanceState, reason: str = "") -> Record:
        """The record in another state."""
        instance = msgspec.structs.replace(self.instance, state=state, state_reason=reason)
        return msgspec.structs.replace(self, instance=instance)

    def leave(self, how: Literal["stop", "terminate"], reason: str) -> Record:
        """The record once its end is asked for; an end that is under way is not undone."""
        if self.state in (_S.SHUTTING_DOWN, _S.TERMINATED):
            return self
        if how == "terminate":
            return self.become(_S.SHUTTING_DOWN, reason)
        return self if self.state in (_S.STOPPING, _S.STOPPED) else self.become(_S.STOPPING, reason)

    def end(self, now: float, accident: str = "") -> Record:
        """The record once all of its processes are gone.

        Args:
            now: When that was.
            accident: Why, unless its end was asked for.
        """
        if self.state in (_S.TERMINATED, _S.STOPPED):
            return self
        left = self.leave(self.on_poweroff, f"{BY_ACCIDENT}: {accident}")
        left = self if self.state in (_S.SHUTTING_DOWN, _S.STOPPING) else left
        final = _S.TERMINATED if left.state is _S.SHUTTING_DOWN else _S.STOPPED
        ended = left.become(final, left.instance.state_reason)
        return msgspec.structs.replace(
            ended, ended_at=now if final is _S.TERMINATED else 0.0, interrupt_at=None
        )


@dataclass(frozen=True)
class Layout:
    """Where a VM's things lie, from outside and from within."""

    cloud: Path
    id: str

    @property
    def folder(self) -> Path:
        """All of it."""
        return self.cloud / "instances" / self.id

    @property
    def record(self) -> Path:
        """Its :class:`Record`, as JSON."""
        return self.folder / "record.json"

    @property
    def lock(self) -> Path:
        """Held by its supervisor, and says that one's process id."""
        return self.folder / "lock"

    @property
    def console(self) -> Path:
        """What it prints while booting."""
        return self.folder / "console.log"

    @property
    def user_data(self) -> Path:
        """The document that it was launched with."""
        return self.folder / "user-data"

    @property
    def root(self) -> Path:
        """Its disk."""
        return self.folder / "root"

    @property
    def home(self) -> Path:
        """The home of its one user."""
        return self.root / "home"

    def inside(self, path: str) -> Path:
        """Where an absolute path of the VM lies on this machine."""
        return self.root / path.lstrip("/")
