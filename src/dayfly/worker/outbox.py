"""What is still to be said to the master, and when: decisions only, no I/O.

Outcomes are kept until the master acknowledges them. As with Nagle's algorithm, the first
goes out at once; while frames are in flight, more are gathered for a moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from dayfly.model import CallOutcome, LogLine
from dayfly.wire import messages as m

#: Seconds that outcomes are gathered while others are not yet acknowledged.
GATHER = 0.002
#: Seconds that lines are gathered.
GATHER_LINES = 0.05
#: Outcomes, and bytes of either kind, per frame.
MOST = 1000
OUTCOME_BYTES = 256 * 1024
LINE_BYTES = 64 * 1024
#: What an outcome or a line weighs beside its payload.
OVERHEAD = 64


class Outbox:
    """Outcomes, lines and calls handed back, on their way to the master.

    Attributes:
        weight: Bytes kept here, for whoever must not let them grow for ever.
    """

    def __init__(self) -> None:
        self.weight = 0
        self._serial = 0
        self._outcomes: dict[str, deque[CallOutcome]] = {}
        self._outcome_count = 0
        self._outcome_bytes = 0
        self._outcomes_since = 0.0
        self._lines: deque[LogLine] = deque()
        self._line_bytes = 0
        self._lines_since = 0.0
        self._others: deque[m.Message] = deque()
        #: Sent or to be sent again, by serial number, until acknowledged.
        self._kept: dict[int, tuple[m.Done, int]] = {}
        self._again: deque[m.Done] = deque()

    # -- in --

    def add_outcomes(self, job: str, outcomes: Sequence[CallOutcome], now: float) -> None:
        """Keep outcomes until they are acknowledged."""
        if not outcomes:
            return
        if not self._outcome_count:
            self._outcomes_since = now
        self._outcomes.setdefault(job, deque()).extend(outcomes)
        size = sum([len(outcome.payload) for outcome in outcomes]) + OVERHEAD * len(outcomes)
        self._outcome_count += len(outcomes)
        self._outcome_bytes += size
        self.weight += size

    def add_line(self, line: LogLine, now: float) -> None:
        """Keep a line until it is sent."""
        if not self._lines:
            self._lines_since = now
        self._lines.append(line)
        size = len(line.text) + OVERHEAD
        self._line_bytes += size
        self.weight += size

    def add(self, message: m.Message) -> None:
        """Say this at once; it is dropped when the connection breaks."""
        self._others.append(message)

    def acknowledge(self, serial: int) -> None:
        """The master keeps all outcomes up to this serial number."""
        for kept in [kept for kept in self._kept if kept <= serial]:
            self.weight -= self._kept.pop(kept)[1]

    def reconnected(self) -> None:
        """Say again what was not acknowledged; forget what only the last connection needed."""
        self._others.clear()
        self._again = deque(done for done, _ in self._kept.values())

    # -- out --

    def due(self, now: float) -> float | None:
        """When the next frame may go: ``now``, later, or ``None`` while there is nothing."""
        if self._again or self._others:
            return now
        moments: list[float] = []
        if self._outcome_count:
            full = self._outcome_count >= MOST or self._outcome_bytes >= OUTCOME_BYTES
            at_once = full or not self._kept
            moments.append(now if at_once else self._outcomes_since + GATHER)
        if self._lines:
            full = self._line_bytes >= LINE_BYTES
            moments.append(now if full else self._lines_since + GATHER_LINES)
        return max(now, min(moments)) if moments else None

    def take(self, now: float) -> m.Message | None:
        """The next frame to send now, if any."""
        due = self.due(now)
        if due is None or due > now:
            return None
        if self._again:
            return self._again.popleft()
        if self._others:
            return self._others.popleft()
        # A call's lines go before its outcome, after which nobody may be listening.
        if self._lines:
            return self._take_lines(now)
        return self._take_outcomes(now)

    def unacknowledged(self) -> dict[str, set[int]]:
        """The calls whose outcomes the master does not keep yet, by job."""
        found: dict[str, set[int]] = {}
        for job, outcomes in self._outcomes.items():
            found.setdefault(job, set()).update(outcome.index for outcome in outcomes)
        for done, _ in self._kept.values():
            found.setdefault(done.job, set()).update(outcome.index for outcome in done.outcomes)
        return found

    def _take_lines(self, now: float) -> m.Printed:
        lines: list[LogLine] = []
        size = 0
        while self._lines and size < LINE_BYTES:
            lines.append(self._lines.popleft())
            size += len(lines[-1].text) + OVERHEAD
        self._line_bytes -= size
        self.weight -= size
        self._lines_since = now
        return m.Printed(lines=lines)

    def _take_outcomes(self, now: float) -> m.Done:
        job, waiting = next(iter(self._outcomes.items()))
        outcomes: list[CallOutcome] = []
        size = 0
        all_fit = self._outcome_count <= MOST and self._outcome_bytes <= OUTCOME_BYTES
        if len(self._outcomes) == 1 and all_fit:
            outcomes, size = list(waiting), self._outcome_bytes
            waiting.clear()
        while waiting and len(outcomes) < MOST and size < OUTCOME_BYTES:
            outcomes.append(waiting.popleft())
            size += len(outcomes[-1].payload) + OVERHEAD
        if not waiting:
            del self._outcomes[job]
        self._outcome_count -= len(outcomes)
        self._outcome_bytes -= size
        self._outcomes_since = now
        self._serial += 1
        done = m.Done(serial=self._serial, job=job, outcomes=outcomes)
        self._kept[self._serial] = done, size
        return done
