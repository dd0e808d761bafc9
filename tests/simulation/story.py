"""The shortest story in which a promise is still broken, told in order."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.simulation.knobs import ClientKnobs, JobKnobs, Knobs
from tests.simulation.report import Report

#: Seconds and tries that are spent on shrinking one story.
PATIENCE, TRIES = 90.0, 150

Tell = Callable[[Knobs], Report]


def shrink(knobs: Knobs, report: Report, tell: Tell) -> tuple[Knobs, Report]:
    """Drop faults and simplify circumstances while the same promise stays broken."""
    promises = {violation.promise for violation in report.violations}
    until = time.monotonic() + PATIENCE
    tries = 0
    better = True
    while better:
        better = False
        for simpler in _simpler(knobs):
            if time.monotonic() > until or tries >= TRIES:
                return knobs, report
            tries += 1
            told = tell(simpler)
            if promises & {violation.promise for violation in told.violations}:
                knobs, report, better = simpler, told, True
                break
    return knobs, report


def _simpler(knobs: Knobs) -> Iterator[Knobs]:
    """Knobs that are a little simpler, what takes most away first."""
    kinds = list(knobs.faults)
    size = len(kinds)
    while size:
        for start in range(0, len(kinds), size):
            gone = kinds[start : start + size]
            left = {kind: rate for kind, rate in knobs.faults.items() if kind not in gone}
            yield dataclasses.replace(knobs, faults=left)
        size //= 2
    if len(knobs.clients) > 1:
        for client in knobs.clients:
            yield dataclasses.replace(knobs, clients=(dataclasses.replace(client, after=0.0),))
    for place, client in enumerate(knobs.clients):
        for simpler in _simpler_clients(client):
            clients = (*knobs.clients[:place], simpler, *knobs.clients[place + 1 :])
            yield dataclasses.replace(knobs, clients=clients)
    for vms in {1, 2, knobs.vms // 2} - {0}:
        if vms < knobs.vms:
            yield dataclasses.replace(knobs, vms=vms)
    plain = {"processes": 1, "max_cost": None, "fallback": False, "spot": False, "skew": 0.0,
             "late": 0.0, "ending": "timers", "shuffle": False, "network": 0.001,
             "boot": 5.0}  # fmt: skip
    for name, value in plain.items():
        if getattr(knobs, name) != value:
            yield dataclasses.replace(knobs, **{name: value})  # type: ignore[arg-type]


def _simpler_clients(client: ClientKnobs) -> Iterator[ClientKnobs]:
    jobs = client.jobs
    if len(jobs) > 1:
        for place in range(len(jobs)):
            yield dataclasses.replace(client, jobs=jobs[:place] + jobs[place + 1 :])
    if client.together:
        yield dataclasses.replace(client, together=False)
    for place, job in enumerate(jobs):
        for simpler in _simpler_jobs(job):
            yield dataclasses.replace(client, jobs=(*jobs[:place], simpler, *jobs[place + 1 :]))


def _simpler_jobs(job: JobKnobs) -> Iterator[JobKnobs]:
    for calls in (1, job.calls // 4, job.calls // 2, job.calls - 1):
        if 0 < calls < job.calls:
            kept = range(calls)
            yield dataclasses.replace(
                job,
                durations=job.durations[:calls],
                failing=job.failing.intersection(kept),
                large=job.large.intersection(kept),
                poisonous=job.poisonous.intersection(kept),
            )
    plain = {"failing": frozenset(), "large": frozenset(), "poisonous": frozenset(),
             "source": "list", "chunksize": 0,
             "timeout": None, "retries": 0, "stop": "", "detach": False, "reading": "await",
             "return_exceptions": False}  # fmt: skip
    for name, value in plain.items():
        if getattr(job, name) != value:
            yield dataclasses.replace(job, **{name: value})  # type: ignore[arg-type]


def commit() -> str:
    """The commit that is checked out here, with a sign if files differ from it."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def told(knobs: Knobs, report: Report, *, whole: bool = True) -> Iterator[str]:
    """The story in lines, to be printed."""
    yield f"seed {report.seed}, Python {sys.version.split()[0]}, commit {commit()}"
    yield from str(knobs).splitlines()
    if whole:
        yield "what happened:"
        for at, text in report.trace:
            yield f"{at:12.3f}  {text}"
    for violation in report.violations:
        yield f"VIOLATED {violation}"
    yield f"digest {report.digest}, {report.steps} steps, {report.seconds:.0f} s of virtual time"
    yield f"again: python -m tests.simulation --seed {report.seed}{report.options}"
