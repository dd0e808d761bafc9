"""The scheduler under any order of events: every call is delivered, and exactly once."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dayfly.master import events as e
from dayfly.master.retrying import PATIENCE, RETRIED
from dayfly.master.scheduler import Scheduler
from dayfly.master.suspects import CONVICTED, SUSPECT
from dayfly.model import CallOutcome, JobState, OutcomeKind
from dayfly.wire import messages as m
from dayfly.wire.messages import Span
from tests.unit.master_support import spec

Key = tuple[str, int]


class Cluster(RuleBasedStateMachine):
    """Workers and jobs that behave in all ways that they may."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(start_timeout=1e9)
        self.now = 0.0
        self.jobs: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.complete: set[str] = set()
        self.closed: dict[str, e.JobClosed] = {}
        self.delivered: dict[Key, OutcomeKind] = {}
        self.workers: dict[str, set[Key]] = {}
        self.incarnations: dict[str, str] = {}
        self.zombies: dict[str, set[Key]] = {}
        self.draining: set[str] = set()
        self.away: set[str] = set()
        #: The outcomes that each worker said last, whose acknowledgement may not have arrived.
        self.unkept: dict[str, list[tuple[str, CallOutcome]]] = {}
        #: Which try of a call a worker has been given, the failed tries of each call by their
        #: workers, and the unexplained losses (worker, incarnation) that each was in hand at.
        self.attempts: dict[tuple[str, Key], int] = {}
        self.tries: dict[Key, list[str]] = {}
        self.marks: dict[Key, list[tuple[str, str]]] = {}
        self.failed_at: dict[Key, float] = {}
        self.recalls: dict[str, list[tuple[str, int]]] = {}
        self.count = 0

    # -- the world --

    def tell(self, event: e.Event) -> None:
        drained = []
        for action in self.scheduler.handle(event, self.now):
            self.obey(action)
            if isinstance(action, e.Dismiss):
                drained.append(action.worker)
        for name in drained:
            assert name in self.draining
            assert not self.workers[name], "a worker is sent off with calls in hand"
            self.forget(name)
            self.tell(e.WorkerLost(worker=name, reason="drained", innocent=True))

    def forget(self, name: str) -> None:
        self.draining.discard(name)
        self.away.discard(name)
        self.recalls.pop(name, None)
        self.unkept.pop(name, None)
        self.workers.pop(name)

    def obey(self, action: e.Action) -> None:
        match action:
            case e.Lease(worker=worker, job=job, span=span, attempt=attempt):
                assert worker not in self.draining, "a worker that drains was given calls"
                assert worker not in self.away, "a worker that is away was given calls"
                assert span.start < span.stop
                assert span.start // 10 == (span.stop - 1) // 10, "a span crosses chunks"
                for index in range(span.start, span.stop):
                    key = (job, index)
                    assert key not in self.delivered, "a call that is done was handed out"
                    assert key not in self.accused(), "a call was handed out before its verdict"
                    for name, held in self.workers.items():
                        assert key not in held, f"{key} is held by {name} already"
                    mine = self.workers[worker]
                    assert not any(map(self.suspect, mine)), "a suspect has got company"
                    assert not (mine and self.suspect(key)), "a suspect was put in company"
                    mine.add(key)
                    assert attempt == len(self.tries.get(key, ()))
                    self.attempts[worker, key] = attempt
            case e.Deliver(job=job, outcomes=outcomes):
                assert job not in self.closed
                for outcome in outcomes:
                    key = (job, outcome.index)
                    assert key not in self.delivered, "delivered twice"
                    self.delivered[key] = outcome.kind
                    tries = self.tries.get(key, [])
                    assert [each.worker for each in outcome.tries] == tries
                    if outcome.kind is OutcomeKind.CRASHED:
                        assert len(self.marks[key]) >= CONVICTED, "convicted without evidence"
                    elif outcome.kind in RETRIED:
                        assert len(tries) == self.retries[job], "it had tries left"
            case e.Tried(job=job, index=index, tried=tried):
                self.tries.setdefault((job, index), []).append(tried.worker)
                self.failed_at[job, index] = self.now
                assert len(self.tries[job, index]) <= self.retries[job]
            case e.Marked(job=job, loss=loss):
                for span in loss.spans:
                    for index in range(span.start, span.stop):
                        loser = (loss.worker, loss.incarnation)
                        self.marks.setdefault((job, index), []).append(loser)
            case e.Absolved(job=job, worker=worker, incarnation=incarnation):
                for key, losers in self.marks.items():
                    if key[0] == job:
                        self.marks[key] = [one for one in losers if one != (worker, incarnation)]
            case e.Tell(worker=worker, message=m.Revoke(job=job, indices=indices)):
                held = self.workers[worker]
                gone = {k for k in held if k[0] == job and (indices is None or k[1] in indices)}
                held -= gone
            case e.Tell(worker=worker, message=m.Recall(job=job, count=count)):
                self.recalls.setdefault(worker, []).append((job, count))
            case e.JobClosed(job=job):
                assert job not in self.closed
                self.closed[job] = action

    def suspect(self, key: Key) -> bool:
        return len(self.marks.get(key, ())) >= SUSPECT

    def spans(self, keys: set[Key], job: str) -> list[Span]:
        return [Span(i, i + 1) for i in sorted(k[1] for k in keys if k[0] == job)]

    # -- what happens --

    @rule(
        workers=st.integers(1, 3),
        chunksize=st.sampled_from([0, 0, 3]),
        retries=st.sampled_from([0, 0, 1, 3]),
    )
    def submit(self, workers: int, chunksize: int, retries: int) -> None:
        if len(self.jobs) >= 4:
            return
        job = f"j{len(self.jobs)}"
        self.jobs[job] = 0
        self.retries[job] = retries
        asked = spec(job, wanted=workers, chunksize=chunksize, retries=retries)
        self.tell(e.JobSubmitted(spec=asked))

    @precondition(lambda self: self.open_to_items())
    @rule(data=st.data())
    def items(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.open_to_items()))
        start = self.jobs[job]
        self.jobs[job] += 10
        self.tell(e.ItemsCame(job=job, start=start, count=10))

    @precondition(lambda self: self.open_to_items())
    @rule(data=st.data())
    def items_end(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.open_to_items()))
        self.complete.add(job)
        self.tell(e.ItemsEnded(job=job, total=self.jobs[job]))

    def open_to_items(self) -> list[str]:
        return [j for j in self.jobs if j not in self.complete and j not in self.closed]

    @rule(processes=st.integers(1, 3))
    def worker_comes(self, processes: int) -> None:
        if len(self.workers) >= 4:
            return
        self.count += 1
        name = f"w{self.count}"
        self.workers[name] = set()
        self.incarnations[name] = "0"
        self.tell(e.WorkerComing(worker=name, pool=e.pool_of(spec())))
        self.tell(e.WorkerReady(worker=name, incarnation="0", processes=processes, holding={}))

    def here(self) -> list[str]:
        return sorted(self.workers.keys() - self.away)

    @precondition(lambda self: any(self.workers[name] for name in self.here()))
    @rule(
        data=st.data(),
        seconds=st.sampled_from([1e-5, 1e-3, 0.05, 1.0]),
        kind=st.sampled_from([OutcomeKind.VALUE, OutcomeKind.RAISED]),
    )
    def outcomes(self, data: st.DataObject, seconds: float, kind: OutcomeKind) -> None:
        name = data.draw(st.sampled_from([n for n in self.here() if self.workers[n]]))
        job = data.draw(st.sampled_from(sorted({k[0] for k in self.workers[name]})))
        mine = sorted(k[1] for k in self.workers[name] if k[0] == job)
        count = data.draw(st.integers(1, len(mine)))
        self.report(name, job, mine[:count], seconds, kind)

    def report(
        self,
        name: str,
        job: str,
        indices: list[int],
        seconds: float,
        kind: OutcomeKind = OutcomeKind.VALUE,
    ) -> None:
        self.workers[name] -= {(job, index) for index in indices}
        outcomes = [self.outcome(name, (job, i), kind, seconds) for i in indices]
        self.unkept[name] = [(job, outcome) for outcome in outcomes]
        self.tell(e.OutcomesCame(worker=name, job=job, outcomes=outcomes))

    def outcome(self, name: str, key: Key, kind: OutcomeKind, seconds: float) -> CallOutcome:
        attempt = self.attempts[name, key]
        return CallOutcome(key[1], kind, b"", 1.0, 1.0 + seconds, name, attempt)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), innocent=st.booleans())
    def worker_is_lost(self, data: st.DataObject, innocent: bool) -> None:
        self.lose(data.draw(st.sampled_from(sorted(self.workers))), innocent)

    @precondition(lambda self: any(self.workers.values()))
    @rule(data=st.data())
    def a_call_takes_its_workers_down(self, data: st.DataObject) -> None:
        held = sorted({key for keys in self.workers.values() for key in keys})
        poison = data.draw(st.sampled_from(held))
        for _ in range(6):
            for name in [name for name, keys in self.workers.items() if poison in keys]:
                self.lose(name, innocent=False)
                if data.draw(st.booleans()):
                    self.tell(e.WorkerGone(worker=name))
                self.worker_comes(2)

    def lose(self, name: str, innocent: bool) -> None:
        self.zombies[name] = self.workers[name]
        self.forget(name)
        self.tell(e.WorkerLost(worker=name, reason="gone", innocent=innocent))

    @precondition(lambda self: self.here())
    @rule(data=st.data())
    def the_cloud_takes_a_worker_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.here()))
        self.draining.add(name)
        self.tell(e.WorkerDraining(worker=name, reason="spot"))
        for job in sorted({key[0] for key in self.workers.get(name, ())}):
            mine = sorted(key for key in self.workers[name] if key[0] == job)
            back = set(mine[data.draw(st.integers(0, len(mine))) :])
            self.workers[name] -= back
            self.tell(e.HandedBack(worker=name, job=job, spans=self.spans(back, job)))
            if name not in self.workers:
                break

    @precondition(lambda self: any(self.zombies.values()))
    @rule(data=st.data())
    def a_lost_worker_speaks(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([n for n, held in self.zombies.items() if held]))
        key = self.zombies[name].pop()
        kind = data.draw(st.sampled_from([OutcomeKind.VALUE, OutcomeKind.RAISED]))
        if kind is OutcomeKind.RAISED and not self.retries[key[0]]:
            kind = OutcomeKind.VALUE
        late = self.outcome(name, key, kind, 0.1)
        self.tell(e.OutcomesCame(worker=name, job=key[0], outcomes=[late]))

    @precondition(lambda self: self.zombies)
    @rule(data=st.data())
    def a_lost_worker_returns(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.zombies)))
        held = self.zombies.pop(name)
        self.workers[name] = set()
        self.tell(e.WorkerComing(worker=name, pool=e.pool_of(spec())))
        self.connect(name, held)

    @precondition(lambda self: self.zombies)
    @rule(data=st.data(), innocent=st.booleans())
    def a_lost_worker_is_dismissed(self, data: st.DataObject, innocent: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.zombies)))
        self.tell(e.WorkerGone(worker=name, innocent=innocent))

    @rule()
    def a_minute_passes(self) -> None:
        self.now += PATIENCE
        self.tell(e.Tick())

    @precondition(lambda self: self.here())
    @rule(data=st.data())
    def a_connection_breaks(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.here()))
        self.away.add(name)
        self.recalls.pop(name, None)
        self.tell(e.WorkerAway(worker=name))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), again=st.booleans())
    def a_worker_reconnects(self, data: st.DataObject, again: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.workers)))
        held, self.workers[name] = self.workers[name], set()
        # What was on its way to it when the connection broke never arrived.
        if held:
            kept = data.draw(st.sets(st.sampled_from(sorted(held))))
            held = kept
        self.recalls.pop(name, None)
        unkept = self.unkept.get(name, []) if again else []
        self.connect(name, held, unkept)
        # What was not acknowledged is said again.
        for job, outcome in unkept:
            self.tell(e.OutcomesCame(worker=name, job=job, outcomes=[outcome]))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def an_agent_starts_anew(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.workers)))
        self.workers[name] = set()
        self.recalls.pop(name, None)
        self.unkept.pop(name, None)
        self.count += 1
        self.incarnations[name] = str(self.count)
        self.connect(name, set())

    def connect(
        self, name: str, held: set[Key], unkept: list[tuple[str, CallOutcome]] | None = None
    ) -> None:
        attempt = {(job, each.index): each.attempt for job, each in unkept or ()}
        attempt |= {key: self.attempts[name, key] for key in held}
        holding = {
            job: self.spans(set(attempt), job) for job in sorted({key[0] for key in attempt})
        }
        attempts: dict[str, dict[int, int]] = {}
        for key, number in attempt.items():
            attempts.setdefault(key[0], {})[key[1]] = number
        # Before it is heard, what it holds that others hold too is not yet revoked.
        mine = {
            k
            for k in held
            if k not in self.delivered
            and self.attempts[name, k] >= len(self.tries.get(k, ()))
            and k[0] not in self.closed
            and not any(k in other for other in self.workers.values())
        }
        self.workers[name] = mine
        self.away.discard(name)
        self.tell(
            e.WorkerReady(
                worker=name,
                incarnation=self.incarnations[name],
                processes=2,
                holding=holding,
                attempts=attempts,
            )
        )

    @precondition(lambda self: self.recalls)
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.recalls)))
        recalls = self.recalls[name]
        job, count = recalls.pop(0)
        if not recalls:
            del self.recalls[name]
        mine = {k for k in self.workers[name] if k[0] == job}
        back = set(sorted(mine)[max(0, len(mine) - count) :])
        self.workers[name] -= back
        self.tell(e.HandedBack(worker=name, job=job, spans=self.spans(back, job)))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel_calls(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.jobs)))
        indices = data.draw(st.lists(st.integers(0, 39), max_size=5))
        self.tell(e.CancelAsked(job=job, indices=indices, reason="ada"))

    @precondition(lambda self: len(self.jobs) > 2)
    @rule(data=st.data())
    def cancel_job(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.jobs)))
        self.tell(e.CancelAsked(job=job, indices=None, reason="ada"))

    # -- what must hold --

    @invariant()
    def the_books_balance(self) -> None:
        for job_id in self.jobs:
            job = self.scheduler.job(job_id)
            assert (job is None) == (job_id in self.closed)
            if job is None:
                continue
            ledger = job.ledger
            assert ledger.known == self.jobs[job_id]
            assert ledger.done + ledger.pending + ledger.leased == ledger.known
            done = {k for k in self.delivered if k[0] == job_id}
            held = {k for keys in self.workers.values() for k in keys if k[0] == job_id}
            assert ledger.done == len(done)
            assert ledger.leased == len(held)
        for name, keys in self.workers.items():
            assert self.scheduler.held(name) == len(keys)

    @invariant()
    def nobody_is_idle_while_calls_wait(self) -> None:
        held = {key for keys in self.workers.values() for key in keys}
        waiting = {
            (job, index)
            for job, count in self.jobs.items()
            if job not in self.closed
            for index in range(count)
        } - (held | self.delivered.keys() | self.accused())
        staying = [name for name in self.here() if name not in self.draining]
        for name in staying:
            if not self.workers[name] and (could := [k for k in waiting if self.may(name, k)]):
                raise AssertionError(f"{name} has nothing to do, and {could} wait")

    def may(self, name: str, key: Key) -> bool:
        """Whether an idle worker should have a call; not one that it has just failed."""
        others = len(self.workers.keys() - self.draining) > 1
        tries = self.tries.get(key)
        if not (others and tries and tries[-1] == name and not self.marks.get(key)):
            return True
        return self.now >= self.failed_at[key] + PATIENCE

    def accused(self) -> set[Key]:
        """Calls that wait for the word on their last worker: each has the marks for a verdict."""
        found = set()
        for job_id in self.scheduler.open_jobs:
            job = self.scheduler.job(job_id)
            assert job is not None
            for index, loss in job.apart.accused.items():
                losers = self.marks[job_id, index]
                assert len(losers) >= CONVICTED
                assert (loss.worker, loss.incarnation) in losers
                found.add((job_id, index))
        return found

    def teardown(self) -> None:
        """When the faults stop and workers live, every job ends."""
        for job in self.open_to_items():
            self.complete.add(job)
            self.tell(e.ItemsEnded(job=job, total=self.jobs[job]))
        for name in sorted(self.away):
            self.lose(name, innocent=True)
        for name in sorted(self.zombies):
            self.tell(e.WorkerGone(worker=name))
        self.worker_for_the_end()
        self.tell(e.Tick())
        for _ in range(10_000):
            busy = [(n, k) for n, held in self.workers.items() for k in sorted(held)[:1]]
            if not busy:
                break
            for name, key in busy:
                if key in self.workers[name]:
                    self.report(name, key[0], [key[1]], 0.01)
        for job, total in self.jobs.items():
            assert job in self.closed, f"{job} has not ended"
            if self.closed[job].state is JobState.COMPLETED:
                assert sorted(k[1] for k in self.delivered if k[0] == job) == list(range(total))

    def worker_for_the_end(self) -> None:
        self.workers["last"] = set()
        self.incarnations["last"] = "0"
        self.tell(e.WorkerComing(worker="last", pool=e.pool_of(spec())))
        self.tell(e.WorkerReady(worker="last", incarnation="0", processes=2, holding={}))


Cluster.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCluster = Cluster.TestCase
