"""The benchmarks' peers come and go without disturbing each other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import environments, figures, runs
from benchmarks.environments import CannotInstallError
from benchmarks.runs import FailedError, Runner


def test_a_peer_that_cannot_be_installed_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    nowhere = str(tmp_path / "peer-1.0-py3-none-any.whl")
    monkeypatch.setattr(environments, "REQUIREMENTS", {"ray": [nowhere]})
    with pytest.raises(CannotInstallError, match="peer-1"):
        environments.interpreter("ray")


def test_a_peer_that_breaks_is_told_with_its_last_words() -> None:
    runner = Runner("ray", sys.executable, {})
    with (
        pytest.raises(FailedError, match="ended with 1: RuntimeError: no room"),
        runner.start("-c", "raise RuntimeError('no room')", folder=None) as process,
    ):
        process.communicate()


def test_a_real_peer_gives_its_figures_one_by_one() -> None:
    found: dict[str, float] = {}

    def keep(sample: object) -> None:
        assert isinstance(sample, dict)
        found.update(sample)

    left_out = runs.warm(runs.runner("pool"), ["warm_call", "calls_10k"], keep)
    assert left_out == {}
    assert set(found) == {
        *(figures.CALL, figures.CALL_P99),
        *(figures.calls(10_000), figures.CLIENT_CPU),
    }
