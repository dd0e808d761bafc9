"""config/dayfly.yaml against the code: every key, its default and its meaning, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dayfly.config import load
from dayfly.config.keys import SECTIONS, keys_of, plain

TEMPLATE = Path(__file__).parents[2] / "config" / "dayfly.yaml"


def shown() -> dict[str, dict[str, tuple[Any, str]]]:
    """What the template says: section -> key -> (default, meaning)."""
    sections: dict[str, dict[str, tuple[Any, str]]] = {}
    keys: dict[str, tuple[Any, str]] = {}
    meaning: list[str] = []
    for line in TEMPLATE.read_text().splitlines():
        if section := re.fullmatch(r"(\w+):", line):
            keys = sections[section[1]] = {}
        elif key := re.fullmatch(r"  #(\w+):(.*)", line):
            assert key[1] not in keys, f"{key[1]} stands there twice"
            keys[key[1]] = (yaml.safe_load(key[2]), " ".join(meaning))
        if line.startswith("  # ") and not line.startswith("  # --"):
            meaning.append(line.removeprefix("  # "))
        else:
            meaning = []
    return sections


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_shown_with_its_default_and_its_meaning(section: str) -> None:
    declared = {
        key.name: (_shown(key.default), key.description)
        for key in keys_of(SECTIONS[section]).values()
    }
    assert shown()[section] == declared


def _shown(default: Any) -> Any:
    return None if default == "" else [] if default == () else plain(default)


def test_no_other_section_is_shown() -> None:
    assert list(shown()) == list(SECTIONS)


def test_every_key_has_a_meaning() -> None:
    for section in SECTIONS.values():
        for key in keys_of(section).values():
            assert key.description.endswith("."), key.name


def test_the_template_as_it_is_changes_nothing() -> None:
    assert _without_source(config_file=TEMPLATE) == _without_source(config={})


def test_the_template_with_every_key_uncommented_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(re.sub(r"^  #(\w)", r"  \1", TEMPLATE.read_text(), flags=re.MULTILINE))
    assert "\n  max_workers: 100\n" in path.read_text()
    assert _without_source(config_file=path) == _without_source(config={})


def _without_source(**given: Any) -> tuple[Any, ...]:
    config = load(environ={}, **given)
    return config.dayfly, config.aws, config.aws_s3, config.aws_ec2, config.localhost
