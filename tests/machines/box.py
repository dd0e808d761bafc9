"""The run that a process is in: its folder, its way outside, its place among the cgroups.

Handed from ``python -m tests.machines`` to the tests by the environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Where cgroups are seen in the box, whatever the host has there.
CGROUPS: Final = Path("/sys/fs/cgroup")
_VARIABLE: Final = "MACHINES_BOX"
#: What makes a process the first one of a box: it has parts of its own of what is the host's.
UNSHARE: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


Done = subprocess.CompletedProcess[str]
#: Runs a command in an environment, and waits for it.
Execute = Callable[[Sequence[str], Mapping[str, str]], Done]


def here(command: Sequence[str], environment: Mapping[str, str]) -> Done:
    """Run a command in the network that this process is in, and wait for it."""
    return _execute(command, environment)


def _execute(
    command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int] = ()
) -> Done:
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        pass_fds=descriptors,
    )


@dataclass(frozen=True)
class Run:
    """One run of the box.

    Attributes:
        cache: Where roots and packages are kept between runs.
        name: Of the run; its folder, ``runs/<name>`` in the cache, goes with it.
        outside: A file descriptor of the network namespace that the box was started in.
        lock: A file descriptor that is locked as long as the run lasts.
    """

    cache: Path
    name: str
    outside: int
    lock: int

    @property
    def folder(self) -> Path:
        """Where the disks of the machines are."""
        return self.cache / "runs" / self.name

    @property
    def cgroup(self) -> Path:
        """Whose children the machines' are."""
        return CGROUPS / "dayfly-machines" / self.name

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a process must inherit to be of the run."""
        return self.outside, self.lock

    def execute(self, command: Sequence[str], environment: Mapping[str, str]) -> Done:
        """Run a command in the network outside, and wait for it."""
        enter = ["nsenter", f"--net=/proc/self/fd/{self.outside}"]
        return _execute([*enter, *command], environment, (self.outside,))

    @property
    def environment(self) -> dict[str, str]:
        """What tells a process of the run."""
        return {_VARIABLE: f"{self.outside}:{self.lock}:{self.name}:{self.cache}"}

    @classmethod
    def current(cls) -> Run | None:
        """The run that this process is of."""
        told = os.environ.get(_VARIABLE)
        if told is None:
            return None
        outside, lock, name, cache = told.split(":", 3)
        return cls(Path(cache), name, int(outside), int(lock))


def open_run(cache: Path) -> Run:
    """Begin a run; its file descriptors go to the programs that this process executes."""
    name = f"{os.getpid()}-{os.urandom(3).hex()}"
    folder = cache / "runs" / name
    folder.mkdir(parents=True)
    # Locked before it has the name by which others know it: they would take it for a killed run's.
    new = folder.with_suffix(".new")
    lock = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(folder.with_suffix(".lock"))
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    for descriptor in (lock, outside):
        os.set_inheritable(descriptor, True)
    return Run(cache, name, outside, lock)


def stale(cache: Path) -> Iterator[str]:
    """The names of runs that were killed: nobody holds their lock."""
    for path in sorted((cache / "runs").glob("*.lock")):
        # One that is gone was deleted by another run, which has seen the same.
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield path.stem
