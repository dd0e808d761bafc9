"""Find the configuration and read it into raw values that remember where they stood."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

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
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        # Its own text quotes the line, which may hold a secret.
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line} is not YAML", cause=error.problem or "") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML", cause=str(error)) from error
    if node is None:
        return Document(source=source)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{source}: sections are needed, such as `dayfly:`, "
            f"not a {_KINDS.get(type(node), 'value')}"
        )
    problems = [
        Problem(subject=(), where=f"{source}:{line}", text=what)
        for line, what in _repeated(node, set())
    ]
    lines = {tuple(path): line for path, line in _places(node)}
    return _document(data, source, lines, problems)


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


def _places(node: yaml.MappingNode) -> Iterator[tuple[list[Any], int]]:
    """The line of each section and of each key in it."""
    for name, section in node.value:
        if not isinstance(name, yaml.ScalarNode):
            continue
        yield [name.value], name.start_mark.line + 1
        if isinstance(section, yaml.MappingNode):
            for key, _ in section.value:
                if isinstance(key, yaml.ScalarNode):
                    yield [name.value, key.value], key.start_mark.line + 1


def _repeated(node: yaml.Node, seen: set[int]) -> Iterator[tuple[int, str]]:
    """Keys that are written twice in one mapping: YAML forbids them, PyYAML takes the last."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in first:
                    yield line, f"{key.value} is given twice, first in line {first[key.value]}"
                first.setdefault(key.value, line)
            yield from _repeated(value, seen)


_KINDS = {yaml.SequenceNode: "list", yaml.ScalarNode: "single value"}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 but for one trap: ``0123`` stays text, as account numbers may begin with 0."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | str:
    text = loader.construct_scalar(node)
    if text.isdigit() and text.startswith("0") and text != "0":
        return text
    return int(loader.construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
