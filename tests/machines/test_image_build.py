"""An image with everything in it: built on a bare machine, used by itself, deleted to the last."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dayfly import FunctionExecutor
from dayfly.client.access import find_access
from dayfly.config import load
from dayfly.model import Access
from dayfly.parts import open_parts
from tests.machines.box import Run
from tests.machines.fixtures import Ec2Box

pytestmark = [pytest.mark.machines, pytest.mark.timeout(600)]

SCRIPT = """set -eu
echo "the script runs as $(id -un)"
tr a-z A-Z <{words} >/etc/shouted
mkdir -p /root/.cache/models && echo weights >/root/.cache/models/one
"""


def look(_: int) -> dict[str, Any]:
    """What a VM has, as a function on it sees it."""

    def text(path: str) -> str:
        return subprocess.run(["sudo", "cat", path], capture_output=True, text=True).stdout.strip()

    return {
        "shouted": text("/etc/shouted"),
        "words": text("/opt/data/words"),
        "cached": text("/root/.cache/models/one"),
        "instance": text("/var/lib/cloud/data/instance-id"),
        "host key": text("/etc/ssh/ssh_host_ed25519_key.pub").split()[1],
        "machine": text("/etc/machine-id"),
        "log": text("/tmp/dayfly/bootstrap.log"),
        "tree": subprocess.run(["tree", "--version"], capture_output=True, text=True).stdout,
        "cloud-init": subprocess.run(
            ["cloud-init", "status", "--wait"], capture_output=True, text=True
        ).stdout.strip(),
    }


@pytest.fixture
def there(box: Ec2Box) -> Ec2Box:
    """A box whose configuration names its package index."""
    box.config["aws_ec2"] |= {"package_index": [box.index.url], "max_workers": 2}
    box.config_file.write_text(yaml.safe_dump(box.config))
    return box


async def dayfly(*words: str, status: int = 0) -> str:
    """Run a command; returns what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dayfly", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(os.environ),
    )
    said = (await process.communicate())[0].decode()
    print(said)
    assert process.returncode == status, said
    return said


async def access(box: Ec2Box) -> Access:
    async with open_parts(load(box.config)) as parts:
        found = await find_access(parts.storage, "main")
        assert found is not None
        return found


async def look_at_two(box: Ec2Box) -> list[dict[str, Any]]:
    """What two new workers have."""
    async with FunctionExecutor(config=box.config, progress=False, worker_processes=1) as executor:
        return await executor.map(look, range(2))


def told_to(box: Ec2Box, instance: str) -> dict[str, Any]:
    """The user-data of an instance."""
    told = yaml.safe_load(box.metadata.user_data(instance))
    assert isinstance(told, dict)
    return told


def files_with(secret: str, disk: Path) -> list[str]:
    """The files that hold a text."""
    found = subprocess.run(
        ["grep", "-rlF", "--", secret, str(disk)], capture_output=True, text=True
    )
    return found.stdout.splitlines()


def write(box: Ec2Box, **keys: Any) -> Path:
    """The box's configuration with other keys, as a file."""
    path = box.path / "other.yaml"
    path.write_text(yaml.safe_dump({**box.config, "aws_ec2": {**box.config["aws_ec2"], **keys}}))
    return path


async def end_all(box: Ec2Box) -> None:
    async with open_parts(load(box.config)) as parts:
        await parts.cloud.terminate([one.id for one in await parts.cloud.list()])


