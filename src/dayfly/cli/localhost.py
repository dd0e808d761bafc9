"""``dayfly localhost``: the embedded cloud's own console, in the place of EC2's.

Nothing else in dayfly needs it. It makes VMs that are the user's own, for ``consume`` mode,
and plays the operator of the cloud.
"""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import click

from dayfly.cli import show
from dayfly.cli.options import config_option
from dayfly.model import Instance, InstanceSpec, InstanceState, Tag

if TYPE_CHECKING:
    from dayfly.cloud.localhost import LocalhostCloud

Answer = TypeVar("Answer")

COLUMNS = ("instance", "name", "type", "state", "address", "ssh port", "reason")


@click.group()
@config_option
@click.pass_context
def localhost(ctx: click.Context, config_file: str | None) -> None:
    """The embedded cloud's console: what the operator of a cloud can do."""
    ctx.obj = config_file or ctx.obj


@localhost.command()
@click.option(
    "--key",
    metavar="FILE.pub",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key that may log in.",
)
@click.option(
    "--type",
    "instance_type",
    default="local.2",
    show_default=True,
    help="`local.N`: N vCPUs.",
)
@click.option("--name", default="", help="Its name.")
@click.pass_obj
def run(config_file: str | None, key: Path, instance_type: str, name: str) -> None:
    """Launch a VM of your own, and print its id."""
    from dayfly.clock import SystemEntropy

    spec = own_vm(key.read_text().strip(), instance_type, name or f"{getpass.getuser()}-vm")

    async def launch(cloud: LocalhostCloud) -> str:
        launched = await cloud.launch(spec, 1, token=f"console-{SystemEntropy().hex(16)}")
        return launched.instances[0].id

    click.echo(_with_cloud(config_file, launch))


def own_vm(public_key: str, instance_type: str, name: str) -> InstanceSpec:
    """A VM that is not dayfly's: no tag says so, and ``poweroff`` in it stops it."""
    return InstanceSpec(
        role="worker",
        instance_types=[instance_type],
        on_poweroff="stop",
        user_data="#cloud-config\n" + json.dumps({"ssh_authorized_keys": [public_key]}),
        tags={Tag.NAME: name},
    )


@localhost.command("list")
@click.option("--json", "as_json", is_flag=True, help="Every field, as JSON.")
@click.option("--all", "everything", is_flag=True, help="Also those that are terminated.")
@click.pass_obj
def list_instances(config_file: str | None, as_json: bool, everything: bool) -> None:
    """List the VMs: dayfly's and your own."""
    found = _with_cloud(config_file, lambda cloud: cloud.list())
    rows = [row for row in found if everything or row.state is not InstanceState.TERMINATED]
    if as_json:
        show.json(rows)
    else:
        show.table(COLUMNS, map(cells, rows))


def cells(row: Instance) -> list[str]:
    """An instance as the table shows it."""
    return [
        row.id,
        row.name,
        row.instance_type,
        row.state,
        row.address,
        str(row.ssh_port),
        row.state_reason,
    ]


@localhost.command()
@click.argument("ids", metavar="INSTANCE...", nargs=-1, required=True)
@click.pass_obj
def stop(config_file: str | None, ids: tuple[str, ...]) -> None:
    """Stop VMs, keeping their disks."""
    _with_cloud(config_file, lambda cloud: cloud.stop(ids))


@localhost.command()
@click.argument("ids", metavar="INSTANCE...", nargs=-1, required=True)
@click.pass_obj
def start(config_file: str | None, ids: tuple[str, ...]) -> None:
    """Start stopped VMs."""
    _with_cloud(config_file, lambda cloud: cloud.start(ids))


@localhost.command()
@click.argument("ids", metavar="INSTANCE...", nargs=-1, required=True)
@click.pass_obj
def terminate(config_file: str | None, ids: tuple[str, ...]) -> None:
    """End VMs and delete their disks."""
    _with_cloud(config_file, lambda cloud: cloud.terminate(ids))


@localhost.command()
@click.argument("ids", metavar="INSTANCE...", nargs=-1, required=True)
@click.option("--notice", default=0.0, metavar="SECONDS", help="Announce it so long before.")
@click.pass_obj
def interrupt(config_file: str | None, ids: tuple[str, ...], notice: float) -> None:
    """Take spot VMs away, as a cloud does when it needs them for others."""

    async def take(cloud: LocalhostCloud) -> None:
        for instance_id in ids:
            await cloud.interrupt(instance_id, notice=notice)

    _with_cloud(config_file, take)


def _with_cloud(
    config_file: str | None, use: Callable[[LocalhostCloud], Awaitable[Answer]]
) -> Answer:
    from dayfly.config import load
    from dayfly.parts import open_parts

    async def main() -> Answer:
        async with open_parts(load(config_file=config_file, backend="localhost")) as parts:
            return await use(cast("LocalhostCloud", parts.cloud))

    return asyncio.run(main())
