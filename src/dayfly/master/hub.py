"""Where all roads of the master meet.

What is said and what happens goes to the scheduler, and what that wants done goes to the
journal, the fleet and the peers.

Everything here runs in one go, without waiting. At the end of each turn of the event loop
:meth:`Hub.flush` commits to the journal what the turn has brought; only then are the peers'
writers woken, so nobody is told of anything that a killed master would not remember.
"""

from __future__ import annotations

import asyncio
import logging

from dayfly.clock import Clock, happens
from dayfly.dismantle import Due
from dayfly.environment.report import EnvironmentFailure
from dayfly.errors import StorageError
from dayfly.guest import Vm
from dayfly.master import events as e
from dayfly.master.books import Books
from dayfly.master.dossier import Dossier
from dayfly.master.fleet import Fleet
from dayfly.master.home import Home
from dayfly.master.installer import Installer
from dayfly.master.journal import Journal, KeptInstance
from dayfly.master.logbook import Logbook
from dayfly.master.pacer import Pacer
from dayfly.master.peers import ClientPeer, WorkerPeer
from dayfly.master.scheduler import CLIENT_GRACE, Scheduler
from dayfly.master.standing import Standing
from dayfly.master.stocking import Stocking
from dayfly.master.switchboard import Switchboard
from dayfly.master.till import Till
from dayfly.model import JobRow, MasterConfig
from dayfly.storage.base import Storage
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Seconds that jobs which have ended get to reach storage before the VM is powered off.
LAST_WORDS = 4.0
#: Seconds in which clients can still read what they were told last.
PARTING = 0.5


