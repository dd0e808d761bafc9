"""Who cannot run the machine tests is not bothered by them; who asks for them is told why not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import pytest_report_header
from tests.machines import host

MACHINES = Path(host.__file__).parent


def test_a_plain_run_leaves_them_out_and_says_how_to_have_them(
    pytestconfig: pytest.Config,
) -> None:
    (told,) = pytest_report_header(pytestconfig)
    assert "machines: tox -e machines, as root on Linux" in told
    for path in MACHINES.glob("test_*.py"):
        assert "pytest.mark.machines" in path.read_text(), f"{path.name} would be in a plain run"


def test_without_root_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert host.refusal() == "they need root on Linux"


def test_on_another_system_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert host.refusal() == "they need root on Linux"


def test_a_host_that_lacks_programs_is_told_which_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.refusal() == "apt-get install debootstrap iproute2 systemd-container util-linux"


def test_a_python_that_no_image_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    assert host.refusal().startswith("they need Python 3.11 or 3.13, as their images have")
