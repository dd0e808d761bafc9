"""What the master and its workers say to each other: calls under lease, and their outcomes."""

from __future__ import annotations

import msgspec

from dayfly.environment.report import EnvironmentFailure
from dayfly.model import CallOutcome, LogLine
from dayfly.phases import Phase
from dayfly.wire.frame import Message, Payload, Span

# -- worker to master --


class Ready(Message, frozen=True):
    """The standing request for work.

    Attributes:
        incarnation: Drawn anew whenever the agent starts; leases of an older one are lost.
        holding: Calls still in hand, by job, after a broken connection.
        attempts: Of those, the ones that had failed before: which attempt is in hand, by index.
    """

    incarnation: str
    processes: int
    holding: dict[str, list[Span]] = msgspec.field(default_factory=dict)
    attempts: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)


class Done(Message, frozen=True):
    """Outcomes, kept by the worker until :class:`Acknowledge` names their serial number."""

    serial: int
    job: str
    outcomes: list[CallOutcome]


class Printed(Message, frozen=True):
    """Function logs."""

    lines: list[LogLine]


class HandBack(Message, frozen=True):
    """Calls that were not started and will not be."""

    job: str
    spans: list[Span]


class Draining(Message, frozen=True):
    """The cloud takes the VM back: nothing more is started on it.

    Attributes:
        seconds: From now until it is gone.
    """

    seconds: float
    reason: str


class Phases(Message, frozen=True):
    """What took how long, each with its start in seconds before now; clients hear of it too."""

    phases: list[Phase]


class Unfit(Message, frozen=True):
    """This worker cannot be given what a job's functions need, and hands back its calls."""

    job: str
    failure: EnvironmentFailure


# -- master to worker --


class JobBrief(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker must know of a job."""

    id: str
    function: Payload
    modules: str = ""
    timeout: float | None = None
    environment: dict[str, str] = {}
    packages: str = ""
    system: list[str] = []
    reserved: list[str] = []


class Stocked(Message, frozen=True):
    """Storage has the files of an environment, as far as they can be had."""

    packages: str


class Assign(Message, frozen=True):
    """Calls under a lease: a span within one chunk of items.

    Attributes:
        brief: With the first span of a job on this connection.
        items: The span's pickled items, when they travel inline.
        key: Else the chunk's key in storage,
        chunk_start: and the index of the chunk's first item.
        attempt: How many times these calls have been run and have failed.
    """

    job: str
    span: Span
    brief: JobBrief | None = None
    items: list[bytes] = msgspec.field(default_factory=list)
    key: str = ""
    chunk_start: int = 0
    attempt: int = 0


class Revoke(Message, frozen=True):
    """Drop calls of a job, running or not; all of them when ``indices`` is ``None``."""

    job: str
    indices: list[int] | None = None


class Recall(Message, frozen=True):
    """Hand back up to ``count`` calls that have not started: another worker is idle."""

    job: str
    count: int


class Forget(Message, frozen=True):
    """The job has ended: drop its function, chunks and modules."""

    job: str


class Acknowledge(Message, frozen=True):
    """Outcomes up to this serial number are kept."""

    serial: int


class SetDeadline(Message, frozen=True):
    """The VM's own deadline, in seconds from now; ``None`` for never."""

    seconds: float | None


class PowerOff(Message, frozen=True):
    """Power the VM off, now."""

    why: str
