"""Workers are given their packages by the client while their master is still on its way."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec

from dayfly.client.cluster import Cluster
from dayfly.client.headstart import MOST, HeadStart
from dayfly.client.outfit import Outfitter
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.environment.order import FileOrder, Order
from dayfly.errors import AccessDeniedError, StorageError
from dayfly.model import Access, Instance, InstanceState, JobSpec
from dayfly.parts import Parts
from dayfly.phases import AHEAD, BOOT, OWN, SENT, Timeline
from dayfly.shell.base import CommandResult, Connection, Target

UV = FileOrder(package="uv", version="1", filename="uv.whl", sha256="0" * 64)


def order(key: str) -> Order:
    return Order(key=key, name=key, python="3.11", uv=UV)


def worker(name: str) -> Instance:
    return Instance(
        id=name, instance_type="t3.medium", state=InstanceState.PENDING, launched_at=0.0, tags={}
    )


class Vms:
    """The shells of VMs, of which one refuses; what they are told to install is kept."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.installed: dict[str, list[str]] = {}
        self.depositing: list[str] = []
        self.open = 0

    async def connect(self, target: Target, *, timeout: float = 5.0) -> Connection:
        assert target.alias == "worker"
        if self.refuses and self.refuses in target.name:
            raise AccessDeniedError("no")
        self.open += 1
        return Vm(self, target.name)


class Vm:
    def __init__(self, vms: Vms, name: str) -> None:
        self.vms = vms
        self.name = name

    async def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        heard: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        with tarfile.open(fileobj=BytesIO(stdin)) as tar:
            sent = tar.extractfile("order.json")
            assert sent is not None
            told = msgspec.json.decode(sent.read(), type=Order)
            assert "kit.pyz" in tar.getnames()
        assert "kit.pyz" in command
        self.vms.installed.setdefault(self.name, []).append(told.key)
        self.vms.depositing += [self.name] if told.uv.deposit else []
        assert heard is not None
        heard(b'{"step": "install", "seconds": 0.01}')
        return CommandResult(status=0, stdout="", stderr="")

    async def forward(self, host: str, port: int) -> Path:
        raise AssertionError

    async def wait_closed(self) -> None: ...

    async def aclose(self) -> None:
        self.vms.open -= 1


class Outfit:
    """What VMs are given."""

    def __init__(self, *, fails: bool = False, nothing: bool = False) -> None:
        self.fails = fails
        self.nothing = nothing

    async def order(self, instance_type: str) -> Order | None:
        if self.fails:
            raise StorageError("no storage")
        return None if self.nothing else order("agent")

    async def functions(self, packages: str, *, deposit: bool) -> Order | None:
        uv = msgspec.structs.replace(UV, deposit="to storage" if deposit else "")
        return msgspec.structs.replace(order(packages), uv=uv) if packages else None


class Up:
    async def bring_up(self, instance: Instance, deadline: float) -> Instance:
        return instance


def head_start(vms: Vms, outfit: Outfit) -> tuple[HeadStart, Timeline]:
    clock = SystemClock()
    timeline = Timeline(clock)
    config = SimpleNamespace(compute=SimpleNamespace(ssh_username="debian"))
    parts = SimpleNamespace(
        clock=clock, entropy=SystemEntropy(), shell=vms, timeline=timeline, config=config
    )
    access = SimpleNamespace(host_ca_public_key="ssh-ed25519 A", user_key="k")
    given = HeadStart(
        cast("Parts", parts),
        cast("Access", access),
        cast("Cluster", Up()),
        cast("Outfitter", outfit),
    )
    return given, timeline


def job(packages: str) -> JobSpec:
    return cast("JobSpec", SimpleNamespace(instance_types=["t3.medium"], packages=packages))


async def test_workers_get_the_agents_environment_and_then_that_of_the_functions() -> None:
    vms = Vms()
    ahead, timeline = head_start(vms, Outfit())
    await ahead.give(job("theirs"), [worker("i-1"), worker("i-2")])
    assert list(vms.installed.values()) == [["agent", "theirs"]] * 2
    assert vms.open == 0, "a connection was left open"
    assert len(vms.depositing) == 1, "one of them fills storage for the next start"
    told = {phase.what for phase in timeline.take() if phase.who == "i-1"}
    assert told == {
        AHEAD + BOOT,
        AHEAD + SENT,
        AHEAD + "packages installed",
        AHEAD + OWN + SENT,
        AHEAD + OWN + "packages installed",
    }


async def test_a_worker_that_cannot_be_reached_is_left_to_its_master() -> None:
    vms = Vms(refuses="i-1")
    ahead, _ = head_start(vms, Outfit())
    await ahead.give(job("theirs"), [worker("i-1"), worker("i-2")])
    assert len(vms.installed) == 1


async def test_without_storage_there_is_no_head_start_and_no_error() -> None:
    vms = Vms()
    ahead, _ = head_start(vms, Outfit(fails=True))
    await ahead.give(job("theirs"), [worker("i-1")])
    assert vms.installed == {}


async def test_an_image_that_has_everything_is_not_even_connected_to() -> None:
    vms = Vms()
    ahead, timeline = head_start(vms, Outfit(nothing=True))
    await ahead.give(job(""), [worker("i-1")])
    assert vms.installed == {}
    assert timeline.take() == []


async def test_of_many_workers_a_few_are_enough_for_first_outcomes() -> None:
    vms = Vms()
    ahead, _ = head_start(vms, Outfit())
    await ahead.give(job("theirs"), [worker(f"i-{n}") for n in range(MOST + 5)])
    assert len(vms.installed) == MOST
