"""A master in this process, with real sockets and a real journal, and callers to try it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dayfly.errors import DayflyError, UnreachableError
from dayfly.master.app import serving
from dayfly.master.hub import Hub
from dayfly.master.journal import Journal
from dayfly.master.logbook import Logbook
from dayfly.master.recovery import recover
from dayfly.model import (
    Access,
    CallOutcome,
    DismantlePolicy,
    ExecMode,
    Instance,
    InstanceState,
    JobSpec,
    LogLine,
    MasterConfig,
    OutcomeKind,
    Registry,
    StorageConfig,
    Tag,
)
from dayfly.phases import Timeline
from dayfly.storage.directory import DirectoryStorage
from dayfly.wire import messages as m
from dayfly.wire.client import MasterDoor
from dayfly.wire.link import Link, dial

POLICY = DismantlePolicy(soft=300.0, hard=3600.0)


class FakeClock:
    """A clock that moves when a test says so; everything else runs meanwhile."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now
        self._numbers = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now - 900_000.0

    async def sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._numbers), sleeper))
        await sleeper

    async def advance(self, seconds: float) -> None:
        """Let time pass, stopping wherever somebody wakes up."""
        end = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            when, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                self._now = max(self._now, when)
                sleeper.set_result(None)
                await settle()
        self._now = end
        await settle()


async def settle() -> None:
    """Let everything run that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], clock: FakeClock | None = None) -> None:
    """Wait for something that must happen soon, in real time."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)
            if clock is not None:
                await clock.advance(0.01)


class FakeInstaller:
    """Makes VMs workers by running what the test gives it."""

    def __init__(self) -> None:
        self.installed: list[str] = []
        self.registries: dict[str, Registry] = {}
        self.powered_off: list[str] = []
        self.failures: dict[str, DayflyError] = {}
        self.hangs: set[str] = set()
        self.power_off_hangs = False
        self.power_off_answers: asyncio.Event | None = None
        self.on_install: Callable[[Instance], None] = lambda instance: None

    async def install(
        self,
        instance: Instance,
        policy: DismantlePolicy,
        *,
        reached: Callable[[], None],
        timeline: Timeline,
        deadline: float,
    ) -> None:
        if instance.id in self.hangs:
            await asyncio.Event().wait()
        if error := self.failures.get(instance.id):
            raise error
        reached()
        self.installed.append(instance.id)
        self.on_install(instance)

    def entrust(self, instances: Iterable[Instance], registry: Registry) -> None:
        self.registries |= {instance.id: registry for instance in instances}

    async def power_off(self, instance: Instance, *, deadline: float) -> None:
        if instance.id in self.failures:
            raise UnreachableError(f"{instance.id} does not answer")
        if self.power_off_hangs:
            await asyncio.Event().wait()
        if self.power_off_answers is not None:
            await self.power_off_answers.wait()
        self.powered_off.append(instance.id)


