"""Which runner gets which calls: decisions only, no I/O.

Calls wait in a queue per job. A runner holds a few calls ahead of the one that it runs, as
many as are worth :data:`HORIZON` seconds of its time, so that tiny calls need no round trip
each; long ones are given one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

#: Seconds of work that a runner holds.
HORIZON = 0.008
#: What a call takes at the very least: unpickling, calling, pickling and telling.
FLOOR = 20e-6
#: Calls that a runner holds at most (their tickets must fit in a socket's buffer).
MOST = 256
#: Bytes of items that a runner holds at most, beyond its first call.
HEAVIEST = 1024 * 1024
#: What a new runner takes to be warm, about.
START = 0.1
#: How far one more duration moves the estimate of the next.
WEIGHT = 0.1


class Call(msgspec.Struct, frozen=True, gc=False):
    """One call of a job; the item is still a pickle."""

    job: str
    index: int
    item: bytes


class Give(msgspec.Struct, frozen=True):
    """Send these calls of one job to the runner; they are numbered from ``first``."""

    runner: int
    job: str
    first: int
    calls: list[Call]


class Replace(msgspec.Struct, frozen=True):
    """End this idle runner for one that can serve a job: it has imported another's modules.

    Or it is of another Python.
    """

    runner: int
    modules: str
    interpreter: str = ""


class Line(msgspec.Struct):
    """A job's calls that wait.

    Attributes:
        estimate: Seconds that its next call will take; ``None`` before the first has ended.
    """

    modules: str
    interpreter: str
    single: bool
    waiting: deque[Call]
    estimate: float | None = None


class Hand(msgspec.Struct):
    """What a runner holds.

    Attributes:
        calls: By number, in the order in which they run.
        given: How many it has been given in all.
        modules: Which job's modules it has imported, or soon will.
        interpreter: The Python that it is.
    """

    calls: dict[int, Call]
    given: int = 0
    modules: str = ""
    interpreter: str = ""

    def fits(self, line: Line) -> bool:
        """Whether it can serve a job."""
        if self.interpreter != line.interpreter:
            return False
        return not line.modules or self.modules in ("", line.modules)

    def serves(self, line: Line) -> bool:
        """Whether it is as a job needs it, with its modules imported."""
        return self.interpreter == line.interpreter and line.modules in ("", self.modules)


def appetite(
    estimate: float | None, *, held: int, waiting: int, held_by_all: int, runners: int
) -> int:
    """How many more calls of a job a runner should get.

    Args:
        estimate: Seconds per call; ``None`` while unknown.
        held: Calls that the runner holds.
        waiting: Calls of the job that wait; at least one.
        held_by_all: Calls that all runners hold together.
        runners: How many runners there are.
    """
    want = 1 if estimate is None else min(MOST, 1 + int(HORIZON / max(estimate, FLOOR)))
    if held > want // 2:
        return 0
    share = -(-(waiting + held_by_all) // runners)
    return min(waiting, max(min(want, share) - held, 0 if held else 1))


class Dispatcher:
    """The queue of calls and the hands of the runners."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._hands: dict[int, Hand] = {}
        self._held = 0

    # -- jobs --

    def open(
        self, job: str, *, modules: str = "", interpreter: str = "", single: bool = False
    ) -> None:
        """Make a line for a job; ``single`` keeps runners from holding more than one call."""
        self._lines[job] = Line(modules, interpreter, single, deque())

    def close(self, job: str) -> None:
        """Forget a job and its waiting calls."""
        self._lines.pop(job, None)

    def add(self, job: str, calls: Iterable[Call]) -> None:
        """Let calls wait."""
        self._lines[job].waiting.extend(calls)

    def put_back(self, calls: list[Call]) -> None:
        """Let calls wait that were given and not started: before the others, in their order."""
        for call in reversed(calls):
            if (line := self._lines.get(call.job)) is not None:
                line.waiting.appendleft(call)

    def drop(self, job: str, indices: set[int] | None) -> list[int]:
        """Take waiting calls out, all of them when ``indices`` is ``None``; which were there."""
        line = self._lines.get(job)
        if line is None:
            return []
        gone = [call.index for call in line.waiting if indices is None or call.index in indices]
        line.waiting = deque(
            call for call in line.waiting if indices is not None and call.index not in indices
        )
        return gone

    def take_newest(self, job: str, count: int) -> list[int]:
        """Take out up to ``count`` waiting calls, the newest first."""
        line = self._lines.get(job)
        if line is None:
            return []
        return [line.waiting.pop().index for _ in range(min(count, len(line.waiting)))]

    def take_all(self) -> list[Call]:
        """Take out every waiting call."""
        calls = [call for line in self._lines.values() for call in line.waiting]
        for line in self._lines.values():
            line.waiting.clear()
        return calls

    @property
    def waiting(self) -> bool:
        """Whether any call waits."""
        return any(line.waiting for line in self._lines.values())

    def indices(self) -> dict[str, set[int]]:
        """All calls in hand, waiting or given, by job."""
        found: dict[str, set[int]] = {}
        for line in self._lines.values():
            for call in line.waiting:
                found.setdefault(call.job, set()).add(call.index)
        for hand in self._hands.values():
            for call in hand.calls.values():
                found.setdefault(call.job, set()).add(call.index)
        return found

    # -- runners --

    def join(self, runner: int, *, modules: str = "", interpreter: str = "") -> None:
        """Count on a new runner."""
        self._hands[runner] = Hand({}, modules=modules, interpreter=interpreter)

    def leave(self, runner: int) -> dict[int, Call]:
        """A runner is gone, or given up already; what it held."""
        hand = self._hands.pop(runner, None)
        if hand is None:
            return {}
        self._held -= len(hand.calls)
        return hand.calls

    def first(self, runner: int) -> tuple[int, Call] | None:
        """The call that the runner runs, or is about to, with its number."""
        hand = self._hands.get(runner)
        return next(iter(hand.calls.items()), None) if hand else None

    def holders(self, job: str) -> list[int]:
        """The runners that hold calls of a job."""
        return [
            runner
            for runner, hand in self._hands.items()
            if any(call.job == job for call in hand.calls.values())
        ]

    def ended(self, runner: int, number: int, seconds: float) -> Call | None:
        """A call has its outcome; ``None`` if the runner does not hold it."""
        hand = self._hands.get(runner)
        call = hand.calls.pop(number, None) if hand is not None else None
        if call is None:
            return None
        self._held -= 1
        if (line := self._lines.get(call.job)) is not None:
            known = line.estimate
            line.estimate = seconds if known is None else known + WEIGHT * (seconds - known)
        return call

    def withdrawn(self, runner: int, numbers: list[int]) -> list[Call]:
        """These were taken back from the runner before it started them."""
        hand = self._hands.get(runner)
        if hand is None:
            return []
        calls = [hand.calls.pop(number) for number in numbers if number in hand.calls]
        self._held -= len(calls)
        return calls

    # -- decisions --

    def decide(self) -> list[Give | Replace]:
        """What to give to whom, now."""
        actions: list[Give | Replace] = []
        for runner in sorted(self._hands, key=lambda runner: len(self._hands[runner].calls)):
            actions += self.decide_for(runner)
        return actions

    def decide_for(self, runner: int) -> list[Give | Replace]:
        """What to give to one runner, now."""
        hand = self._hands.get(runner)
        if hand is None:
            return []
        waiting = [(job, line) for job, line in self._lines.items() if line.waiting]
        hands = self._hands.values()
        stranded = [
            (job, line) for job, line in waiting if not any(other.serves(line) for other in hands)
        ]
        fitting = [(job, line) for job, line in waiting if hand.fits(line)]
        if not stranded and fitting:
            return self._give(runner, hand, *fitting[0])
        if hand.calls:
            return []  # a runner runs dry before it may become another one
        others = stranded or [each for each in waiting if self._worth_a_runner(each[1])]
        if not others:
            return []
        job, line = others[0]
        if hand.fits(line):
            return self._give(runner, hand, job, line)
        hand.modules, hand.interpreter = line.modules, line.interpreter
        return [Replace(runner, line.modules, line.interpreter)]

    def _worth_a_runner(self, line: Line) -> bool:
        """Whether a new runner would begin before those that have the modules are through."""
        if line.estimate is None:
            return True
        return line.estimate * len(line.waiting) / len(self._hands) > START

    def victim(self) -> int | None:
        """Who holds the most calls that it has not started, while another runner is idle."""
        laden = max(self._hands, key=lambda runner: len(self._hands[runner].calls), default=None)
        if laden is None or len(self._hands[laden].calls) < 2:
            return None
        return laden if any(not hand.calls for hand in self._hands.values()) else None

    def _give(self, runner: int, hand: Hand, job: str, line: Line) -> list[Give | Replace]:
        count = appetite(
            None if line.single else line.estimate,
            held=len(hand.calls),
            waiting=len(line.waiting),
            held_by_all=self._held,
            runners=len(self._hands),
        )
        calls: list[Call] = []
        weight = 0
        while len(calls) < count and weight < HEAVIEST:
            calls.append(line.waiting.popleft())
            weight += len(calls[-1].item)
        if not calls:
            return []
        first = hand.given + 1
        hand.given += len(calls)
        hand.calls.update(enumerate(calls, first))
        hand.modules = line.modules or hand.modules
        self._held += len(calls)
        # The next runner looks at the next job first.
        self._lines[job] = self._lines.pop(job)
        return [Give(runner, job, first, calls)]
