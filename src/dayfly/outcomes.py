"""What becomes of calls, still as bytes: what workers send, masters keep and clients decode."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class OutcomeKind(IntEnum):
    """What became of a call. One byte on the wire."""

    VALUE = 0
    #: The value is in storage; the payload is its key.
    STORED = 1
    #: The function raised; the payload is what :mod:`dayfly.serialize` reads back.
    RAISED = 2
    TIMED_OUT = 3
    CRASHED = 4
    CANCELLED = 5
    #: The function returned something that cannot be pickled.
    UNPICKLABLE = 6


class Try(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One time that a call was run and failed, so that it was run again (``retries``).

    Attributes:
        worker: Who ran it.
        started: When, in seconds since the epoch.
        ended: When it had failed.
        what: How, in one line: ``raised ValueError: no such row``.
    """

    worker: str
    started: float
    ended: float
    kind: OutcomeKind
    what: str

    def __str__(self) -> str:
        return f"on worker {self.worker} {self.what} after {self.ended - self.started:.1f} s"


class CallOutcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call's outcome.

    Attributes:
        index: The item's position in the job, from 0.
        payload: A pickle for VALUE and RAISED, a place in storage for STORED, else a
            message in UTF-8.
        started: When the call began on the worker.
        ended: When it ended.
        attempt: How many times it had been run and failed before it was handed out.
        tries: Those times, once the master lets the outcome stand.
    """

    index: int
    kind: OutcomeKind
    payload: bytes
    started: float = 0.0
    ended: float = 0.0
    worker: str = ""
    attempt: int = 0
    tries: tuple[Try, ...] = ()
