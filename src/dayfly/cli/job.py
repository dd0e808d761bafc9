"""``dayfly job``: what runs and what ran."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dayfly.cli import show
from dayfly.cli.options import Place, note, placed
from dayfly.cost import dollars
from dayfly.model import JobRow, JobState

if TYPE_CHECKING:
    from dayfly.client.job import Job
    from dayfly.wire.client import MasterDoor

COLUMNS = (
    "id",
    "function",
    "submitted",
    "workers",
    "done/total",
    "failed",
    "cost",
    "state",
    "reason",
)


@click.group()
def job() -> None:
    """The jobs: those that run, and those that ended."""


@job.command("list")
@click.option("--json", "as_json", is_flag=True, help="Every field, as JSON.")
@placed
def list_jobs(place: Place, as_json: bool) -> None:
    """List the jobs, oldest first."""
    rows = asyncio.run(_rows(place))
    if as_json:
        show.json(rows)
    else:
        show.table(COLUMNS, map(cells, rows))


async def _rows(place: Place) -> list[JobRow]:
    from dayfly.cli.rows import job_rows
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        return await job_rows(parts)


def cells(row: JobRow) -> list[str]:
    """A job as the table shows it."""
    total = "?" if row.total is None else str(row.total)
    return [
        row.id,
        row.function,
        show.date(row.submitted_at),
        str(row.workers),
        f"{row.done}/{total}",
        str(row.failed) if row.failed else "",
        dollars(row.cost) if row.cost else "",
        row.state,
        " ".join(row.reason.split()),
    ]


@job.command("cancel")
@click.argument("job_id", metavar="JOB")
@placed
def cancel(place: Place, job_id: str) -> None:
    """Stop JOB: its calls that run, and those that wait."""
    asyncio.run(_cancel(place, job_id))


async def _cancel(place: Place, job_id: str) -> None:
    from dayfly.client.visit import visit
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts, visit(parts) as door:
        row = await cancel_through(door, job_id)
    total = "?" if row.total is None else row.total
    click.echo(f"job {job_id} is {row.state}: {row.done} of {total} calls were done")


async def cancel_through(door: MasterDoor | None, job_id: str) -> JobRow:
    """Cancel a job, and return how it stands after that.

    Raises:
        JobError: The master runs no such job.
        WireError: The conversation broke.
    """
    from dayfly.errors import JobError
    from dayfly.wire import messages as m

    unknown = JobError(
        f"no job {job_id!r} is running",
        cause="no master is up" if door is None else "the master does not know it",
        hint="dayfly job list",
    )
    if door is None:
        raise unknown
    rows = {row.id: row for row in await door.list_jobs()}
    if job_id not in rows:
        raise unknown
    if rows[job_id].state is JobState.RUNNING:
        await door.send(m.Cancel(job=job_id))
        # Messages are handled in order, so this answer comes after the cancellation.
        rows |= {row.id: row for row in await door.list_jobs()}
    return rows[job_id]


@job.command("result")
@click.argument("job_id", metavar="JOB")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to; else JOB.pickle or JOB.json here. - is the standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, where the results allow it.")
@placed
def result(place: Place, job_id: str, output: str | None, as_json: bool) -> None:
    """Save what the calls of JOB returned: a list in the order of the items.

    A call that failed gives its exception. Waits while JOB runs; Ctrl-C leaves it alone. Works
    after every VM is gone, too. The status is 1 when JOB failed, as awaiting it would.
    """
    file = output or f"{job_id}.{'json' if as_json else 'pickle'}"
    asyncio.run(_result(place, job_id, file, as_json=as_json))


async def _result(place: Place, job_id: str, file: str, *, as_json: bool) -> None:
    from dayfly.cli import results
    from dayfly.client.executor import FunctionExecutor
    from dayfly.client.progress import in_a_line
    from dayfly.errors import JobError
    from dayfly.serialize import dump_results

    handle = await FunctionExecutor.attach(
        job_id, config_file=place.config_file, backend=place.backend, storage=place.storage
    )
    async with handle:
        await _wait_for(handle)
        outcomes = []
        try:
            async for outcome in handle.as_completed():
                outcomes.append(outcome)
            await handle
            failure = ""
        except Exception as error:  # noqa: BLE001  # a call may have raised anything
            failure = in_a_line(error)
    total = handle.progress.total
    count = max((each.index + 1 for each in outcomes), default=0) if total is None else total
    listed = results.in_order(outcomes, count, failure or "the job ended early")
    data = results.in_json(listed) if as_json else dump_results(listed)
    if file == "-":
        sys.stdout.buffer.write(data)
    else:
        await asyncio.to_thread(results.save, Path(file), data)
    failed = sum(not outcome.ok for outcome in outcomes)
    lost = f", {count - len(outcomes)} without an outcome" if count > len(outcomes) else ""
    note(f"job {job_id}: {len(outcomes) - failed} done, {failed} failed{lost}; results in {file}")
    if failure:
        raise JobError(f"job {job_id} failed: {failure}", hint=f"dayfly logs get {job_id}")


async def _wait_for(handle: Job[Any]) -> None:
    try:
        await handle.over()
    except asyncio.CancelledError:
        note(f"job {handle.id} is left as it is; later: dayfly job result {handle.id}")
        raise
