"""A new job, as its session is to hear of it: from a function, its items and the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING

from dayfly.client.channel import JobRequest
from dayfly.client.options import CallOptions
from dayfly.model import JobSpec
from dayfly.serialize import FunctionDump

if TYPE_CHECKING:
    from dayfly.config import Config

#: vCPUs of a worker to reckon with while ``AUTO`` is not resolved: the most that there are,
#: for data that is in memory already, and what is common, for data that takes time to make.
MOST_VCPUS, COMMON_VCPUS = 192, 16
#: Items that are looked into for local modules: those of one map are mostly of a kind.
LOOKED_INTO = 10


def first_items(config: Config, iterdata: object) -> int:
    """Items from which on every worker has work: they tell how many are needed."""
    processes = config.compute.worker_processes
    if processes == "AUTO":
        processes = MOST_VCPUS if isinstance(iterdata, Sized) else COMMON_VCPUS
    return config.compute.max_workers * processes


def job_spec(
    config: Config, job: str, function: FunctionDump, options: CallOptions, *, at: float, by: str
) -> JobSpec:
    """All that is known here; the session fills in what only the cloud knows.

    Args:
        config: The executor's.
        job: The job's id.
        function: What is called.
        options: How.
        at: When it was submitted.
        by: The process that did it.
    """
    compute = config.compute
    processes = compute.worker_processes
    return JobSpec(
        id=job,
        function=function.name,
        mode=compute.exec_mode,
        runtime=compute.runtime,
        instance_types=list(compute.worker_instance_types),
        processes=0 if processes == "AUTO" else processes,
        wanted=compute.max_workers,
        policy=config.policy,
        submitted_at=at,
        timeout=options.timeout,
        retries=options.retries,
        chunksize=options.chunksize,
        environment=dict(options.environment),
        packages="" if compute.packages in {"image", "none"} else compute.packages,
        system=list(compute.system_packages),
        reserved=function.reserved,
        client=by,
        max_cost=compute.max_cost,
        detach=options.detach,
        single=options.single,
        return_exceptions=options.return_exceptions,
    )


async def job_request(
    spec: JobSpec,
    function: FunctionDump,
    first: list[bytes],
    options: CallOptions,
    warn: Callable[[str], None],
) -> JobRequest:
    """The job, with the local modules that its function and its first items refer to."""
    from dayfly import modules  # which parses and packs sources: not for whoever only imports us

    pickles = [function.payload, *first[:LOOKED_INTO]]
    # Half a millisecond where nothing is found, which is less than a thread costs.
    found = modules.local_modules(*pickles, include=options.include, exclude=options.exclude)
    imports: set[str] = set()
    if spec.packages:
        imports = modules.imported_modules(
            *pickles, include=options.include, exclude=options.exclude
        )
    archive = modules.Archive()
    if found:
        archive = await asyncio.to_thread(modules.archive, found, exclude=options.exclude)
    for warning in archive.warnings:
        warn(warning)
    return JobRequest(
        spec=spec,
        function=function.payload,
        modules=archive.data,
        modules_digest=archive.digest,
        imports=frozenset(imports),
    )
