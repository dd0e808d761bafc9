"""The subset of ``#cloud-config`` that the embedded cloud understands.

Source: cloud-init's module reference and, for the order, ``cloud_init_modules`` of its
``cloud.cfg``: bootcmd at every boot, then write_files and ssh; runcmd last, at the first boot.
"""

from __future__ import annotations

import msgspec
import yaml

_HEADER = "#cloud-config"


class SshKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The host's key, in OpenSSH's formats."""

    ed25519_private: str
    ed25519_public: str
    ed25519_certificate: str = ""


class WriteFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file to write. ``owner`` is read and has no meaning on a machine of one user."""

    path: str
    content: str = ""
    permissions: str = "0644"
    owner: str = ""


class UserData(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM is told at launch."""

    ssh_keys: SshKeys | None = None
    ssh_authorized_keys: list[str] = []
    write_files: list[WriteFile] = []
    bootcmd: list[str | list[str]] = []
    runcmd: list[str | list[str]] = []


def parse_user_data(text: str) -> UserData:
    """Read a ``#cloud-config`` document; keys that are not of the subset are passed over.

    Raises:
        ValueError: It is not one, or has a wrong type; the message says where.
    """
    if not text.strip():
        return UserData()
    if text.split("\n", 1)[0].strip() != _HEADER:
        raise ValueError(f"unhandled user-data: the first line is not {_HEADER}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        raw = yaml.load(text, Loader=loader)  # noqa: S506  (both are the safe loader)
    except yaml.YAMLError as error:
        raise ValueError(f"user-data is not YAML: {error}") from error
    try:
        return msgspec.convert(raw or {}, UserData, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"user-data: {error}") from error


def argv(command: str | list[str]) -> list[str]:
    """A command of bootcmd or runcmd as it is executed: a list as it is, a text by a shell."""
    return ["/bin/sh", "-c", command] if isinstance(command, str) else command
