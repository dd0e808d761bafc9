"""Which outcomes are tries that do not count yet, and what is told of them: pure rules.

A call that raised, ran over its timeout or lost its process is run again. One that returned what
cannot be pickled is not: it would return the same again. A cancelled one was not wanted.
"""

from __future__ import annotations

import msgspec

from dayfly.model import CallOutcome, OutcomeKind, Try

#: Outcomes that another try may change.
RETRIED = frozenset({OutcomeKind.RAISED, OutcomeKind.TIMED_OUT, OutcomeKind.CRASHED})
#: Seconds for which a failed call waits for a worker other than the one that it failed on. A
#: free process turns up within that almost everywhere, and a cause that has to do with the machine
#: (its disk, its neighbours) has had time to pass; a call that would wait longer behind long ones
#: is better run where it failed than not at all.
PATIENCE = 60.0
#: Characters of what a try raised that are told.
TOLD = 200


class _Header(msgspec.Struct):
    """The first line of a RAISED payload, which is JSON: see :mod:`dayfly.serialize`."""

    type: str
    module: str
    message: str


_HEADER = msgspec.json.Decoder(_Header)


def as_try(outcome: CallOutcome) -> Try:
    """An outcome that is not the last one of its call."""
    return Try(outcome.worker, outcome.started, outcome.ended, outcome.kind, _what(outcome))


def _what(outcome: CallOutcome) -> str:
    match outcome.kind:
        case OutcomeKind.RAISED:
            return f"raised {_raised(outcome.payload)}"
        case OutcomeKind.TIMED_OUT:
            return "ran over its timeout"
        case _:
            return f"lost its process ({_in_a_line(outcome.payload.decode(errors='replace'))})"


def _raised(payload: bytes) -> str:
    try:
        header = _HEADER.decode(payload.partition(b"\n")[0])
    except msgspec.MsgspecError:
        return "something that cannot be read"
    kind = header.type if header.module == "builtins" else f"{header.module}.{header.type}"
    return _in_a_line(f"{kind}: {header.message}" if header.message else kind)


def _in_a_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TOLD else line[: TOLD - 1] + "…"
