"""``dayfly doctor``: would a job run here? And what must IAM grant?"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dayfly.cli import show
from dayfly.cli.options import Place, placed
from dayfly.clock import Clock, Entropy
from dayfly.cloud.base import Cloud, Finding
from dayfly.errors import ConfigError, DayflyError
from dayfly.storage import keys
from dayfly.storage.base import Storage

if TYPE_CHECKING:
    from dayfly.cloud.ec2.iam.policies import Holder
    from dayfly.config import Config

HOLDERS = ("client", "master", "worker", "instance")
#: Also without colours, and where a terminal has no such signs, the word says it.
SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "wrong": ("✗", "red")}
INDENT = "            "


@click.command()
@click.option(
    "-m",
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    help="For a fleet of N workers; by default max_workers.",
)
@click.option(
    "--policy",
    "holder",
    type=click.Choice(HOLDERS),
    help="Print the least policy for one of them, as JSON, and do nothing else; "
    "instance: master and worker in one.",
)
@click.option("--json", "as_json", is_flag=True, help="Every field, as JSON.")
@placed
def doctor(place: Place, workers: int | None, holder: Holder | None, as_json: bool) -> None:
    """Look whether jobs can run with this configuration, launching nothing.

    With what is missing it prints what mends it; something wrong makes the exit status 1.
    """
    config = place.load()
    if holder is not None:
        click.echo(json.dumps(asyncio.run(make_policy(config, holder)), indent=2))
        return
    findings = asyncio.run(examine(config, workers or config.compute.max_workers))
    if as_json:
        show.json(findings)
    else:
        for finding in findings:
            click.echo(text_of(finding))
        click.echo(summary(findings))
    if any(finding.verdict == "wrong" for finding in findings):
        sys.exit(1)


def text_of(finding: Finding) -> str:
    """A finding as a paragraph; a hint of several lines, such as a policy, stays whole."""
    sign, colour = SIGNS[finding.verdict]
    verdict = click.style(f"{sign} {finding.verdict:<8}", fg=colour)
    said = f"{finding.what}: {finding.detail}" if finding.detail else finding.what
    lines = [f"{verdict}  {said}"]
    if finding.hint:
        first, *more = finding.hint.splitlines()
        lines.append(f"{INDENT}next: {first}")
        lines += (f"{INDENT}{line}" for line in more)
    return "\n".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    wrong, warnings = (
        sum(finding.verdict == verdict for finding in findings) for verdict in ("wrong", "warning")
    )
    if not wrong and not warnings:
        return f"all {len(findings)} are as they should be"
    said = f"{wrong} wrong, {warnings} to be aware of, of {len(findings)}"
    return said if wrong else f"{said}: jobs can run"


async def examine(config: Config, workers: int) -> list[Finding]:
    """Everything that can be looked at, the configuration first; nothing raises."""
    from dayfly.parts import open_parts

    found = examine_config(config)
    try:
        async with open_parts(config) as parts:
            of_cloud, of_storage = await asyncio.gather(
                _examine_cloud(parts.cloud, workers),
                examine_storage(parts.storage, parts.entropy, parts.clock),
            )
    except DayflyError as error:
        return [*found, wrong("the parts that the configuration names", error)]
    return [*found, *of_cloud, of_storage]


def examine_config(config: Config) -> list[Finding]:
    """What was read, and each of its warnings."""
    dayfly = config.dayfly
    read = f"{config.source}: backend {dayfly.backend}, storage {dayfly.storage}"
    warnings = [
        Finding(what="configuration", verdict="warning", detail=warning)
        for warning in config.warnings
    ]
    return [Finding(what="configuration", verdict="ok", detail=read), *warnings]


async def _examine_cloud(cloud: Cloud, workers: int) -> Sequence[Finding]:
    try:
        return await cloud.examine(workers)
    except DayflyError as error:
        return [wrong(f"the backend {cloud.name}", error)]


async def examine_storage(storage: Storage, entropy: Entropy, clock: Clock) -> Finding:
    """Whether an object of ours can be stored, read and deleted."""
    what, doing = f"storage {storage.name}", "stored"
    key, data = f"{keys.IN}doctor/{entropy.hex(16)}", entropy.hex(64).encode()
    began = clock.monotonic()
    try:
        await storage.put_object(key, data)
        doing = "read"
        same = await storage.get_object(key) == data
        doing = "deleted"
        await storage.delete_object(key)
    except DayflyError as error:
        return wrong(what, error, f"a probe could not be {doing}: ")
    if not same:
        return Finding(
            what=what, verdict="wrong", detail=f"what was read at {key} is not what was stored"
        )
    took = (clock.monotonic() - began) * 1000
    return Finding(
        what=what,
        verdict="ok",
        detail=f"a probe was stored, read and deleted in {took:.0f} ms",
    )


def wrong(what: str, error: DayflyError, before: str = "") -> Finding:
    """An error of ours as a finding."""
    detail = f"{before}{error.what}: {error.cause}" if error.cause else before + error.what
    return Finding(what=what, verdict="wrong", detail=detail, hint=error.hint)


async def make_policy(config: Config, holder: Holder) -> dict[str, Any]:
    """The document of IAM that a holder needs for a configuration.

    Only the account's number may have to be asked for.

    Raises:
        ConfigError: The backend is not EC2, or nobody knows the account.
    """
    from dayfly.cloud.ec2.iam.policies import Place as Account
    from dayfly.cloud.ec2.iam.policies import policy
    from dayfly.parts import open_parts
    from dayfly.storage.s3.bucket import Bucket

    parts = open_parts(config)
    if parts.aws is None or config.dayfly.backend != "aws_ec2":
        raise ConfigError(
            f"the backend {config.dayfly.backend} has no policies",
            cause="IAM is AWS's",
            hint="dayfly doctor -b aws_ec2 --policy client",
        )
    async with parts:
        try:
            account = await parts.aws.account()
        except DayflyError as error:
            raise ConfigError(
                "the account's number, which the policy names, is not known",
                cause=f"{error.what}: {error.cause}" if error.cause else error.what,
                hint='give it, and AWS is not asked: aws: {account_id: "111122223333"}',
            ) from error
        bucket = Bucket(
            parts.aws,
            config.aws_s3.storage_bucket,
            account=account,
            region=config.aws_s3.region,
            make=True,
            clock=parts.clock,
            entropy=parts.entropy,
        )
        place = Account(
            account=account,
            region=config.aws_ec2.region,
            bucket=(await bucket.place()).location,
            derived=not config.aws_s3.storage_bucket,
            section=config.aws_ec2,
        )
        return policy(holder, place)
