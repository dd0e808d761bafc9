"""The keys as the sections declare them, and what each allows in a user's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import inspect

from dayfly.config.sections import (
    SECRETS,
    AwsSection,
    DayflySection,
    Ec2Section,
    LocalhostSection,
    S3Section,
    Section,
)
from dayfly.model import ExecMode

SECTIONS: Final[Mapping[str, type[Section]]] = {
    "dayfly": DayflySection,
    "aws": AwsSection,
    "aws_s3": S3Section,
    "aws_ec2": Ec2Section,
    "localhost": LocalhostSection,
}


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as the sections declare it."""

    name: str
    type: Any
    allowed: str
    description: str
    default: Any
    choices: tuple[str, ...]
    secret: bool


def keys_of(section: type[Section]) -> dict[str, Key]:
    """The keys of a section, in the order of their declaration."""
    hints = get_type_hints(section, include_extras=True)
    info = inspect.type_info(section)
    assert isinstance(info, inspect.StructType)  # noqa: S101  # narrowed for the type checker
    return {field.name: _key(field, hints[field.name]) for field in info.fields}


def _key(field: inspect.Field, hint: Any) -> Key:
    outer = field.type
    schema = (outer.extra_json_schema or {}) if isinstance(outer, inspect.Metadata) else {}
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    return Key(
        name=field.name,
        type=hint,
        allowed=" or ".join(_words(field.type)),
        description=schema.get("description", ""),
        default=default,
        choices=tuple(_choices(field.type)),
        secret=field.name in SECRETS,
    )


def plain(value: Any) -> Any:
    """A default as people write it."""
    if isinstance(value, ExecMode):
        return value.value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _words(kind: inspect.Type) -> Iterator[str]:
    """What a type allows, in a user's words; one text per alternative."""
    match kind:
        case inspect.Metadata():
            yield from _words(kind.type)
        case inspect.UnionType():
            for each in kind.types:
                yield from _words(each)
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            low = (
                f" above {kind.gt}"
                if kind.gt is not None
                else f" from {kind.ge}"
                if kind.ge is not None
                else ""
            )
            yield noun + low + (f" up to {plain(kind.le)}" if kind.le is not None else "")
        case inspect.BoolType():
            yield "True or False"
        case inspect.StrType():
            yield "text"
        case inspect.NoneType():
            yield "null"
        case inspect.LiteralType() | inspect.EnumType():
            choices = list(_choices(kind))
            yield choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        case inspect.VarTupleType():
            yield f"a list of {' or '.join(_words(kind.item_type))}"
        case inspect.DictType():
            yield "a mapping of names to " + " or ".join(_words(kind.value_type))
        case _:
            yield "values"


def _choices(kind: inspect.Type) -> Iterator[str]:
    match kind:
        case inspect.Metadata():
            yield from _choices(kind.type)
        case inspect.UnionType():
            for each in kind.types:
                yield from _choices(each)
        case inspect.LiteralType():
            yield from (str(value) for value in kind.values)
        case inspect.EnumType():
            yield from (str(member.value) for member in kind.cls)