@dataclass
class FakeVm:
    """The master's own VM."""

    deadlines: list[float | None] = field(default_factory=list)
    off: asyncio.Event = field(default_factory=asyncio.Event)

    def set_deadline(self, seconds: float | None) -> None:
        self.deadlines.append(seconds)

    async def power_off(self) -> None:
        self.off.set()

    def ready(self) -> None:
        pass

    def armed(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


def instance(
    name: str,
    *,
    mode: ExecMode = ExecMode.REUSE,
    processes: int = 2,
    launched_at: float = 1_000_000.0,
) -> Instance:
    tags = {
        Tag.NAME.value: f"dayfly-{name}",
        Tag.MODE.value: mode.value,
        Tag.RUNTIME.value: "python3",
        Tag.PROCESSES.value: str(processes),
        Tag.KIND.value: f"t2.medium x {processes}",
    }
    return Instance(
        id=name,
        instance_type="t2.medium",
        state=InstanceState.PENDING,
        tags=tags,
        launched_at=launched_at,
        address="127.0.0.1",
    )


def spec(
    job: str = "j",
    *,
    mode: ExecMode = ExecMode.REUSE,
    wanted: int = 1,
    processes: int = 2,
    policy: DismantlePolicy = POLICY,
    chunksize: int = 0,
    retries: int = 0,
) -> JobSpec:
    return JobSpec(
        id=job,
        function="double",
        mode=mode,
        runtime="python3",
        instance_types=["t2.medium"],
        kind=f"t2.medium x {processes}",
        processes=processes,
        wanted=wanted,
        policy=policy,
        submitted_at=1_000_000.0,
        chunksize=chunksize,
        retries=retries,
        client="ada@here 1",
    )


def outcome(index: int, *, seconds: float = 0.001, worker: str = "w1") -> CallOutcome:
    payload = b"%d" % index
    return CallOutcome(index, OutcomeKind.VALUE, payload, 100.0, 100.0 + seconds, worker)


@dataclass
class Master:
    """A master that serves."""

    hub: Hub
    clock: FakeClock
    installer: FakeInstaller
    vm: FakeVm
    storage: DirectoryStorage
    socket: Path
    workers: list[FakeWorker] = field(default_factory=list)

    @asynccontextmanager
    async def client(self, name: str = "ada@here 1") -> AsyncIterator[MasterDoor]:
        async with await MasterDoor.open(self.socket, secret="c" * 64, name=name) as door:
            yield door

    async def worker(
        self, name: str = "w1", *, incarnation: str = "a", processes: int = 2
    ) -> FakeWorker:
        link = await dial(
            m.TO_WORKER, role="worker", name=name, secret="w" * 64, unix_socket=self.socket
        )
        self.workers.append(FakeWorker(link, name, incarnation, processes))
        return self.workers[-1]


class FakeWorker:
    """An agent that answers each call at once, with its index as the value.

    Attributes:
        ran: The indices of the calls that it was given, in order.
        heard: Whatever else the master said.
        hold: While set, calls are kept in hand.
        hold_after: Set ``hold`` once so many calls were answered.
    """

    def __init__(self, link: Link[m.ToWorker], name: str, incarnation: str, processes: int) -> None:
        self.link = link
        self.name = name
        self.incarnation = incarnation
        self.processes = processes
        self.ran: list[int] = []
        self.held: dict[str, list[int]] = {}
        self.heard: list[m.ToWorker] = []
        self.unkept: dict[int, m.Done] = {}
        self.hold = False
        self.hold_after = 1 << 30
        self.task: asyncio.Task[None] | None = None
        self._serial = 0

    async def ready(self, holding: dict[str, list[m.Span]] | None = None) -> FakeWorker:
        await self.link.send(
            m.Ready(incarnation=self.incarnation, processes=self.processes, holding=holding or {})
        )
        self.task = asyncio.create_task(self._listen())
        return self

    async def answer(self, job: str, indices: list[int]) -> None:
        """Send outcomes."""
        self._serial += 1
        outcomes = [outcome(index, worker=self.name) for index in indices]
        done = m.Done(serial=self._serial, job=job, outcomes=outcomes)
        self.unkept[done.serial] = done
        await self.link.send(done)

    async def fail(self, job: str, index: int, *, attempt: int = 0) -> None:
        """Send the outcome of a call that raised."""
        self._serial += 1
        header = b'{"type":"ValueError","module":"builtins","message":"no luck"}\n'
        failed = CallOutcome(index, OutcomeKind.RAISED, header, 1.0, 1.2, self.name, attempt)
        done = m.Done(serial=self._serial, job=job, outcomes=[failed])
        self.unkept[done.serial] = done
        await self.link.send(done)

    async def printed(self, job: str, *texts: str) -> None:
        """Send function logs."""
        lines = [LogLine(job, 0, "stdout", 1.0, text, self.name) for text in texts]
        await self.link.send(m.Printed(lines=lines))

    async def leave(self) -> None:
        """Be gone, without a word."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await self.link.aclose()

    async def _listen(self) -> None:
        async for message in self.link:
            if isinstance(message, m.Acknowledge):
                kept = [serial for serial in self.unkept if serial <= message.serial]
                for serial in kept:
                    del self.unkept[serial]
            elif isinstance(message, m.Assign):
                indices = list(range(message.span.start, message.span.stop))
                self.ran += indices
                self.heard.append(message)
                self.hold = self.hold or len(self.ran) > self.hold_after
                if self.hold:
                    self.held.setdefault(message.job, []).extend(indices)
                else:
                    await self.answer(message.job, indices)
            else:
                self.heard.append(message)


def master_config(
    folder: Path,
    *,
    port: int = 0,
    policy: DismantlePolicy = POLICY,
    launched_at: float = 1_000_000.0,
) -> MasterConfig:
    return MasterConfig(
        instance=instance("m0", launched_at=launched_at),
        access=Access(
            cluster="c",
            serial="1",
            user_key="",
            user_public_key="",
            host_ca_key="",
            host_ca_public_key="",
            client_secret="c" * 64,
            worker_secret="w" * 64,
        ),
        package="p",
        host="127.0.0.1",
        port=port,
        username="ubuntu",
        runtime="python3",
        storage=StorageConfig(kind="localhost", location=str(folder / "storage")),
        policy=policy,
        start_timeout=300.0,
    )


@asynccontextmanager
async def master(
    folder: Path, *, clock: FakeClock | None = None, policy: DismantlePolicy = POLICY
) -> AsyncIterator[Master]:
    """A master on the journal in ``folder``; leaving the block is like killing its service."""
    clock = clock or FakeClock()
    installer, vm = FakeInstaller(), FakeVm()
    storage = DirectoryStorage(folder / "storage")
    config = master_config(folder, policy=policy)
    journal = Journal(folder / "journal.sqlite")
    logbook = Logbook(folder / "logs")
    hub = Hub(
        config,
        launched=100_000.0,  # the date of its launch, on the clock of the tests
        journal=journal,
        logbook=logbook,
        storage=storage,
        installer=installer,
        vm=vm,
        clock=clock,
    )
    socket = folder / "s"
    try:
        recover(hub)
        hub.start()
        async with serving(hub, unix_socket=socket):
            service = Master(hub, clock, installer, vm, storage, socket)
            try:
                yield service
            finally:
                for worker in service.workers:
                    await worker.leave()
    finally:
        await hub.aclose()
        logbook.close()
        journal.close()
        await storage.aclose()


async def submit(
    door: MasterDoor, job: JobSpec, count: int, *, chunk: int = 100, end: bool = True
) -> None:
    """Submit a job of ``count`` items in chunks."""
    await door.send(m.Submit(spec=job, function=m.Payload(data=b"f")))
    for start in range(0, count, chunk):
        data = [b"%d" % index for index in range(start, min(count, start + chunk))]
        await door.send(m.Items(job=job.id, start=start, count=len(data), data=data))
    if end:
        await door.send(m.ItemsEnd(job=job.id, total=count))


@dataclass
class Followed:
    """What a client heard of a job until its end."""

    numbers: list[int] = field(default_factory=list)
    outcomes: list[CallOutcome] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    others: list[m.ToClient] = field(default_factory=list)
    ended: m.JobEnded | None = None

    @property
    def indices(self) -> list[int]:
        return sorted(outcome.index for outcome in self.outcomes)


async def follow(door: MasterDoor, into: Followed | None = None) -> Followed:
    """Listen until a job's end."""
    heard = into if into is not None else Followed()
    async for message in door.pushed():
        match message:
            case m.Delivery():
                heard.numbers.append(message.number)
                heard.outcomes += message.outcomes
            case m.Logs():
                heard.lines += [line.text for line in message.lines]
            case m.JobEnded():
                heard.ended = message
                return heard
            case _:
                heard.others.append(message)
    return heard
