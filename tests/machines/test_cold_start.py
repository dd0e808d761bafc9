"""From a bare image to the first result."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dayfly import FunctionExecutor
from dayfly.config import load
from dayfly.parts import open_parts
from tests.machines.fixtures import Ec2Box

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]


def square(x: int) -> int:
    return x * x


async def squares(box: Ec2Box, **keys: Any) -> float:
    """Seconds from the program's start to its end."""
    began = time.monotonic()
    async with FunctionExecutor(
        config=box.config, progress=False, max_workers=2, **keys
    ) as executor:
        assert await executor.map(square, range(8)) == [x * x for x in range(8)]
        print("first", time.monotonic() - began)
    return time.monotonic() - began


async def test_the_first_result_from_a_bare_image_and_again_without_any_package_index(
    box: Ec2Box,
) -> None:
    box.index.open()
    first = await squares(box, package_index=[box.index.url])
    asked = len(box.index.asked_by_machines)
    box.index.close()
    async with open_parts(load(box.config)) as parts:
        found = await parts.cloud.list()
        await parts.cloud.terminate([one.id for one in found])
    again = await squares(box, package_index=[box.index.url])
    assert len(box.index.asked_by_machines) == asked
    print("cold", first, "again", again)
