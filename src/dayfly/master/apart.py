"""The calls of one job that have a past: they wait apart from the queue, and go out one by one.

A call has a past when it was run and failed (``retries``), or was in the hands of a worker when
that was lost for no known reason (:mod:`dayfly.master.suspects`). What is kept of it grows with
the failures and the losses, never with the job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from dayfly.master.ledger import ASIDE, Ledger
from dayfly.master.retrying import PATIENCE
from dayfly.master.suspects import CONVICTED, Loss, Suspects
from dayfly.model import CallOutcome, Try
from dayfly.wire.frame import Span, spans_of


class Apart:
    """The calls with a past, of the job whose ledger this is.

    Attributes:
        tries: The failed tries of each call that had some, and has no outcome yet.
        suspects: Who was lost with which calls.
        accused: The loss with which a call is convicted, once its worker cannot come back.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.tries: dict[int, list[Try]] = {}
        self.suspects = Suspects()
        self.accused: dict[int, Loss] = {}
        #: Until when a call that failed is kept for another worker; and the same in order, where
        #: what has changed since stays.
        self._patience: dict[int, float] = {}
        self._patient: deque[tuple[float, int]] = deque()
        #: Those that are in the hands of workers.
        self._out: set[int] = set()
        # Those that wait: by the worker that failed them last, and by no name those that any may
        # have; marked ones; suspects. Any of these may name calls that are elsewhere meanwhile: who
        # takes looks at the ledger.
        self._failed: dict[str, deque[int]] = {}
        self._marked: deque[tuple[int, int]] = deque()
        self._alone: deque[int] = deque()

    # -- a past begins --

    def failed(self, holder: int, index: int, tried: Try, now: float) -> None:
        """A call in a holder's hands has failed, and is to be run again."""
        self._be_patient(index, now)
        self._ledger.set_aside(holder, [Span(index, index + 1)])
        self._out.discard(index)
        self.tries.setdefault(index, []).append(tried)
        self._wait(index)

    def back(
        self,
        holder: int,
        spans: list[Span],
        *,
        worker: str = "",
        incarnation: str = "",
        reason: str = "",
    ) -> tuple[int, Loss | None]:
        """Calls in a holder's hands wait again.

        Args:
            holder: Whose hands they were in.
            spans: Which, among others perhaps.
            worker: Who that is, when it was lost for no known reason,
            incarnation: and which one of it,
            reason: and what was seen.

        Returns:
            How many, and the loss that marks them from now on.
        """
        past = self._of(holder, spans)
        freed = len(past)
        self._out.difference_update(past)
        self._ledger.set_aside(holder, spans_of(past))
        loss = None
        if not worker:
            freed += self._ledger.give_back(holder, spans)
        elif runs := self._ledger.set_aside(holder, spans):
            freed += sum(run.stop - run.start for run in runs)
            self._marked.extendleft((run.start, run.stop) for run in reversed(runs))
            loss = Loss(worker, incarnation, reason, _merged(runs, past))
        elif past:
            loss = Loss(worker, incarnation, reason, spans_of(past))
        if loss is not None:
            self.suspects.add(loss)
        for index in reversed(past):
            self._wait(index)
        return freed, loss

    def claimed(self, holder: int, spans: Iterable[Span]) -> None:
        """Calls are in the hands of a worker that said so itself."""
        if not self.tries and not self.suspects:
            return
        claimed = (index for span in spans for index in range(span.start, span.stop))
        mine = (index for index in claimed if self._ledger.holder_of(index) == holder)
        past = [index for index in mine if self._has_past(index)]
        self._out.update(past)
        for index in past:
            self.accused.pop(index, None)  # it runs

    def restore(self, tries: Mapping[int, list[Try]], losses: Iterable[Loss], now: float) -> None:
        """What was known before the master restarted; all calls wait in the queue."""
        losses = list(losses)
        for loss in losses:
            self.suspects.add(loss)
        known = set(tries)
        known.update(i for loss in losses for s in loss.spans for i in range(s.start, s.stop))
        for index in sorted(known, reverse=True):
            if self._ledger.shelve(index):
                if index in tries:
                    self.tries[index] = list(tries[index])
                    self._be_patient(index, now)
                self._wait(index)

    # -- a past ends --

    def settle(self, fresh: list[CallOutcome]) -> None:
        """Calls have their outcome."""
        if self._out:
            self._out.difference_update([outcome.index for outcome in fresh])
        if self.tries:
            for outcome in fresh:
                self.tries.pop(outcome.index, None)
                self._patience.pop(outcome.index, None)
        if self.accused:
            for outcome in fresh:
                self.accused.pop(outcome.index, None)

    # -- verdicts --

    def accuse(self, index: int, loss: Loss) -> None:
        """A call that waits is handed out to nobody until it is known what this loss was."""
        self.accused[index] = loss

    def accused_with(self, worker: str) -> list[tuple[int, Loss]]:
        """The calls that are convicted if a worker does not come back."""
        return [(index, loss) for index, loss in self.accused.items() if loss.worker == worker]

    def take_back(self, worker: str, incarnation: str) -> bool:
        """A worker that was thought lost is back, or known to have been ended by others.

        Returns:
            Whether it had been thought lost.
        """
        if not self.suspects or not self.suspects.take_back(worker, incarnation):
            return False
        for index, loss in list(self.accused.items()):
            marks = self.suspects.marks(index)
            if loss not in marks or len(marks) < CONVICTED:
                del self.accused[index]
                self._wait(index)
        return True

    # -- patience --

    @property
    def patient_until(self) -> float | None:
        """When :meth:`tick` has something to do."""
        while self._patient and self._patience.get(self._patient[0][1]) != self._patient[0][0]:
            self._patient.popleft()
        return self._patient[0][0] if self._patient else None

    def tick(self, now: float) -> None:
        """Calls that have waited long enough for another worker may go to any."""
        while (until := self.patient_until) is not None and until <= now:
            _, index = self._patient.popleft()
            del self._patience[index]
            queue = self._failed.get(self.tries[index][-1].worker, deque())
            if self._ledger.holder_of(index) == ASIDE and index in queue:
                queue.remove(index)
                self._wait(index)

    # -- who may have which --

    def attempt(self, index: int) -> int:
        """How many times a call has been run and has failed."""
        return len(self.tries.get(index, ()))

    def careful(self) -> bool:
        """Whether marked calls wait: who holds no more than it can run may have them."""
        while self._marked:
            start, stop = self._marked[0]
            while start < stop and self._ledger.holder_of(start) != ASIDE:
                start += 1
            if start == stop:
                self._marked.popleft()
            elif self.suspects.suspicious(start):
                self._marked[0] = (start + 1, stop)
                self._alone.append(start)
            else:
                self._marked[0] = (start, stop)
                return True
        return False

    def again(self, worker: str, *, others: bool) -> bool:
        """Whether calls that have failed wait for this worker; for its own if it has no others."""
        return self._next_failed(worker, others=others) is not None

    def suspected(self) -> bool:
        """Whether calls wait to be handed out alone."""
        while self._alone:
            index = self._alone[0]
            if self._ledger.holder_of(index) != ASIDE or index in self.accused:
                self._alone.popleft()
            elif not self.suspects.suspicious(index):
                self._alone.popleft()
                self._wait(index)
            else:
                return True
        return False

    def take(self, holder: int, worker: str, room: int, *, others: bool) -> list[int]:
        """Lease up to ``room`` calls that are not suspects: the marked ones first."""
        taken: list[int] = []
        while len(taken) < room and self.careful():
            taken.append(self._marked[0][0])
            self._lease(holder, taken[-1])
        while len(taken) < room and (queue := self._next_failed(worker, others=others)) is not None:
            taken.append(queue.popleft())
            self._lease(holder, taken[-1])
        return taken

    def take_alone(self, holder: int) -> int | None:
        """Lease a suspect."""
        if not self.suspected():
            return None
        index = self._alone.popleft()
        self._lease(holder, index)
        return index

    # -- within --

    def _be_patient(self, index: int, now: float) -> None:
        self._patience[index] = now + PATIENCE
        self._patient.append((now + PATIENCE, index))

    def _wait(self, index: int) -> None:
        if self.suspects.suspicious(index):
            self._alone.append(index)
        elif index in self.tries and not self.suspects.marks(index):
            last = self.tries[index][-1].worker if index in self._patience else ""
            self._failed.setdefault(last, deque()).append(index)
        else:
            self._marked.appendleft((index, index + 1))

    def _next_failed(self, worker: str, *, others: bool) -> deque[int] | None:
        """The queue of failed calls that this worker takes from; its first one can be had."""
        for last in list(self._failed):
            queue = self._failed[last]
            # One that was marked since waits among those.
            while queue and (
                self._ledger.holder_of(queue[0]) != ASIDE or self.suspects.marks(queue[0])
            ):
                queue.popleft()
            if not queue:
                del self._failed[last]
            elif last != worker or not others:
                return queue
        return None

    def _lease(self, holder: int, index: int) -> None:
        self._ledger.take_aside(holder, index)
        self._out.add(index)

    def _of(self, holder: int, spans: list[Span]) -> list[int]:
        """The calls with a past among those in a holder's hands, in order."""
        return sorted(
            index
            for index in self._out
            if self._ledger.holder_of(index) == holder
            and any(span.start <= index < span.stop for span in spans)
        )

    def _has_past(self, index: int) -> bool:
        return index in self.tries or bool(self.suspects.marks(index))


def _merged(runs: list[Span], more: list[int]) -> list[Span]:
    """Spans and single calls as spans, in order; none is in both."""
    spans = sorted([*runs, *spans_of(more)])
    found = spans[:1]
    for span in spans[1:]:
        if span.start == found[-1].stop:
            found[-1] = Span(found[-1].start, span.stop)
        else:
            found.append(span)
    return found
