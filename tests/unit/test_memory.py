"""A program that runs for weeks keeps nothing of the jobs and VMs that are gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from dayfly.client import launches
from dayfly.client.channel import JobRequest
from dayfly.client.cluster import Cluster
from dayfly.client.session import TRUSTED, MasterSession
from dayfly.model import Instance, InstanceState
from tests.unit.master_support import spec


class Clock:
    """One that is set by hand."""

    def __init__(self) -> None:
        self.time = 1e6

    def now(self) -> float:
        return self.time

    monotonic = now


async def nothing(*_: object, **__: object) -> None:
    """Whatever is asked is done."""


def vm(number: int) -> Instance:
    return Instance(
        id=f"i-{number}",
        state=InstanceState.RUNNING,
        instance_type="t3.medium",
        address="",
        launched_at=0.0,
        tags={},
    )


async def test_the_expiry_of_vms_that_are_gone_is_forgotten() -> None:
    clock = Clock()
    policy = SimpleNamespace(auto=True, hard=100.0)
    parts = SimpleNamespace(
        clock=clock,
        storage=None,
        process=None,
        cloud=SimpleNamespace(tag=nothing),
        config=SimpleNamespace(policy=policy),
    )
    access = SimpleNamespace(cluster="c", serial="s")
    cluster = Cluster(cast("Any", parts), cast("Any", access), "alice", cast("Any", nothing))
    for number in range(5):
        await cluster.keep([vm(number)])
        clock.time += policy.hard + launches.EXPIRY_SLACK + 1.0
    assert list(cluster._expiries) == ["i-4"]


async def test_archives_of_modules_that_were_stored_long_ago_are_forgotten() -> None:
    clock = Clock()
    storage = SimpleNamespace(put_object=nothing)
    session = MasterSession(cast("Any", SimpleNamespace(clock=clock, storage=storage)))
    for digest in "abc":
        request = JobRequest(spec=spec("j"), function=b"", modules=b"zip", modules_digest=digest)
        await session._store_modules(request)
        clock.time += TRUSTED + 1.0
    assert len(session._stored) == 1
