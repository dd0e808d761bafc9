"""Unit files: the subset of systemd's that the embedded VM understands. No I/O.

Source: systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.syntax(7).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

Type = Literal["simple", "notify", "oneshot"]
Restart = Literal["no", "always", "on-failure"]

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|m|s|h|)", re.ASCII)
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)\})", re.ASCII)


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A service unit; durations in seconds, ``None`` for infinity.

    Attributes:
        exec_start: The command line, split, not yet expanded.
        environment_files: Paths on the VM; one that begins with ``-`` may be missing.
        output: ``append:PATH``, ``file:PATH``, ``null``, or ``journal``.
        error: The same, or ``inherit`` for the output's.
        burst: Starts within ``interval`` after which it is given up.
    """

    name: str
    type: Type = "simple"
    exec_start: list[str]
    environment: dict[str, str] = {}
    environment_files: list[str] = []
    working_directory: str = ""
    restart: Restart = "no"
    restart_sec: float = 0.1
    output: str = "journal"
    error: str = "inherit"
    timeout_start: float | None = 90.0
    timeout_stop: float | None = 90.0
    burst: int = 5
    interval: float = 10.0
    wanted_by: list[str] = []


def parse_unit(name: str, text: str) -> Unit:
    """Read a unit file. Keys that are not of the subset are passed over, as systemd does.

    Raises:
        ValueError: A value that systemd would refuse, or a unit with nothing to start.
    """
    sections = _sections(text)
    unit, service = sections.get("Unit", {}), sections.get("Service", {})

    def last(key: str, default: str) -> str:
        return (service.get(key) or [default])[-1]

    commands = service.get("ExecStart", [])
    if len(commands) != 1 or not commands[0]:
        raise ValueError(f"{name}: one ExecStart= is needed, {len(commands)} found")
    kind, restart = last("Type", "simple"), last("Restart", "no")
    if kind not in get_args(Type):
        raise ValueError(f"{name}: Type={kind} is not understood here: {', '.join(get_args(Type))}")
    if restart not in get_args(Restart):
        raise ValueError(f"{name}: Restart={restart} is not understood here")
    environment = {}
    for assignment in (
        word for line in service.get("Environment", []) for word in shlex.split(line)
    ):
        key, _, value = assignment.partition("=")
        environment[key] = value
    # A oneshot may take its time.
    start = "infinity" if kind == "oneshot" else "90"
    return Unit(
        name=name,
        type=kind,  # type: ignore[arg-type]  # checked above
        exec_start=shlex.split(commands[0]),
        environment=environment,
        environment_files=[path for path in service.get("EnvironmentFile", []) if path],
        working_directory=last("WorkingDirectory", ""),
        restart=restart,  # type: ignore[arg-type]  # checked above
        restart_sec=seconds(last("RestartSec", "100ms")) or 0.0,
        output=last("StandardOutput", "journal"),
        error=last("StandardError", "inherit"),
        timeout_start=seconds(last("TimeoutStartSec", start)),
        timeout_stop=seconds(last("TimeoutStopSec", "90")),
        burst=int((unit.get("StartLimitBurst") or ["5"])[-1]),
        interval=seconds((unit.get("StartLimitIntervalSec") or ["10"])[-1]) or 0.0,
        wanted_by=[
            target
            for line in sections.get("Install", {}).get("WantedBy", [])
            for target in line.split()
        ],
    )


def parse_environment(text: str) -> dict[str, str]:
    """Read an ``EnvironmentFile=``: assignments, one per line, quotes as in a shell."""
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith(("#", ";")):
            key, _, value = line.strip().partition("=")
            found[key.strip()] = "".join(shlex.split(value))
    return found


def expand(words: list[str], environment: Mapping[str, str]) -> list[str]:
    """Put variables into a command line: ``${NAME}`` anywhere, ``$NAME`` as a word of its own.

    Unset ones are empty; ``$$`` is a dollar, ``%%`` a percent sign.
    """
    expanded: list[str] = []
    for word in words:
        if re.fullmatch(r"\$\w+", word, re.ASCII):
            expanded.extend(environment.get(word[1:], "").split())
            continue
        filled = _VARIABLE.sub(
            lambda found: environment.get(found[1], "") if found[1] else "$", word
        )
        expanded.append(filled.replace("%%", "%"))
    return expanded


def seconds(span: str) -> float | None:
    """Read a time span (``90``, ``500ms``, ``1min 30s``); ``None`` for ``infinity``.

    Raises:
        ValueError: It is not one.
    """
    if span.strip() == "infinity":
        return None
    if not span.strip() or _SPAN.sub("", span).strip():
        raise ValueError(f"not a time span: {span!r}")
    return sum(float(number) * _SECONDS[unit] for number, unit in _SPAN.findall(span))


def _sections(text: str) -> dict[str, dict[str, list[str]]]:
    """Sections, each with its keys and all of their values; an empty value resets the list."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise ValueError(f"not a unit file's line: {line!r}")
        values = current.setdefault(key.strip(), [])
        if value.strip():
            values.append(value.strip())
        else:
            values.clear()
    return sections
