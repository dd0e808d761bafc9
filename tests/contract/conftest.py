"""The forms of each seam that the contract suites run against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dayfly.cloud.base import Cloud
from tests.aws.fixtures import aws  # noqa: F401  # a fixture
from tests.contract.forms import Form, aws_ec2, localhost, simulated
from tests.embedded import Embedded, embedded_cloud


@pytest.fixture
async def embedded(own_home: Path) -> AsyncIterator[Embedded]:
    async with embedded_cloud(own_home / "cloud") as embedded:
        yield embedded


@pytest.fixture(params=["localhost", "aws_ec2", "simulated"])
async def form(request: pytest.FixtureRequest, own_home: Path) -> AsyncIterator[Form]:
    """A cloud, and what differs between its forms."""
    if request.param == "localhost":
        made = localhost(own_home / "cloud")
    elif request.param == "simulated":
        made = simulated()
    else:
        made = aws_ec2(request.getfixturevalue("aws"))
    async with made as form:
        yield form


@pytest.fixture
def cloud(form: Form) -> Cloud:
    return form.cloud
