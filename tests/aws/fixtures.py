"""Fixtures with the emulated AWS; test folders import what they need into their conftest."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest

from tests.aws.emulator import EmulatedAws

__all__ = ["account", "aws"]


#: Where the account is served, unless machines of their own are to reach it.
LOOPBACK = "127.0.0.1"


@functools.cache
def _server(host: str) -> EmulatedAws:
    return EmulatedAws(host)


def shared(host: str = LOOPBACK) -> EmulatedAws:
    """The server of this process on an address; it ends with it."""
    return _server(host)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    """An account of the test's own, found by every client that is made in it."""
    yield from account(monkeypatch, LOOPBACK)


def account(monkeypatch: pytest.MonkeyPatch, host: str) -> Iterator[EmulatedAws]:
    """What such a fixture does, with the account served on some address."""
    emulated = shared(host)
    emulated.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in emulated.environment.items():
        monkeypatch.setenv(name, value)
    yield emulated
    crashes = emulated.crashes
    emulated.reset()
    assert not crashes, "the emulated AWS itself has failed:\n" + "\n".join(crashes)
