"""From an address to a connection, on a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dayfly import bootstrap, provision
from dayfly.errors import HostKeyError, UnreachableError
from dayfly.phases import Timeline
from dayfly.shell.base import CommandResult, Connection, Target
from tests.unit.master_support import master_config

TARGET = Target(
    name="w (i-1)",
    address="127.1.2.3",
    port=22,
    username="ubuntu",
    alias="worker",
    known_hosts="",
    private_key="",
)


class JumpingClock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class Even:
    def hex(self, count: int) -> str:
        return "0" * count

    def fraction(self) -> float:
        return 0.5


class Open:
    async def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        heard: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        return CommandResult(status=0, stdout="", stderr="")

    async def forward(self, host: str, port: int) -> Path:
        return Path("nowhere")

    async def wait_closed(self) -> None:
        return None

    async def aclose(self) -> None:
        return None


class Booting:
    """A VM that refuses until a moment, then answers."""

    def __init__(self, clock: JumpingClock, until: float, error: Exception) -> None:
        self.clock = clock
        self.until = until
        self.error = error
        self.attempts = 0

    async def connect(self, target: Target, *, timeout: float = 5.0) -> Connection:
        self.attempts += 1
        if self.clock.time < self.until:
            raise self.error
        return Open()


REFUSED = UnreachableError("no", cause="connection refused")


async def test_a_vm_that_is_booting_is_tried_until_it_answers() -> None:
    clock = JumpingClock()
    shell = Booting(clock, 130.0, REFUSED)
    connection = await provision.reach(shell, TARGET, deadline=400, clock=clock, entropy=Even())
    assert isinstance(connection, Open)
    assert 130 <= clock.time < 131, "it is noticed within a second of its answering"
    assert shell.attempts < 45


async def test_a_vm_that_never_answers_is_named_with_the_cause() -> None:
    clock = JumpingClock()
    shell = Booting(clock, 1e9, REFUSED)
    with pytest.raises(UnreachableError) as caught:
        await provision.reach(shell, TARGET, deadline=160.0, clock=clock, entropy=Even())
    assert "w (i-1) did not answer SSH at 127.1.2.3:22 within" in str(caught.value)
    assert "connection refused" in str(caught.value)
    assert "start_timeout" in caught.value.hint
    assert clock.time <= 160.0


class Told(Open):
    """A connection that remembers what was to be run."""

    def __init__(self) -> None:
        self.scripts: list[str] = []

    async def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        heard: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        self.scripts.append(command)
        return await super().run(command)


async def test_a_master_with_another_password_is_another_installation(tmp_path: Path) -> None:
    connection, package = Told(), bootstrap.Package(digest="d", files={})
    plain = master_config(tmp_path)
    changed = msgspec.structs.replace(plain, ssh_password="hush")
    for config in (plain, changed, changed):
        await provision.install_master(
            connection, config, package, timeline=Timeline(JumpingClock())
        )
    before, after, again = connection.scripts
    assert before != after
    assert after == again
    assert "hush" not in after


async def test_a_wrong_host_key_is_not_tried_again() -> None:
    clock = JumpingClock()
    shell = Booting(clock, 1e9, HostKeyError("not ours"))
    with pytest.raises(HostKeyError):
        await provision.reach(shell, TARGET, deadline=160.0, clock=clock, entropy=Even())
    assert shell.attempts == 1
