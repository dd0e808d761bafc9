"""Find the configuration and read it into raw values that remember where they stood."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dayfly.errors import ConfigError

LOCAL_FILE = ".dayfly_config"
HOME_FILE = Path(".dayfly/config")
SYSTEM_FILE = Path("/etc/dayfly/config")


class Given(msgspec.Struct, frozen=True):
    """A value as the user wrote it, and where (``.dayfly_config:7``)."""

    value: Any
    where: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is refused.

    Attributes:
        subject: The sections' keys that it is about.
        where: Where the user wrote it; empty where nothing was written.
    """

    subject: tuple[tuple[str, str], ...]
    text: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The raw configuration.

    Attributes:
        source: Where all of it was found, for people.
        sections: The values by section and key, as they were written.
        where: Where each section begins.
        problems: What is wrong with its form already.
    """

    source: str
    sections: dict[str, dict[Any, Given]] = {}
    where: dict[str, str] = {}
    problems: list[Problem] = []


def find(
    config: Mapping[str, Any] | None,
    config_file: str | Path | None,
    *,
    environ: Mapping[str, str],
    cwd: Path,
    home: Path,
) -> Document:
    """The first configuration there is, in the order of the documentation.

    Raises:
        ConfigError: Two are given, or the one that is meant cannot be read.
    """
    if config is not None and config_file is not None:
        raise ConfigError(
            "config and config_file are given together",
            hint="give one of them; single keys can be given as keywords beside either",
        )
    if config is not None:
        return from_mapping(config, "config=")
    if config_file is not None:
        return _from_file(_absolute(config_file, cwd, home), "config_file")
    if text := environ.get("DAYFLY_CONFIG"):
        return from_text(text, "$DAYFLY_CONFIG")
    if name := environ.get("DAYFLY_CONFIG_FILE"):
        return _from_file(_absolute(name, cwd, home), "$DAYFLY_CONFIG_FILE")
    for path in (cwd / LOCAL_FILE, home / HOME_FILE, SYSTEM_FILE):
        if _is_there(path):
            return _from_file(path, "found")
    return Document(source="defaults")


def from_mapping(config: Mapping[str, Any], source: str) -> Document:
    """A configuration that the program gives."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"{source}: a mapping of sections is needed, not {type(config).__name__}")
    return _document(config, source, {}, [])


def from_text(text: str, source: str) -> Document:
    """A configuration in YAML or JSON.

    Raises:
        ConfigError: It is neither.
    """
    from dayfly.config import text as reader  # YAML, which a program without such text never needs

    parsed = reader.parse(text, source)
    if parsed is None:
        return Document(source=source)
    problems = [
        Problem(subject=(), where=f"{source}:{line}", text=what) for line, what in parsed.repeated
    ]
    return _document(parsed.data, source, parsed.lines, problems)


def _absolute(path: str | Path, cwd: Path, home: Path) -> Path:
    return cwd / expand(str(path), home)


def expand(path: str, home: Path) -> Path:
    """``path`` with a leading ``~`` replaced."""
    return home / path[2:] if path.startswith("~/") else Path(path).expanduser()


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # reading it will tell
        return True
    return True


def _from_file(path: Path, why: str) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8", cause=str(error)) from error
    except OSError as error:
        raise ConfigError(
            f"the configuration file {path} ({why}) cannot be read", cause=str(error.strerror)
        ) from error
    return from_text(text, str(path))


def _document(
    data: Mapping[Any, Any],
    source: str,
    lines: Mapping[tuple[Any, ...], int],
    problems: list[Problem],
) -> Document:
    def where(*path: Any) -> str:
        return f"{source}:{lines[path]}" if path in lines else source

    sections: dict[str, dict[Any, Given]] = {}
    for name, section in data.items():
        if section is None:
            sections[name] = {}
        elif isinstance(section, Mapping):
            sections[name] = {k: Given(v, where(name, k)) for k, v in section.items()}
        else:
            sections[name] = {}
            kind = type(section).__name__
            problems.append(
                Problem(
                    subject=(),
                    where=where(name),
                    text=f"[{name}] a section holds `key: value` lines, not a {kind}",
                )
            )
    return Document(
        source=source,
        sections=sections,
        where={name: where(name) for name in sections},
        problems=problems,
    )
