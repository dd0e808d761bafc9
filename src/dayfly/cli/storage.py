"""``dayfly storage``: the user's own objects."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from dayfly.cli import show
from dayfly.cli.options import Place, placed
from dayfly.storage.base import ObjectInfo

COLUMNS = ("key", "bytes", "modified")
#: Stands for stdin or stdout.
DASH = "-"


@click.group()
def storage() -> None:
    """Objects in storage."""


@storage.command()
@click.argument("file")
@click.argument("key", required=False)
@placed
def put(place: Place, file: str, key: str | None) -> None:
    """Store FILE ("-": stdin) under KEY; by default its own name."""
    if key is None:
        if file == DASH:
            raise click.UsageError("what comes from stdin needs a KEY")
        key = Path(file).name
    if file != DASH and not Path(file).is_file():
        raise click.BadParameter(f"{file} is not a file", param_hint="FILE")
    asyncio.run(_put(place, file, key))
    click.echo(key)


async def _put(place: Place, file: str, key: str) -> None:
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        if file == DASH:
            await parts.storage.put_object(key, sys.stdin.buffer.read())
        else:
            await parts.storage.upload_file(file, key)


@storage.command()
@click.argument("key")
@click.argument("file", required=False)
@placed
def get(place: Place, key: str, file: str | None) -> None:
    """Write the object KEY to FILE ("-": stdout); by default its own last name, here."""
    file = file or key.rpartition("/")[2]
    asyncio.run(_get(place, key, file))
    if file != DASH:
        click.echo(file)


async def _get(place: Place, key: str, file: str) -> None:
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        if file != DASH:
            await parts.storage.download_file(key, file)
            return
        async for piece in parts.storage.stream_object(key):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@storage.command("list")
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Every field, as JSON.")
@placed
def list_objects(place: Place, prefix: str, as_json: bool) -> None:
    """List the objects whose key begins with PREFIX."""
    found = asyncio.run(_list(place, prefix))
    if as_json:
        show.json(found)
    else:
        rows = ([info.key, str(info.size), show.date(info.modified)] for info in found)
        show.table(COLUMNS, rows)


async def _list(place: Place, prefix: str) -> list[ObjectInfo]:
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        return [info async for info in parts.storage.list_objects(prefix)]


@storage.command()
@click.argument("keys", metavar="KEY...", nargs=-1)
@click.option("--prefix", help="Also every object whose key begins with this.")
@placed
def delete(place: Place, keys: tuple[str, ...], prefix: str | None) -> None:
    """Delete objects; those that are gone already are not an error."""
    if not keys and not prefix:
        raise click.UsageError("which object? Give a KEY or --prefix")
    count = asyncio.run(_delete(place, list(keys), prefix))
    click.echo(f"{count} deleted")


async def _delete(place: Place, keys: list[str], prefix: str | None) -> int:
    from dayfly.parts import open_parts

    async with open_parts(place.load()) as parts:
        if prefix:
            keys += [key async for key in parts.storage.list_keys(prefix)]
        await parts.storage.delete_objects(keys)
    return len(set(keys))
