"""Calls come into the hands of workers and leave them: by outcomes, by losses, by their word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec

from dayfly.master import events as e
from dayfly.master.dealer import Dealer
from dayfly.master.openjob import Job
from dayfly.master.retrying import RETRIED, as_try
from dayfly.master.roster import Roster, Worker
from dayfly.master.suspects import CONVICTED, verdict
from dayfly.model import CallOutcome, OutcomeKind
from dayfly.wire import messages as m
from dayfly.wire.frame import Span, spans_of

Actions = list[e.Action]


class Hands:
    """The hands of the workers, with the calls of the open jobs in them."""

    def __init__(self, jobs: dict[str, Job], roster: Roster, dealer: Dealer) -> None:
        self._jobs = jobs
        self._roster = roster
        self._dealer = dealer

    # -- outcomes --

    def heard(
        self,
        job: Job,
        worker: Worker | None,
        outcomes: list[CallOutcome],
        now: float,
        out: Actions,
    ) -> tuple[list[CallOutcome], bool]:
        """Outcomes have come from a worker.

        Returns:
            Those that count, and whether any of the others is to be run again.
        """
        # What it was told to drop, it says it dropped; whoever told it knows why.
        dropped = OutcomeKind.CANCELLED
        said = [outcome for outcome in outcomes if outcome.kind is not dropped]
        again = False
        if job.spec.retries:
            failed = [outcome for outcome in said if outcome.kind in RETRIED]
            said = [outcome for outcome in said if outcome.kind not in RETRIED]
            for outcome in failed:
                if self._is_no_end(job, worker, outcome):
                    again |= self._run_again(job, worker, outcome, now, out)
                else:
                    said.append(outcome)
        return self.settle(job, said, out, worker), again

    def settle(
        self, job: Job, outcomes: list[CallOutcome], out: Actions, worker: Worker | None = None
    ) -> list[CallOutcome]:
        """Calls have their outcome, and leave the hands that they are in.

        Args:
            job: Whose they are.
            outcomes: The first one of each call counts.
            out: What is to be done.
            worker: Whom they come from.

        Returns:
            Those that counted.
        """
        if tries := job.apart.tries:
            outcomes = [
                msgspec.structs.replace(each, tries=tuple(tries[each.index]))
                if each.index in tries
                else each
                for each in outcomes
            ]
        fresh, by_holder = job.ledger.settle(outcomes)
        if not fresh:
            return fresh
        job.apart.settle(fresh)
        if worker is not None and (own := by_holder.pop(worker.number, None)):
            self._roster.hold(worker, -len(own))
        out.append(e.Deliver(job=job.spec.id, outcomes=fresh))
        for number, taken in by_holder.items():
            if (holder := self._roster.number(number)) is not None:
                self._roster.hold(holder, -len(taken))
                revoke = m.Revoke(job=job.spec.id, indices=taken)
                out.append(e.Tell(worker=holder.name, message=revoke))
        return fresh

    def _is_no_end(self, job: Job, worker: Worker | None, outcome: CallOutcome) -> bool:
        """Whether another try of a call that failed is to come, or is under way already."""
        if not job.ledger.knows(outcome.index):
            return False
        tried = job.apart.attempt(outcome.index)
        mine = worker is not None and job.ledger.holder_of(outcome.index) == worker.number
        return not mine or outcome.attempt < tried or tried < job.spec.retries

    def _run_again(
        self, job: Job, worker: Worker | None, outcome: CallOutcome, now: float, out: Actions
    ) -> bool:
        index = outcome.index
        if worker is None or job.ledger.holder_of(index) != worker.number:
            return False  # it was lost meanwhile, which costs no try: others have the call
        if outcome.attempt < job.apart.attempt(index):
            return False  # said again after a broken connection
        tried = as_try(outcome)
        job.apart.failed(worker.number, index, tried, now)
        self._roster.hold(worker, -1)
        out.append(e.Tried(job=job.spec.id, index=index, tried=tried))
        return True

    # -- what a worker says of itself --

    def ready(self, worker: Worker, event: e.WorkerReady, out: Actions) -> None:
        """An agent says what it holds: what it should, and does not, waits again."""
        before = worker.incarnation
        holding = {job: self._current(job, event) for job in event.holding}
        if before == event.incarnation:
            self._back(worker, out, but=holding)
        else:
            self._back(worker, out, reason="its agent's process ended" if before else "")
        for job_id in worker.group.jobs:
            self._absolve(self._jobs[job_id], worker.name, event.incarnation, out)
        # Whoever comes back as another one has died of what it had in hand.
        self.gone(e.WorkerGone(worker=worker.name), out)
        self._roster.set_ready(worker, event.incarnation, event.processes)
        doubtful = [
            (job, index)
            for job_id, spans in holding.items()
            if (job := self._jobs.get(job_id)) is not None
            for index in self._claim(worker, job, spans, out)
        ]
        if len(doubtful) == 1 and not worker.held:
            self._claim_suspect(worker, *doubtful[0], out)
        for job_id, said in event.holding.items():
            self._refuse(worker, job_id, said, out)

    def _current(self, job_id: str, event: e.WorkerReady) -> list[Span]:
        """What a worker holds of a job, but for calls whose attempt has failed already."""
        spans, job = event.holding[job_id], self._jobs.get(job_id)
        if job is None or not job.apart.tries:
            return spans
        attempts = event.attempts.get(job_id, {})
        return spans_of(
            index for index in _indices(spans) if attempts.get(index, 0) >= job.apart.attempt(index)
        )

    def _claim(self, worker: Worker, job: Job, spans: list[Span], out: Actions) -> list[int]:
        """Calls that wait are in a worker's hands; not suspects, which are returned."""
        doubtful: list[int] = []
        if suspects := job.apart.suspects:
            waiting = (i for i in _indices(spans) if job.ledger.waits(i))
            doubtful = [index for index in waiting if suspects.suspicious(index)]
            if doubtful:
                spans = spans_of(set(_indices(spans)).difference(doubtful))
        before = job.ledger.held_by(worker.number)
        for span in spans:
            job.ledger.claim(worker.number, span)
        job.apart.claimed(worker.number, spans)
        self._roster.hold(worker, job.ledger.held_by(worker.number) - before)
        if job.ledger.held_by(worker.number):
            self._dealer.engage(worker, job, out)
        return doubtful

    def _claim_suspect(self, worker: Worker, job: Job, index: int, out: Actions) -> None:
        """A suspect is in the hands of a worker that has nothing else."""
        span = Span(index, index + 1)
        job.ledger.claim(worker.number, span)
        job.apart.claimed(worker.number, [span])
        self._roster.hold(worker, 1)
        self._dealer.engage(worker, job, out)
        if worker.open:
            self._roster.keep(worker, kept=True)
            worker.alone = (job.spec.id, index)

    def _refuse(self, worker: Worker, job_id: str, said: list[Span], out: Actions) -> None:
        """Whatever a worker says that it holds, and that is not its own, it drops."""
        job = self._jobs.get(job_id)
        if job is None:
            out.append(e.Tell(worker=worker.name, message=m.Revoke(job=job_id)))
            out.append(e.Tell(worker=worker.name, message=m.Forget(job=job_id)))
            return
        holder_of = job.ledger.holder_of
        refused = [index for index in _indices(said) if holder_of(index) != worker.number]
        if refused:
            revoke = m.Revoke(job=job_id, indices=refused)
            out.append(e.Tell(worker=worker.name, message=revoke))

    def handed_back(self, worker: Worker, job: Job, spans: list[Span]) -> None:
        """Calls that a worker did not start and will not."""
        freed, _ = job.apart.back(worker.number, spans)
        self._roster.hold(worker, -freed)

    def close(self, job: Job, out: Actions) -> None:
        """A job is over: whatever of it is in any hands is dropped."""
        job_id, ledger = job.spec.id, job.ledger
        for number in ledger.holders():
            if worker := self._roster.number(number):
                self._roster.hold(worker, -ledger.held_by(number))
                revoke = m.Revoke(job=job_id, indices=None)
                out.append(e.Tell(worker=worker.name, message=revoke))
        for worker in self._roster.group(job.pool).workers.values():
            worker.jobs.pop(job_id, None)
            worker.begun.discard(job_id)
            self._roster.set_aside(worker, job_id, aside=False)
            if job_id in worker.engaged:
                del worker.engaged[job_id]
                out.append(e.Tell(worker=worker.name, message=m.Forget(job=job_id)))
                out.append(e.Disengage(worker=worker.name, job=job_id))

    # -- losses --

    def lost(self, worker: Worker, event: e.WorkerLost, out: Actions) -> None:
        """A worker is gone: all that it had in hand waits again."""
        self._back(worker, out, reason="" if event.innocent else event.reason, certain=False)

    def gone(self, event: e.WorkerGone, out: Actions) -> list[Job]:
        """A worker that was lost does not come back: the call that it alone had took it down.

        Returns:
            The jobs with such calls.
        """
        found: dict[Job, None] = {}
        for job in self._jobs.values():
            for index, loss in job.apart.accused_with(event.worker):
                found[job] = None
                if event.innocent:
                    self._absolve(job, loss.worker, loss.incarnation, out)
                else:
                    self._convict(job, index, loss.worker, out)
        return list(found)

    def _back(
        self,
        worker: Worker,
        out: Actions,
        *,
        reason: str = "",
        but: dict[str, list[Span]] | None = None,
        certain: bool = True,
    ) -> None:
        """Let calls in a worker's hands wait again.

        Args:
            worker: Which.
            out: What is to be done.
            reason: What was seen, when nobody knows why they were lost.
            but: Those that it still has, by job.
            certain: Whether it is known that they are lost, and so what took it down.
        """
        alone = self._alone(worker) if reason else None
        for job_id in list(worker.jobs):
            job = self._jobs[job_id]
            spans = job.ledger.in_hands(worker.number, but=(but or {}).get(job_id, ()))
            freed, loss = job.apart.back(
                worker.number,
                spans,
                worker=worker.name if reason else "",
                incarnation=worker.incarnation,
                reason=reason,
            )
            self._roster.hold(worker, -freed)
            if loss is not None:
                out.append(e.Marked(job=job_id, loss=loss))
        if alone is not None:
            self._judge(worker, *alone, out, certain=certain)

    def _alone(self, worker: Worker) -> tuple[Job, int] | None:
        """The suspect that a worker has in hand, and nothing else."""
        if worker.alone is None or worker.held != 1:
            return None
        job_id, index = worker.alone
        job = self._jobs.get(job_id)
        if job is None or job.ledger.holder_of(index) != worker.number:
            return None
        return job, index

    def _judge(self, worker: Worker, job: Job, index: int, out: Actions, *, certain: bool) -> None:
        """A suspect was lost with a worker that had nothing else in hand."""
        marks = job.apart.suspects.marks(index)
        if len(marks) < CONVICTED:
            return
        job.spared += len({loss.worker for loss in marks})
        if certain:
            self._convict(job, index, worker.name, out)
        else:
            job.apart.accuse(index, marks[-1])

    def _absolve(self, job: Job, worker: str, incarnation: str, out: Actions) -> None:
        """Nothing had taken a worker down, if it was thought lost at all."""
        if job.apart.take_back(worker, incarnation):
            out.append(e.Absolved(job=job.spec.id, worker=worker, incarnation=incarnation))

    def _convict(self, job: Job, index: int, worker: str, out: Actions) -> None:
        text = verdict(job.apart.suspects.marks(index)).encode()
        self.settle(job, [CallOutcome(index, OutcomeKind.CRASHED, text, worker=worker)], out)


def _indices(spans: Iterable[Span]) -> Iterator[int]:
    return chain.from_iterable(range(span.start, span.stop) for span in spans)
