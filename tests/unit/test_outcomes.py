"""What becomes of calls, as it travels."""

from __future__ import annotations

import gc

import msgspec

from dayfly.model import CallOutcome, OutcomeKind, Try


def test_a_million_outcomes_are_no_work_for_the_garbage_collection() -> None:
    """It would stop the master's loop for as long as it looks at them."""
    tried = Try("w1", 1.0, 2.0, OutcomeKind.RAISED, "raised ValueError: no such row")
    sent = CallOutcome(0, OutcomeKind.VALUE, b"12345", 1.0, 2.0, "w2", 1, (tried,))
    (came,) = msgspec.msgpack.decode(msgspec.msgpack.encode([sent]), type=list[CallOutcome])
    assert came == sent
    assert not any(map(gc.is_tracked, [came, *came.tries]))
