"""Which image suits a job: by its tags alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dayfly.baked import Contents, MachineImage, Mark, choose, lacks
from dayfly.environment.lock import Platform

WANTED = Contents(
    kit="k1",
    packages="p1",
    apt=("git", "libgl1"),
    platform="x86_64-manylinux_2_35",
    base="ubuntu-22.04",
    python="3.11",
    version="1",
)


def image(name: str = "mine", at: float = 1.0, state: str = "available", **other: Any) -> (
    MachineImage
):  # fmt: skip
    contents = msgspec.structs.replace(WANTED, **other)
    return MachineImage(
        id=f"ami-{name}{at:.0f}", name=name, state=state, created_at=at, tags=contents.tags
    )


def test_the_newest_image_that_has_everything_is_chosen() -> None:
    images = [image(at=1.0), image(at=3.0), image(at=2.0), image(at=4.0, packages="p2")]
    assert choose(images, WANTED) == (images[1], ())


@pytest.mark.parametrize("state", ["pending", "failed", "remains"])
def test_half_an_image_is_not_chosen(state: str) -> None:
    assert choose([image(state=state)], WANTED) == (None, ())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"packages": "p2"}, "the packages of this program have changed since it was built"),
        ({"kit": "k2"}, "it has other packages of dayfly's own"),
        ({"python": "3.12"}, "it has Python 3.12, and not 3.11"),
        ({"platform": "x86_64-manylinux_2_39"}, "it is for x86_64-manylinux_2_39"),
        ({"base": "ami-1"}, "it was built from ami-1"),
        ({"apt": ("git",)}, "it lacks some of extra_apt_packages"),
    ],
)
def test_what_is_lacking_is_said_of_the_image_that_comes_next(
    other: dict[str, Any], said: str
) -> None:
    chosen, lacking = choose([image("near", **other), image("far", apt=(), base="x")], WANTED)
    assert chosen is None
    assert list(lacking) == [f"near (ami-near1): {said}"]


def test_more_packages_of_the_system_than_are_wanted_do_no_harm() -> None:
    assert lacks(image(apt=("curl", "git", "libgl1")), WANTED) == []


def test_a_list_that_no_tag_can_hold_is_compared_as_a_whole() -> None:
    many = tuple(f"package-{number}" for number in range(100))
    wanted = msgspec.structs.replace(WANTED, apt=many)
    assert len(wanted.tags[Mark.APT]) <= 256
    assert lacks(image(apt=tuple(reversed(many))), wanted) == []
    assert lacks(image(apt=many[1:]), wanted) == ["it lacks some of extra_apt_packages"]


def test_a_master_runs_no_function_and_takes_any_packages() -> None:
    wanted = msgspec.structs.replace(WANTED, packages="", apt=())
    assert lacks(image(packages="p2"), wanted) == []


def test_an_image_tells_the_platform_that_its_packages_were_found_for() -> None:
    assert image().platform == Platform(glibc=(2, 35))
    assert image(platform="aarch64-manylinux_2_28").platform == Platform(architecture="aarch64")
    assert image(platform="windows").platform is None
