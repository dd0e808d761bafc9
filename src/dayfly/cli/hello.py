"""``dayfly hello``: a real call through the whole system."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dayfly.cli import phases as table
from dayfly.cli import show
from dayfly.cli.options import Place, placed
from dayfly.cost import dollars
from dayfly.errors import DayflyError
from dayfly.model import UP, WorkerRow
from dayfly.phases import CLIENT, Phase
from dayfly.processes import age

if TYPE_CHECKING:
    from dayfly.config import Config

COLUMNS = ("name", "instance", "type", "state", "stops itself in")


@click.command()
@click.option(
    "-m",
    "--map",
    "count",
    metavar="N",
    type=click.IntRange(min=1),
    help="A map of N calls in place of one.",
)
@click.option("--json", "as_json", is_flag=True, help="The phases, as JSON, and nothing else.")
@placed
def hello(place: Place, count: int | None, *, as_json: bool) -> None:
    """Make one real call through the whole system, and tell what that took.

    Prints the checked answer, where the time went, what is still running and what it costs.
    """
    asyncio.run(_hello(place, count, as_json=as_json))


async def _hello(place: Place, count: int | None, *, as_json: bool) -> None:
    from dayfly.cli.rows import worker_rows
    from dayfly.client.executor import FunctionExecutor
    from dayfly.parts import open_parts

    config = place.load()
    executor = FunctionExecutor(
        config_file=place.config_file,
        backend=place.backend,
        storage=place.storage,
        progress=False if as_json else None,
    )
    async with executor:
        names = [getpass.getuser()] if count is None else [str(n) for n in range(count)]
        before = age()
        job = executor.map(greeter(), names)
        answers = await job
        took = age() - before
    check(answers, [f"Hello, {name}!" for name in names])
    imports = Phase(who=CLIENT, what="imports and configuration", start=0.0, seconds=before)
    phases = [imports, *(phase.later(before) for phase in job.phases)]
    if as_json:
        show.json(phases)
        return
    _print_answers(answers)
    _print_phases(phases, before + took)
    async with open_parts(config) as parts:
        _print_running(config, await worker_rows(parts), job.cost)


def greeter() -> Callable[[str], dict[str, Any]]:
    """The function that is called: nested, so that it travels whole and needs no dayfly there."""

    def hello(name: str) -> dict[str, Any]:
        import os
        import platform
        import socket

        return {
            "text": f"Hello, {name}!",
            "host": socket.gethostname(),
            "directory": os.environ.get("DAYFLY_ROOT", ""),
            "process": os.getpid(),
            "python": platform.python_version(),
        }

    return hello


def check(answers: list[dict[str, Any]], expected: list[str]) -> None:
    """Refuse a wrong answer.

    Raises:
        DayflyError: It is not the one that the same call gives here.
    """
    if [answer["text"] for answer in answers] != expected:
        raise DayflyError(
            "the answer is wrong",
            cause=f"expected {expected[:3]}..., came {answers[:3]}...",
            hint="this is a defect of dayfly; please report it with the output of DAYFLY_DEBUG=1",
        )


def _print_answers(answers: list[dict[str, Any]]) -> None:
    first = answers[0]
    if len(answers) == 1:
        click.echo(first["text"])
    else:
        click.echo(f"{first['text']} ... {answers[-1]['text']} ({len(answers)} calls)")
    processes = {(answer["host"], answer["directory"], answer["process"]) for answer in answers}
    machines = {(host, directory) for host, directory, _ in processes}
    click.echo(
        f"checked; from {_count(len(processes), 'process', 'es')} on "
        f"{_count(len(machines), 'VM', 's')} with Python {first['python']}"
    )


def _print_phases(phases: list[Phase], total: float) -> None:
    found = table.rows(phases)
    span = max(row.start + row.seconds for row in found)
    click.echo("\nwhere the time went, in seconds")
    columns = ("who", "phase", "began", "took", f"0 to {span:.1f} s")
    show.table(columns, (table.cells(row, span) for row in found))
    for note in table.notes(phases):
        click.echo(note)
    click.echo(f"all outcomes were here after {total:.2f} s in all")


def _print_running(config: Config, rows: list[WorkerRow], cost: float | None) -> None:
    up = [row for row in rows if row.state in UP]
    click.echo(f"\nstill running: {_count(len(up), 'VM', 's')}")
    if up:
        show.table(COLUMNS, map(cells, up))
    if config.dayfly.backend == "localhost":
        click.echo("cost: nothing, the VMs are processes on this machine")
    elif cost is None:
        click.echo("cost: no price of these VMs is known")
    else:
        click.echo(f"cost: {dollars(cost)} so far, by the estimated prices of the VMs")
    click.echo("to end them now: dayfly clean --all")


def cells(row: WorkerRow) -> list[str]:
    """A VM that is still up, and for how long."""
    left = "" if row.dismantle_in is None else show.duration(row.dismantle_in)
    return [row.name, row.instance, row.instance_type, row.state, left or "never"]


def _count(number: int, noun: str, plural: str) -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"
