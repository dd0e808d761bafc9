"""What the client, the master and the workers say to each other: values <-> bytes.

A websocket frame is a MessagePack array of messages. The types are closed unions per direction, so
a frame that holds anything else is refused when it is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from dayfly.environment.report import EnvironmentFailure
from dayfly.model import (
    CallOutcome,
    DismantlePolicy,
    Instance,
    JobRow,
    JobSpec,
    JobState,
    LogLine,
    Registry,
    WorkerRow,
)
from dayfly.wire.frame import Message as Message
from dayfly.wire.frame import Payload as Payload
from dayfly.wire.frame import Span as Span
from dayfly.wire.leases import Acknowledge as Acknowledge
from dayfly.wire.leases import Assign as Assign
from dayfly.wire.leases import Done as Done
from dayfly.wire.leases import Draining as Draining
from dayfly.wire.leases import Forget as Forget
from dayfly.wire.leases import HandBack as HandBack
from dayfly.wire.leases import JobBrief as JobBrief
from dayfly.wire.leases import Phases as Phases
from dayfly.wire.leases import PowerOff as PowerOff
from dayfly.wire.leases import Printed as Printed
from dayfly.wire.leases import Ready as Ready
from dayfly.wire.leases import Recall as Recall
from dayfly.wire.leases import Revoke as Revoke
from dayfly.wire.leases import SetDeadline as SetDeadline
from dayfly.wire.leases import Stocked as Stocked
from dayfly.wire.leases import Unfit as Unfit

#: Raised by one whenever a message changes its meaning or its shape.
PROTOCOL = 5

#: Functions, chunks of items and outcomes up to this many bytes travel inline; larger ones
#: go through storage.
INLINE_LIMIT = 64 * 1024


# -- the handshake: either side proves that it holds the secret, and neither says it --


class Hello(Message, frozen=True):
    """First word of whoever connects."""

    protocol: int
    role: str
    name: str
    nonce: bytes


class Challenge(Message, frozen=True):
    """The master's proof, over the caller's nonce, and its own nonce."""

    nonce: bytes
    proof: bytes


class Proof(Message, frozen=True):
    """The caller's proof, over the master's nonce."""

    proof: bytes


class Welcome(Message, frozen=True):
    """The door is open.

    Attributes:
        package: Digest of the dayfly that the master runs.
        journal: Names what numbers the deliveries: another one on another disk, and after each
            boot, since a power cut may have cost the journal its last moments.
    """

    instance: str
    package: str
    journal: str = ""


class Refused(Message, frozen=True):
    """The door, or one request, is refused; ``code`` names a class of :mod:`dayfly.errors`."""

    code: str
    reason: str
    request: int = 0
    job: str = ""


# -- client to master --


class Submit(Message, frozen=True):
    """A new job. Its items follow in :class:`Items`, closed by :class:`ItemsEnd`.

    Attributes:
        modules: Key of an archive of local modules; empty for none.
    """

    spec: JobSpec
    function: Payload
    modules: str = ""


class Items(Message, frozen=True):
    """The next ``count`` items: inline, one pickle each, or a chunk in storage.

    A chunk in storage is the MessagePack array of the same pickles.
    """

    job: str
    start: int
    count: int
    data: list[bytes] = msgspec.field(default_factory=list)
    key: str = ""


class ItemsEnd(Message, frozen=True):
    """No more items follow."""

    job: str
    total: int


class Adopt(Message, frozen=True):
    """Instances that the client launched or found: from now on the master's own.

    Attributes:
        job: The job that they were made for, in ``create`` mode; else empty.
        registry: Where those that run container images have them from.
    """

    instances: list[Instance]
    policy: DismantlePolicy
    job: str = ""
    registry: Registry | None = None


class Ended(Message, frozen=True):
    """The cloud tells that an instance has ended, and why."""

    instance: str
    reason: str


class AskAgain(Message, frozen=True):
    """Ask for the workers that a job still lacks: the client was launching when it was asked last.

    What it launched has been handed over before, so that the master can tell.
    """

    job: str


class Cancel(Message, frozen=True):
    """Stop a job, or some of its calls."""

    job: str
    indices: list[int] | None = None


class Follow(Message, frozen=True):
    """Send me the job's outcomes whose delivery number is above ``after``, now and later."""

    job: str
    after: int = 0


class Release(Message, frozen=True):
    """I hold every outcome of this job."""

    job: str


class FollowLogs(Message, frozen=True):
    """Send me function logs, of one job or of all that run; ``past`` asks for those so far too."""

    job: str = ""
    past: bool = False


class ListJobs(Message, frozen=True):
    """Answered by :class:`Jobs`."""

    request: int


class ListWorkers(Message, frozen=True):
    """Answered by :class:`Workers`."""

    request: int


class Describe(Message, frozen=True):
    """Answered by :class:`Described`, or refused where the job's outcomes are not held."""

    request: int
    job: str


class ReadLogs(Message, frozen=True):
    """Answered by :class:`Logs` with the same ``request``."""

    request: int
    job: str


