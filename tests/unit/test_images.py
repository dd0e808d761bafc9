"""Images from the client's side: picked for jobs, captured from a VM, deleted by name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from click.testing import CliRunner

from dayfly.baked import Contents, MachineImage, Mark
from dayfly.cli.root import dayfly
from dayfly.client.ground import python
from dayfly.client.imagebuild import Builder, Wish
from dayfly.client.imagecapture import Capture
from dayfly.client.images import delete_image
from dayfly.client.picking import Picker
from dayfly.environment.lock import Lock, Platform
from dayfly.errors import CloudError, ConfigError, UsageError
from dayfly.model import ExecMode, Instance, InstanceState
from tests.conftest import Home

PLATFORM = Platform(glibc=(2, 35))
CONTENTS = Contents(
    kit="k1", packages="p1", platform=PLATFORM.name, base="ubuntu-22.04", python=python()
)
VM = Instance(
    id="i-1", instance_type="t3.medium", state=InstanceState.STOPPED, tags={}, launched_at=1.0
)


class Clock:
    """A clock that goes as it is waited for."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)


@dataclass
class Images:
    """The images of a cloud, in memory."""

    base: str = "ubuntu-22.04"
    known: list[MachineImage] = field(default_factory=list)
    becomes: str = "available"
    named: MachineImage | None = None
    lists: int = 0
    others: list[MachineImage] = field(default_factory=list)
    fails: Exception | None = None

    async def given(self) -> MachineImage | None:
        return self.named

    async def images(self, *, everybody: bool = False) -> list[MachineImage]:
        self.lists += 1
        if self.fails is not None:
            raise self.fails
        return [*self.known, *self.others] if everybody else list(self.known)

    async def look(self, image_id: str) -> MachineImage | None:
        found = next((one for one in self.known if one.id == image_id), None)
        return found and msgspec.structs.replace(found, state=self.becomes, detail="no room")

    async def create(
        self, instance_id: str, name: str, tags: dict[str, str], description: str
    ) -> MachineImage:
        made = image(tags["Name"], f"ami-{name}", state="pending", tags=tags)
        self.known.append(made)
        return made

    async def users(self, image: MachineImage) -> list[str]:
        return ["dayfly-worker-1 (i-9, running)"]

    async def delete(self, image: MachineImage) -> None:
        self.known = [one for one in self.known if one.id != image.id]


def image(name: str = "mine", id_: str = "ami-1", **other: Any) -> MachineImage:
    about = {"state": "available", "created_at": 1.0, "tags": CONTENTS.tags, "owner": "me", **other}
    return MachineImage(id=id_, name=name, **about)


def parts(images: Images | None, **compute: Any) -> Any:
    async def owner() -> str:
        return "me"

    async def listed(**_: Any) -> list[Instance]:
        return [VM]

    async def stop(ids: list[str]) -> None:
        assert ids == [VM.id]

    cloud = SimpleNamespace(
        imaging=images, owner=owner, region="here", name="aws_ec2", pace=1.0, list=listed, stop=stop
    )
    keys = {"tags": {"team": "a"}, "system_packages": (), "worker_instance_types": ("t",)}
    config = SimpleNamespace(compute=SimpleNamespace(**{**keys, **compute}))
    entropy = SimpleNamespace(hex=lambda count: "b" * count)
    return SimpleNamespace(
        cloud=cloud, config=config, clock=Clock(), entropy=entropy, storage=None
    )  # fmt: skip


class Outfitter:
    """Knows that VMs need ``k1``, or nothing at all."""

    def __init__(self, *, installs: bool = True) -> None:
        self._installs = installs

    async def ours(self, instance_type: str) -> Lock | None:
        return Lock(key="k1", python=python(), platform=PLATFORM) if self._installs else None


def picker(images: Images | None, *, installs: bool = True, **compute: Any) -> Picker:
    return Picker(parts(images, **compute), cast("Any", Outfitter(installs=installs)))


# -- picked --


