"""What callers say, taken in: one loop per connection, by role."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from itertools import chain
from typing import Any

from dayfly.errors import WireError
from dayfly.master import events as e
from dayfly.master.hub import Hub
from dayfly.master.journal import KeptInstance
from dayfly.master.peers import ClientPeer, WorkerPeer, dropped
from dayfly.model import LogLine
from dayfly.phases import Phase
from dayfly.wire import messages as m
from dayfly.wire.link import Link

log = logging.getLogger(__name__)


async def serve_client(hub: Hub, link: Link[m.FromClient]) -> None:
    """Talk with a client until it is gone."""
    peer = ClientPeer(link, hub.books)
    hub.peers.clients[peer] = None
    log.info("client %s is here", link.peer)
    writer = asyncio.create_task(peer.write(), name=f"dayfly to {link.peer}")
    try:
        async for message in link:
            await _from_client(hub, peer, message)
            await _unless_over(peer.has_room(), writer)
    except WireError as error:
        log.warning("client %s: %s", link.peer, error)
    finally:
        hub.client_left(peer, silent=link.silent)
        await _end(writer, link)
        log.info("client %s has %s", link.peer, "gone silent" if link.silent else "left")


async def serve_worker(hub: Hub, link: Link[m.FromWorker]) -> None:
    """Talk with a worker's agent until it is gone."""
    peer = WorkerPeer(link, hub.books)
    if not hub.fleet.link_opened(peer.name, partial(hub.peers.say, peer)):
        reason = f"{peer.name} is no worker of this master"
        await link.send(m.Refused(code="WireError", reason=reason))
        await link.aclose()
        log.warning("refused: %s", reason)
        return
    hub.handle(e.WorkerAway(worker=peer.name))
    before = hub.peers.workers.get(peer.name)
    hub.peers.workers[peer.name] = peer
    writer = asyncio.create_task(peer.write(), name=f"dayfly to {peer.name}")
    try:
        if before is not None:
            await before.link.aclose()
        async for message in link:
            _from_worker(hub, peer, message)
    except WireError as error:
        log.warning("worker %s: %s", peer.name, error)
    finally:
        if hub.peers.workers.get(peer.name) is peer:
            del hub.peers.workers[peer.name]
            hub.fleet.link_closed(peer.name)
            hub.handle(e.WorkerAway(worker=peer.name))
        await _end(writer, link)


async def _end(writer: asyncio.Task[None], link: Link[Any]) -> None:
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await link.aclose()


