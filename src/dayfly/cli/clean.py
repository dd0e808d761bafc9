"""``dayfly clean``: give everything back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dayfly.cli import show
from dayfly.cli.options import Place, placed

if TYPE_CHECKING:
    from dayfly.cloud.base import Resource

COLUMNS = ("kind", "id", "detail")


@click.command()
@click.option(
    "--all", "everything", is_flag=True, help="Also the master, network, keys and images."
)
@placed
def clean(place: Place, everything: bool) -> None:
    """Delete the workers and temporary objects; then show what the cloud still lists of ours.

    With --all nothing may be left; if something is, the exit status is 1.
    """
    left = asyncio.run(_clean(place, everything=everything))
    if not left:
        click.echo("nothing of ours is left")
        return
    click.echo("left, by the cloud's own listing:")
    show.table(COLUMNS, ([item.kind, item.id, item.detail] for item in left))
    if everything:
        sys.exit(1)


async def _clean(place: Place, *, everything: bool) -> Sequence[Resource]:
    from dayfly.client.clean import clean as delete
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        return await delete(parts, everything=everything, told=click.echo)
