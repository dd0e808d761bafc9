"""``dayfly attach``: a shell on the master."""

from __future__ import annotations

import asyncio
import sys
from typing import Protocol, cast

import click

from dayfly.cli.options import Place, placed


class Terminal(Protocol):
    """What a connection by real SSH has beside what the seam asks for."""

    async def interactive(self) -> int:
        """Hand this terminal through; the exit status of the remote shell."""
        ...


@click.command()
@click.option("--start", is_flag=True, help="Start the master if it is stopped.")
@placed
def attach(place: Place, start: bool) -> None:
    """Open a live SSH session on the master VM; its exit status becomes ours."""
    sys.exit(asyncio.run(_attach(place, start=start)))


async def _attach(place: Place, *, start: bool) -> int:
    from dayfly.client.visit import shell_on_master
    from dayfly.parts import open_parts

    async with (
        open_parts(place.load()) as parts,
        shell_on_master(parts, start=start) as connection,
    ):
        return await cast("Terminal", connection).interactive()