class Hub:
    """The master's service, but for its sockets.

    Args:
        config: The service's own.
        launched: When this VM came up last, on ``clock.monotonic()``.
        journal: What must survive; the hub does not close it.
        logbook: Function logs; likewise.
        storage: Where jobs that are over are written to.
        installer: Makes VMs workers.
        vm: The VM under this process.
        clock: Where time comes from.
        journal_name: See :class:`dayfly.wire.messages.Welcome`.
        client_grace: Seconds that a job lives on without any client.

    Attributes:
        broken: Done with an error once the journal cannot be written: the service must end.
    """

    def __init__(
        self,
        config: MasterConfig,
        *,
        launched: float,
        journal: Journal,
        logbook: Logbook,
        storage: Storage,
        installer: Installer,
        vm: Vm,
        clock: Clock,
        journal_name: str = "",
        client_grace: float = CLIENT_GRACE,
    ) -> None:
        self.config = config
        self.journal_name = journal_name or config.instance.id
        self.clock = clock
        self.installer = installer
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scheduler = Scheduler(start_timeout=config.start_timeout, client_grace=client_grace)
        self.home = Home(
            config.policy,
            launched,
            vm,
            awaits=lambda: self.fleet.awaits_any,
            patience=config.start_timeout,
            before=self._before_power_off,
            moved=self._own_due_moved,
            clock=clock,
        )
        self.fleet = Fleet(
            own=config.instance.id,
            own_due=self._own_due,
            installer=installer,
            listener=self,
            start_timeout=config.start_timeout,
            clock=clock,
        )
        self.peers = Switchboard(self._flush_soon, self.is_open)
        self.books = Books(
            journal,
            logbook,
            storage,
            archived=self._archived,
            followed=lambda job: bool(self.peers.followers(job)),
            clock_now=clock.now,
        )
        self.stocking = Stocking(storage, config.index, told=self._stocked)
        self.till = Till(config.instance, launched, reached=self.handle, clock=clock)
        self.standing = Standing(
            config, self._scheduler, self.fleet, self.home, self.books, self.till
        )
        self._pacer = Pacer(self.standing.status, self.peers.followers, clock)
        self._rewake = asyncio.Event()
        self._wake_at: float | None = None
        self._flushing = False
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life --

    def start(self) -> None:
        """Begin; what the journal holds must have been recovered before."""
        for work, name in (
            (self._tick(), "ticks"),
            (self.books.journal.keep_synced(), "journal"),
            (self.till.run(), "caps"),
            (self._pacer.run(), "statuses"),
            (self.home.run(), "own timers"),
        ):
            task = asyncio.create_task(work, name=f"dayfly {name}")
            self._tasks.add(task)
            task.add_done_callback(self._watch)

    def _watch(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self.broken.done():
            self.broken.set_exception(error)

    async def aclose(self) -> None:
        """End, with everything committed; jobs and VMs live on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.books.archivist.aclose()
        await self.stocking.aclose()
        await self.fleet.aclose()
        self.flush()
        if self.broken.done():
            self.broken.exception()
        else:
            self.broken.cancel()

    # -- the scheduler's events and actions --

    def handle(self, event: e.Event) -> None:
        """Something has happened: let the scheduler decide, and do it."""
        for action in self._scheduler.handle(event, self.clock.monotonic()):
            self._do(action)
        if self._scheduler.wake != self._wake_at:
            self._wake_at = self._scheduler.wake
            self._rewake.set()
        self._flush_soon()

    def _do(self, action: e.Action) -> None:
        match action:
            case e.Deliver():
                self.books.deliver(action.job, action.outcomes)
                self._pacer.changed(action.job)
            case e.Lease():
                if peer := self.peers.workers.get(action.worker):
                    peer.lease(action)
                    self.peers.wake(peer)
                self._pacer.changed(action.job)
            case e.Tell():
                self.peers.say_to_worker(action.worker, action.message)
            case e.Engage():
                dossier = self._dossier(action.job)
                dossier.workers[action.worker] = None
                policy = dossier.spec.policy
                self.fleet.engage(action.worker, action.job, policy, action.started)
            case e.Disengage():
                self.fleet.disengage(action.worker, action.job)
            case e.JobStarted():
                self.books.journal.started(action.job, self.clock.now())
                policy = self._dossier(action.job).spec.policy
                self.home.job_began(action.job, policy, self.clock.monotonic())
                log.info("job %s has started", action.job)
            case e.JobClosed():
                self._close(action)
            case e.Tried() | e.Marked() | e.Absolved():
                self.books.remember(action)
            case e.Dismiss():
                self.fleet.let_go(action.worker, action.why)
            case e.NeedWorkers():
                log.warning(
                    "job %s needs workers (%d): %s", action.job, action.count, action.reason
                )
                self.peers.ask_for_workers(action)

    def _close(self, action: e.JobClosed) -> None:
        dossier = self._dossier(action.job)
        pool = e.pool_of(dossier.spec)
        dossier.cost = self.till.closed(action.job)
        self.books.close(action)
        self.fleet.job_over(action.job, pool)
        self.home.job_over(action.job)
        self.peers.job_over(action.job)
        if action.error == "CostLimitError" and not self._jobs_of(pool):
            self.fleet.dismiss(pool, "its job was cut by max_cost")

    def _jobs_of(self, pool: e.Pool) -> list[Dossier]:
        dossiers = map(self._dossier, self._scheduler.open_jobs)
        return [dossier for dossier in dossiers if e.pool_of(dossier.spec) == pool]

    def _warn_if_blind(self, dossier: Dossier) -> None:
        job = dossier.spec.id
        if dossier.spec.max_cost is None or dossier.blind or self.till.cost(job) is not None:
            return
        dossier.blind = True
        text = f"max_cost of job {job} cannot be kept: no price is known of one of its VMs"
        for peer in self.peers.followers(job):
            self.peers.say(peer, m.Notice(level="warning", text=text, job=job))

    def _dossier(self, job: str) -> Dossier:
        dossier = self.books.dossier(job)
        assert dossier is not None, job  # noqa: S101  # a job that is open is not forgotten
        return dossier

    async def _tick(self) -> None:
        while True:
            self._rewake.clear()
            if self._wake_at is None:
                await self._rewake.wait()
            elif not await happens(self._rewake, self._wake_at, self.clock):
                self.handle(e.Tick())

    # -- the end of a turn --

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush_or_break)

    def _flush_or_break(self) -> None:
        try:
            self.flush()
        except StorageError as error:
            if not self.broken.done():
                self.broken.set_exception(error)

    def flush(self) -> None:
        """Commit what has happened, then let the peers hear of it."""
        self._flushing = True  # what is woken here is no reason for another turn
        try:
            for job in self.books.commit():
                self.peers.wake_followers(job)
            self.peers.speak()
        finally:
            self._flushing = False

    def _stocked(self, packages: str) -> None:
        for worker in self.peers.workers:
            self.peers.say_to_worker(worker, m.Stocked(packages=packages))

    def _archived(self, row: JobRow, failure: str) -> None:
        if failure:
            for peer in self.peers.followers(row.id):
                self.peers.say(peer, m.Notice(level="warning", text=failure, job=row.id))
        self._flush_soon()

    # -- what the peers say --

    def is_open(self, job: str) -> bool:
        """Whether a job runs."""
        return self._scheduler.job(job) is not None

    def jobs_of(self, worker: str) -> list[str]:
        """The open jobs that a worker could serve."""
        return self._scheduler.jobs_of(worker)

    @property
    def open_jobs(self) -> list[str]:
        """The jobs that run, oldest first."""
        return self._scheduler.open_jobs

    def known_items(self, job: str) -> int:
        """How many of a job's items have come."""
        open_job = self._scheduler.job(job)
        return open_job.ledger.known if open_job else 0

    def submitted(self, submit: m.Submit, peer: ClientPeer) -> None:
        """A new job, from this client."""
        spec = submit.spec
        log.info("job %s (%s) from %s", spec.id, spec.function, peer.link.peer)
        self.books.journal.submit(submit)
        self.books.add(Dossier(submit))
        self.submits(spec.id, peer)
        self.peers.awake(peer, spec.id)
        self.home.job_began(spec.id, spec.policy, self.clock.monotonic())
        self.stocking.begin(spec.packages)
        self.till.opened(spec)
        self.handle(e.JobSubmitted(spec=spec))
        self.attached(spec.id)
        self._warn_if_blind(self._dossier(spec.id))

    def submits(self, job: str, peer: ClientPeer) -> None:
        """A client hands in a job's items, perhaps again."""
        self.peers.submitters[job] = peer
        self._submitter_changed(job, left=False)

    def _submitter_changed(self, job: str, *, left: bool) -> None:
        self.handle(e.SubmitterChanged(job=job, left=left))
        if (open_job := self._scheduler.job(job)) is not None:
            self.books.journal.deserted(job, deserted=open_job.deserted is not None)

    def attached(self, job: str, *, again: bool = False) -> None:
        """Clients have begun or ceased to follow a job, or are to be asked ``again``."""
        count, silent = len(self.peers.followers(job)), self.peers.is_awaited(job)
        self.handle(e.FollowersChanged(job=job, count=count, silent=silent, again=again))
        if (open_job := self._scheduler.job(job)) is not None:
            self.books.journal.orphaned(job, orphan=open_job.orphan_since is not None)
        self._pacer.changed(job)

    def client_left(self, peer: ClientPeer, *, silent: bool) -> None:
        """A client's connection is over; one that went silent may be asleep."""
        submitted = [job for job, other in self.peers.submitters.items() if other is peer]
        self.peers.forget(peer, silent=silent)
        for job in [] if silent else submitted:
            self._submitter_changed(job, left=True)
        for job in list(peer.follows):
            self.attached(job)
            self.books.drop_if_done(job)

    def keep_outcomes(self, peer: WorkerPeer, done: m.Done) -> None:
        """Outcomes have come, to be acknowledged when they are committed."""
        self.handle(e.OutcomesCame(worker=peer.name, job=done.job, outcomes=done.outcomes))
        self.peers.acknowledge(peer, done.serial)

    # -- what the fleet tells (its Listener) --

    def worker_coming(
        self, worker: str, pool: e.Pool, *, returning: bool, engaged: list[str]
    ) -> None:
        """See :class:`dayfly.master.listener.Listener`."""
        self.handle(e.WorkerComing(worker=worker, pool=pool, returning=returning, engaged=engaged))

    def worker_drains(self, worker: str, reason: str) -> None:
        """See :class:`dayfly.master.listener.Listener`."""
        self.handle(e.WorkerDraining(worker=worker, reason=reason))

    def worker_lost(self, worker: str, reason: str, *, innocent: bool = False) -> bool:
        """See :class:`dayfly.master.listener.Listener`."""
        # A job whose time is up with its worker's is not told that it lost a worker.
        self.handle(e.Tick())
        self.handle(e.WorkerLost(worker=worker, reason=reason, innocent=innocent))
        return self._scheduler.accuses(worker)

    def worker_unfit(self, worker: str, failure: EnvironmentFailure) -> None:
        """See :class:`dayfly.master.listener.Listener`."""
        self.handle(e.WorkerUnfit(worker=worker, failure=failure))

    def worker_gone(self, worker: str, *, innocent: bool = False) -> None:
        """See :class:`dayfly.master.listener.Listener`."""
        self.handle(e.WorkerGone(worker=worker, innocent=innocent))

    def notice(
        self, level: str, text: str, pool: e.Pool, *, lost: str = "", silent: bool = False
    ) -> None:
        """See :class:`dayfly.master.listener.Listener`."""
        for job in self._scheduler.open_jobs:
            if e.pool_of(self._dossier(job).spec) == pool:
                for peer in self.peers.followers(job):
                    self.peers.say(
                        peer, m.Notice(level=level, text=text, job=job, lost=lost, silent=silent)
                    )

    def keep(self, kept: KeptInstance) -> None:
        """See :class:`dayfly.master.listener.Listener`."""
        self.books.journal.keep_instance(kept)
        if (pool := self.till.count(kept)) is not None:
            for dossier in self._jobs_of(pool):
                self._warn_if_blind(dossier)
        self._flush_soon()

    def fleet_changed(self) -> None:
        """See :class:`dayfly.master.listener.Listener`."""
        self.home.workers_changed()
        for job in self._scheduler.open_jobs:
            self._pacer.changed(job)

    # -- the master's own VM --

    def _own_due(self) -> Due | None:
        return self.home.due()

    def _own_due_moved(self) -> None:
        self.fleet.own_due_changed()

    async def _before_power_off(self, why: str) -> None:
        self.handle(e.MasterLeaving() if why == "hard" else e.Tick())
        self.flush()
        for peer in self.peers.clients:
            text = f"the master is powered off by its {why} timer"
            self.peers.say(peer, m.Notice(level="info", text=text))
        await happens(self.books.archivist.idle, self.clock.monotonic() + LAST_WORDS, self.clock)
        await self.clock.sleep(PARTING)
