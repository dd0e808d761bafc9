"""``dayfly job``: what runs and what ran."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from dayfly.cli import show
from dayfly.cli.options import Place, placed
from dayfly.cost import dollars
from dayfly.model import JobRow, JobState

if TYPE_CHECKING:
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
