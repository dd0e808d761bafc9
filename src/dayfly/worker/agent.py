"""The agent: leases in, outcomes out. It never unpickles.

It lives as long as the VM does: while the master cannot be reached the calls go on, and
their outcomes are kept until it can.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from dayfly import errors, guest
from dayfly.clock import Clock, Entropy, moment
from dayfly.environment.report import EnvironmentFailure
from dayfly.model import CallOutcome, LogLine, OutcomeKind, WorkerConfig
from dayfly.phases import FIRST_CALL, RUNNER, Timeline
from dayfly.storage import keys
from dayfly.storage.base import Storage
from dayfly.wire import link
from dayfly.wire import messages as m
from dayfly.wire.frame import spans_of
from dayfly.worker import errands
from dayfly.worker.environments import Environments, KitEnvironments, begin
from dayfly.worker.failed import cancelled, failed
from dayfly.worker.intake import Intake, Intakes
from dayfly.worker.materials import MODULES, Materials
from dayfly.worker.notices import Interruptions, interruptions
from dayfly.worker.opening import Openings
from dayfly.worker.outbox import Outbox
from dayfly.worker.pool import Pool, PoolJob
from dayfly.worker.process import RunnerProcess, Start
from dayfly.worker.spawn import Command
from dayfly.worker.uploads import Uploads, store

log = logging.getLogger(__name__)

#: Seconds between attempts to reach the master: at first; at most, twice as many each time; and
#: at most while it refuses us: a new one does until a client hands it this VM, or nobody does.
FIRST_WAIT, LONGEST_WAIT, REFUSED_WAIT = 0.1, 2.0, 30.0
#: Bytes that wait for the master or for storage before runners are read no more.
BACKLOG = 64 * 1024 * 1024
#: More calls than there are.
ALL = 1 << 62


class Agent:
    """One worker's service.

    Args:
        config: The worker's own.
        storage: The cluster's; the caller closes it.
        clock: Where time comes from.
        entropy: Where the incarnation's name and the jitter come from.
        vm: The VM that it runs on.
        dial: How the master is called.
        runner: Starts a runner.
        modules: Where local modules are unpacked.
        notices: Where a spot instance learns that it is taken back.
        environments: Where functions find their packages.
        timeline: Where it is told what took how long.
    """

    def __init__(
        self,
        config: WorkerConfig,
        storage: Storage,
        *,
        clock: Clock,
        entropy: Entropy,
        vm: guest.Vm | None = None,
        dial: link.Dial = link.dial,
        runner: Start = RunnerProcess,
        modules: Path | None = None,
        notices: Interruptions | None = None,
        environments: Environments | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        self._config, self._name = config, config.instance
        self._storage = storage
        self._clock = clock
        self._entropy = entropy
        self._incarnation = entropy.hex(16)
        self._pool = Pool(
            self,
            Command.here(config.runtime, config.log_level),
            processes=config.processes,
            worker=self._name,
            clock=clock,
            runner=runner,
        )
        self._timeline = timeline or Timeline(clock)
        self._fresh: dict[str, float] = {}  # jobs of which no call has ended yet, since when
        self._materials = Materials(storage, modules or guest.path(MODULES))
        self._environments = environments or KitEnvironments(
            storage, config.instance, config.interpreters, self._timeline
        )
        self._openings = Openings(self._environments, self._materials)
        self._vm = guest.LinuxVm(clock) if vm is None else vm
        self._dial = dial
        self._notices = notices or (interruptions(clock) if config.spot else None)
        self._gone_at: float | None = None
        self._outbox = Outbox()
        self._briefs: dict[str, m.JobBrief] = {}
        #: Of the calls that had failed before: the attempt that was assigned last, by job.
        self._attempts: dict[str, dict[int, int]] = {}
        self._intakes = Intakes()
        self._uploads = Uploads()
        self._holding_back = self._refused = False
        self._something_due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Serve until cancelled."""
        self._vm.ready()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(begin(self._environments, self._start_runners))
                if self._notices is not None:
                    self._tasks.create_task(self._heed(self._notices))
                await self._stay_in_touch()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._vm.close()
            await self._pool.aclose()

    def _start_runners(self) -> None:
        self._pool.start()
        log.info("%s: %d runners started", self._name, self._config.processes)

    # -- the conversation with the master --

    async def _stay_in_touch(self) -> None:
        failures = refusals = 0
        while True:
            self._refused = False
            try:
                conversation = await self._dial(
                    m.TO_WORKER,
                    role="worker",
                    name=self._config.instance,
                    secret=self._config.secret,
                    host=self._config.master_host,
                    port=self._config.master_port,
                )
            except (errors.AuthenticationError, errors.VersionMismatchError) as error:
                log.error("refused: %s", error)  # noqa: TRY400  no traceback needed
                self._refused = True
            except errors.WireError as error:
                if not failures:
                    log.warning("%s", error)
                failures += 1
            else:
                failures = 0
                log.info("connected to %s", conversation.peer)
                await self._converse(conversation)
            refusals = refusals + 1 if self._refused else 0
            times, most = (refusals, REFUSED_WAIT) if refusals else (failures, LONGEST_WAIT)
            wait = min(most, FIRST_WAIT * 2.0 ** min(max(0, times - 1), 10))
            await self._clock.sleep(wait * (0.5 + self._entropy.fraction() / 2))

    async def _converse(self, conversation: link.Link[m.ToWorker]) -> None:
        self._outbox.reconnected()
        try:
            if self._gone_at is not None:
                await conversation.send(self._draining(self._gone_at))
            await conversation.send(self._ready())
            async with asyncio.TaskGroup() as talk:
                speaking = talk.create_task(self._speak(conversation))
                async for message in conversation:
                    self._obey(message)
                speaking.cancel()
        except* errors.WireError as broken:
            log.warning("the conversation broke: %s", broken.exceptions[0])
        finally:
            await conversation.aclose()
        log.warning("the master is gone; calls go on")

    def _ready(self) -> m.Ready:
        # Jobs without a call in hand too: they may be over, and are then to be forgotten.
        holding: dict[str, set[int]] = {job: set() for job in self._briefs}
        holding |= self._in_hand()
        attempts = {
            job: {index: attempts[index] for index in indices & attempts.keys()}
            for job, indices in holding.items()
            if (attempts := self._attempts.get(job))
        }
        return m.Ready(
            incarnation=self._incarnation,
            processes=self._config.processes,
            holding={job: spans_of(indices) for job, indices in holding.items()},
            attempts=attempts,
        )

    async def _speak(self, conversation: link.Link[m.ToWorker]) -> None:
        while True:
            self._something_due.clear()
            while (message := self._outbox.take(self._clock.monotonic())) is not None:
                await conversation.send(message)
                self._weigh()
            self._nudge()
            await self._something_due.wait()

    def _nudge(self) -> None:
        """Wake the speaker when the next frame is due."""
        now = self._clock.monotonic()
        due = self._outbox.due(now)
        if due is None:
            return
        if due <= now:
            self._something_due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(due - now, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._something_due.set()

    def _weigh(self) -> None:
        weight = self._outbox.weight + self._uploads.weight
        if weight > BACKLOG and not self._holding_back:
            self._holding_back = True
            log.info("%d bytes wait to be sent: functions must wait too", weight)
            self._pool.hold()
        elif self._holding_back and weight < BACKLOG / 2:
            self._holding_back = False
            self._pool.go_on()

    def _in_hand(self) -> dict[str, set[int]]:
        found = self._pool.indices()
        for job, indices in self._intakes.indices().items():
            found.setdefault(job, set()).update(indices)
        for job, indices in self._uploads.indices().items():
            found.setdefault(job, set()).update(indices)
        for job, indices in self._outbox.unacknowledged().items():
            found.setdefault(job, set()).update(indices)
        return found

    # -- the VM is taken back --

    async def _heed(self, notices: Interruptions) -> None:
        """When the cloud takes the VM back: finish what runs, and hand back all else."""
        try:
            left = await notices.next()
        except Exception:  # a fault of ours must not stop the calls
            log.exception("spot interruptions will not be known before they happen")
            return
        log.warning("the cloud takes this VM back in %.0f s", left)
        self._gone_at = self._clock.monotonic() + left
        self._say(self._draining(self._gone_at))
        for job in sorted(self._pool.indices().keys() | self._intakes.indices().keys()):
            self._recall(m.Recall(job=job, count=ALL))

    def _draining(self, gone_at: float) -> m.Draining:
        left = max(0.0, gone_at - self._clock.monotonic())
        return m.Draining(seconds=left, reason="the cloud interrupts this spot instance")

    # -- what the master says --

    def _obey(self, message: m.ToWorker) -> None:
        match message:
            case m.Assign():
                self._assign(message)
            case m.Acknowledge():
                self._outbox.acknowledge(message.serial)
                self._weigh()
                self._nudge()
            case m.Revoke():
                self._revoke(message)
            case m.Recall():
                self._recall(message)
            case m.Forget():
                self._forget(message.job)
            case m.Stocked():
                self._environments.stocked(message.packages)
            case m.SetDeadline():
                self._vm.set_deadline(message.seconds)
            case m.PowerOff():
                log.info("powering off: %s", message.why)
                self._tasks.create_task(self._vm.power_off())
            case m.Refused():
                self._refused = True
                log.error("the master refused: %s: %s", message.code, message.reason)

    def _assign(self, assign: m.Assign) -> None:
        if assign.brief is not None:
            self._briefs.setdefault(assign.job, assign.brief)
        brief = self._briefs.get(assign.job)
        if brief is None:
            log.error("calls of %s came without its function", assign.job)
        if brief is None or self._gone_at is not None:
            self._say(m.HandBack(job=assign.job, spans=[assign.span]))
            return
        if (opened := self._openings.at_once(brief)) is not None:
            self._open(opened)
        indices = range(assign.span.start, assign.span.stop)
        if assign.attempt:
            attempts = self._attempts.setdefault(assign.job, {})
            attempts.update(dict.fromkeys(indices, assign.attempt))
        if self._pool.knows(assign.job) and not assign.key:
            self._pool.add(assign.job, zip(indices, assign.items, strict=True))
            return
        intake = self._intakes.begin(assign.job, indices)
        self._tasks.create_task(self._take_in(assign, brief, intake))

    async def _take_in(self, assign: m.Assign, brief: m.JobBrief, intake: Intake) -> None:
        """Fetch what calls are made of, then let them wait for a runner."""
        try:
            if not self._pool.knows(brief.id):
                opened = await self._openings.open(brief)
                self._tell_phases()
                self._open(opened)
            items = assign.items or await self._materials.items(
                assign.span, assign.key, assign.chunk_start
            )
        except errors.EnvironmentFailedError as error:
            # First why, so that they do not come again.
            self._say(m.Unfit(job=assign.job, failure=EnvironmentFailure.of(error)))
            self._say(m.HandBack(job=assign.job, spans=spans_of(intake.indices)))
        except errors.DayflyError as error:
            log.warning("%s: %s", assign.job, error)
            for index in intake.indices:
                self._fail(assign.job, index, error)
        else:
            calls = zip(range(assign.span.start, assign.span.stop), items, strict=True)
            wanted = [call for call in calls if call[0] in intake.indices]
            if wanted and self._pool.knows(brief.id):
                self._pool.add(assign.job, wanted)
        finally:
            self._intakes.end(intake)

    def _open(self, job: PoolJob) -> None:
        if job.id in self._briefs and not self._pool.knows(job.id):  # else forgotten meanwhile
            if told := self._environments.told:
                self.line(LogLine(job.id, -1, "stderr", self._clock.now(), told, self._name))
            self._fresh[job.id] = self._clock.monotonic()
            self._pool.start()
            self._pool.open(job)

    def _revoke(self, revoke: m.Revoke) -> None:
        wanted = None if revoke.indices is None else set(revoke.indices)
        dropped = self._intakes.drop(revoke.job, wanted)
        for index in dropped if wanted is not None else ():
            now, worker = self._clock.now(), self._config.instance
            self._keep(revoke.job, cancelled(index, now, worker))
        self._pool.revoke(revoke.job, wanted)

    def _recall(self, recall: m.Recall) -> None:
        found = self._intakes.take_newest(recall.job, recall.count)
        if len(found) < recall.count:
            found += self._pool.recall(recall.job, recall.count - len(found))
        self._say(m.HandBack(job=recall.job, spans=spans_of(found)))

    def _forget(self, job: str) -> None:
        self._briefs.pop(job, None)
        self._attempts.pop(job, None)
        self._fresh.pop(job, None)
        self._openings.forget(job)
        self._intakes.drop(job)
        self._pool.forget(job)
        self._materials.forget(keys.items(job, 0).rpartition("/")[0] + "/")

    # -- what the pool says --

    def ended(self, job: str, outcomes: list[CallOutcome]) -> None:
        """Calls have ended: their outcomes go out, by way of storage where they are large."""
        if (since := self._fresh.pop(job, None)) is not None:
            first = outcomes[0]
            began, ended = (moment(self._clock, at) for at in (first.started, first.ended))
            self._timeline.add(self._config.instance, RUNNER, since, began)
            self._timeline.add(self._config.instance, FIRST_CALL, began, ended)
            self._tell_phases()
        small, limit = [], m.INLINE_LIMIT
        for outcome in outcomes:
            if len(outcome.payload) <= limit or outcome.kind is not OutcomeKind.VALUE:
                small.append(outcome)
            else:
                self._uploads.add(job, outcome)
        self._keep(job, *small)
        self._put_away()

    def line(self, line: LogLine) -> None:
        """A function has printed."""
        self._outbox.add_line(line, self._clock.monotonic())
        self._nudge()
        self._weigh()

    def asked(self, request: bytes) -> asyncio.Future[tuple[bytes, bytes]]:
        """A function wants something of storage."""
        return self._tasks.create_task(errands.perform(self._storage, request))

    def trouble(self, text: str) -> None:
        """Something that belongs in the service's log."""
        log.warning("%s", text)

    def _put_away(self) -> None:
        while (taken := self._uploads.take()) is not None:
            self._tasks.create_task(self._upload(*taken))

    async def _upload(self, job: str, outcomes: list[CallOutcome]) -> None:
        try:
            stored = await store(self._storage, job, outcomes, self._entropy.hex(8))
        except errors.DayflyError as error:
            for outcome in outcomes:
                log.warning("the outcome of call %d of %s: %s", outcome.index, job, error)
            self._uploads.ended(job, outcomes)
            for outcome in outcomes:
                self._fail(job, outcome.index, error)
        else:
            self._uploads.ended(job, outcomes)
            self._keep(job, *stored)
        self._put_away()

    def _keep(self, job: str, *outcomes: CallOutcome) -> None:
        if attempts := self._attempts.get(job):
            outcomes = tuple(
                msgspec.structs.replace(outcome, attempt=attempts.get(outcome.index, 0))
                for outcome in outcomes
            )
        self._outbox.add_outcomes(job, outcomes, self._clock.monotonic())
        self._nudge()
        self._weigh()

    def _say(self, message: m.Message) -> None:
        self._outbox.add(message)
        self._nudge()

    def _fail(self, job: str, index: int, error: errors.DayflyError) -> None:
        """Let a call end with an error of ours."""
        self._keep(job, failed(index, error, self._clock.now(), self._config.instance))

    def _tell_phases(self) -> None:
        """What took how long since that was told last."""
        if phases := self._timeline.take():
            self._say(m.Phases(phases=phases))
