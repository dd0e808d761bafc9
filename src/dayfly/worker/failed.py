"""What becomes of calls that no runner has run: outcomes of our own making."""

from __future__ import annotations

import json

from dayfly.errors import DayflyError
from dayfly.model import CallOutcome, OutcomeKind


def cancelled(index: int, now: float, worker: str) -> CallOutcome:
    """A call is cancelled before it has begun."""
    return CallOutcome(index, OutcomeKind.CANCELLED, b"it was asked for", now, now, worker)


def failed(index: int, error: DayflyError, now: float, worker: str) -> CallOutcome:
    """A call ends with an error of ours, in the form of one that its function raised."""
    header = {
        "type": type(error).__name__,
        "module": type(error).__module__,
        "message": str(error),
        "traceback": str(error),
        "index": index,
    }
    payload = json.dumps(header).encode() + b"\n"
    return CallOutcome(index, OutcomeKind.RAISED, payload, now, now, worker)
