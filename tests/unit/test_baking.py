"""What is put on an image, and what is taken from it: the very scripts, run on a folder."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from dayfly import baking
from dayfly.baking import Include, parse_include
from dayfly.errors import UsageError


def test_an_include_is_a_path_here_and_an_absolute_one_there(tmp_path: Path) -> None:
    file = tmp_path / "model:1.bin"
    file.touch()
    whole = parse_include(f"{file}:/opt/model.bin")
    assert whole == Include(source=file, target=PurePosixPath("/opt/model.bin"))
    assert parse_include(f"{file}:/opt/").target == PurePosixPath("/opt/model:1.bin")


@pytest.mark.parametrize(
    "text",
    ["nothing", "{0}", "{0}:opt", "{0}:", ":/opt", "{0}/no:/opt", "{0}:/a/../b"],
)
def test_what_is_no_include_is_refused_before_anything_is_launched(
    text: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--include"):
        parse_include(text.format(tmp_path))


def unpacked(include: Include, tmp_path: Path) -> Path:
    """The include as it is on the other side."""
    root = tmp_path / "vm"
    (root / "var/tmp/dayfly-build").mkdir(parents=True)
    environment = {**os.environ, "DAYFLY_ROOT": str(root), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)
    command = baking.TAKE_FIRST
    for block in baking.archive(include):
        subprocess.run(["sh", "-c", command], input=block, env=environment, check=True)
        command = baking.TAKE_MORE
    subprocess.run(["sh", "-c", baking.UNPACK], env=environment, check=True)
    return root


def test_a_folder_goes_with_all_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baking, "_BLOCK", 10_240)
    source = tmp_path / "models"
    (source / "deep/empty").mkdir(parents=True)
    (source / "deep/large").write_bytes(os.urandom(100_000))
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("run")
    root = unpacked(Include(source=source, target=PurePosixPath("/opt/m")), tmp_path)
    there = root / "opt/m"
    assert (there / "deep/large").read_bytes() == (source / "deep/large").read_bytes()
    assert (there / "deep/empty").is_dir()
    assert (there / "link").readlink() == Path("run")
    assert os.access(there / "run", os.X_OK)
    assert not (root / "var/tmp/dayfly-build/include.tar").exists()


def test_a_file_goes_by_the_name_that_it_is_given(tmp_path: Path) -> None:
    source = tmp_path / "words"
    source.write_text("hello")
    root = unpacked(Include(source=source, target=PurePosixPath("/etc/app/said")), tmp_path)
    assert (root / "etc/app/said").read_text() == "hello"


def test_a_large_include_is_never_whole_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baking, "_BLOCK", 10_240)
    for number in range(5):
        (tmp_path / f"{number}").write_bytes(os.urandom(50_000))
    sizes = list(map(len, baking.archive(Include(source=tmp_path, target=PurePosixPath("/m")))))
    assert len(sizes) >= 5
    assert max(sizes) <= 80_000


#: What a builder has on its disk in the end; True: it stays on the image.
DISK = {
    "etc/dayfly/worker.json": False,
    "etc/systemd/system/dayfly-deadline.service": False,
    "etc/systemd/system/mine.service": True,
    "etc/ssh/ssh_host_ed25519_key": False,
    "etc/ssh/ssh_host_ed25519_key-cert.pub": False,
    "etc/ssh/ssh_config": True,
    "etc/ssh/sshd_config.d/00-dayfly.conf": False,
    "opt/dayfly/env/key/complete": True,
    "opt/dayfly/env/key/log": False,
    "opt/dayfly/wheels/1234/some.whl": True,
    "opt/dayfly/0123/dayfly/model.py": True,
    "opt/dayfly/deadline.sh": False,
    "opt/dayfly/uv-cache/boot/x": False,
    "var/lib/dayfly/journal": False,
    "var/lib/cloud/instances/i-1/user-data.txt": False,
    "var/lib/cloud/data/instance-id": False,
    "var/lib/cloud/sem/config_scripts": False,
    "var/lib/cloud/scripts/per-boot/mine.sh": True,
    "var/lib/cloud/seed/nocloud/meta-data": True,
    "var/lib/apt/lists/some_list": False,
    "var/lib/systemd/random-seed": False,
    "var/log/journal/1234/system.journal": False,
    "var/log/syslog.1": False,
    "var/tmp/dayfly-build/script": False,
    "tmp/dayfly/bootstrap.log": False,
    "root/.ssh/authorized_keys": False,
    "root/.bash_history": False,
    "root/.cache/models/one": True,
    "home/ubuntu/.ssh/authorized_keys": False,
    "home/ubuntu/.ssh/known_hosts": True,
    "home/ubuntu/.bashrc": True,
}


def test_what_is_the_builders_own_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    for name in [*DISK, "etc/machine-id", "var/log/auth.log", "etc/ssh/sshd_config"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("something")
    config = tmp_path / "etc/ssh/sshd_config"
    config.write_text("Port 22\nHostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n")
    subprocess.run(["sh", "-s", "--", tmp_path], input=baking.CLEAN.stdin, check=True)
    assert {name: (tmp_path / name).exists() for name in DISK} == DISK
    assert (tmp_path / "etc/machine-id").read_text() == ""
    assert (tmp_path / "var/log/auth.log").read_text() == ""
    assert config.read_text() == "Port 22\n"


def test_an_archive_is_one_that_others_can_read(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    path = tmp_path / "all.tar"
    include = Include(source=tmp_path / "one", target=PurePosixPath("/opt/one"))
    path.write_bytes(b"".join(baking.archive(include)))
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["opt/one"]
