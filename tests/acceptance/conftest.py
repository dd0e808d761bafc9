"""The whole system, on the embedded cloud, with real processes throughout."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly import FunctionExecutor
from tests.aws.fixtures import aws
from tests.aws.machine_fixtures import machines
from tests.conftest import processes_of, purge

__all__ = ["aws", "machines"]

Launcher = Callable[..., FunctionExecutor]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, dict[str, Any]]]:
    """A cluster that a module's tests reuse, as a user's programs do one after the other."""
    path = Path(tempfile.mkdtemp(prefix="dfly-"))
    config = {
        "localhost": {
            "directory": str(path / "cloud"),
            "storage_directory": str(path / "storage"),
            "max_workers": 2,
        }
    }
    yield config
    purge(config)
    left = processes_of(path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)
    assert not left, f"processes left behind: {left}"


@pytest.fixture
def executor(cluster: dict[str, dict[str, Any]]) -> Launcher:
    """Makes an executor on the module's cluster."""

    def make(**keys: Any) -> FunctionExecutor:
        return FunctionExecutor(config=cluster, progress=False, **keys)

    return make


async def eventually(
    holds: Callable[[], bool] | Callable[[], Awaitable[bool]], within: float = 15.0
) -> None:
    """Wait until something holds; fails when it does not ``within`` seconds."""
    async with asyncio.timeout(within):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.05)
