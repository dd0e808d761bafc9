"""An instance's life on a clock: which state it is in, since when, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: EC2's code of each state.
CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
#: What a state on the way leads to.
_LEADS_TO = {"pending": "running", "stopping": "stopped", "shutting-down": "terminated"}
_RANK = {state: rank for rank, state in enumerate([*_LEADS_TO, *_LEADS_TO.values()])}

BY_USER = ("Client.UserInitiatedShutdown", "User initiated shutdown")
BY_GUEST = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
BY_SPOT = ("Server.SpotInstanceTermination", "Spot instance termination")


@dataclass
class Life:
    """One instance beyond what moto keeps of it.

    Attributes:
        instance: moto's own.
        serial: Its place in the order of launches.
        born: Seconds of the account's clock.
        since: When it entered its state.
        due: When it leaves the state by itself; ``None``: not by the clock.
        heard: What its machine said last; empty: there is none, or it has said nothing.
        doom: Code and message of a late launch failure to come.
        ready: Whether its machine is made, and so may be listed.
        deaf: Whether its machine is about to do as it was told, and what it says is of before.
        reclaimed: Whether EC2 has taken it back.
    """

    id: str
    instance: Any
    serial: int
    born: float
    pool: tuple[str, str, bool]
    vcpus: int
    token: str
    reservation: str
    profile: dict[str, str]
    details: dict[str, Any]
    request: str = ""
    state: str = "pending"
    since: float = 0.0
    due: float | None = None
    heard: str = ""
    reason: tuple[str, str] | None = None
    doom: tuple[str, str] | None = None
    ready: bool = True
    deaf: bool = False
    reclaimed: bool = False
    address: str = ""
    ended: float | None = None

    @property
    def instance_type(self) -> str:
        return self.pool[0]

    @property
    def on_poweroff(self) -> str:
        """What a ``poweroff`` inside does: ``stop`` or ``terminate``."""
        return str(self.instance.instance_initiated_shutdown_behavior)

    @property
    def up(self) -> bool:
        """Whether it takes room in its pool."""
        return self.state in ("pending", "running")

    @property
    def zone(self) -> str:
        return self.pool[1]

    @property
    def spot(self) -> bool:
        return self.pool[2]

    @property
    def over(self) -> bool:
        return self.state in ("shutting-down", "terminated")

    def enter(
        self,
        state: str,
        now: float,
        delay: float | None = None,
        reason: tuple[str, str] | None = None,
    ) -> None:
        """Go to a state; after ``delay`` the next one follows."""
        self.state, self.since, self.reason = state, now, reason
        self.due = None if delay is None else now + delay
        if state == "terminated":
            self.ended = now

    def settle(self, now: float) -> bool:
        """Let time pass; tells whether the state changed."""
        following = _LEADS_TO.get(self.state)
        if following is None or self.due is None or now < self.due:
            return False
        if self.state == "pending" and self.doom:
            self.enter("terminated", now, reason=self.doom)
            return True
        # A machine takes the time that it takes.
        if self.heard and not self._is_reached(following):
            return False
        self.enter(following, now, reason=self.reason)
        return True

    def hear(self, state: str, asked: float, now: float) -> None:
        """Take in what its machine says, unless it was asked before the last change.

        Args:
            state: By EC2's name; empty: it is gone.
            asked: When it was asked, on the account's clock.
            now: The account's clock.
        """
        if self.state == "terminated" or asked < self.since:
            return
        self.heard = state or "terminated"
        if state in ("stopping", "stopped") and self.up:
            self.enter(state, now, 0.0 if state == "stopping" else None, BY_GUEST)
        elif state in ("shutting-down", "terminated") and not self.over:
            self.enter(state, now, 0.0 if state == "shutting-down" else None, BY_GUEST)

    def _is_reached(self, state: str) -> bool:
        if self.heard == "terminated" and state == "running":
            return False
        return _RANK[self.heard] >= _RANK[state]
