"""Fixtures with the emulated AWS; test folders import what they need into their conftest."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest

from tests.aws.emulator import EmulatedAws

__all__ = ["aws"]


@functools.cache
def shared() -> EmulatedAws:
    """The server of this process; it ends with it."""
    return EmulatedAws()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    """An account of the test's own, found by every client that is made in it."""
    emulated = shared()
    emulated.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in emulated.environment.items():
        monkeypatch.setenv(name, value)
    yield emulated
    crashes = emulated.crashes
    emulated.reset()
    assert not crashes, "the emulated AWS itself has failed:\n" + "\n".join(crashes)