async def test_an_image_is_built_found_used_without_any_index_and_deleted(
    there: Ec2Box, run: Run, tmp_path: Path
) -> None:
    box = there
    words, script = tmp_path / "words", tmp_path / "prepare.sh"
    words.write_text("hello\n")
    script.write_text(SCRIPT.format(words="/opt/data/words"))
    box.index.open()
    box.machines.files = {"etc/apt/sources.list": f"deb {box.index.base}/debian bookworm main\n"}
    box.config["aws_ec2"] |= {"extra_apt_packages": ["tree"]}
    box.config_file.write_text(yaml.safe_dump(box.config))
    said = await dayfly(
        *("image", "build", "mine", "--file", str(script)),
        *("--include", f"{words}:/opt/data/"),
    )
    assert "the script runs as root" in said
    image = said.split()[-1]
    assert "the system has tree" in said
    box.index.close()
    asked = len(box.index.asked_by_machines)
    assert [life.id for life in box.instances("", "running", "stopped", "pending")] == []
    listed = await dayfly("image", "list")
    assert f"mine  {image}  available" in listed

    # Nothing that tells the builder from others is on the image, nor any secret.
    (builder,) = box.instances("builder")
    disk, keys = run.folder / "images" / image, await access(box)
    host_key = told_to(box, builder.id)["ssh_keys"]
    secrets = [
        host_key["ed25519_private"].splitlines()[2],
        host_key["ed25519_public"].split()[1],
        keys.user_key.splitlines()[2],
        keys.user_public_key.split()[1],
        keys.worker_secret,
        keys.client_secret,
    ]
    for secret in secrets:
        assert files_with(secret, disk) == [], "a secret is on the image"
    assert [path for path in disk.rglob("ssh_host_*") if path.is_file()] == []

    # A new cold start uses it by itself, with the index out of reach.
    seen = await look_at_two(box)
    assert len(box.index.asked_by_machines) == asked
    workers = box.instances("worker", "running")
    assert [life.instance.image_id for life in workers] == [image] * 2
    assert {each["instance"] for each in seen} == {life.id for life in workers}
    assert len({each["machine"] for each in seen}) == 2
    for each in seen:
        assert each["host key"] != host_key["ed25519_public"].split()[1]
        assert each["shouted"] == "HELLO"
        assert each["words"] == "hello"
        assert each["tree"].startswith("tree v")
        assert each["cached"] == "weights"
        assert each["cloud-init"] == "status: done"
        assert "fetch" not in each["log"], each["log"]

    said = await dayfly("image", "delete", "mine")
    assert said.count("dayfly-worker") == 2, "it says what is still up from it"
    assert await dayfly("image", "list", "--json") == "[]\n"
    said = await dayfly("clean", "--all")
    assert "nothing of ours is left" in said


async def test_what_an_image_lacks_is_installed_and_said(there: Ec2Box, tmp_path: Path) -> None:
    box = there
    box.index.open()
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("cloudpickle\n")
    config = write(box, environment=str(wanted))
    said = await dayfly("image", "build", "small", "-c", str(config))
    image = said.split()[-1]
    # Others' packages are no reason to take it; by its name it is taken, and filled up.
    said = await dayfly("hello")
    assert f"from no image of yours: small ({image}): the packages of this program" in said
    await end_all(box)
    config = write(box, target_ami="small")
    said = await dayfly("hello", "-c", str(config))
    assert f"from image small ({image}), by target_ami; some is installed all the same" in said
    assert {life.instance.image_id for life in box.instances("", "running")} == {image}
    said = await dayfly("clean", "--all")
    assert f"deleted the image small ({image}, available)" in said


async def test_a_script_that_fails_is_shown_and_leaves_nothing(
    there: Ec2Box, tmp_path: Path
) -> None:
    box = there
    box.index.open()
    script = tmp_path / "broken.sh"
    script.write_text("echo before; no-such-command; exit 3\n")
    said = await dayfly("image", "build", "mine", "-f", str(script), status=1)
    assert "broken.sh failed (exit status 3)" in said
    assert "no-such-command: not found" in said
    assert box.instances("", "running", "stopped", "pending") == []
    assert await dayfly("image", "list", "--json") == "[]\n"


async def test_the_builder_of_a_client_that_was_killed_goes_with_the_next_one(
    there: Ec2Box, tmp_path: Path
) -> None:
    box = there
    box.index.open()
    script = tmp_path / "long.sh"
    script.write_text("echo it sleeps; sleep 600\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dayfly", "image", "build", "mine", "-f", str(script)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        print(line.decode(), end="")
        if b"it sleeps" in line:
            break
    process.kill()
    await process.wait()
    assert len(box.instances("builder", "running")) == 1
    await dayfly("hello")
    assert box.instances("builder", "running", "stopped", "pending") == []
    await dayfly("clean", "--all")


async def test_ctrl_c_ends_the_builder(there: Ec2Box, tmp_path: Path) -> None:
    box = there
    box.index.open()
    script = tmp_path / "long.sh"
    script.write_text("echo it sleeps; sleep 600\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dayfly", "image", "build", "mine", "-f", str(script)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if b"it sleeps" in line:
            break
    process.send_signal(signal.SIGINT)
    said = (await process.communicate())[0].decode()
    assert process.returncode == 130, said
    assert "terminated i-" in said
    assert box.instances("", "running", "stopped", "pending") == []
