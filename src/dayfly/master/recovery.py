"""After a restart: the service as it was, from its journal."""

from __future__ import annotations

import logging

import msgspec

from dayfly.clock import moment
from dayfly.master import events as e
from dayfly.master.dossier import Dossier
from dayfly.master.hub import Hub
from dayfly.master.journal import KeptInstance, KeptJob

log = logging.getLogger(__name__)

#: Seconds for which an instance that was given up is remembered.
MEMORY = 7 * 86400.0


def recover(hub: Hub) -> None:
    """Give a new hub what the journal holds; its dates are turned into moments."""
    jobs, instances = hub.books.journal.load()
    for job in jobs:
        _recover_job(hub, job)
    for instance in instances:
        _recover_instance(hub, instance)


def _recover_job(hub: Hub, kept: KeptJob) -> None:
    started = None if kept.started is None else moment(hub.clock, kept.started)
    if kept.row is not None:
        hub.books.rows[kept.id] = kept.row
        if started is not None and kept.finished is not None:
            hub.home.remember(started, moment(hub.clock, kept.finished))
    if kept.submit is None:
        return
    dossier = Dossier.of(kept.submit, kept)
    hub.books.add(dossier)
    if kept.row is not None:
        return
    hub.till.opened(dossier.spec)
    hub.stocking.begin(dossier.spec.packages)
    now = hub.clock.monotonic()
    hub.home.job_began(kept.id, dossier.spec.policy, now if started is None else started)
    hub.handle(
        e.JobRestored(
            spec=dossier.spec,
            chunks=kept.chunks,
            total=kept.total,
            done=kept.done,
            failed=kept.failed,
            started=started,
            tries=kept.tries,
            losses=kept.losses,
            orphan=kept.orphan,
            deserted=kept.deserted,
        )
    )
    log.info("job %s goes on: %d of its outcomes are here", kept.id, sum(kept.done))


def _recover_instance(hub: Hub, kept: KeptInstance) -> None:
    now = hub.clock.now()
    if kept.gone:
        hub.till.count(kept)
    if kept.gone and kept.instance.launched_at < now - MEMORY:
        hub.books.journal.drop_instance(kept.instance.id)
        return
    open_jobs = hub.open_jobs
    engaged = [job for job in kept.engaged if job in open_jobs]
    completed = now if kept.engaged and not engaged else kept.completed
    kept = msgspec.structs.replace(kept, engaged=engaged, completed=completed)
    hub.fleet.adopt(kept, returning=True)
