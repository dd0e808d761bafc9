"""A process tells others who it is."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys

import pytest

from dayfly import processes
from dayfly.processes import ThisProcess, name_of


def test_a_user_without_a_name_as_in_many_containers_goes_by_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1000660000")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert name_of(ThisProcess()).startswith(f"{os.getuid()}@")


def test_a_client_in_another_container_of_the_same_name_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    here = ThisProcess().place
    assert not ThisProcess().alive(here, ended.pid)
    assert ThisProcess().alive(here, os.getpid())
    monkeypatch.setattr(processes, "space", lambda: "another")
    assert ThisProcess().alive(here, ended.pid), "its numbers mean nothing here"
