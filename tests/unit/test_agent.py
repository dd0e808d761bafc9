"""The agent between a master and its runners."""

# The functions under test print.
from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
import time
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dayfly import errors, guest, serialize
from dayfly.clock import SystemEntropy
from dayfly.model import CallOutcome, LogLine, OutcomeKind, WorkerConfig
from dayfly.storage import keys
from dayfly.storage.directory import DirectoryStorage
from dayfly.wire import messages as m
from dayfly.worker.agent import REFUSED_WAIT, Agent
from dayfly.worker.outbox import GATHER, MOST, Outbox
from tests.unit.worker_support import (
    Master,
    alive,
    until,
    value_of,
    worker_config,
    working,
)


@pytest.fixture
def storage(own_home: Path) -> DirectoryStorage:
    return DirectoryStorage(own_home / "storage")


@pytest.fixture(autouse=True)
def vm(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the VM that the agent runs on."""
    monkeypatch.setenv("DAYFLY_ROOT", str(own_home))
    return own_home


# -- what is said when --


def outcome(index: int, payload: bytes = b"") -> CallOutcome:
    return CallOutcome(index, OutcomeKind.VALUE, payload)


def test_the_first_outcome_goes_at_once_and_those_after_it_are_gathered() -> None:
    box = Outbox()
    box.add_outcomes("a", [outcome(0)], 0.0)
    first = box.take(0.0)
    assert isinstance(first, m.Done)
    box.add_outcomes("a", [outcome(1)], 0.0)
    box.add_outcomes("a", [outcome(2)], 0.0)
    assert box.take(0.0) is None
    assert box.due(0.0) == GATHER
    gathered = box.take(GATHER)
    assert isinstance(gathered, m.Done)
    assert [each.index for each in gathered.outcomes] == [1, 2]


def test_an_acknowledgement_frees_the_way_for_what_was_gathered() -> None:
    box = Outbox()
    box.add_outcomes("a", [outcome(0, b"x" * 100)], 0.0)
    first = box.take(0.0)
    assert isinstance(first, m.Done)
    box.add_outcomes("a", [outcome(1)], 0.0)
    box.acknowledge(first.serial)
    assert isinstance(box.take(0.0), m.Done)


def test_frames_are_no_longer_than_agreed() -> None:
    box = Outbox()
    for index in range(MOST + 1):
        box.add_outcomes("a", [outcome(index)], 0.0)
    first, second = box.take(0.0), box.take(1.0)
    assert isinstance(first, m.Done)
    assert isinstance(second, m.Done)
    assert (len(first.outcomes), len(second.outcomes)) == (MOST, 1)


def test_lines_go_before_the_outcome_that_follows_them() -> None:
    box = Outbox()
    box.add_line(LogLine("a", 0, "stdout", 0.0, "hello"), 0.0)
    assert box.take(0.0) is None
    box.add_outcomes("a", [outcome(0)], 0.0)
    assert isinstance(box.take(0.0), m.Printed)
    assert isinstance(box.take(0.0), m.Done)
    assert box.take(0.0) is None


def test_what_is_kept_weighs_until_it_is_acknowledged() -> None:
    box = Outbox()
    box.add_outcomes("a", [outcome(0, b"x" * 1000)], 0.0)
    box.add_line(LogLine("a", 0, "stdout", 0.0, "hello"), 0.0)
    while (message := box.take(0.0)) is not None:
        last = message
    assert isinstance(last, m.Done)
    assert box.weight > 1000
    assert box.unacknowledged() == {"a": {0}}
    box.acknowledge(last.serial)
    assert box.weight == 0
    assert box.unacknowledged() == {}


# -- with a real master and real runners --


async def test_calls_go_in_and_outcomes_and_lines_come_out() -> None:
    def double(x: int) -> int:
        print(f"doubling {x}")
        return 2 * x

    async with working() as (master, _):
        await master.assign("job", double, range(100))
        assert await master.values("job", 100) == list(range(0, 200, 2))
        assert {line.text for line in master.lines} == {f"doubling {x}" for x in range(100)}
        assert all(len(frame.outcomes) <= MOST for frame in master.frames)


async def test_the_function_the_items_and_large_outcomes_go_through_storage(
    storage: DirectoryStorage,
) -> None:
    def grow(x: int) -> bytes:
        return bytes(x)

    dump = serialize.dump_function(grow)
    await storage.put_object(keys.function("job"), dump.payload)
    sizes = [10, 500_000, 20, 300_000]
    key = keys.items("job", 100)
    await storage.put_object(key, m.ENCODER.encode(serialize.dump_items(sizes, 100)))
    brief = m.JobBrief(id="job", function=m.Payload(key=keys.function("job")))
    async with working() as (master, _):
        for start in (100, 102):
            span = m.Span(start, start + 2)
            await master.say(m.Assign(job="job", span=span, brief=brief, key=key, chunk_start=100))
        await master.until(lambda: len(master.outcomes) == 4)
        for index, size in enumerate(sizes, 100):
            got = master.outcomes["job", index]
            if size < m.INLINE_LIMIT:
                assert value_of(got) == bytes(size)
            else:
                assert got.kind is OutcomeKind.STORED
                assert got.payload.decode() == keys.outcome("job", index)
                stored = await storage.get_object(got.payload.decode())
                assert serialize.decode(got, "job", stored).value == bytes(size)


async def test_local_modules_are_unpacked_and_imported(storage: DirectoryStorage) -> None:
    def use(x: int) -> Any:
        import mine  # type: ignore[import-not-found]

        return mine.add(x)

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("mine/__init__.py", "def add(x): return x + 1")
    await storage.put_object(keys.modules("abc"), archive.getvalue())
    async with working() as (master, _):
        await master.assign("job", use, [1, 2], modules=keys.modules("abc"))
        assert await master.values("job", 2) == [2, 3]


async def test_storage_that_refuses_is_the_outcome_of_each_call_and_names_the_key(
    vm: Path,
) -> None:
    class Refusing(DirectoryStorage):
        async def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
            raise errors.StorageError(f"{key}: the disk is full")

    async with working(Refusing(vm / "storage")) as (
        master,
        _,
    ):
        await master.assign("job", bytes, [100_000])
        brief = m.JobBrief(id="lost", function=m.Payload(key="dayfly/in/lost/function"))
        await master.say(m.Assign(job="lost", span=m.Span(0, 2), brief=brief, items=[b"", b""]))
        await master.until(lambda: len(master.outcomes) == 3)
    for key, named in [(("job", 0), keys.outcome("job", 0)), (("lost", 1), "dayfly/in/lost")]:
        got = master.outcomes[key]
        assert got.kind is OutcomeKind.RAISED
        told = json.loads(got.payload.partition(b"\n")[0])
        assert told["module"] == "dayfly.errors"
        assert named in told["message"]


async def test_after_a_broken_connection_outcomes_come_again_and_none_is_lost() -> None:
    def slow(x: int) -> int:
        time.sleep(0.3 if x == 1 else 0)
        return x

    async with working(processes=1) as (master, _):
        master.acknowledging = False
        await master.assign("job", slow, [0, 1, 2])
        await master.until(lambda: ("job", 0) in master.outcomes)
        await master.hang_up()
        await master.until(lambda: len(master.ready) == 2)
        before, after = master.ready
        assert before.incarnation == after.incarnation
        assert after.holding == {"job": [m.Span(0, 3)]}
        master.acknowledging = True
        assert await master.values("job", 3) == [0, 1, 2]
        again = [frame.serial for frame in master.frames]
        assert again.count(again[0]) == 2


async def test_the_agent_outlives_a_master_that_restarts() -> None:
    async with working() as (master, _):
        await master.assign("job", time.sleep, [0.3])
        await master.stop()
        await asyncio.sleep(0.5)
        await master.start()
        assert await master.values("job", 1) == [None]


async def test_calls_that_wait_are_handed_back_and_those_revoked_are_cancelled() -> None:
    async with working(processes=1) as (master, _):
        await master.assign("job", time.sleep, [60] * 6)
        await master.say(m.Recall(job="job", count=2))
        await master.until(lambda: bool(master.handed_back))
        assert master.handed_back[0].spans == [m.Span(4, 6)]
        await master.say(m.Revoke(job="job", indices=[0, 2]))
        await master.until(lambda: len(master.outcomes) == 2)
        assert {got.kind for got in master.outcomes.values()} == {OutcomeKind.CANCELLED}
        await master.say(m.Revoke(job="job"))
        await master.say(m.Forget(job="job"))
        await master.assign("next", abs, [-1])
        assert await master.values("next", 1) == [1]
        assert not [key for key in master.outcomes if key[0] == "job" and key[1] in (1, 3)]


class Doomed:
    """Environments that cannot be had here, and how often that was tried."""

    told = ""

    def __init__(self) -> None:
        self.tries: list[tuple[str, list[str]]] = []

    def known(self, key: str, system: Sequence[str] = ()) -> str | None:
        return None if key or system else ""

    def stocked(self, key: str) -> None:
        pass

    async def begin(self) -> None:
        pass

    async def bring(self, key: str, system: Sequence[str] = ()) -> str:
        self.tries.append((key, list(system)))
        await asyncio.sleep(0)
        raise errors.EnvironmentFailedError(
            "no room", stage="room", kind="disk", vm="w-1", cause="100 kB are left", hint="mend it"
        )


async def test_an_environment_that_cannot_be_had_is_tried_once_and_costs_no_call() -> None:
    doomed = Doomed()
    async with working(environments=doomed) as (master, _):
        await master.assign("job", abs, range(4), packages="1a2b", system=["gdal-bin"])
        await master.until(lambda: len(master.unfit) == 1)
        await master.until(lambda: len(master.handed_back) == 1)
        failure = master.unfit[0].failure
        assert (failure.stage, failure.kind, failure.cause) == ("room", "disk", "100 kB are left")
        assert master.handed_back.pop().spans == [m.Span(0, 4)]
        # A master that was restarted may not know it.
        await master.assign("job", abs, range(2), start=4, packages="1a2b", system=["gdal-bin"])
        await master.until(lambda: len(master.handed_back) == 1)
        assert master.handed_back[0].spans == [m.Span(4, 6)]
        assert len(master.unfit) == 2
        assert doomed.tries == [("1a2b", ["gdal-bin"])]
        assert not master.outcomes
        # Other jobs are done, and another job with the same wish is given a try of its own.
        await master.assign("other", abs, [-1])
        assert await master.values("other", 1) == [1]
        await master.assign("again", abs, [-1], packages="1a2b")
        await master.until(lambda: len(master.unfit) == 3)
        assert doomed.tries[1:] == [("1a2b", [])]


class Announced:
    """A cloud that takes the VM back when the test says so."""

    def __init__(self) -> None:
        self.seconds: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def next(self) -> float:
        return await self.seconds


async def test_a_vm_that_is_taken_back_finishes_what_runs_and_hands_back_all_else(
    storage: DirectoryStorage,
) -> None:
    def nap(seconds: float) -> bytes:
        print("begun", flush=True)
        time.sleep(seconds)
        return bytes(m.INLINE_LIMIT + 1)

    announced = Announced()
    async with working(storage, processes=1, notices=announced) as (master, _):
        await master.assign("job", nap, [1.0] * 4)
        await master.until(lambda: bool(master.lines))
        announced.seconds.set_result(120.0)
        await master.until(lambda: bool(master.handed_back))
        assert 119 < master.draining[0].seconds <= 120
        assert master.handed_back[0].spans == [m.Span(1, 4)]
        await master.assign("job", nap, [0.5], start=4)
        await master.until(lambda: len(master.handed_back) == 2)
        assert master.handed_back[1].spans == [m.Span(4, 5)]
        # What runs ends, and so does its upload.
        await master.until(lambda: bool(master.outcomes))
        assert master.outcomes["job", 0].kind is OutcomeKind.STORED
        # A master that it has not talked to before hears of it first.
        await master.hang_up()
        await master.until(lambda: len(master.ready) == 2)
        assert len(master.draining) == 2
        assert master.ready[1].holding == {"job": []}


async def test_a_source_of_notices_that_fails_does_not_stop_the_calls() -> None:
    announced = Announced()
    announced.seconds.set_exception(OSError("no such device"))
    async with working(notices=announced) as (master, _):
        await master.assign("job", abs, [-1])
        assert await master.values("job", 1) == [1]


async def test_the_attempt_that_is_in_hand_is_told_with_its_outcome_and_after_a_break() -> None:
    async with working(processes=1) as (master, _):
        await master.assign("job", time.sleep, [1.5], attempt=2)
        await master.assign("job", time.sleep, [0.0], start=1)
        await master.hang_up()
        await master.until(lambda: len(master.ready) == 2)
        assert master.ready[1].holding == {"job": [m.Span(0, 2)]}
        assert master.ready[1].attempts == {"job": {0: 2}}
        await master.values("job", 2)
        assert [master.outcomes["job", index].attempt for index in (0, 1)] == [2, 0]


async def test_the_deadline_of_the_vm_is_written_where_its_service_manager_reads_it(
    vm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "GATHER", 0.0)
    async with working() as (master, _):
        await master.say(m.SetDeadline(seconds=100.0))
        await master.assign("job", abs, [-1])
        await master.values("job", 1)
        deadline = float((vm / "run/dayfly/deadline").read_text())
        assert abs(deadline - 100 - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
        await master.say(m.SetDeadline(seconds=None))
        await master.assign("job", abs, [-1], start=1)
        await master.until(lambda: len(master.outcomes) == 2)
        assert (vm / "run/dayfly/deadline").read_text() == "never\n"


async def test_power_off_asks_the_vm(vm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = vm / "sudo"
    shim.write_text(f'#!/bin/sh\necho "$@" > {vm}/asked.new; mv {vm}/asked.new {vm}/asked\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{vm}:{os.environ['PATH']}")
    async with working() as (master, _):
        await master.say(m.PowerOff(why="a test"))
        await until(lambda: (vm / "asked").exists())
    assert (vm / "asked").read_text() == "poweroff\n"


async def test_a_power_off_that_fails_is_told(vm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = vm / "sudo"
    shim.write_text("#!/bin/sh\necho not allowed\nexit 1\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{vm}:{os.environ['PATH']}")
    with pytest.raises(errors.CommandError, match="not allowed"):
        await guest.power_off()


async def test_a_power_off_that_ends_its_own_service_leaves_no_process(
    vm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = vm / "sudo"
    shim.write_text(f"#!/bin/sh\necho $$ >{vm}/asked; exec sleep 60\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{vm}:{os.environ['PATH']}")
    powering_off = asyncio.create_task(guest.power_off())
    await until(lambda: (vm / "asked").exists() and (vm / "asked").read_text().endswith("\n"))
    powering_off.cancel()
    with pytest.raises(asyncio.CancelledError):
        await powering_off
    assert not alive(int((vm / "asked").read_text()))


class Hurried:
    """A clock on which nobody waits; it keeps how long they would have."""

    def __init__(self) -> None:
        self.slept: asyncio.Queue[float] = asyncio.Queue()

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        self.slept.put_nowait(seconds)
        await asyncio.sleep(0)


async def waits(config: WorkerConfig, count: int) -> list[float]:
    """How long an agent waits between its first attempts to reach the master."""
    clock = Hurried()
    storage = DirectoryStorage(Path(config.storage.location))
    running = asyncio.create_task(
        Agent(config, storage, clock=clock, entropy=SystemEntropy()).run()
    )
    try:
        async with asyncio.timeout(10):
            return [await clock.slept.get() for _ in range(count)]
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_worker_that_is_back_names_the_jobs_that_it_knows_though_it_holds_no_call() -> None:
    """They may have ended meanwhile, and are then to be forgotten."""
    async with working() as (master, _):
        await master.assign("job", lambda x: x, [0])
        await master.values("job", 1)
        await master.hang_up()
        await master.until(lambda: len(master.ready) == 2)
        assert master.ready[1].holding.keys() == {"job"}
        await master.say(m.Forget(job="job"))
        await master.hang_up()
        await master.until(lambda: len(master.ready) == 3)
        assert master.ready[2].holding == {}


async def test_a_master_that_is_not_there_is_called_again_at_growing_intervals(vm: Path) -> None:
    slept = await waits(worker_config(vm / "storage", port=9), 8)
    assert 0.05 <= slept[0] <= 0.1
    assert 1.0 <= slept[-1] <= 2.0


async def test_a_master_that_refuses_us_is_called_again_but_ever_more_slowly(vm: Path) -> None:
    master = Master()
    await master.start()
    config = worker_config(vm / "storage", master.port)
    slept = await waits(msgspec.structs.replace(config, secret="another"), 12)
    await master.stop()
    assert slept[0] <= 0.1
    assert 15.0 <= slept[-1] <= REFUSED_WAIT


async def test_a_worker_that_no_client_has_handed_to_the_new_master_yet_calls_ever_more_slowly(
    vm: Path,
) -> None:
    """It is let in, and told that it is no worker of this master."""
    master = Master()
    master.refusing = True
    await master.start()
    slept = await waits(worker_config(vm / "storage", master.port), 12)
    await master.stop()
    assert sum(slept[:5]) <= 3.1  # what adopts it most often comes within seconds
    assert all(later > before for before, later in pairwise(slept[:9:2]))
    assert 15.0 <= slept[-1] <= REFUSED_WAIT


@pytest.mark.parametrize(("asked", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
async def test_the_service_is_up_at_once_and_leaves_no_process_when_it_is_ended(
    vm: Path, asked: signal.Signals, status: int
) -> None:
    master = Master()
    await master.start()
    config = worker_config(vm / "storage", master.port)
    (vm / "etc/dayfly").mkdir(parents=True)
    (vm / "etc/dayfly/worker.json").write_bytes(msgspec.json.encode(config))
    loop = asyncio.get_running_loop()
    notified = loop.create_future()
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(vm / "notify"))
    manager.setblocking(False)
    loop.add_reader(manager, lambda: notified.set_result(manager.recv(100)))
    environment = {**os.environ, "NOTIFY_SOCKET": str(vm / "notify")}
    environment["PYTHONPATH"] = str(Path(errors.__file__).parent.parent)
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "dayfly.worker"), env=environment
    )
    try:
        assert await asyncio.wait_for(notified, 10) == b"READY=1"
        await master.until(lambda: bool(master.ready))
        await master.assign("job", lambda x: os.getpid(), [0])
        [pid] = await master.values("job", 1)
        await master.assign("job", time.sleep, [60], start=1)
        service.send_signal(asked)
        assert await asyncio.wait_for(service.wait(), 5) == status
        await until(lambda: not alive(pid))
    finally:
        if service.returncode is None:
            service.kill()
            await service.wait()
        loop.remove_reader(manager)
        manager.close()
        await master.stop()
