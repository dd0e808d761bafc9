"""A master that serves many jobs keeps no more of them than of a few."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from dayfly.master import books
from dayfly.master import events as e
from dayfly.master.switchboard import Switchboard
from dayfly.wire import messages as m
from tests.unit.master_support import (
    POLICY,
    Master,
    follow,
    instance,
    master,
    spec,
    submit,
    until,
)
from tests.unit.test_scheduler import Story, closed, leases, told


def words_in(root: object) -> Iterator[str]:
    """Every string that an object of ours keeps, however deep in objects and collections."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, str):
            yield thing
        elif isinstance(thing, dict):
            todo += [*thing, *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            todo += thing
        elif type(thing).__module__.startswith("dayfly."):
            todo += getattr(thing, "__dict__", {}).values()
            fields = getattr(thing, "__struct_fields__", ())
            todo += [getattr(thing, name) for name in fields]


def test_a_scheduler_keeps_nothing_of_jobs_that_are_over() -> None:
    story = Story()
    workers = ["w1", "w2"]
    for name in workers:
        story.worker(name, spec("first"))
    names = [f"job-{number}" for number in range(200)]
    for number, name in enumerate(names):
        story.actions.clear()
        story.job(spec(name, retries=1), 40)
        job = story.scheduler.job(name)
        assert job is not None
        while job.ledger.pending:
            for worker in workers:
                calls = leases(story.actions).get(worker, [])
                held = [i for i in calls if job.ledger.holder_of(i) > 0]
                story.done(worker, *held[:2], job=name, seconds=0.01)
        # One is asked to hand calls back for another, and has begun them all.
        story.worker("w3", spec(name))
        for worker in workers:
            if told(story.actions, worker):
                story.tell(e.HandedBack(worker=worker, job=name, spans=[]))
        story.tell(e.WorkerLost(worker="w3", reason="gone"))
        if number % 2:
            story.tell(e.CancelAsked(job=name, indices=None, reason="by ada"))
        else:
            story.done("w1", *range(40), job=name, seconds=0.01)
        for worker in workers:  # that came too late
            story.tell(e.HandedBack(worker=worker, job=name, spans=[]))
        assert closed(story.actions)
        story.now += 10.0
    kept = set(words_in(story.scheduler)) & set(names)
    assert len(kept) <= len(workers), "each may know whose turn it was last"


def test_a_worker_that_was_away_when_a_job_ended_is_told_to_forget_it_when_it_is_back() -> None:
    story = Story()
    story.worker("w1", spec("over"))
    story.job(spec("over"), 2)
    story.tell(e.WorkerAway(worker="w1"))
    story.done("w1", 0, 1, job="over")
    actions = story.ready("w1", holding={"over": []})  # it has the function still
    assert m.Forget(job="over") in told(actions, "w1")


def test_a_client_that_goes_silent_after_its_job_was_over_is_not_waited_for() -> None:
    running = {"running"}
    switchboard = Switchboard(lambda: None, running.__contains__)
    follows = {"running": 3, "over": 5}
    peer = Mock(follows=follows, link=Mock(peer="ada"))
    switchboard.clients[peer] = None
    switchboard.submitters = dict.fromkeys(follows, peer)
    switchboard.job_over("over")
    assert list(switchboard.submitters) == ["running"]
    switchboard.forget(peer, silent=True)
    assert switchboard.is_awaited("running")
    assert not switchboard.is_awaited("over")
    switchboard.job_over("running")
    assert not set(words_in(switchboard)) & {"running", "over"}


async def served(service: Master, name: str, *, fetched: bool) -> None:
    """A job of a client that fetches its outcomes, or is killed when it is over."""
    async with service.client(f"ada@{name}") as door:
        await submit(door, spec(name), 5)
        await service.workers[0].printed(name, "hello")
        await follow(door)
        if fetched:
            await door.send(m.Release(job=name))


async def test_a_master_keeps_the_rows_of_the_last_jobs_and_little_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "KEPT_ROWS", 10)
    monkeypatch.setattr(books, "UNFETCHED", 4)
    names = {f"job-{number}" for number in range(40)}
    async with master(tmp_path) as service, service.client("watcher") as watcher:
        await watcher.send(m.Adopt(instances=[instance("w1")], policy=POLICY))
        await watcher.send(m.FollowLogs(past=True))
        worker = await (await service.worker("w1")).ready()
        for number, name in enumerate(sorted(names)):
            await served(service, name, fetched=number % 2 == 0)
        hub = service.hub
        await until(hub.books.archivist.idle.is_set)
        for peer in hub.peers.clients:
            peer.wake()
        await until(lambda: len(hub.peers.clients) == 1 and len(hub.books.rows) == 10)
        await until(lambda: not worker.unkept)
        await service.clock.advance(1.0)  # statuses are told in their turn
        outcomes = {name for name in names if hub.books.dossier(name)}
        assert len(outcomes) == 4
        kept = set(words_in(hub)) & names
        assert kept >= set(hub.books.rows)
        assert len(kept - set(hub.books.rows)) <= 1, "the worker may know whose turn it was last"
        assert len(list((tmp_path / "logs").iterdir())) == 10
        hub.flush()
        with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:

            def jobs_in(table: str, column: str = "job") -> set[str]:
                return {job for (job,) in database.execute(f"SELECT {column} FROM {table}")}  # noqa: S608

            assert jobs_in("jobs", "id") == set(hub.books.rows)
            assert jobs_in("deliveries") == outcomes
            for table in ("chunks", "tries", "losses", "orphans", "deserted"):
                assert not jobs_in(table)
