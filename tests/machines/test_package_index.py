"""The package index of the box: reached by machines only while a test lets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machines.fixtures import Ec2Box
from tests.machines.guest import Guests
from tests.machines.index import PackageIndex

pytestmark = [pytest.mark.machines, pytest.mark.timeout(120)]


@pytest.fixture
def guests(box: Ec2Box) -> Guests:
    return Guests(box.aws)


def test_pip_installs_from_the_index_in_the_box(index: PackageIndex, tmp_path: Path) -> None:
    own = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
    download = [sys.executable, "-m", "pip", "--isolated", "download", "--no-deps", "six==1.16.0"]
    where = ["--index-url", index.local_url, "--dest", str(tmp_path)]
    subprocess.run([*download, *where], env={**own, "PIP_CONFIG_FILE": os.devnull}, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["six-1.16.0-py2.py3-none-any.whl"]
    assert index.requests
    assert not index.asked_by_machines


async def test_machines_reach_the_index_only_while_it_is_open(
    box: Ec2Box, guests: Guests, tmp_path: Path
) -> None:
    index = box.index
    (one,) = await guests.launch()
    ask = f"curl -sS --max-time 3 -H 'Accept: application/json' {index.url}six/ | head -c 100; echo"
    closed = await guests.run(one, ask)
    assert "timed out" in closed.stderr
    assert not index.requests
    index.open()
    opened = await guests.run(one, ask)
    assert opened.stdout.startswith("<!DOCTYPE html>"), opened
    page = await guests.run(
        one, f"curl -sS -H 'Accept: application/vnd.pypi.simple.v1+json' {index.url}six/"
    )
    files = json.loads(page.stdout)["files"]
    (wheel,) = [each for each in files if each["filename"] == "six-1.16.0-py2.py3-none-any.whl"]
    done = await guests.run(one, f"curl -sSo six.whl {wheel['url']}; sha256sum six.whl")
    assert done.stdout.split()[0] == wheel["hashes"]["sha256"]
    assert [each.status for each in index.asked_by_machines] == [200, 200, 200]
    index.mirror = tmp_path
    (tmp_path / "python.tar").write_text("a build")
    done = await guests.run(one, f"curl -s {index.base}/mirror/python.tar")
    assert done.stdout == "a build"
    done = await guests.run(
        one, f"curl -s --path-as-is -w '%{{http_code}}' {index.base}/mirror/../../etc/passwd"
    )
    assert done.stdout == "404"
    index.refuse()
    refused = await guests.run(one, ask)
    assert "refused" in refused.stderr or "Couldn't connect" in refused.stderr


async def test_apt_installs_from_the_mirror_of_the_box(box: Ec2Box, guests: Guests) -> None:
    index = box.index
    box.machines.files["/etc/apt/sources.list"] = f"deb {index.base}/debian bookworm main\n"
    index.open()
    (one,) = await guests.launch()
    done = await guests.run(
        one, "sudo apt-get -q update && sudo apt-get -qy install --no-install-recommends sl"
    )
    assert done.status == 0, done
    assert (await guests.run(one, "ls /usr/games/sl")).status == 0
