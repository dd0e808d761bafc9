"""What happened on the way to a result: by whom, when it began, and how long it took.

Clocks of several machines do not agree, so what travels is how long ago something began: whoever
hears it dates it by a clock of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from dayfly.clock import Clock
from dayfly.environment.report import StepTaken, understand

#: Who does something; a worker goes by its instance's id.
CLIENT, MASTER = "client", "master"
#: What every VM goes through.
BOOT, SSH, PLAN, SENT = "boot until SSH", "SSH", "installation made ready", "dayfly sent"
SERVICE = "service started"
#: What is said before the steps of the environment of functions, and what it waits for.
OWN, STOCKED = "functions: ", "functions: packages awaited"
BEGUN = "functions: installation begun"
#: What apt-get does.
SYSTEM = "functions: packages of the system"
#: And before those that the client has taken, while the master was on its way.
AHEAD = "ahead: "
#: How functions come to run in a container.
ENGINE, IMAGE = "functions: container engine", "functions: container image"
CONTAINER = "functions: first container"
#: What every job does.
RUNNER, FIRST_CALL, DELIVERY = "runner ready", "first call", "outcome delivered"
#: The steps of an environment that are worth telling, in words.
STEPS: Final = {
    "lock": "environment awaited",
    "python": "interpreter",
    "fetch": "packages fetched",
    "install": "packages installed",
    "check": "packages checked",
    "deposit": "packages kept in storage",
}
#: Seconds within which whoever waits for nobody has taken a lock.
NOTHING = 0.05
#: Phases that are remembered: those of a thousand workers, a few times.
MOST = 50_000


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Something that took its time.

    Attributes:
        who: ``client``, ``master``, or the id of a worker's instance.
        what: In words.
        start: When it began, in seconds of some clock.
        seconds: How long it took.
    """

    who: str
    what: str
    start: float
    seconds: float

    @property
    def end(self) -> float:
        """When it ended."""
        return self.start + self.seconds

    def later(self, seconds: float) -> Phase:
        """The same by a clock that is ahead."""
        return msgspec.structs.replace(self, start=self.start + seconds)


class Timeline:
    """Phases, in the order in which they ended or were heard of.

    Args:
        clock: Dates them, by its monotonic scale.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._phases: deque[Phase] = deque(maxlen=MOST)

    def add(self, who: str, what: str, since: float, until: float | None = None) -> None:
        """Something that began at ``since`` is over now, or was at ``until``."""
        until = self.clock.monotonic() if until is None else until
        phase = Phase(who=who, what=what, start=since, seconds=max(0.0, until - since))
        self._phases.append(phase)

    def add_next(self, who: str, what: str) -> None:
        """What began when the last one ended is over now; nothing follows where there is none."""
        if self._phases:
            self.add(who, what, self._phases[-1].end)

    @contextmanager
    def during(self, who: str, what: str) -> Iterator[None]:
        """Something is done; what fails did not take place."""
        since = self.clock.monotonic()
        yield
        self.add(who, what, since)

    def between(self, since: float, until: float) -> list[Phase]:
        """What went on in some time, the earliest first."""
        found = [each for each in self._phases if each.end > since and each.start < until]
        return sorted(found, key=lambda phase: phase.start)

    def take(self) -> list[Phase]:
        """All of them, for another machine: they start so many seconds before now."""
        phases = [phase.later(-self.clock.monotonic()) for phase in self._phases]
        self._phases.clear()
        return phases

    def hear(self, phases: Sequence[Phase]) -> None:
        """What another machine has just told."""
        self._phases.extend(phase.later(self.clock.monotonic()) for phase in phases)


class Steps:
    """Dates the steps of an installation as their lines come.

    Args:
        timeline: Where they are put.
        who: On which VM.
        what: Of which environment; empty: dayfly's own.
    """

    def __init__(self, timeline: Timeline, who: str, what: str = "") -> None:
        self._timeline = timeline
        self._who = who
        self._what = what
        self._last = timeline.clock.monotonic()
        self._begun = False

    def hear(self, line: str | bytes) -> None:
        """A line came."""
        said = understand(line)
        if not isinstance(said, StepTaken):
            return
        since = self._timeline.clock.monotonic() - said.seconds
        if not self._begun:
            self._begun = True
            sent = BEGUN if self._what == OWN else self._what + SENT
            self._timeline.add(self._who, sent, self._last, since)
        self._last = self._timeline.clock.monotonic()
        if said.step in STEPS and (said.step != "lock" or said.seconds > NOTHING):
            self._timeline.add(self._who, self._what + STEPS[said.step], since)

    def end(self) -> None:
        """The service is up, which was started after them."""
        self._timeline.add(self._who, SERVICE, self._last)
