"""What a runner says, cut up into frames, however it comes in pieces."""

from __future__ import annotations

import pytest

from dayfly.worker import runner
from dayfly.worker.process import Result, _cut_up


def frame(kind: int, body: bytes) -> bytes:
    return runner.HEADER.pack(kind, len(body)) + body


def outcome(number: int, payload: bytes) -> bytes:
    return frame(runner.OUTCOME, runner.RESULT.pack(number, runner.VALUE, 1.0, 2.0) + payload)


SAID = b"".join(
    [
        outcome(1, b"one"),
        outcome(2, b"two" * 1000),
        frame(runner.LOG, b"a line"),
        outcome(3, b""),
        frame(runner.ASK, b"a question"),
    ]
)
HEARD = [
    [Result(1, 0, 1.0, 2.0, b"one"), Result(2, 0, 1.0, 2.0, b"two" * 1000)],
    (runner.LOG, b"a line"),
    [Result(3, 0, 1.0, 2.0, b"")],
    (runner.ASK, b"a question"),
]


@pytest.mark.parametrize("form", [bytes, memoryview])
def test_outcomes_that_follow_each_other_are_told_together_and_in_order(form: type) -> None:
    assert _cut_up(form(SAID)) == (HEARD, len(SAID))


@pytest.mark.parametrize("missing", [1, 9, 12, 40, len(SAID)])
def test_a_frame_that_is_cut_off_waits_for_its_rest(missing: int) -> None:
    frames, end = _cut_up(SAID[: len(SAID) - missing])
    rest, last = _cut_up(SAID[end:])
    told = [*frames, *rest]
    outcomes = [result for each in told if isinstance(each, list) for result in each]
    assert [result.number for result in outcomes] == [1, 2, 3]
    assert [each for each in told if isinstance(each, tuple)] == [HEARD[1], HEARD[3]]
    assert end + last == len(SAID)
