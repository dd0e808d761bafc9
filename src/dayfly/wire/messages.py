"""What the client, the master and the workers say to each other: values <-> bytes.

Every message is one websocket frame of MessagePack. The types are closed unions per
direction, so a frame that is not one of them is refused when it is decoded.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from dayfly.model import (
    CallOutcome,
    DismantlePolicy,
    Instance,
    JobRow,
    JobSpec,
    JobState,
    LogLine,
    WorkerRow,
)

#: Raised by one whenever a message changes its meaning or its shape.
PROTOCOL = 1

#: Functions, chunks of items and outcomes up to this many bytes travel inline; larger ones
#: go through storage.
INLINE_LIMIT = 64 * 1024


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Anything that is said."""


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes, inline or by their key in storage."""

    data: bytes = b""
    key: str = ""


class Span(msgspec.Struct, frozen=True, array_like=True, order=True):
    """The calls from ``start`` up to, not including, ``stop``."""

    start: int
    stop: int


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
    """

    instance: str
    package: str


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
    data: list[bytes] = []
    key: str = ""


class ItemsEnd(Message, frozen=True):
    """No more items follow."""

    job: str
    total: int


class Adopt(Message, frozen=True):
    """Instances that the client launched or found: from now on the master's own.

    Attributes:
        job: The job that they were made for, in ``create`` mode; else empty.
    """

    instances: list[Instance]
    policy: DismantlePolicy
    job: str = ""


class Ended(Message, frozen=True):
    """The cloud tells that an instance has ended, and why."""

    instance: str
    reason: str


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
    """

    job: str
    done: int
    running: int
    ready: int
    coming: int
    waiting: str = ""
    cost: float | None = None
    hourly: float = 0.0


class JobEnded(Message, frozen=True):
    """The job's last word, after its last delivery.

    Attributes:
        error: For FAILED, the class of :mod:`dayfly.errors` to raise.
        after: The number of the last delivery; whoever has fewer follows again.
        cost: US dollars of its VMs; ``None`` where no price is known.
    """

    job: str
    state: JobState
    after: int
    error: str = ""
    reason: str = ""
    cost: float | None = None


class WorkersNeeded(Message, frozen=True):
    """Workers of this job are lost and calls remain: only the client may launch."""

    job: str
    count: int
    reason: str


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


class Jobs(Message, frozen=True):
    """Answer to :class:`ListJobs`."""

    request: int
    rows: list[JobRow]


class Workers(Message, frozen=True):
    """Answer to :class:`ListWorkers`: the master itself comes first."""

    request: int
    rows: list[WorkerRow]


# -- worker to master --


class Ready(Message, frozen=True):
    """The standing request for work.

    Attributes:
        incarnation: Drawn anew whenever the agent starts; leases of an older one are lost.
        holding: Calls still in hand, by job, after a broken connection.
    """

    incarnation: str
    processes: int
    holding: dict[str, list[Span]] = {}


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


# -- master to worker --


class JobBrief(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker must know of a job."""

    id: str
    function: Payload
    modules: str = ""
    timeout: float | None = None
    environment: dict[str, str] = {}
    reserved: list[str] = []


class Assign(Message, frozen=True):
    """Calls under a lease: a span within one chunk of items.

    Attributes:
        brief: With the first span of a job on this connection.
        items: The span's pickled items, when they travel inline.
        key: Else the chunk's key in storage,
        chunk_start: and the index of the chunk's first item.
    """

    job: str
    span: Span
    brief: JobBrief | None = None
    items: list[bytes] = []
    key: str = ""
    chunk_start: int = 0


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


FromClient: TypeAlias = (
    Submit
    | Items
    | ItemsEnd
    | Adopt
    | Ended
    | Cancel
    | Follow
    | Release
    | FollowLogs
    | ListJobs
    | ListWorkers
    | ReadLogs
)
ToClient: TypeAlias = (
    Delivery | Logs | JobStatus | JobEnded | WorkersNeeded | Notice | Jobs | Workers | Refused
)
FromWorker: TypeAlias = Ready | Done | Printed | HandBack
ToWorker: TypeAlias = (
    Assign | Revoke | Recall | Forget | Acknowledge | SetDeadline | PowerOff | Refused
)
Opening: TypeAlias = Hello | Challenge | Proof | Welcome | Refused

ENCODER = msgspec.msgpack.Encoder()
FROM_CLIENT: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
TO_CLIENT: msgspec.msgpack.Decoder[ToClient] = msgspec.msgpack.Decoder(ToClient)
FROM_WORKER: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
OPENING: msgspec.msgpack.Decoder[Opening] = msgspec.msgpack.Decoder(Opening)
CHUNK: msgspec.msgpack.Decoder[list[bytes]] = msgspec.msgpack.Decoder(list[bytes])
