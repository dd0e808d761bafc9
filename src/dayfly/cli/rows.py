"""What runs and what ran, from everybody who knows: the cloud, the master, storage.

The cloud knows the VMs, the running master what they do and when they go, storage the jobs
that have ended. None of them answers for another, and a silent master hides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dayfly.cli.options import note
from dayfly.client.launches import EXPIRY_SLACK
from dayfly.errors import ObjectNotFoundError, ShellError, StorageError, WireError
from dayfly.model import ALIVE, UP, Instance, JobRow, LogLine, Tag, WorkerRow
from dayfly.storage import keys

if TYPE_CHECKING:
    from dayfly.parts import Parts
    from dayfly.wire.client import MasterDoor
    from dayfly.wire.link import Decoder

Answer = TypeVar("Answer")

#: Objects read at once.
READERS = 16
_JOB = msgspec.json.Decoder(JobRow)
_LOGS = msgspec.msgpack.Decoder(list[LogLine])


async def worker_rows(parts: Parts) -> list[WorkerRow]:
    """The master and the workers, also while the master does not answer.

    Raises:
        CloudError: The cloud could not be asked.
    """
    listed, told = await asyncio.gather(
        parts.cloud.list(tags={Tag.MANAGED: "true", Tag.OWNER: await parts.cloud.owner()}),
        _from_master(parts, lambda door: door.list_workers()),
    )
    return merge_workers(listed, told or [], parts.clock.now())


def merge_workers(
    listed: Iterable[Instance], told: Iterable[WorkerRow], now: float
) -> list[WorkerRow]:
    """One row per VM: the master's words, the cloud's where the master has none.

    Args:
        listed: By the cloud, those that have ended too.
        told: By the master; a VM that only it knows is the user's own (``consume``).
        now: Seconds since the epoch.
    """
    states = {instance.id: instance for instance in listed}
    rows = []
    for row in told:
        seen = states.pop(row.instance, None)
        if seen is not None:
            row = msgspec.structs.replace(row, state=seen.state)
            if seen.state not in ALIVE and row.phase != "leaving":
                # The cloud knows first; the master still hopes that it comes back.
                row = msgspec.structs.replace(row, phase="lost")
        rows.append(row)
    rows += (row_of(instance, now) for instance in states.values() if instance.state in ALIVE)
    return sorted(rows, key=lambda row: (row.role != "master", row.name, row.instance))


def row_of(instance: Instance, now: float) -> WorkerRow:
    """What an instance's tags tell; its deadline is the hard one that it was tagged with."""
    tags = instance.tags
    # "0" stands for never.
    expires = float(tags.get(Tag.EXPIRES_AT) or 0)
    bounded = instance.state in UP and expires > 0
    processes = tags.get(Tag.PROCESSES, "")
    return WorkerRow(
        name=instance.name,
        instance=instance.id,
        role="master" if tags.get(Tag.ROLE) == "master" else "worker",
        instance_type=instance.instance_type,
        processes=int(processes) if processes.isdigit() else 0,
        runtime=tags.get(Tag.RUNTIME, ""),
        mode=tags.get(Tag.MODE, ""),
        state=instance.state,
        kind=tags.get(Tag.KIND, ""),
        dismantle_in=max(0.0, expires - EXPIRY_SLACK - now) if bounded else None,
        dismantle_why="hard" if bounded else "",
    )


async def job_rows(parts: Parts) -> list[JobRow]:
    """The jobs that run, by the master's word, and those that ended, by storage's; oldest first.

    Raises:
        StorageError: Storage could not be read.
    """
    kept, told = await asyncio.gather(
        _records(parts), _from_master(parts, lambda door: door.list_jobs())
    )
    return merge_jobs(kept, told or [])


def merge_jobs(kept: Iterable[JobRow], told: Iterable[JobRow]) -> list[JobRow]:
    """One row per job; the master knows better than the record."""
    rows = {row.id: row for row in kept} | {row.id: row for row in told}
    return sorted(rows.values(), key=lambda row: (row.submitted_at, row.id))


async def find_logs(parts: Parts, job: str) -> list[LogLine]:
    """All that a job has printed so far.

    Raises:
        ObjectNotFoundError: Nobody knows the job.
        StorageError: Storage could not be read.
    """

    async def ask(door: MasterDoor) -> list[LogLine] | None:
        known = {row.id for row in await door.list_jobs()}
        return await door.read_logs(job) if job in known else None

    lines = await _from_master(parts, ask)
    if lines is None:
        lines = await _read(parts, keys.logs(job), _LOGS)
    if lines is None and await _read(parts, keys.record(job), _JOB) is None:
        raise ObjectNotFoundError(
            f"there is no job {job!r}",
            cause="no master runs it, and storage keeps no record of it",
            hint="dayfly job list",
        )
    return lines or []


async def _records(parts: Parts) -> Sequence[JobRow]:
    gate = asyncio.Semaphore(READERS)

    async def read(key: str) -> JobRow | None:
        async with gate:
            return await _read(parts, key, _JOB)

    found = [key async for key in parts.storage.list_keys(keys.JOBS) if key.endswith("/record")]
    return [row for row in await asyncio.gather(*map(read, found)) if row is not None]


async def _read(parts: Parts, key: str, decoder: Decoder[Answer]) -> Answer | None:
    """An object of ours; ``None`` if there is none."""
    try:
        return decoder.decode(await parts.storage.get_object(key))
    except ObjectNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise StorageError(
            f"the object {key!r} is not what dayfly wrote there",
            cause=str(error),
            hint=f"dayfly storage delete {key}",
        ) from error


async def _from_master(
    parts: Parts, ask: Callable[[MasterDoor], Awaitable[Answer]]
) -> Answer | None:
    """The master's answer; ``None`` when none is up, and when it does not answer (said so)."""
    from dayfly.client.visit import visit

    try:
        async with visit(parts) as door:
            return None if door is None else await ask(door)
    except (ShellError, WireError) as error:
        note(f"the master does not answer: {error}")
        return None