async def test_a_job_gets_the_image_that_has_its_packages_and_is_told_so() -> None:
    images = Images(known=[image()])
    picked = picker(images)
    pick = await picked.pick("t3.medium", "p1")
    assert pick.image == "ami-1"
    assert "from image mine (ami-1): it has this program's packages" in pick.why
    assert (await picked.pick("t3.medium")).image == "ami-1", "and so does the master"
    assert images.lists == 1


async def test_an_image_with_other_packages_is_not_used_and_that_is_told() -> None:
    pick = await picker(Images(known=[image()])).pick("t3.medium", "p2")
    assert pick.image == ""
    assert "mine (ami-1): the packages of this program have changed" in pick.why
    assert "dayfly image build" in pick.why


async def test_functions_in_the_vms_own_runtime_need_an_image_that_was_built_for_that() -> None:
    plain = msgspec.structs.replace(CONTENTS, packages="").tags
    images = Images(known=[image(), image("plain", "ami-2", tags=plain)])
    assert (await picker(images).pick("t3.medium", "")).image == "ami-2"


async def test_the_image_that_is_named_is_taken_whatever_it_lacks() -> None:
    other = msgspec.structs.replace(CONTENTS, base="ami-5").tags
    images = Images(named=image(tags=other), known=[image("newer", "ami-2")])
    assert "it has all that is needed" in (await picker(images).pick("t", "p1")).why
    pick = await picker(images).pick("t", "p2")
    assert pick.image == "", "target_ami itself says it"
    assert "some is installed all the same: the packages of this program" in pick.why


async def test_without_any_image_there_is_nothing_to_tell() -> None:
    assert (await picker(Images()).pick("t", "p1")).why == ""
    assert (await picker(None).pick("t", "p1")).why == ""


async def test_where_nothing_is_installed_nobody_looks_for_images() -> None:
    images = Images(known=[image()])
    assert (await picker(images, installs=False).pick("t", "p1")).image == ""
    assert images.lists == 0


async def test_a_client_that_may_not_list_images_launches_all_the_same() -> None:
    images = Images(fails=CloudError("DescribeSnapshots is denied"))
    assert (await picker(images).pick("t", "p1")).image == ""


# -- captured --


def capture(images: Images, told: list[str]) -> Capture:
    return Capture(parts(images), cast("Any", images), told.append)


async def test_an_image_says_from_birth_what_it_holds_and_whose_it_is() -> None:
    images, told = Images(), list[str]()
    made = await capture(images, told).create(VM, "mine", CONTENTS, "cluster-1")
    assert made.available
    tags = made.tags
    assert tags[Mark.BUILD] == "bbbbbbbb"
    assert {key: tags[key] for key in CONTENTS.tags} == CONTENTS.tags
    assert tags["Name"] == "mine"
    assert tags["dayfly:owner"] == "me"
    assert tags["dayfly:managed"] == "true"
    assert tags["dayfly:cluster"] == "cluster-1"
    assert tags["team"] == "a"


async def test_an_image_that_fails_is_told_with_its_reason_and_deleted() -> None:
    images, told = Images(becomes="failed"), list[str]()
    with pytest.raises(CloudError, match="is failed") as caught:
        await capture(images, told).create(VM, "mine", CONTENTS, "c")
    assert caught.value.cause == "no room"
    assert images.known == []
    assert any("deleted the half-made image" in line for line in told)


async def test_ctrl_c_while_it_is_copied_leaves_no_half_image() -> None:
    images, told = Images(becomes="pending"), list[str]()
    making = asyncio.create_task(capture(images, told).create(VM, "mine", CONTENTS, "c"))
    while not images.known:
        await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert images.known == []


async def test_a_copy_that_takes_long_is_told_of_and_given_up_in_the_end() -> None:
    images, told = Images(becomes="pending"), list[str]()
    with pytest.raises(CloudError, match="still pending after 3600 s"):
        await capture(images, told).create(VM, "mine", CONTENTS, "c")
    assert sum("not available yet" in line for line in told) > 50
    assert images.known == []


