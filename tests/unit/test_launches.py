"""Launches are said again while that is safe, and no longer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dayfly.client import launches as module
from dayfly.client.intents import STALE, Intent
from dayfly.client.launches import Launches
from dayfly.client.picking import Pick
from dayfly.errors import CloudError
from dayfly.model import Instance, InstanceSpec, InstanceState, Launch
from tests.unit.master_support import instance


class Asleep:
    """A clock whose every pause is a long sleep."""

    time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds + STALE


async def test_an_unanswered_launch_of_the_master_is_not_said_again_after_a_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, said = Asleep(), list[str]()
    there = instance("i-1")

    async def launch(spec: object, count: int, *, token: str) -> Launch:
        said.append(token)
        if len(said) == 1:
            raise CloudError("the cloud did not answer")
        return Launch(
            instances=[msgspec.structs.replace(there, id="i-2", state=InstanceState.PENDING)]
        )

    async def write(spec: InstanceSpec, count: int, token: str) -> Intent:
        return Intent(
            cluster="c", token=token, spec=spec, count=1, at=clock.now(), place="h", pid=1
        )

    async def find(*, but: str = "") -> Instance | None:
        return there if said else None

    parts = SimpleNamespace(
        clock=clock,
        cloud=SimpleNamespace(launch=launch),
        config=SimpleNamespace(compute=SimpleNamespace(master_instance_type="t2.micro")),
    )
    spec = SimpleNamespace(role="master")
    monkeypatch.setattr(module.Launches, "_spec", lambda *_, **__: spec)
    intents, access = SimpleNamespace(write=write), SimpleNamespace(serial="s", cluster="c")

    async def choose(instance_type: str, packages: str | None = None) -> Pick:
        return Pick()

    making = Launches(*cast("Any", (parts, access, "alice", intents, lambda: None, choose)))
    assert await making.master(find) == there
    assert len(said) == 1
