"""The forms of each seam that the contract suites run against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dayfly.cloud.base import Cloud
from tests.embedded import Embedded, embedded_cloud


@pytest.fixture
async def embedded(own_home: Path) -> AsyncIterator[Embedded]:
    async with embedded_cloud(own_home / "cloud") as embedded:
        yield embedded


@pytest.fixture(params=["localhost"])
def cloud(request: pytest.FixtureRequest, embedded: Embedded) -> Cloud:
    return {"localhost": embedded.cloud}[request.param]
