"""What every command takes: which backend, which storage, which configuration."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

if TYPE_CHECKING:
    from dayfly.config import Config

P = ParamSpec("P")

BACKENDS = ("localhost", "aws_ec2")
STORAGES = ("localhost", "aws_s3")

config_option = click.option(
    "-c",
    "--config",
    "config_file",
    metavar="FILE",
    help="Configuration file; else the usual places are searched.",
)


@dataclass(frozen=True)
class Place:
    """Where a command works, as it was typed; what was not typed is ``None``."""

    config_file: str | None = None
    backend: str | None = None
    storage: str | None = None

    def load(self) -> Config:
        """Read the configuration.

        Raises:
            ConfigError: It is refused.
        """
        from dayfly.config import load

        return load(config_file=self.config_file, backend=self.backend, storage=self.storage)


def placed(command: Callable[Concatenate[Place, P], None]) -> Callable[P, None]:
    """Give a command ``-b``, ``-s`` and ``-c``, and hand it the :class:`Place`."""

    @click.option("-b", "--backend", type=click.Choice(BACKENDS), help="Where the VMs are.")
    @click.option("-s", "--storage", type=click.Choice(STORAGES), help="Where the data is.")
    @config_option
    @click.pass_context
    @functools.wraps(command)
    def wrapper(ctx: click.Context, /, *args: Any, **kwargs: Any) -> None:
        place = Place(
            config_file=kwargs.pop("config_file") or ctx.obj,
            backend=kwargs.pop("backend"),
            storage=kwargs.pop("storage"),
        )
        command(place, *args, **kwargs)

    return wrapper


def note(text: str) -> None:
    """Say something beside the answer, which alone goes to stdout."""
    click.echo(text, err=True)
