"""The configuration's text: YAML, or JSON, which is YAML too."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import msgspec
import yaml

from dayfly.errors import ConfigError


class Parsed(msgspec.Struct, frozen=True):
    """What a text says.

    Attributes:
        lines: Where each section, and each key in it, begins.
        repeated: Keys that are given twice: the line, and what is wrong.
    """

    data: dict[Any, Any]
    lines: dict[tuple[str, ...], int]
    repeated: list[tuple[int, str]]


def parse(text: str, source: str) -> Parsed | None:
    """Read a text of sections; ``None``: there is nothing in it.

    Args:
        text: YAML or JSON.
        source: Where it stands, for the messages.

    Raises:
        ConfigError: It is neither, or holds something else than sections.
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
        return None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{source}: sections are needed, such as `dayfly:`, "
            f"not a {_KINDS.get(type(node), 'value')}"
        )
    lines = {tuple(path): line for path, line in _places(node)}
    return Parsed(data, lines, list(_repeated(node, set())))


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
