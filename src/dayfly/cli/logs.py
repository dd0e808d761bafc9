"""``dayfly logs``: what the functions print."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import click

from dayfly.cli.options import Place, note, placed
from dayfly.errors import ShellError, WireError
from dayfly.model import LogLine

if TYPE_CHECKING:
    from dayfly.parts import Parts

#: Seconds between two looks for a master, while there is none to follow.
LOOK_AGAIN = 3.0


@click.group()
def logs() -> None:
    """What the functions print and log."""


@logs.command()
@click.option("--past", is_flag=True, help="Begin with what the running jobs printed so far.")
@click.option("--no-wait", is_flag=True, help="End when no master is up; else wait for one.")
@placed
def poll(place: Place, past: bool, no_wait: bool) -> None:
    """Follow the logs of all running jobs live, until Ctrl-C."""
    asyncio.run(_poll(place, past=past, wait=not no_wait))


@logs.command()
@click.argument("job_id", metavar="JOB")
@placed
def get(place: Place, job_id: str) -> None:
    """Print what JOB has printed so far."""
    for line in asyncio.run(_get(place, job_id)):
        click.echo(text_of(line))


async def _get(place: Place, job_id: str) -> list[LogLine]:
    from dayfly.cli.rows import find_logs
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        return await find_logs(parts, job_id)


async def _poll(place: Place, *, past: bool, wait: bool) -> None:
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        said = False
        while True:
            if await _follow(parts, past=past):
                said = False
            elif not said:
                note("no master is up" + ("; waiting for one, Ctrl-C to stop" if wait else ""))
                said = True
            if not wait:
                return
            await parts.clock.sleep(LOOK_AGAIN)


async def _follow(parts: Parts, *, past: bool) -> bool:
    """Print what the master pushes until it is gone; ``False`` if none is up."""
    from dayfly.client.visit import visit
    from dayfly.wire import messages as m

    try:
        async with visit(parts) as door:
            if door is None:
                return False
            await door.send(m.FollowLogs(past=past))
            note("following the logs of all running jobs, Ctrl-C to stop")
            async with contextlib.aclosing(door.pushed()) as pushed:
                async for message in pushed:
                    if isinstance(message, m.Logs):
                        for line in message.lines:
                            click.echo(f"{line.job} {text_of(line)}")
    except (ShellError, WireError) as error:
        note(f"the master does not answer: {error}")
    else:
        note("the master is gone")
    return True


def text_of(line: LogLine) -> str:
    """A line with the call it belongs to: ``call 7: text``."""
    call = "call ?" if line.index < 0 else f"call {line.index}"
    stream = " (stderr)" if line.stream == "stderr" else ""
    return f"{call}{stream}: {line.text}"
