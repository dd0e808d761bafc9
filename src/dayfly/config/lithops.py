"""A file written for Lithops' EC2 backend, read as one of ours.

Source of the key names: Lithops 3.7.1.dev0, ``config/config_template.yaml``, the AWS pages
of its documentation (and of earlier ones), ``standalone/backends/aws_ec2/config.py``.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from dayfly.config.reading import Document, Given
from dayfly.errors import ConfigError

#: Keys of ``lithops:`` without a meaning here, and what to use in their place.
_MEANINGLESS: Final = {
    "chunksize": "map(..., chunksize=...)",
    "execution_timeout": "map(..., timeout=...)",
    "exclude_modules": "map(..., exclude_modules=...)",
    "include_modules": "map(..., include_modules=...)",
    "retries": "map(..., retries=...)",
    "data_cleaner": "`dayfly clean`",
    "data_limit": "",
    "log_filename": "",
    "log_format": "",
    "log_stream": "",
    "monitoring": "",
    "monitoring_interval": "",
    "telemetry": "",
}
_ALIASES: Final = {
    "iam_role": "instance_role",
    "public_subnet_cidr_block": "subnet_cidr_block",
    "public_subnet_id": "subnet_id",
    "region_name": "region",
}
_MEANINGLESS_IN: Final = {
    "aws_ec2": {"backend", "execution_role", "pull_runtime", "workers_policy"},
    "localhost": {"version"},
}
_CREDENTIALS: Final = {"access_key_id", "secret_access_key", "session_token", "account_id"}
_LISTS: Final = {"extra_apt_packages", "extra_python_packages"}
#: Vendors of Lithops' other backends, and backends that stand alone.
_OTHER_SECTIONS: Final = re.compile(
    r"(aliyun|azure|gcp|ibm|infinispan|oracle)(_\w+)?|aws_(batch|lambda)|ceph|cloudrun|code_engine"
    r"|k8s|knative|minio|openwhisk|prometheus|rabbitmq|redis|serverless|singularity|swift|vm"
)


def translate(document: Document) -> tuple[Document, list[str]]:
    """The same document in our words, and a warning for each key without a meaning here.

    Raises:
        ConfigError: It has a section ``dayfly`` too.
    """
    if "dayfly" in document.sections:
        raise ConfigError(
            f"{document.source}: has both a section `dayfly` and a section `lithops`",
            hint="keep one of the two",
        )
    sections: dict[str, dict[Any, Given]] = {}
    warnings: list[str] = []
    # In Lithops the backend's own section has the last word over `standalone`.
    for name in sorted(document.sections, key=lambda name: name != "standalone"):
        given = document.sections[name]
        if name == "lithops":
            sections["dayfly"] = _general(document, given, warnings)
        elif _OTHER_SECTIONS.fullmatch(str(name)):
            warnings.append(f"{document.where[name]}: [{name}] has no meaning in dayfly")
        else:
            _rename("aws_ec2" if name == "standalone" else name, given, sections, warnings)
    where = {**document.where, "dayfly": document.where["lithops"]}
    return msgspec.structs.replace(document, sections=sections, where=where), warnings


def _rename(
    section: str,
    given: dict[Any, Given],
    sections: dict[str, dict[Any, Given]],
    warnings: list[str],
) -> None:
    """Sort the keys of a section that both have into ``sections``, by our names."""
    target = sections.setdefault(section, {})
    for old, value in given.items():
        key = _ALIASES.get(old, old)
        if old in _MEANINGLESS_IN.get(section, ()):
            warnings.append(f"{value.where}: [{section}] {old} has no meaning in dayfly")
        elif key in _CREDENTIALS:
            sections.setdefault("aws", {})[key] = value
        elif key in _LISTS and isinstance(value.value, str):
            target[key] = Given(value.value.split(), value.where)
        else:
            target[key] = value


def _general(document: Document, given: dict[Any, Given], warnings: list[str]) -> dict[Any, Given]:
    """The section ``dayfly`` that says what the section ``lithops`` says."""
    kept = {}
    for key, value in given.items():
        if key in _MEANINGLESS or (key == "log_level" and value.value is None):
            instead = _MEANINGLESS.get(key)
            use = f"; use {instead}" if instead else ""
            warnings.append(f"{value.where}: [lithops] {key} has no meaning in dayfly{use}")
        elif key != "mode":
            kept[key] = value
    if "backend" not in kept:
        kept["backend"] = _backend(document, given.get("mode"))
    return kept


def _backend(document: Document, mode: Given | None) -> Given:
    """The backend that a file without that key means."""
    where = document.where["lithops"]
    if mode is not None and mode.value not in {"standalone", "localhost"}:
        return mode  # refused as a backend, with what is allowed
    if mode is not None:
        name = "localhost" if mode.value == "localhost" else "aws_ec2"
        return Given(name, mode.where)
    ec2 = {"aws_ec2", "standalone"} & document.sections.keys()
    return Given("aws_ec2" if ec2 else "localhost", where)
