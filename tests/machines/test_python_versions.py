"""A client whose Python is not the image's: it is brought, or refused before any launch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dayfly import EnvironmentSyncError, FunctionExecutor
from dayfly.config import load
from dayfly.parts import open_parts
from tests.machines import images, pythons
from tests.machines.box import Run
from tests.machines.fixtures import Ec2Box

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]

#: Image -> the minor version of its Python.
HAS = {images.BOOKWORM: "3.11", images.TRIXIE: "3.13"}
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


def where(_: int) -> tuple[int, int, str]:
    return *sys.version_info[:2], sys.base_prefix


@pytest.fixture
def foreign(box: Ec2Box, trixie: str) -> str:
    """The Python of an image that the box's machines have from now on; it is not ours."""
    image = next(image for image, has in HAS.items() if has != OURS)
    box.config["aws_ec2"]["target_ami"] = image
    return HAS[image]


async def mapped(box: Ec2Box, **keys: Any) -> list[tuple[int, int, str]]:
    async with FunctionExecutor(
        config=box.config,
        progress=False,
        max_workers=1,
        package_index=[box.index.url],
        **keys,
    ) as executor:
        return await executor.map(where, range(2))


async def test_a_python_that_the_image_lacks_comes_from_a_mirror_once_and_then_from_storage(
    box: Ec2Box, run: Run, foreign: str, tmp_path: Path
) -> None:
    same = next((image for image, has in HAS.items() if has == OURS), None)
    assert same, f"no image has Python {OURS}: run the tests with one of {sorted(HAS.values())}"
    root = images.stock(run, images.RELEASES[same])
    box.index.mirror = tmp_path / "mirror"
    # The client alone reaches it by this name; machines do not.
    builds = pythons.mirror(root, OURS, box.index.mirror, f"{box.index.local}/mirror")
    box.index.open()
    major, minor = map(int, OURS.split("."))
    for major_here, minor_here, prefix in await mapped(box, python_mirror=builds):
        assert (major_here, minor_here) == (major, minor)
        assert prefix.startswith("/opt/dayfly/python/")
    fetched = [each.path for each in box.index.requests if "/mirror/cpython" in each.path]
    assert len(fetched) == 1

    # Another program, on other machines: neither of them can ask anybody.
    box.index.refuse()
    async with open_parts(load(box.config)) as parts:
        await parts.cloud.terminate([one.id for one in await parts.cloud.list()])
    assert {told[:2] for told in await mapped(box, python_mirror=builds)} == {(major, minor)}


async def test_a_python_that_cannot_be_had_is_refused_by_name_before_anything_is_launched(
    box: Ec2Box, foreign: str
) -> None:
    box.index.open()
    with pytest.raises(EnvironmentSyncError) as refused:
        await mapped(box)
    told = str(refused.value)
    assert f"the VMs' image has Python {foreign}, this program runs on {OURS}" in told
    assert "https://" in told, "what was tried"
    for way in ("python_mirror", "target_ami", f"Python {foreign}"):
        assert way in told
    assert box.aws.instances() == []
