"""A process tells others who it is."""

from __future__ import annotations

import getpass
import os

import pytest

from dayfly.processes import ThisProcess, name_of


def test_a_user_without_a_name_as_in_many_containers_goes_by_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1000660000")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert name_of(ThisProcess()).startswith(f"{os.getuid()}@")
