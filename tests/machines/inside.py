"""The first process of a box: makes the network, runs a Python in it, tidies up.

Whatever a killed program leaves becomes its child, and is waited for. When it ends, the kernel
kills every process that is left in its namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.machines import box, network
from tests.machines.box import CGROUPS, Run

_NSPAWN = Path("/run/systemd/nspawn")


def main(arguments: list[str]) -> int:
    """Run Python with these arguments; returns its exit status."""
    run = Run.current()
    if run is None or os.getpid() != 1:
        sys.exit("this is started by: python -m tests.machines")
    _mount(run.folder)
    network.build()
    sweep(run)
    run.cgroup.mkdir(parents=True)
    tests = subprocess.Popen([sys.executable, *arguments], pass_fds=run.descriptors)
    # A terminal tells all of its processes; the first one of a namespace would die of it.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: tests.send_signal(signal.SIGTERM))
    try:
        return _wait(tests)
    finally:
        (run.cgroup / "cgroup.kill").write_text("1")
        with contextlib.suppress(ChildProcessError):  # none is left
            while os.waitpid(-1, 0):
                pass
        _unmount(run.folder)
        _delete(run.cache, run.name)


def sweep(run: Run) -> None:
    """Delete what is left of runs that were killed: only files and empty cgroups can be."""
    for name in box.stale(run.cache):
        _delete(run.cache, name)


def _mount(disks: Path) -> None:
    """In a mount namespace of our own: what the host has is not altered."""
    if _type(disks) == "overlayfs":  # as in a container: no other overlayfs writes to it
        subprocess.run(["mount", "-t", "tmpfs", "none", str(disks)], check=True)
    # Machines want the unified hierarchy, which hosts may have beside another one, or not at all.
    subprocess.run(["umount", "--recursive", "--lazy", str(CGROUPS)], capture_output=True)
    subprocess.run(["mount", "-t", "cgroup2", "none", str(CGROUPS)], check=True)
    # systemd-nspawn keeps its sockets there and refuses to clear what is on a disk.
    _NSPAWN.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(_NSPAWN)], check=True)


def _type(folder: Path) -> str:
    """The kind of file system that a folder is on."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _wait(tests: subprocess.Popen[bytes]) -> int:
    """Wait for the tests, and for every orphan that ends before them."""
    while True:
        pid, status = os.wait()
        if pid == tests.pid:
            return os.waitstatus_to_exitcode(status)


def _unmount(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for each in reversed(mounts):
        if Path(each).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", each], check=True)


def _delete(cache: Path, name: str) -> None:
    gone = Run(cache, name, -1, -1)
    if gone.cgroup.is_dir():
        for path, _, _ in os.walk(gone.cgroup, topdown=False):
            with contextlib.suppress(OSError):  # a process in it has not ended yet
                Path(path).rmdir()
    shutil.rmtree(gone.folder, ignore_errors=True)
    gone.folder.with_suffix(".lock").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