async def _unless_over(room: Coroutine[Any, Any, None], writer: asyncio.Task[None]) -> None:
    """Wait for room in the queue; but nobody makes any once the writer has ended."""
    waiting = asyncio.ensure_future(room)
    try:
        await asyncio.wait({waiting, writer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _from_worker(hub: Hub, peer: WorkerPeer, message: m.FromWorker) -> None:
    match message:
        case m.Done():
            hub.keep_outcomes(peer, message)
        case m.Printed():
            _printed(hub, message.lines)
        case m.HandBack():
            hub.handle(e.HandedBack(worker=peer.name, job=message.job, spans=message.spans))
        case m.Ready():
            for packages in sorted(hub.stocking.done):
                hub.peers.say(peer, m.Stocked(packages=packages))
            spare, holds = not hub.jobs_of(peer.name), bool(message.holding)
            hub.fleet.asked_for_work(peer.name, spare=spare, holds=holds)
            _timed(hub, peer.name, hub.fleet.phases(peer.name))
            hub.handle(
                e.WorkerReady(
                    worker=peer.name,
                    incarnation=message.incarnation,
                    processes=message.processes,
                    holding=message.holding,
                    attempts=message.attempts,
                )
            )
        case m.Phases(phases=phases):
            _timed(hub, peer.name, phases)
        case m.Draining():
            hub.fleet.drain(peer.name, message.seconds, message.reason)
        case m.Unfit():
            _unfit(hub, peer, message)


def _unfit(hub: Hub, peer: WorkerPeer, message: m.Unfit) -> None:
    dossier, failure = hub.books.dossier(message.job), message.failure
    witness = ""
    if dossier is not None and failure.kind == "network":
        witness = hub.stocking.unreached.get(dossier.spec.packages, "")
    log.warning("worker %s cannot serve job %s: %s", peer.name, message.job, failure.error())
    hub.handle(e.WorkerUnfit(worker=peer.name, job=message.job, failure=failure, witness=witness))


def _timed(hub: Hub, worker: str, phases: list[Phase]) -> None:
    """Whoever follows a job that a worker could serve is told what took how long on it."""
    followers = (hub.peers.followers(job) for job in hub.jobs_of(worker))
    for peer in dict.fromkeys(chain.from_iterable(followers)) if phases else ():
        hub.peers.say(peer, m.Phases(phases=phases))


def _printed(hub: Hub, lines: list[LogLine]) -> None:
    by_job: dict[str, list[LogLine]] = {}
    for line in lines:
        by_job.setdefault(line.job, []).append(line)
    for job, its_lines in by_job.items():
        if hub.books.dossier(job) is None:
            continue
        hub.books.logbook.append(job, its_lines)
        for peer in hub.peers.clients:
            if peer.all_logs:
                peer.logs.setdefault(job, 0)
            if job in peer.logs:
                hub.peers.wake(peer)


async def _from_client(hub: Hub, peer: ClientPeer, message: m.FromClient) -> None:
    match message:
        case m.Submit():
            _submit(hub, peer, message)
        case m.Items():
            _items(hub, peer, message)
        case m.ItemsEnd():
            if hub.is_open(message.job):
                hub.books.journal.items_end(message.job, message.total)
                hub.handle(e.ItemsEnded(job=message.job, total=message.total))
        case m.Adopt():
            if message.registry is not None:
                hub.installer.entrust(message.instances, message.registry)
            for instance in message.instances:
                kept = KeptInstance(instance=instance, policy=message.policy, job=message.job)
                hub.fleet.adopt(kept)
        case m.Ended():
            hub.fleet.ended(message.instance, message.reason)
        case m.AskAgain():
            hub.attached(message.job, again=True)
        case m.Cancel():
            _cancel(hub, peer, message)
        case m.Follow():
            _follow(hub, peer, message)
        case m.Release():
            _release(hub, peer, message.job)
        case m.FollowLogs():
            _follow_logs(hub, peer, message)
        case m.Describe():
            await _describe(hub, peer, message)
        case m.ListJobs():
            peer.say(m.Jobs(request=message.request, rows=hub.standing.job_rows()))
        case m.ListWorkers():
            peer.say(m.Workers(request=message.request, rows=hub.standing.worker_rows()))
        case m.ReadLogs():
            lines = hub.books.logbook.lines(message.job)
            peer.say(m.Logs(request=message.request, lines=lines))
    hub.peers.wake(peer)


def _submit(hub: Hub, peer: ClientPeer, message: m.Submit) -> None:
    job = message.spec.id
    if not hub.books.knows(job):
        peer.follow(job, 0, unasked=True)
        peer.logs[job] = 0
        hub.submitted(message, peer)
    elif hub.is_open(job):
        # Said again after a broken connection; the client's Follow says where it stands.
        hub.submits(job, peer)
        peer.logs.setdefault(job, hub.books.logbook.size(job))


def _items(hub: Hub, peer: ClientPeer, message: m.Items) -> None:
    if not hub.is_open(message.job):
        return
    known = hub.known_items(message.job)
    if message.start < known:
        return  # said again after a broken connection
    if message.start > known:
        reason = f"items {known} up to {message.start} of job {message.job} have not come"
        peer.say(m.Refused(code="WireError", reason=reason, job=message.job))
        return
    hub.books.journal.items(message)
    hub.books.shelf.put(message)
    hub.handle(e.ItemsCame(job=message.job, start=message.start, count=message.count))


def _cancel(hub: Hub, peer: ClientPeer, message: m.Cancel) -> None:
    if hub.is_open(message.job):
        reason = f"cancelled by {peer.link.peer}"
        hub.handle(e.CancelAsked(job=message.job, indices=message.indices, reason=reason))
    elif not hub.books.knows(message.job):
        peer.say(dropped(message.job))


def _follow(hub: Hub, peer: ClientPeer, message: m.Follow) -> None:
    if hub.books.dossier(message.job) is None:
        peer.say(dropped(message.job))
        return
    peer.follow(message.job, message.after)
    hub.peers.awake(peer, message.job)
    hub.attached(message.job)


async def _describe(hub: Hub, peer: ClientPeer, message: m.Describe) -> None:
    dossier = hub.books.dossier(message.job)
    if dossier is None:
        peer.say(dropped(message.job, message.request))
        return
    total = next((row.total for row in hub.standing.job_rows() if row.id == message.job), None)
    if dossier.spec.detach and total is not None:
        # Whoever hears this may leave, and will not say again what a power cut took away.
        await hub.books.journal.sync()
    peer.say(m.Described(request=message.request, spec=dossier.spec, total=total))


def _release(hub: Hub, peer: ClientPeer, job: str) -> None:
    peer.unfollow(job)
    peer.logs.pop(job, None)
    hub.books.release(job)


def _follow_logs(hub: Hub, peer: ClientPeer, message: m.FollowLogs) -> None:
    peer.all_logs = peer.all_logs or not message.job
    for job in [message.job] if message.job else hub.open_jobs:
        peer.logs[job] = 0 if message.past else hub.books.logbook.size(job)
