"""Logins for container registries, over the ends of the master's service."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest

from dayfly import provision
from dayfly.clock import SystemClock
from dayfly.master import logins
from dayfly.master.installer import SshInstaller
from dayfly.master.logins import Logins, in_memory
from dayfly.model import Registry, WorkerConfig
from dayfly.phases import Timeline
from tests.unit.master_support import instance, master_config

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
async def test_a_worker_that_is_installed_after_a_restart_of_the_service_has_the_login(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[WorkerConfig] = []

    async def install(_: object, config: WorkerConfig, *_more: object, **_words: object) -> None:
        installed.append(config)

    monkeypatch.setattr(provision, "reach", AsyncMock())
    monkeypatch.setattr(provision, "install_worker", install)
    config, worker = master_config(run), instance("w1")

    def service() -> SshInstaller:
        return SshInstaller(
            Mock(), config, Mock(), clock=SystemClock(), entropy=Mock(), logins=Logins(run / "it")
        )

    service().entrust([worker], ME)
    await service().install(
        worker, config.policy, reached=Mock(), timeline=Timeline(SystemClock()), deadline=1.0
    )
    assert [each.registry for each in installed] == [ME]


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
