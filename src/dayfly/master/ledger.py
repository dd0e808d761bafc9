"""One job's calls: which wait, which are in whose hands, which are done.

Four bytes per call, and spans; never a copy of the job.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator

from dayfly.model import CallOutcome, OutcomeKind
from dayfly.wire.messages import Span

#: In place of a holder's number: the call waits in the queue, has its outcome, or waits apart.
FREE = 0
DONE = -1
ASIDE = -2

_GOOD = (OutcomeKind.VALUE, OutcomeKind.STORED)


class Ledger:
    """The calls of one job.

    ``known == done + leased + pending`` at all times. Holders are positive numbers.

    Attributes:
        known: Items that have come so far.
        total: Calls in all, once that is known.
        done: Calls that have an outcome.
        failed: Those whose outcome is no value.
        leased: Calls in the hands of workers.
        aside: Calls that wait, but not in the queue: whoever set them aside hands them out.
    """

    def __init__(self) -> None:
        self._holder = array("i")
        self._chunks: list[int] = []
        # Spans that wait, in order. They may name calls that are done or held meanwhile:
        # whoever takes looks at the holder, so nothing is ever searched for in here.
        self._queue: deque[tuple[int, int]] = deque()
        self._leases: dict[int, deque[tuple[int, int]]] = {}
        self._counts: dict[int, int] = {}
        self._cancelled_early: set[int] = set()
        self.total: int | None = None
        self.done = 0
        self.failed = 0
        self.leased = 0
        self.aside = 0

    @property
    def known(self) -> int:
        """Items that have come so far."""
        return len(self._holder)

    @property
    def pending(self) -> int:
        """Calls that wait."""
        return len(self._holder) - self.done - self.leased

    @property
    def queued(self) -> int:
        """Calls that wait in the queue."""
        return self.pending - self.aside

    @property
    def complete(self) -> bool:
        """Whether every call has an outcome."""
        return self.total is not None and self.done >= self.total

    def held_by(self, holder: int) -> int:
        """How many calls a holder has in hand."""
        return self._counts.get(holder, 0)

    def holders(self) -> list[int]:
        """Who has calls in hand."""
        return [holder for holder, count in self._counts.items() if count]

    def holder_of(self, index: int) -> int:
        """A call's holder, :data:`FREE`, :data:`ASIDE` or :data:`DONE`."""
        return self._holder[index] if 0 <= index < len(self._holder) else FREE

    def knows(self, index: int) -> bool:
        """Whether the call's item has come."""
        return 0 <= index < len(self._holder)

    def waits(self, index: int) -> bool:
        """Whether the call's item has come, and it is in nobody's hands and has no outcome."""
        return self.knows(index) and self._holder[index] in (FREE, ASIDE)

    def extend(self, count: int) -> list[int]:
        """The next chunk of items has come; returns those that were cancelled before."""
        start = len(self._holder)
        self._holder.extend(array("i", bytes(4 * count)))
        self._chunks.append(start)
        self._queue.append((start, start + count))
        early = sorted(i for i in self._cancelled_early if start <= i < start + count)
        self._cancelled_early.difference_update(early)
        return early

    def mark(self, done: bytearray) -> None:
        """Calls that had an outcome before: those whose byte is not zero."""
        for index, bit in enumerate(done[: len(self._holder)]):
            if bit and self._holder[index] == FREE:
                self._holder[index] = DONE
                self.done += 1

    def take(self, holder: int, count: int) -> list[Span]:
        """Lease up to ``count`` waiting calls, first in the queue first, by spans in a chunk."""
        taken: list[Span] = []
        held = self._holder
        while count > 0 and self._queue:
            start, stop = self._queue.popleft()
            while start < stop and held[start] != FREE:
                start += 1
            end = start
            limit = min(stop, start + count, self._chunk_end(start))
            while end < limit and held[end] == FREE:
                held[end] = holder
                end += 1
            if end < stop:
                self._queue.appendleft((end, stop))
            if end > start:
                taken.append(Span(start, end))
                count -= end - start
                self._lease(holder, start, end)
        return taken

    def claim(self, holder: int, span: Span) -> None:
        """A holder says that it has these calls: those that wait become its own."""
        for index in filter(self.waits, range(span.start, span.stop)):
            self.aside -= self._holder[index] == ASIDE
            self._holder[index] = holder
            self._lease(holder, index, index + 1)

    def give_back(self, holder: int, spans: Iterable[Span]) -> int:
        """Calls in a holder's hands wait again, before all others; returns how many."""
        freed = 0
        for span in sorted(spans, reverse=True):
            for start, stop in reversed(list(self._runs(holder, span.start, span.stop))):
                self._holder[start:stop] = array("i", bytes(4 * (stop - start)))
                self._queue.appendleft((start, stop))
                freed += stop - start
        self._drop(holder, freed)
        return freed

    def in_hands(self, holder: int, *, but: Iterable[Span] = ()) -> list[Span]:
        """Spans that cover all calls in a holder's hands, except for those that it still has."""
        kept = sorted(but)
        spans: list[Span] = []
        for start, stop in self._leases.get(holder, ()):
            for span in kept:
                if span.stop <= start or span.start >= stop:
                    continue
                if span.start > start:
                    spans.append(Span(start, span.start))
                start = span.stop
            if start < stop:
                spans.append(Span(start, stop))
        return spans

    def set_aside(self, holder: int, spans: Iterable[Span]) -> list[Span]:
        """Calls in a holder's hands wait apart from the queue; returns which, in order."""
        runs: list[Span] = []
        freed = 0
        for span in sorted(spans):  # they may overlap: what is set aside is not found again
            for start, stop in list(self._runs(holder, span.start, span.stop)):
                self._holder[start:stop] = array("i", [ASIDE]) * (stop - start)
                runs.append(Span(start, stop))
                freed += stop - start
        self.aside += freed
        self._drop(holder, freed)
        return runs

    def shelve(self, index: int) -> bool:
        """A call that waits in the queue waits apart from it; whether it did wait there."""
        if not self.knows(index) or self._holder[index] != FREE:
            return False
        self._holder[index] = ASIDE
        self.aside += 1
        return True

    def take_aside(self, holder: int, index: int) -> None:
        """Lease a call that waits apart."""
        self._holder[index] = holder
        self.aside -= 1
        self._lease(holder, index, index + 1)

    def settle(self, outcomes: list[CallOutcome]) -> tuple[list[CallOutcome], dict[int, list[int]]]:
        """Record outcomes; the first of each call counts.

        Returns:
            The outcomes that counted, and whose hands they were in: the indices by holder.
        """
        held = self._holder
        known = len(held)
        fresh: list[CallOutcome] = []
        by_holder: dict[int, list[int]] = {}
        for outcome in outcomes:
            index = outcome.index
            if not 0 <= index < known or (holder := held[index]) == DONE:
                continue
            held[index] = DONE
            fresh.append(outcome)
            if outcome.kind not in _GOOD:
                self.failed += 1
            if holder == ASIDE:
                self.aside -= 1
            elif holder != FREE:
                by_holder.setdefault(holder, []).append(index)
        self.done += len(fresh)
        for holder, indices in by_holder.items():
            self._drop(holder, len(indices))
        return fresh, by_holder

    def cancel_early(self, index: int) -> None:
        """A call is cancelled whose item has not come yet."""
        if index >= len(self._holder) and (self.total is None or index < self.total):
            self._cancelled_early.add(index)

    def _chunk_end(self, index: int) -> int:
        place = bisect_right(self._chunks, index)
        return self._chunks[place] if place < len(self._chunks) else len(self._holder)

    def _lease(self, holder: int, start: int, stop: int) -> None:
        spans = self._leases.setdefault(holder, deque())
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
        count = self._counts[holder] = self._counts.get(holder, 0) + stop - start
        self.leased += stop - start
        # Spans whose calls are long done are thrown out once they outnumber those in hand,
        # which costs each call a constant share.
        if len(spans) > 2 * count + 32:
            self._leases[holder] = deque(run for span in spans for run in self._runs(holder, *span))

    def _drop(self, holder: int, count: int) -> None:
        if not count:
            return
        self.leased -= count
        self._counts[holder] -= count
        spans = self._leases[holder]
        if not self._counts[holder]:
            spans.clear()
            return
        while spans and self._holder[spans[0][0]] != holder:
            start, stop = spans.popleft()
            while start < stop and self._holder[start] != holder:
                start += 1
            if start < stop:
                spans.appendleft((start, stop))

    def _runs(self, holder: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        held = self._holder
        stop = min(stop, len(held))
        while start < stop:
            if held[start] != holder:
                start += 1
                continue
            end = start + 1
            while end < stop and held[end] == holder:
                end += 1
            yield start, end
            start = end
