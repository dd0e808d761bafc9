"""What is refused, and in which words."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from dayfly import runtimes
from dayfly.config.keys import SECTIONS, Key, keys_of, plain
from dayfly.config.reading import Document, Given, Problem
from dayfly.config.sections import ComputeSection, Config, Ec2Section
from dayfly.config.shapes import (
    check_bucket,
    check_cidr,
    check_id,
    check_image,
    check_subnet,
    check_tags,
    check_volumes,
    several,
)
from dayfly.environment.system import unusable
from dayfly.model import ExecMode
from dayfly.runtimes import Runtime

#: Characters of a password; the passwords of Linux accounts end at 511 bytes (crypt(3)).
LONGEST_PASSWORD = 127


def check_values(
    document: Document,
) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """The values of every known key, converted; and what is wrong with the others."""
    problems = list(document.problems)
    values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for name, given in document.sections.items():
        if name not in SECTIONS:
            near = _nearest(str(name), SECTIONS)
            problems.append(
                Problem(
                    subject=tuple((near, key) for key in given) if near else (),
                    where=document.where[name],
                    text=f"[{name}] there is no such section{_did_you_mean(near)}; "
                    f"the sections are {', '.join(SECTIONS)}",
                )
            )
            continue
        known = keys_of(SECTIONS[name])
        for key, value in given.items():
            if key not in known:
                problems.append(_unknown(name, key, value, known))
            elif value.value is None and known[key].default in ("", (), {}, None):
                continue
            else:
                try:
                    values[name][key] = _convert(known[key], value.value)
                except msgspec.ValidationError:
                    problems.append(_mistyped(name, known[key], value))
    return values, problems


def _convert(key: Key, value: Any) -> Any:
    if key.name == "log_level" and isinstance(value, str):
        value = value.lower()  # logging's own names are in capitals
    elif key.name == "account_id" and type(value) is int:
        value = str(value)  # YAML reads the bare digits as a number
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    return msgspec.convert(value, key.type)


def _unknown(section: str, key: Any, given: Given, known: Mapping[str, Key]) -> Problem:
    what = f"[{section}] {key}:"
    near = _nearest(str(key), known)
    elsewhere = [name for name, cls in SECTIONS.items() if key in cls.__struct_fields__]
    if elsewhere:
        text = f"{what} is a key of {' and '.join(elsewhere)}, not of {section}"
    elif near:
        text = f"{what} there is no such key; did you mean {near}? {_allowed(known[near])}"
    else:
        text = f"{what} there is no such key; {section} has {', '.join(known)}"
    subject = [(name, str(key)) for name in elsewhere]
    if near:
        subject.append((section, near))
    return Problem(subject=tuple(subject), where=given.where, text=text)


def _mistyped(section: str, key: Key, given: Given) -> Problem:
    value = given.value
    choices = {choice.lower(): choice for choice in key.choices}
    near = choices.get(_nearest(str(value).lower(), choices), "")
    if value is None:
        what = "has no value"
    else:
        what = ("this value" if key.secret else _short(value)) + " is not allowed"
        what += _did_you_mean(near)
    if not isinstance(value, str) and not key.choices and key.allowed.startswith("text"):
        what += "; put it in quotes" if isinstance(value, int | float) else ""
    return Problem(
        subject=((section, key.name),),
        where=given.where,
        text=f"[{section}] {key.name}: {what}; {_allowed(key)}",
    )


def _allowed(key: Key) -> str:
    default = "" if key.default in ("", (), {}, None) else f" (default {plain(key.default)})"
    return f"{key.name} takes {key.allowed}{default}: {key.description}"


def check_rules(config: Config, document: Document, wrong: Iterable[Problem]) -> list[Problem]:
    """What the values, each allowed by itself, must not be together.

    Args:
        config: The configuration, made of what is right so far.
        document: Where the values stood.
        wrong: What is wrong already; a rule about such a key is not told again.
    """
    known = {subject for problem in wrong for subject in problem.subject}
    backend = config.dayfly.backend
    if known & {("dayfly", "backend"), (backend, "exec_mode")}:
        return []
    found = [*_aws_rules(config), *_compute_rules(backend, config.compute)]
    if backend == "aws_ec2":
        found += [*_ec2_rules(config), *_image_rules(config.aws_ec2, document)]
    elif runtimes.names_image(config.localhost.runtime):
        found.append(_problem(backend, "runtime", "container images need backend: aws_ec2"))
    return [
        msgspec.structs.replace(problem, where=_where(document, problem))
        for problem in found
        if not known.intersection(problem.subject)
    ]


def _where(document: Document, problem: Problem) -> str:
    for section, key in problem.subject:
        if given := document.sections.get(section, {}).get(key):
            return given.where
    return document.source


def _problem(section: str, key: str, text: str, *also: str) -> Problem:
    return Problem(
        subject=tuple((section, name) for name in (key, *also)), text=f"[{section}] {key}: {text}"
    )


def _compute_rules(section: str, compute: ComputeSection) -> Iterator[Problem]:
    consume = compute.exec_mode is ExecMode.CONSUME
    if consume and not compute.instance_id:
        yield _problem(
            section, "instance_id", "is mandatory with exec_mode: consume; name the VM to consume"
        )
    if not compute.delete_on_dismantle and compute.request_spot_instances and not consume:
        yield _problem(
            section,
            "delete_on_dismantle",
            "False is not allowed with request_spot_instances: True, because one-time spot VMs "
            "cannot be stopped, only deleted; set request_spot_instances: False to keep the disks",
            "request_spot_instances",
        )
    password = compute.ssh_password
    if not (password.isascii() and password.isprintable() and len(password) <= LONGEST_PASSWORD):
        yield _problem(
            section,
            "ssh_password",
            f"takes up to {LONGEST_PASSWORD} printable ASCII characters, which every SSH client "
            "sends as the same bytes",
        )
    for wrong in check_tags(compute.tags):
        yield _problem(section, "tags", wrong)
    if wrong := runtimes.wrong(compute.runtime):
        yield _problem(section, "runtime", wrong)


def _aws_rules(config: Config) -> Iterator[Problem]:
    aws = config.aws
    if bool(aws.access_key_id) != bool(aws.secret_access_key):
        lone = "secret_access_key" if aws.access_key_id else "access_key_id"
        yield _problem(
            "aws", lone, "is missing: access_key_id and secret_access_key come in pairs, or both "
            "from the standard chain"
        )  # fmt: skip
    on_ec2 = config.dayfly.backend == "aws_ec2"  # which has a rule of its own
    if config.dayfly.storage == "aws_s3" and not config.aws_s3.region and not on_ec2:
        yield _problem("aws", "region", "is mandatory with storage: aws_s3, e.g. us-east-1")
    bucket = config.aws_s3.storage_bucket
    if config.dayfly.storage == "aws_s3" and bucket and (wrong := check_bucket(bucket)):
        yield _problem("aws_s3", "storage_bucket", wrong)


def _ec2_rules(config: Config) -> Iterator[Problem]:
    ec2 = config.aws_ec2
    if not ec2.region:
        yield Problem(
            subject=(("aws", "region"), ("aws_ec2", "region")),
            text="[aws] region: is mandatory (here or in aws_ec2), e.g. us-east-1",
        )
    if ec2.instance_role.startswith("arn:"):
        name = ec2.instance_role.rpartition("/")[2]
        yield _problem("aws_ec2", "instance_role", f"takes the name, {name!r}, not the ARN")
    elif not ec2.instance_role and ec2.exec_mode is not ExecMode.CONSUME:
        yield _problem(
            "aws_ec2",
            "instance_role",
            f"is mandatory with exec_mode: {ec2.exec_mode.value}; the name of a role that the "
            "VMs take, by which they reach the storage",
        )
    if config.dayfly.storage == "localhost":
        yield _problem(
            "dayfly",
            "storage",
            "localhost is a directory of this machine, which VMs on EC2 cannot reach; "
            "give aws_s3, or leave it out",
        )
    yield from _shape_rules(ec2)


def _shape_rules(ec2: Ec2Section) -> Iterator[Problem]:
    """What cannot be right, whatever there is in the account."""
    ids = {
        ("vpc_id", "vpc"): ec2.vpc_id,
        ("subnet_id", "subnet"): ec2.subnet_id,
        ("security_group_id", "sg"): ec2.security_group_id,
        ("instance_id", "i"): ec2.instance_id,
    }
    for (key, kind), given in ids.items():
        for one in several(given):
            if wrong := check_id(kind, one):
                yield _problem("aws_ec2", key, wrong)
    if ec2.target_ami and (wrong := check_image(ec2.target_ami)):
        yield _problem("aws_ec2", "target_ami", wrong)
    block = ec2.subnet_cidr_block
    if block and (wrong := check_subnet(block)):
        yield _problem("aws_ec2", "subnet_cidr_block", wrong)
    for cidr in several(ec2.ssh_cidr):
        if wrong := check_cidr(cidr):
            yield _problem("aws_ec2", "ssh_cidr", wrong)
    if ec2.ssh_cidr and ec2.security_group_id:
        yield _problem(
            "aws_ec2",
            "ssh_cidr",
            "has no meaning beside security_group_id, whose rules are never altered; leave one "
            "of them out",
            "security_group_id",
        )
    for wrong in filter(None, map(unusable, ec2.extra_apt_packages)):
        yield _problem("aws_ec2", "extra_apt_packages", wrong)
    for wrong in check_volumes(ec2.ebs_volumes):
        yield _problem("aws_ec2", "ebs_volumes", wrong)
    types = ec2.worker_instance_types
    for name in sorted({name for name in types if types.count(name) > 1}):
        yield _problem("aws_ec2", "worker_instance_type", f"{name} is given twice")


def _image_rules(ec2: Ec2Section, document: Document) -> Iterator[Problem]:
    """What a container image must not be together with."""
    if bool(ec2.docker_user) != bool(ec2.docker_password):
        lone = "docker_password" if ec2.docker_user else "docker_user"
        yield _problem("aws_ec2", lone, "is missing: docker_user and docker_password come in pairs")
    image = Runtime.parse(ec2.interpreter).image
    if not image:
        return
    given = document.sections.get("aws_ec2", {}).get("environment")
    if given is not None and given.value not in {"none", "image"}:
        yield _problem(
            "aws_ec2",
            "environment",
            f"{given.value!r} is not allowed with a container image, which brings the packages "
            "itself; put them into the image, and leave this key out",
        )
    extras = {
        "extra_apt_packages": ec2.extra_apt_packages,
        "extra_python_packages": ec2.extra_python_packages,
    }
    for key, packages in extras.items():
        if packages:
            yield _problem(
                "aws_ec2",
                key,
                "nothing is installed on top of a container image, which brings the packages "
                f"itself; put {', '.join(packages)} into the image, and leave this key out",
            )
    server = runtimes.server_name(ec2.docker_server)
    if ec2.docker_user and (registry := runtimes.registry_of(image)) != server:
        yield _problem(
            "aws_ec2",
            "docker_server",
            f"the image {image} is in the registry {registry}, but docker_user is one of {server}; "
            f"set docker_server: {registry}, or leave docker_user out",
            "docker_user",
        )


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return close[0] if close else ""


def _did_you_mean(near: str) -> str:
    return f" (did you mean {near}?)" if near else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
