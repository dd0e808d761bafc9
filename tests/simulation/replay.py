"""The master's journal replays to the state that its service is in.

A copy of what is committed is read as a restarted service would, and compared with the live one.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dayfly.master import events as e
from dayfly.master.hub import Hub
from dayfly.master.journal import Journal, KeptInstance, KeptJob
from dayfly.master.ledger import DONE, Ledger
from dayfly.master.scheduler import Scheduler
from dayfly.wire import messages as m
from tests.simulation.world import MEMORY


def differences(hub: Hub) -> list[str] | None:
    """What would be another after a restart here and now; ``None`` in the midst of a turn."""
    if hub._flushing:
        return None
    with _copied(hub.books.journal._path) as journal:
        jobs, instances = journal.load()
        return [
            *_jobs(hub, jobs),
            *(line for job in jobs for line in _deliveries(hub, job, journal)),
            *_rows(hub, journal),
            *_instances(hub, instances),
        ]


def adopted(path: Path) -> set[str]:
    """The instances that a master was told of, by its journal, if it has one."""
    if not path.exists():
        return set()
    with _copied(path) as journal:
        return {kept.instance.id for kept in journal.load()[1]}


@contextmanager
def _copied(path: Path) -> Iterator[Journal]:
    """A copy of what is committed of a journal."""
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="dayfly-replay-", dir=place) as folder:
        copy = Path(folder) / "journal.sqlite"
        source, target = sqlite3.connect(path), sqlite3.connect(copy)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        journal = Journal(copy)
        try:
            yield journal
        finally:
            journal.close()


def _jobs(hub: Hub, kept_jobs: list[KeptJob]) -> Iterator[str]:
    fresh = Scheduler(start_timeout=hub.config.start_timeout)
    for kept in kept_jobs:
        if kept.row is None and kept.submit is not None:
            restored = e.JobRestored(
                spec=kept.submit.spec,
                chunks=kept.chunks,
                total=kept.total,
                done=kept.done,
                failed=kept.failed,
                started=0.0,
                tries=kept.tries,
                losses=kept.losses,
            )
            fresh.handle(restored, 0.0)
    if set(fresh.open_jobs) != set(hub.open_jobs):
        yield f"open jobs are {fresh.open_jobs}, live {hub.open_jobs}"
        return
    for name in fresh.open_jobs:
        replayed, live = fresh.job(name), hub._scheduler.job(name)
        assert replayed is not None
        assert live is not None
        for what in ("done", "failed", "known", "total"):
            ours, theirs = getattr(replayed.ledger, what), getattr(live.ledger, what)
            if ours != theirs:
                yield f"{name}: {what} is {ours}, live {theirs}"
        if _done(replayed.ledger) != _done(live.ledger):
            yield f"{name}: other calls are done"


def _done(ledger: Ledger) -> list[int]:
    return [index for index in range(ledger.known) if ledger.holder_of(index) == DONE]


def _deliveries(hub: Hub, kept: KeptJob, journal: Journal) -> Iterator[str]:
    """Numbered without gaps, each call once."""
    dossier = hub.books.dossier(kept.id)
    if kept.submit is None or dossier is None:
        return
    number, times = 0, Counter[int]()
    while page := journal.deliveries(kept.id, number, 100):
        for next_number, frame in page:
            if next_number != number + 1:
                yield f"{kept.id}: delivery {next_number} comes after {number}"
            number = next_number
            times.update(outcome.index for outcome in m.DELIVERY.decode(frame).outcomes)
    if number != dossier.last:
        yield f"{kept.id}: the last delivery is {number}, live {dossier.last}"
    if twice := [index for index, count in times.items() if count > 1]:
        yield f"{kept.id}: delivered twice: {twice[:5]}"


def _rows(hub: Hub, journal: Journal) -> Iterator[str]:
    for row in journal.rows():
        if hub.books.rows.get(row.id) != row:
            yield f"{row.id}: its row is {row}, live {hub.books.rows.get(row.id)}"


def _instances(hub: Hub, instances: list[KeptInstance]) -> Iterator[str]:
    kept = {each.instance.id: each for each in instances if not each.gone}
    members = hub.fleet._members
    if kept.keys() != members.keys():
        yield f"instances are {sorted(kept)}, live {sorted(members)}"
        return
    for name, ours in kept.items():
        theirs = members[name].kept()
        for what in ("policy", "ready", "engaged", "job"):
            if getattr(ours, what) != getattr(theirs, what):
                yield f"{name}: {what} is {getattr(ours, what)}, live {getattr(theirs, what)}"
