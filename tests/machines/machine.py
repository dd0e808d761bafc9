"""One machine: a container with its own init, which is on, going off, or off."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.machines import network

#: Seconds between the power button and the plug, which EC2 pulls after some minutes.
GRACE = 20.0
#: Bytes of the console that EC2 keeps.
_CONSOLE = 64 * 1024
#: Colours and carriage returns, which EC2's console has too and nobody wants to read.
_ODD = re.compile(r"\r|\x1b\[[0-9;?]*[a-zA-Z]")
#: What systemd-nspawn ends with when the machine wants to be booted anew.
_REBOOT = 133


class Machine:
    """A machine with a disk that is mounted.

    Any thread may call. ``ended`` is called in a thread of its own.

    Args:
        name: At most 12 characters: its link to the bridge is ``vb-<name>``.
        root: Its disk.
        cgroup: A folder that is not there while it is off.
        console: The file that its console is appended to.
        ended: Called when it has gone off, for whatever reason but a crash.
        options: What else systemd-nspawn is told.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        cgroup: Path,
        console: Path,
        ended: Callable[[], None],
        options: Sequence[str] = (),
    ) -> None:
        self._options = options
        self.name = name
        self.link = f"vb-{name}"
        self._root = root
        self._cgroup = cgroup
        self._console = console
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: threading.Thread | None = None
        self._killed = False

    @property
    def is_on(self) -> bool:
        """Whether any of its processes may be there."""
        return self._watch is not None and self._watch.is_alive()

    @property
    def init(self) -> int:
        """The process id, here, of the first process of one that is on."""
        (pid, *_) = (self._cgroup / "payload/init.scope/cgroup.procs").read_text().split()
        return int(pid)

    def power_on(self) -> None:
        """Boot it."""
        self._killed = False
        self._process = self._spawn()
        self._watch = threading.Thread(target=self._until_off, name=f"machine-{self.name}")
        self._watch.start()

    def press_power_button(self) -> None:
        """Ask its init to power off; the plug is pulled if it does not."""
        if self._process is None or not self.is_on:
            return
        self._process.terminate()
        timer = threading.Timer(GRACE, self.pull_plug)
        timer.daemon = True
        timer.start()

    def reboot(self) -> None:
        """Ask its init to end everything and begin anew."""
        os.kill(self.init, signal.SIGRTMIN + 5)  # to systemd: reboot

    def pull_plug(self) -> None:
        """Kill all of its processes at once."""
        self._killed = True
        with contextlib.suppress(FileNotFoundError):  # it is off
            (self._cgroup / "cgroup.kill").write_text("1")

    def freeze(self, frozen: bool = True) -> None:
        """Let all of its processes stand still, or go on: a machine that hangs."""
        (self._cgroup / "cgroup.freeze").write_text("1" if frozen else "0")

    def wait_off(self, timeout: float) -> bool:
        """Wait until it is off and ``ended`` has returned."""
        if self._watch is not None:
            self._watch.join(timeout)
        return not self.is_on

    def console(self) -> str:
        """The end of what it printed at all its boots."""
        text = self._console.read_bytes()[-_CONSOLE:] if self._console.exists() else b""
        return _ODD.sub("", text.decode(errors="replace"))

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._cgroup.mkdir()
        command = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            f"--directory={self._root}",
            f"--machine={self.name}",
            f"--network-bridge={network.BRIDGE}",
            # The bus of a host that may have none is not asked.
            "--register=no",
            "--keep-unit",
            "--kill-signal=SIGRTMIN+4",  # to systemd: power off
            "--console=read-only",
            # Nothing of the host gets into the machine.
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--settings=no",
            *self._options,
        ]
        with self._console.open("ab") as console:
            # By a shell, since a process must enter the cgroup itself before it does anything.
            return subprocess.Popen(
                ["sh", "-c", 'echo 0 >"$0/cgroup.procs"; exec "$@"', self._cgroup, *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # Nor does Ctrl-C in the terminal of the tests.
                start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            )

    def _until_off(self) -> None:
        while True:
            assert self._process is not None
            status = self._process.wait()
            self._clear()
            if status != _REBOOT or self._killed:
                break
            self._process = self._spawn()
        self._ended()

    def _clear(self) -> None:
        """End what outlives a killed systemd-nspawn: the machine's own init and its link."""
        (self._cgroup / "cgroup.kill").write_text("1")
        for path in sorted(self._cgroup.rglob("*/"), reverse=True):
            _remove(path)
        _remove(self._cgroup)
        if self.link in network.links():
            with contextlib.suppress(RuntimeError):  # it went just now, with its namespace
                network.ip("link", "delete", self.link)


def _remove(cgroup: Path) -> None:
    """Delete a cgroup as soon as its last process has ended, which is killed by now."""
    deadline = time.monotonic() + GRACE
    while "populated 0" not in (cgroup / "cgroup.events").read_text():
        assert time.monotonic() < deadline, f"{cgroup} has a process that cannot be killed"
        time.sleep(0.005)
    cgroup.rmdir()
