"""``dayfly hello``: a real call through the whole system."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from dayfly.cli import show
from dayfly.cli.options import Place, placed
from dayfly.cost import dollars
from dayfly.errors import DayflyError
from dayfly.model import UP, WorkerRow

if TYPE_CHECKING:
    from dayfly.cli.stopwatch import Lap
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
@placed
def hello(place: Place, count: int | None) -> None:
    """Make one real call through the whole system, and tell what that took.

    Prints the checked answer, where the time went, what is still running and what it costs.
    """
    asyncio.run(_hello(place, count, perf_counter()))


async def _hello(place: Place, count: int | None, began: float) -> None:
    from dayfly.cli.rows import worker_rows
    from dayfly.cli.stopwatch import Lap, Stopwatch
    from dayfly.client.executor import FunctionExecutor
    from dayfly.client.session import open_session
    from dayfly.parts import open_parts

    config = place.load()
    async with open_parts(config) as parts:
        watch = Stopwatch(open_session(parts), parts.clock)
        executor = FunctionExecutor(
            config_file=place.config_file,
            backend=place.backend,
            storage=place.storage,
            session=watch,
        )
        imported = perf_counter() - began
        async with executor:
            watch.lap("pickling the function")
            names = [getpass.getuser()] if count is None else [str(n) for n in range(count)]
            job = executor.map(greeter(), names)
            answers = await job
            watch.lap("leaving")
        watch.lap("end")
        check(answers, [f"Hello, {name}!" for name in names])
        _print_answers(answers)
        _print_laps([Lap("imports and configuration", imported), *watch.laps])
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


def _print_laps(laps: list[Lap]) -> None:
    click.echo("\nwhere the time went")
    total = sum(lap.seconds for lap in laps)
    lines = [*((lap.what, lap.seconds) for lap in laps), ("in all", total)]
    width = max(len(what) for what, _ in lines)
    for what, seconds in lines:
        click.echo(f"  {what.ljust(width)}  {seconds:7.3f} s")


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
