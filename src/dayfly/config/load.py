"""One call from what the user wrote, wherever it is, to one checked value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from dayfly.config.check import check_rules, check_values
from dayfly.config.lithops import translate
from dayfly.config.reading import Document, Given, Problem, expand, find
from dayfly.config.sections import (
    AwsSection,
    Config,
    DayflySection,
    Ec2Section,
    LocalhostSection,
    S3Section,
)
from dayfly.errors import ConfigError
from dayfly.model import ExecMode
from dayfly.runtimes import names_image

#: Keywords that belong to the section ``dayfly``; every other one is a key of the backend.
_GENERAL: Final = ("backend", "storage", "log_level")
_KEYWORD: Final = "keyword argument"


def load(
    config: Mapping[str, Any] | None = None,
    config_file: str | Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
    home: Path | None = None,
    **overrides: Any,
) -> Config:
    """Find, read and check the configuration.

    Args:
        config: Sections as a mapping, in place of a file.
        config_file: A file, in place of those that are searched.
        environ: Where ``DAYFLY_CONFIG`` and ``DAYFLY_CONFIG_FILE`` are looked up.
        cwd: Where ``.dayfly_config`` is looked for.
        home: What ``~`` stands for.
        **overrides: ``backend``, ``storage``, ``log_level`` or any key of the chosen backend;
            ``None`` stands for not given.

    Raises:
        ConfigError: Something is refused; the message holds every problem, not the first.
    """
    home = home or Path.home()
    cwd = cwd or Path.cwd()
    document = find(config, config_file, environ=environ, cwd=cwd, home=home)
    warnings: list[str] = []
    if "lithops" in document.sections:
        document, warnings = translate(document)
    document = _override(document, overrides)
    values, problems = check_values(document)
    found = _derive(document.source, values, cwd, home)
    problems += check_rules(found, document, problems)
    if problems:
        raise _refusal(problems)
    warnings += _warnings(found)
    return msgspec.structs.replace(found, warnings=tuple(warnings))


def _override(document: Document, overrides: Mapping[str, Any]) -> Document:
    """The document with the keywords in place of what the file says."""
    given = {key: Given(value, _KEYWORD) for key, value in overrides.items() if value is not None}
    sections = {name: dict(keys) for name, keys in document.sections.items()}
    general = sections.setdefault("dayfly", {})
    general.update({key: given.pop(key) for key in _GENERAL if key in given})
    backend = general["backend"].value if "backend" in general else "localhost"
    if given and backend in ("aws_ec2", "localhost"):
        sections.setdefault(backend, {}).update(given)
    return msgspec.structs.replace(document, sections=sections)


def _derive(source: str, values: dict[str, dict[str, Any]], cwd: Path, home: Path) -> Config:
    """The configuration with every default that depends on another key, and absolute paths."""
    general, ec2, s3 = values["dayfly"], values["aws_ec2"], values["aws_s3"]
    if general.get("backend") == "aws_ec2":
        general.setdefault("storage", "aws_s3")
    region = values["aws"].get("region") or ec2.get("region", "")
    ec2["region"] = ec2.get("region") or region
    s3["region"] = s3.get("region") or region
    config = Config(
        source=source,
        dayfly=DayflySection(**general),
        aws=AwsSection(**values["aws"]),
        aws_s3=S3Section(**s3),
        aws_ec2=Ec2Section(**ec2),
        localhost=LocalhostSection(**values["localhost"]),
    )

    def absolute(path: str) -> str:
        return str(cwd / expand(path, home))

    replace = msgspec.structs.replace
    ec2_paths = {"ssh_key_filename": absolute(config.aws_ec2.ssh_key_filename)}
    local_paths = {
        key: absolute(getattr(config.localhost, key))
        for key in ("ssh_key_filename", "directory", "storage_directory")
    }
    return replace(
        config,
        aws_ec2=replace(config.aws_ec2, **ec2_paths),
        localhost=replace(config.localhost, **local_paths),
    )


def _refusal(problems: list[Problem]) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(str(problems[0]))
    lines = [f"{len(problems)} problems in the configuration:", *(f"  {p}" for p in problems)]
    return ConfigError("\n".join(lines))


def _warnings(config: Config) -> list[str]:
    return [*_unheeded(config), *_password_warnings(config), *_timer_warnings(config)]


def _unheeded(config: Config) -> list[str]:
    """Keys of EC2 that are read and checked, and change nothing in this version."""
    ec2 = config.aws_ec2
    if config.dayfly.backend != "aws_ec2":
        return []
    told = []
    images_only = [name for name in ("use_gpu", "docker_user") if getattr(ec2, name)]
    if images_only and not names_image(ec2.runtime):
        text = f"without meaning with runtime: {ec2.runtime}, which is no container image"
        told.append(f"[aws_ec2] {', '.join(images_only)}: {text}")
    if ec2.extra_python_packages and ec2.packages != "auto":
        text = f"without meaning with environment: {ec2.environment}"
        told.append(f"[aws_ec2] extra_python_packages: {text}")
    return told


def _password_warnings(config: Config) -> list[str]:
    compute = config.compute
    if not compute.ssh_password or compute.exec_mode is not ExecMode.CONSUME:
        return []
    return ["ssh_password has no meaning with exec_mode: consume; the VM keeps its own passwords"]


def _timer_warnings(config: Config) -> list[str]:
    compute = config.compute
    backend = config.dayfly.backend
    if compute.auto_dismantle:
        return []
    cost = "hold memory" if backend == "localhost" else "cost money"
    if compute.exec_mode is ExecMode.CONSUME:
        stays = compute.instance_id
    else:
        kind = "spot" if compute.request_spot_instances else "on-demand"
        stays = (
            f"the master ({compute.master_instance_type}) and up to {compute.max_workers} workers "
            f"({compute.worker_instance_types[0]}, {kind})"
        )
    until = f"until `dayfly clean -b {backend} --all`"
    return [f"auto_dismantle: False, so no timer stops a VM: {stays} stay up, and {cost}, {until}"]
