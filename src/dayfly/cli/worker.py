"""``dayfly worker``: the VMs."""

from __future__ import annotations

import asyncio

import click

from dayfly.cli import show
from dayfly.cli.options import Place, placed
from dayfly.model import WorkerRow

COLUMNS = (
    "name",
    "instance",
    "type",
    "processes",
    "runtime",
    "mode",
    "state",
    "phase",
    "running",
    "dismantle in",
)


@click.group()
def worker() -> None:
    """The VMs: the master and its workers."""


@worker.command("list")
@click.option("--json", "as_json", is_flag=True, help="Every field, as JSON.")
@placed
def list_workers(place: Place, as_json: bool) -> None:
    """List the VMs, and in how many seconds each goes by itself."""
    rows = asyncio.run(_rows(place))
    if as_json:
        show.json(rows)
    else:
        show.table(COLUMNS, map(cells, rows))


async def _rows(place: Place) -> list[WorkerRow]:
    from dayfly.cli.rows import worker_rows
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        return await worker_rows(parts)


def cells(row: WorkerRow) -> list[str]:
    """A VM as the table shows it."""
    left = "" if row.dismantle_in is None else f"{row.dismantle_in:.0f}s {row.dismantle_why}"
    return [
        row.name,
        row.instance,
        row.instance_type,
        str(row.processes) if row.processes else "",
        row.runtime,
        row.mode,
        row.state,
        row.phase,
        str(row.running) if row.role == "worker" else "",
        left.strip(),
    ]
