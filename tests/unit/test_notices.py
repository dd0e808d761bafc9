"""A VM learns that the cloud takes it back."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dayfly.clock import SystemClock
from dayfly.errors import ProvisionError
from dayfly.worker import metadata as imds
from dayfly.worker import notices
from dayfly.worker.notices import Metadata, NoticeFile, interruptions
from tests.aws.imds import MetadataService
from tests.unit.metadata_support import issue, metadata_service

PATH = "spot/instance-action"


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    with metadata_service(issue) as service:
        service.add("i-1", "t3.micro", "", "")
        yield service


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PACE", "SILENT_PACE", "FILE_PACE"):
        monkeypatch.setattr(notices, name, 0.02)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_spot_notice_is_heard_with_the_seconds_that_are_left(
    metadata: MetadataService,
) -> None:
    waiting = asyncio.create_task(Metadata(SystemClock(), metadata.endpoint("i-1")).next())
    await until(lambda: metadata.count(PATH) >= 3)
    assert not waiting.done()
    metadata.announce("i-1", time.time() + 120)
    assert 115 < await waiting < 121
    # One token does for all looks, and each look has one.
    assert metadata.count("api/token") == 1
    assert {request.status for request in metadata.requests} <= {200, 404}


async def test_a_token_whose_time_is_over_is_asked_for_anew(metadata: MetadataService) -> None:
    waiting = asyncio.create_task(Metadata(SystemClock(), metadata.endpoint("i-1")).next())
    await until(lambda: metadata.count(PATH) >= 1)
    metadata.forget_tokens("i-1")
    await until(lambda: metadata.count("api/token") == 2)
    metadata.announce("i-1", time.time() + 60)
    assert 55 < await waiting < 61


async def test_a_metadata_service_that_is_silent_is_told_of_once_and_asked_slowly(
    metadata: MetadataService, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = asyncio.create_task(Metadata(SystemClock(), metadata.endpoint("i-2")).next())
    with caplog.at_level(logging.WARNING):
        await until(lambda: metadata.count("api/token") >= 3)
    (told,) = [record for record in caplog.records if record.name == notices.__name__]
    assert "spot interruptions will not be known" in told.getMessage()
    metadata.add("i-2", "t3.micro", "", "")  # it was only slow to come up
    metadata.announce("i-2", time.time() + 60)
    assert 55 < await waiting < 61


async def test_a_machine_without_metadata_goes_on() -> None:
    waiting = asyncio.create_task(Metadata(SystemClock(), "http://127.0.0.1:9").next())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    waiting.cancel()


async def test_on_the_embedded_cloud_a_file_says_it(tmp_path: Path) -> None:
    path = tmp_path / "spot-instance-action"
    waiting = asyncio.create_task(NoticeFile(SystemClock(), path).next())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    end = datetime.fromtimestamp(time.time() + 30, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"action": "terminate", "time": end}))
    fresh.rename(path)
    assert 25 < await waiting <= 30


async def test_a_notice_that_cannot_be_read_is_taken_at_its_worst(tmp_path: Path) -> None:
    path = tmp_path / "spot-instance-action"
    path.write_text("soon")
    assert await NoticeFile(SystemClock(), path).next() == 0.0


def test_the_environment_names_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*imds.ELSEWHERE, "DAYFLY_ROOT"):
        monkeypatch.delenv(name, raising=False)
    clock = SystemClock()
    assert isinstance(interruptions(clock), Metadata)
    monkeypatch.setenv("DAYFLY_ROOT", "/vm")
    assert isinstance(interruptions(clock), NoticeFile)
    monkeypatch.setenv("DAYFLY_METADATA", "http://127.0.0.1:1")
    assert isinstance(interruptions(clock), Metadata)


async def test_a_vm_knows_itself_by_the_metadata_service(
    metadata: MetadataService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await imds.confirm("i-1", metadata.endpoint("i-1"))
    assert "this is i-1, a t3.micro in us-east-1b" in caplog.text
    assert {request.status for request in metadata.requests} == {200}, "with a token"


async def test_a_configuration_of_another_vm_is_refused(metadata: MetadataService) -> None:
    with pytest.raises(ProvisionError, match="this VM is i-1, and not i-2"):
        await imds.confirm("i-2", metadata.endpoint("i-1"))


async def test_a_metadata_service_that_does_not_answer_keeps_nobody_from_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await imds.confirm("i-1", "http://127.0.0.1:1")
    assert "does not tell which VM this is" in caplog.text
