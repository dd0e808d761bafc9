"""Logins for container registries, over the ends of the master's service."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.master import logins
from dayfly.master.logins import Logins, in_memory
from dayfly.model import Registry

ME = Registry(server="registry.example.com", user="me", password="pass-word")
SHM = Path("/dev/shm")  # a file system in memory

in_shm = pytest.mark.skipif(not in_memory(SHM), reason="no tmpfs at /dev/shm")


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder)


@in_shm
def test_a_detached_jobs_login_outlives_the_masters_service(run: Path) -> None:
    Logins(run / "logins").keep(["i-1", "i-2"], ME)
    after = Logins(run / "logins")
    assert after.of("i-1") == after.of("i-2") == ME
    assert after.of("i-3") == Registry()


@in_shm
def test_only_the_masters_user_can_read_the_logins(run: Path) -> None:
    Logins(run / "logins").keep(["i-1"], ME)
    assert [(each.name, each.stat().st_mode & 0o777) for each in run.iterdir()] == [
        ("logins", 0o600)
    ]


def test_a_login_is_never_written_on_the_masters_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mounts"
    table.write_text("tmpfs /run tmpfs rw 0 0\n/dev/sda1 / ext4 rw 0 0\n")
    monkeypatch.setattr(logins, "_MOUNTS", table)
    assert in_memory(Path("/run/dayfly"))
    assert not in_memory(tmp_path)
    kept = Logins(tmp_path / "logins")
    kept.keep(["i-1"], ME)
    assert kept.of("i-1") == ME
    assert [each.name for each in tmp_path.iterdir()] == ["mounts"]


@in_shm
def test_broken_logins_are_told_without_their_words(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "logins").write_text('{"i-1": "pass-word')
    with caplog.at_level(logging.WARNING):
        assert Logins(run / "logins").of("i-1") == Registry()
    assert "cannot be read" in caplog.text
    assert "pass-word" not in caplog.text
