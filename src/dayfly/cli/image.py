"""``dayfly image``: machine images with everything in them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dayfly.cli import show
from dayfly.cli.options import Place, note, placed

if TYPE_CHECKING:
    from dayfly.baked import MachineImage
    from dayfly.client.imagebuild import Wish

COLUMNS = ("name", "id", "state", "created", "python", "packages", "size", "owner", "used here")


@click.group()
def image() -> None:
    """Machine images with everything in them: VMs that are launched from one install nothing."""


@image.command()
@click.argument("name", required=False, default="")
@click.option(
    "-f",
    "--file",
    "script",
    metavar="SCRIPT",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run on the VM, as root, before the packages are installed.",
)
@click.option(
    "-i",
    "--include",
    "includes",
    metavar="SRC:DST",
    multiple=True,
    help="A file or a folder of this machine, put there before the script runs; may be repeated.",
)
@click.option("--instance-type", default="", help="Of the VM; by default that of the workers.")
@click.option(
    "-o", "--overwrite", is_flag=True, help="Replace the images of this name once it is there."
)
@placed
def build(
    place: Place,
    name: str,
    script: Path | None,
    includes: tuple[str, ...],
    instance_type: str,
    overwrite: bool,
) -> None:
    """Build an image with this program's Python and packages; later jobs use it by themselves.

    One VM is launched for it and ended afterwards. The image's id goes to stdout.
    """
    from dayfly.baking import parse_include
    from dayfly.client.imagebuild import Wish

    wish = Wish(
        name=name,
        script=script,
        includes=tuple(map(parse_include, includes)),
        instance_type=instance_type,
        overwrite=overwrite,
    )
    made = asyncio.run(_build(place, wish))
    note(f"{made.name} is ready: jobs with these packages use it from now on")
    click.echo(made.id)


async def _build(place: Place, wish: Wish) -> MachineImage:
    from dayfly.client.imagebuild import Builder
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        return await Builder(parts, wish, note).build()


@image.command("list")
@click.option("--json", "as_json", is_flag=True, help="Every field, as JSON.")
@placed
def list_images(place: Place, as_json: bool) -> None:
    """List the images that dayfly made, whose they are, and which one jobs use from here."""
    found, used = asyncio.run(_list(place))
    if as_json:
        show.json(found)
    else:
        show.table(COLUMNS, (cells(one, used) for one in found))


async def _list(place: Place) -> tuple[list[MachineImage], str]:
    from dayfly.client.images import used_by_workers
    from dayfly.errors import DayflyError
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        if parts.cloud.imaging is None:
            note(f"the backend {parts.cloud.name} has no machine images, and needs none")
            return [], ""
        found = await parts.cloud.imaging.images(everybody=True)
        used = ""
        try:
            if found:
                used = await used_by_workers(parts)
        except DayflyError as error:
            note(f"which of them is used from here is not known: {error}")
        return found, used


def cells(one: MachineImage, used: str) -> list[str]:
    """An image as the table shows it."""
    from dayfly.baked import Mark

    state = f"{one.state}: {one.detail}" if one.detail else one.state
    return [
        one.name,
        one.id,
        state,
        show.date(one.created_at) if one.created_at else "",
        one.tags.get(Mark.PYTHON, ""),
        one.tags.get(Mark.PACKAGES, "")[:8],
        f"{one.size} GiB" if one.size else "",
        one.owner,
        "yes" if one.id == used else "no",
    ]


@image.command()
@click.argument("image", metavar="NAME|ID")
@placed
def delete(place: Place, image: str) -> None:
    """Delete an image of yours and its snapshots; VMs that were launched from it go on."""
    asyncio.run(_delete(place, image))


async def _delete(place: Place, wanted: str) -> None:
    from dayfly.client.images import delete_image
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        await delete_image(parts, wanted, click.echo)