# -- master to client --


class Delivery(Message, frozen=True):
    """Outcomes of a job, numbered from 1 without gaps."""

    job: str
    number: int
    outcomes: list[CallOutcome]


class Logs(Message, frozen=True):
    """Function logs."""

    lines: list[LogLine]
    request: int = 0


class JobStatus(Message, frozen=True):
    """How a job stands: pushed to its followers when it changes.

    Attributes:
        running: Calls in the hands of workers.
        ready: Workers that can take its calls.
        coming: Workers on their way.
        waiting: What is being waited for, in words; empty while calls run.
        cost: US dollars of its VMs so far; ``None`` where no price is known.
        hourly: By how many dollars per hour that grows now.
        total: Calls in all; ``None`` while the items are still being read.
    """

    job: str
    done: int
    running: int
    ready: int
    coming: int
    waiting: str = ""
    cost: float | None = None
    hourly: float = 0.0
    total: int | None = None


class JobEnded(Message, frozen=True):
    """The job's last word, after its last delivery.

    Attributes:
        error: For FAILED, the class of :mod:`dayfly.errors` to raise.
        failure: The parts of ``reason``, where that is an ``EnvironmentFailedError``.
        after: The number of the last delivery; whoever has fewer follows again.
        cost: US dollars of its VMs; ``None`` where no price is known.
        total: Calls in all; ``None`` when its items had not all come.
    """

    job: str
    state: JobState
    after: int
    error: str = ""
    reason: str = ""
    failure: EnvironmentFailure | None = None
    cost: float | None = None
    total: int | None = None


class WorkersNeeded(Message, frozen=True):
    """Workers of this job are lost and calls remain: only the client may launch.

    Attributes:
        spared: Workers that went for no fault of the job's other calls since this was said last:
            they do not count against what may be launched for it.
    """

    job: str
    count: int
    reason: str
    spared: int = 0


class Notice(Message, frozen=True):
    """Something that the user should read; ``level`` as in :mod:`logging`.

    Attributes:
        lost: The instance that the master has given up, which the client may end.
        silent: Whether that one never answered.
    """

    level: str
    text: str
    job: str = ""
    lost: str = ""
    silent: bool = False


class Described(Message, frozen=True):
    """Answer to :class:`Describe`.

    Attributes:
        total: Calls in all; ``None`` while the items are still being read.
    """

    request: int
    spec: JobSpec
    total: int | None = None


class Jobs(Message, frozen=True):
    """Answer to :class:`ListJobs`."""

    request: int
    rows: list[JobRow]


class Workers(Message, frozen=True):
    """Answer to :class:`ListWorkers`: the master itself comes first."""

    request: int
    rows: list[WorkerRow]


FromClient: TypeAlias = (
    Submit
    | Items
    | ItemsEnd
    | Adopt
    | Ended
    | AskAgain
    | Cancel
    | Follow
    | Release
    | FollowLogs
    | Describe
    | ListJobs
    | ListWorkers
    | ReadLogs
)
ToClient: TypeAlias = (
    Delivery
    | Logs
    | JobStatus
    | JobEnded
    | WorkersNeeded
    | Notice
    | Described
    | Jobs
    | Workers
    | Phases
    | Refused
)
FromWorker: TypeAlias = Ready | Done | Printed | HandBack | Draining | Phases | Unfit
ToWorker: TypeAlias = (
    Assign | Revoke | Recall | Forget | Acknowledge | SetDeadline | PowerOff | Refused | Stocked
)
Opening: TypeAlias = Hello | Challenge | Proof | Welcome | Refused

ENCODER = msgspec.msgpack.Encoder()
FROM_CLIENT: msgspec.msgpack.Decoder[list[FromClient]] = msgspec.msgpack.Decoder(list[FromClient])
TO_CLIENT: msgspec.msgpack.Decoder[list[ToClient]] = msgspec.msgpack.Decoder(list[ToClient])
FROM_WORKER: msgspec.msgpack.Decoder[list[FromWorker]] = msgspec.msgpack.Decoder(list[FromWorker])
TO_WORKER: msgspec.msgpack.Decoder[list[ToWorker]] = msgspec.msgpack.Decoder(list[ToWorker])
OPENING: msgspec.msgpack.Decoder[Opening] = msgspec.msgpack.Decoder(Opening)
#: Messages that are kept as they were said: in the journal, and in storage.
ITEMS: msgspec.msgpack.Decoder[Items] = msgspec.msgpack.Decoder(Items)
DELIVERY: msgspec.msgpack.Decoder[Delivery] = msgspec.msgpack.Decoder(Delivery)
CHUNK: msgspec.msgpack.Decoder[list[bytes]] = msgspec.msgpack.Decoder(list[bytes])

_FEW, _SOME = 16, 1 << 16


def row(messages: Sequence[bytes]) -> bytes:
    """Encoded messages as one array (MessagePack's specification, "array format family")."""
    count = len(messages)
    if count < _FEW:
        head = bytes((0x90 | count,))
    elif count < _SOME:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return b"".join((head, *messages))
