"""What a user reads, and how long it takes, when a VM or an environment fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dayfly import EnvironmentFailedError, FunctionExecutor, ProvisionError
from dayfly.config import load
from dayfly.environment.lock import Lock
from dayfly.parts import open_parts
from tests.machines.fixtures import Ec2Box
from tests.machines.functions import fill, greet, square

pytestmark = [pytest.mark.machines, pytest.mark.timeout(400)]

SOURCES = "/etc/apt/sources.list"
#: A sudo that lets nobody do anything without a password; read after cloud-init's own file.
REFUSAL = {"/etc/sudoers.d/zz-refuse": "ALL ALL=(ALL:ALL) PASSWD: ALL\n"}


@asynccontextmanager
async def executor(box: Ec2Box, **keys: Any) -> AsyncIterator[FunctionExecutor]:
    told: dict[str, Any] = {"environment": "none", "package_index": [box.index.url]}
    told |= {"max_workers": 1} | keys
    async with FunctionExecutor(config=box.config, progress=False, **told) as opened:
        yield opened


async def fails(box: Ec2Box, fn: Callable[[int], Any], **keys: Any) -> ProvisionError:
    """The error that a map ends with; it is shown, with the seconds until it came."""
    began = time.monotonic()
    async with executor(box, **keys) as opened:
        with pytest.raises(ProvisionError) as caught:
            await opened.map(fn, range(8))
        print(f"{time.monotonic() - began:.1f} s until:\n{caught.value}")
    return caught.value


def running(box: Ec2Box, role: str = "worker") -> list[str]:
    return [life.id for life in box.instances(role, "pending", "running")]


async def until_none_runs(box: Ec2Box) -> None:
    """VMs of no use go with the job, and take a moment to power off."""
    async with asyncio.timeout(30):
        while running(box):
            await asyncio.sleep(0.2)


async def lock_of_ours(box: Ec2Box) -> Lock:
    """What dayfly's own services run in, as storage keeps it."""
    async with open_parts(load(box.config)) as parts:
        for key in [key async for key in parts.storage.list_keys("dayfly/env/")]:
            if "/files/" in key:
                continue
            lock = json.loads(await parts.storage.get_object(key))
            if any(file["package"] == "asyncssh" for file in lock.get("files", ())):
                return Lock(
                    key=lock["key"],
                    python=lock["python"],
                    platform=lock["platform"],
                    files=tuple(lock["files"]),
                )
    raise AssertionError("storage has no lock of dayfly's own")