# -- built: what is refused before anything is launched --


@pytest.mark.parametrize("name", ["x", "ami-0123", "mine!", "a b", "n" * 117])
async def test_a_name_that_no_image_can_have_is_refused(name: str) -> None:
    builder = Builder(parts(Images()), Wish(name=name), print)
    with pytest.raises(UsageError, match="cannot be called"):
        await builder._others(name)


@pytest.mark.parametrize("state", ["available", "pending"])
async def test_an_image_of_that_name_is_in_the_way_unless_it_is_to_be_replaced(
    state: str,
) -> None:
    images = Images(known=[image(state=state), image("other", "ami-2")])
    with pytest.raises(UsageError, match="there is an image mine already: ami-1") as caught:
        await Builder(parts(images), Wish(), print)._others("mine")
    assert "--overwrite" in caught.value.hint
    old = await Builder(parts(images), Wish(overwrite=True), print)._others("mine")
    assert [one.id for one in old] == ["ami-1"]


async def test_what_is_left_of_an_image_is_in_nobodys_way() -> None:
    images = Images(known=[image(state="remains")])
    assert len(await Builder(parts(images), Wish(), print)._others("mine")) == 1


@pytest.mark.parametrize(
    ("key", "value"), [("environment", "image"), ("exec_mode", "consume")]
)  # fmt: skip
async def test_where_nothing_is_installed_nothing_is_built(key: str, value: str) -> None:
    mode = ExecMode.CONSUME if value == "consume" else ExecMode.REUSE
    keys = {"environment": value if key == "environment" else "auto", "exec_mode": mode}
    with pytest.raises(ConfigError, match=f"no image is built with {key}: {value}"):
        await Builder(parts(Images(), **keys), Wish(), print).build()


def test_a_script_is_run_by_the_shell_unless_it_says_otherwise(tmp_path: Any) -> None:
    script = tmp_path / "script"

    def read(text: str) -> bytes:
        script.write_text(text, newline="")
        return Builder(parts(Images()), Wish(script=script), print)._read_script()

    assert read("echo hello\n") == b"#!/bin/sh\necho hello\n"
    assert read("#!/usr/bin/python3\n") == b"#!/usr/bin/python3\n"
    with pytest.raises(UsageError, match="line ends of Windows"):
        read("#!/bin/sh\r\necho\r\n")


# -- deleted --


@pytest.mark.parametrize("wanted", ["mine", "ami-1"])
async def test_an_image_is_deleted_by_name_or_id_and_its_users_are_told(wanted: str) -> None:
    images, told = Images(known=[image(), image("other", "ami-2")]), list[str]()
    await delete_image(parts(images), wanted, told.append)
    assert [one.id for one in images.known] == ["ami-2"]
    assert "still up from it, and not touched: dayfly-worker-1 (i-9, running)" in told[1]


async def test_a_configuration_that_names_what_was_deleted_is_told_of() -> None:
    images, told = Images(known=[image()], base="mine"), list[str]()
    await delete_image(parts(images), "ami-1", told.append)
    assert "target_ami of this configuration names it still: mine" in told[-1]


async def test_somebody_elses_image_is_not_deleted() -> None:
    images = Images(others=[image(owner="bob@1")])
    with pytest.raises(UsageError, match="the image mine is not yours") as caught:
        await delete_image(parts(images), "mine", print)
    assert "bob@1" in caught.value.cause
    with pytest.raises(UsageError, match="dayfly has made no image yours here"):
        await delete_image(parts(images), "yours", print)


# -- the embedded cloud --


def test_the_embedded_cloud_says_that_it_has_no_images(home: Home) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(dayfly, ["image", *words], catch_exceptions=False)
        return done.exit_code, done.output

    status, said = run("list")
    assert status == 0
    assert "the backend localhost has no machine images, and needs none" in said
    for words in (["build"], ["delete", "mine"]):
        status, said = run(*words)
        assert status == 1
        assert "the backend localhost has no machine images" in said
        assert "-b aws_ec2" in said
