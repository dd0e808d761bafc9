"""``dayfly`` itself: the commands it has, and how their errors are told."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import click

from dayfly.cli.attach import attach
from dayfly.cli.clean import clean
from dayfly.cli.doctor import doctor
from dayfly.cli.hello import hello
from dayfly.cli.image import image
from dayfly.cli.job import job
from dayfly.cli.localhost import localhost
from dayfly.cli.logs import logs
from dayfly.cli.options import config_option
from dayfly.cli.storage import storage
from dayfly.cli.worker import worker
from dayfly.errors import DayflyError

#: What a shell reports of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


class Root(click.Group):
    """Tells our own errors in our own words: what, the cause, the next thing to type.

    ``DAYFLY_DEBUG=1`` lets the traceback through.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DayflyError as error:
            if os.environ.get("DAYFLY_DEBUG") == "1":
                raise
            click.echo(f"{click.style('error:', fg='red')} {error}", err=True)
            ctx.exit(1)
        except (KeyboardInterrupt, asyncio.CancelledError):
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output (head, less) has seen enough. Python flushes stdout once
            # more at exit, which must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dayfly", message="dayfly %(version)s")
@config_option
@click.pass_context
def dayfly(ctx: click.Context, config_file: str | None) -> None:
    """Run Python functions on machines that live just as long as the work."""
    ctx.obj = config_file


for command in (hello, doctor, worker, job, logs, attach, clean, image, storage, localhost):
    dayfly.add_command(command)


def main() -> None:
    """Run the command line on ``sys.argv``; exits with the command's status."""
    dayfly(prog_name="dayfly")