async def pylock(box: Ec2Box, folder: Path, content: bytes) -> Path:
    """A lock file of what storage has already, and of one wheel on the mirror of the index."""
    wheel = folder / "broken-1.0-py3-none-any.whl"
    wheel.write_bytes(content)
    box.index.mirror = folder
    files: list[dict[str, Any]] = [
        {
            "package": "broken",
            "version": "1.0",
            "url": f"{box.index.base}/mirror/{wheel.name}",
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    ]
    ours: list[Any] = list((await lock_of_ours(box)).files)
    files += [file for file in ours if file["package"] in ("cloudpickle", "uv")]
    text = 'lock-version = "1.0"\ncreated-by = "tests"\n'
    for file in files:
        text += (
            f'[[packages]]\nname = "{file["package"]}"\nversion = "{file["version"]}"\n'
            f'wheels = [{{url = "{file["url"]}", hashes = {{sha256 = "{file["sha256"]}"}}}}]\n'
        )
    path = folder / "pylock.toml"
    path.write_text(text)
    return path


async def test_a_package_that_cannot_be_installed_ends_the_job_once(
    box: Ec2Box, tmp_path: Path
) -> None:
    box.index.open()
    async with executor(box, max_workers=2) as warm:
        assert await warm.map(square, range(8)) == [x * x for x in range(8)]
    before = running(box)
    lock = await pylock(box, tmp_path, b"this is no wheel")
    began = time.monotonic()
    error = await fails(box, square, max_workers=2, environment=str(lock))
    waited = time.monotonic() - began
    assert isinstance(error, EnvironmentFailedError)
    assert (error.stage, error.kind, error.package) == ("install", "package", "broken==1.0")
    assert error.vm in before
    told = str(error)
    for words in (
        f"cannot be had on {error.vm}",
        "broken-1.0-py3-none-any.whl cannot be installed",
        "step:  install of broken==1.0, Python 3.11, x86_64-manylinux_2_",
        "cause: ",
        "next:  take another version of the package, or leave it out",
    ):
        assert words in told
    assert told.count("broken-1.0-py3-none-any.whl cannot be installed") == 1
    assert waited < 60, "nothing is tried again"
    # The workers are as good as before: the next job runs on them.
    async with executor(box, max_workers=2) as again:
        assert await again.map(square, range(8)) == [x * x for x in range(8)]
    assert running(box) == before


async def test_a_function_uses_a_program_that_apt_installed_on_the_worker_that_was_there(
    box: Ec2Box,
) -> None:
    box.machines.files[SOURCES] = f"deb {box.index.base}/debian bookworm main\n"
    box.index.open()
    async with executor(box) as plain:
        assert await plain.map(square, range(2)) == [0, 1]
    before = running(box)
    assert not [each for each in box.index.requests if each.path.startswith("/debian")]
    began = time.monotonic()
    async with executor(box, extra_apt_packages=["hello", "bash"]) as opened:
        assert await opened.map(greet, range(4)) == ["Hello, world!"] * 4
    print(f"{time.monotonic() - began:.1f} s with a package of Debian's")
    assert running(box) == before
    # It is there now, and apt is not asked again; nor is the mirror.
    asked = len(box.index.requests)
    box.index.close()
    began = time.monotonic()
    async with executor(box, extra_apt_packages=["hello"]) as again:
        assert await again.map(greet, range(4)) == ["Hello, world!"] * 4
    print(f"{time.monotonic() - began:.1f} s again")
    assert len(box.index.requests) == asked


async def test_a_broken_apt_is_noticed_by_those_alone_who_want_a_package(box: Ec2Box) -> None:
    box.machines.files[SOURCES] = "this is no list of sources\n"
    box.index.open()
    async with executor(box) as plain:
        assert await plain.map(square, range(2)) == [0, 1]
    (first,) = running(box)
    began = time.monotonic()
    error = await fails(box, greet, extra_apt_packages=["hello"])
    waited = time.monotonic() - began
    assert isinstance(error, EnvironmentFailedError)
    assert (error.stage, error.kind) == ("system", "broken")
    told = str(error)
    for words in (
        "none of 2 VMs could be prepared",
        f"hello could not be installed by apt-get on {first}",
        f"hello could not be installed by apt-get on {error.vm}",
        "step:  system, Debian GNU/Linux 12",
        "E: Type 'this' is not known on line 1 in source list /etc/apt/sources.list",
        "next:  mend apt in the image (target_ami)",
    ):
        assert words in told
    assert error.vm != first, "one VM may be broken alone: another was given a try"
    assert waited < 120
    await until_none_runs(box)


async def test_an_apt_that_reaches_no_mirror_names_the_host(box: Ec2Box) -> None:
    box.machines.files[SOURCES] = f"deb {box.index.base}/debian bookworm main\n"
    box.index.open()
    async with executor(box) as plain:
        assert await plain.map(square, range(2)) == [0, 1]
    box.index.refuse()
    error = await fails(box, greet, extra_apt_packages=["hello"])
    assert isinstance(error, EnvironmentFailedError)
    assert error.kind == "network"
    assert "198.51.100.10 cannot be reached" in str(error)
    assert "let the VM reach that host" in error.hint


async def test_a_job_whose_worker_has_a_full_disk_runs_on_another_one(
    box: Ec2Box, tmp_path: Path
) -> None:
    box.index.open()
    box.machines.disk_size = 700
    async with executor(box) as plain:
        assert await plain.map(fill, range(1)) == [1]
    (full,) = running(box)
    path = await pylock(box, tmp_path, b"")
    # What is right in it is small: it wants room all the same.
    text = path.read_text().split("[[packages]]")
    path.write_text("[[packages]]".join(part for part in text if "broken" not in part))
    began = time.monotonic()
    async with executor(box, environment=str(path)) as opened:
        assert await opened.map(square, range(8)) == [x * x for x in range(8)]
    print(f"{time.monotonic() - began:.1f} s with another worker in place of the full one")
    (other,) = running(box)
    assert other != full


async def test_disks_that_are_too_small_are_told_before_anything_is_fetched(box: Ec2Box) -> None:
    box.index.open()
    box.machines.disk_size = 90
    began = time.monotonic()
    error = await fails(box, square)
    waited = time.monotonic() - began
    assert isinstance(error, EnvironmentFailedError)
    assert (error.stage, error.kind) == ("room", "disk")
    told = str(error)
    for words in ("dayfly-master", "disk is too small: about", "MB are free", "ebs_volumes"):
        assert words in told
    assert not [each for each in box.index.requests if each.peer.startswith("10.77.")]
    assert waited < 60
    assert running(box) == []


async def test_an_index_that_nobody_reaches_is_named_unless_storage_has_the_files(
    box: Ec2Box, tmp_path: Path
) -> None:
    box.index.open()
    async with executor(box) as plain:
        assert await plain.map(square, range(2)) == [0, 1]
    before = running(box)
    path = await pylock(box, tmp_path, b"late")
    box.index.close()
    began = time.monotonic()
    error = await fails(box, square, environment=str(path))
    waited = time.monotonic() - began
    assert isinstance(error, EnvironmentFailedError)
    assert (error.stage, error.kind, error.package) == ("fetch", "network", "broken==1.0")
    told = str(error)
    for words in (
        f"cannot be had on {error.vm}",
        "index: 198.51.100.10 does not answer",
        f"the master: broken-1.0-py3-none-any.whl could not be fetched from {box.index.base}",
        "routes, security groups, proxy",
    ):
        assert words in told
    assert error.vm in before
    assert waited < 120
    assert running(box) == before, "it is not the worker's fault"
    # What storage has is had without the index, on new machines.
    async with open_parts(load(box.config)) as parts:
        await parts.cloud.terminate([one.id for one in await parts.cloud.list()])
    text = path.read_text().split("[[packages]]")
    path.write_text("[[packages]]".join(part for part in text if "broken" not in part))
    began = time.monotonic()
    async with executor(box, environment=str(path)) as opened:
        assert await opened.map(square, range(8)) == [x * x for x in range(8)]
    print(f"{time.monotonic() - began:.1f} s from storage alone")


async def test_a_sudo_that_refuses_ends_the_job_with_the_step_and_leaves_no_vm(
    box: Ec2Box,
) -> None:
    box.index.open()
    box.machines.files.update(REFUSAL)
    began = time.monotonic()
    error = await fails(box, square)
    waited = time.monotonic() - began
    told = str(error)
    for words in (
        "the master service could not be installed on dayfly-master",
        "the step 'folders' failed (exit status 1)",
        "sudo: a password is required",
        "choose another ssh_username or target_ami",
    ):
        assert words in told
    assert waited < 60
    assert running(box) == []


async def test_a_disk_that_can_only_be_read_ends_the_job_with_the_step(box: Ec2Box) -> None:
    box.index.open()
    box.machines.files["/etc/fstab"] = "none /opt tmpfs ro 0 0\n"
    error = await fails(box, square)
    told = str(error)
    assert "the step 'folders' failed" in told
    assert "Read-only file system" in told
    assert "choose a target_ami whose /opt" in told
    assert running(box) == []
