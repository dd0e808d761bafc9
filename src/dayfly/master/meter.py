"""What jobs have cost so far, and when they will have cost all that they may.

A job is charged with the time of every VM of its pool from its submission on (from the VM's
own start, if that was later, and then for 60 s at least), and with the master's. Jobs that
share workers are each charged with all of them: a cap holds for each, and their sum is too
high rather than too low. All times are moments of one clock.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dayfly import cost
from dayfly.master.events import Pool
from dayfly.model import Instance

#: Dollars by which a sum may miss its cap by rounding alone.
_ROUNDING = 1e-9


class Run(msgspec.Struct):
    """One run of a VM, from a start of it to its end.

    Attributes:
        pool: The jobs that are charged with it; ``None`` for all.
        hourly: Dollars per hour, all in; ``None`` where nobody knows.
        ended: ``None`` while it is up.
    """

    pool: Pool | None
    hourly: float | None
    started: float
    ended: float | None = None


class Account(msgspec.Struct, frozen=True):
    """An open job.

    Attributes:
        since: Its submission.
        cap: Dollars.
    """

    pool: Pool
    since: float
    cap: float | None


class Cap(msgspec.Struct, frozen=True):
    """The moment at which a job reaches its cap, and how much it costs per hour then."""

    at: float
    job: str
    hourly: float


class Meter:
    """The costs of all open jobs.

    Args:
        master: The master's own instance.
        started: When it came up last.
    """

    def __init__(self, master: Instance, *, started: float) -> None:
        self._own = master.id
        #: By instance and the date of its start, so that whoever tells of it again tells
        #: nothing new.
        self._runs: dict[tuple[str, float], Run] = {
            (master.id, master.launched_at): Run(None, cost.hourly_of(master), started)
        }
        self._jobs: dict[str, Account] = {}

    # -- what happens --

    def submitted(self, job: str, pool: Pool, *, since: float, cap: float | None) -> None:
        """A job is open."""
        self._jobs[job] = Account(pool, since, cap)

    def closed(self, job: str, at: float) -> float | None:
        """A job is over; returns what it has cost, ``None`` where a price is not known."""
        sum_ = self.cost(job, at)
        self._jobs.pop(job, None)
        self._runs = {name: run for name, run in self._runs.items() if self._matters(run)}
        return sum_

    def adopted(self, instance: Instance, pool: Pool, *, started: float) -> bool:
        """A worker has been taken on; returns whether that is news."""
        key = instance.id, instance.launched_at
        if instance.id == self._own or key in self._runs:
            return False
        self._runs[key] = Run(pool, cost.hourly_of(instance), started)
        return True

    def gone(self, instance: Instance, at: float) -> bool:
        """A worker is off; returns whether that is news."""
        run = self._runs.get((instance.id, instance.launched_at))
        if run is None or run.ended is not None or instance.id == self._own:
            return False
        run.ended = at
        return True

    # -- what can be asked --

    def cost(self, job: str, at: float) -> float | None:
        """Dollars that a job has cost; ``None`` where a price is not known."""
        if (account := self._jobs.get(job)) is None:
            return None
        total = 0.0
        for run in self._charged(account):
            if run.hourly is None:
                return None
            total += _charge(run, account.since, at)
        return total

    def hourly(self, job: str, at: float) -> float:
        """By how many dollars per hour that grows; what the minimum has paid for does not."""
        if (account := self._jobs.get(job)) is None:
            return 0.0
        runs = self._charged(account)
        return sum(run.hourly or 0.0 for run in runs if _grows_from(run, account.since) <= at)

    def cap(self, job: str, now: float) -> Cap | None:
        """When a job reaches its cap if its VMs stay as they are; ``None`` if never."""
        account, total = self._jobs.get(job), self.cost(job, now)
        if account is None or account.cap is None or total is None:
            return None
        at, rate = now, self.hourly(job, now)
        up = [run for run in self._charged(account) if run.ended is None]
        later = [(_grows_from(run, account.since), run.hourly or 0.0) for run in up]
        for moment, more in sorted(step for step in later if step[0] > now):
            then = total + rate * (moment - at) / 3600.0
            if then >= account.cap:
                break
            at, total, rate = moment, then, rate + more
        left = account.cap - total
        if left > _ROUNDING:
            if not rate:
                return None
            at += left / rate * 3600.0
        return Cap(at, job, sum(hourly for _, hourly in later))

    def next_cap(self, now: float) -> Cap | None:
        """The cap that is reached first."""
        caps = [cap for job in self._jobs if (cap := self.cap(job, now)) is not None]
        return min(caps, key=lambda cap: cap.at, default=None)

    def _charged(self, account: Account) -> Iterator[Run]:
        for run in self._runs.values():
            here = run.pool is None or run.pool == account.pool
            if here and (run.ended is None or run.ended > account.since):
                yield run

    def _matters(self, run: Run) -> bool:
        """Whether a job is charged with it, or may yet be."""
        if run.ended is None:
            return True
        jobs = self._jobs.values()
        return any(job.pool == run.pool and job.since < run.ended for job in jobs)


def _charge(run: Run, since: float, at: float) -> float:
    until = at if run.ended is None else min(at, run.ended)
    seconds = max(0.0, until - max(run.started, since))
    return cost.bill(seconds, run.hourly or 0.0, started=run.started >= since)


def _grows_from(run: Run, since: float) -> float:
    """From when on a run adds to its charge; an ended one never does."""
    if run.ended is not None:
        return float("inf")
    return run.started + cost.MINIMUM if run.started >= since else since
