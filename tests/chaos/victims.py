"""Who is there: the processes and connections of one round, by what they are."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dayfly.cloud.localhost.record import Layout, Record
from dayfly.model import Tag
from tests.chaos import client_program

_ESTABLISHED, _LISTENING = "01", "0A"


@dataclass(frozen=True)
class Who:
    """A process of a round.

    Attributes:
        born: When it was started, in the kernel's ticks since boot: with the pid, a name that
            is given once.
        role: What it is, in the words of :data:`tests.chaos.plan.Victim`, or ``""``.
        instance: The VM that it belongs to.
        words: Its command line.
    """

    pid: int
    born: int
    role: str
    instance: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        where = f" of {self.instance}" if self.instance else ""
        return f"{self.role or 'process'} {self.pid}{where}"


@dataclass(frozen=True)
class Wire:
    """An end of a TCP connection."""

    role: str
    owner: Who
    descriptor: int
    far: tuple[str, int]

    def __str__(self) -> str:
        return f"{self.role} of {self.owner} to {self.far[0]}:{self.far[1]}"


def of_round(home: Path) -> list[Who]:
    """Every process that carries the round's directory in its environment or command line."""
    vms = {record.id: record for record in records(home)}
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and int(name) != os.getpid():
            who = look(int(name), home, vms)
            if who is not None:
                found.append(who)
    return sorted(found, key=lambda who: who.pid)


def look(pid: int, home: Path, vms: dict[str, Record] | None = None) -> Who | None:
    """One process; ``None`` when it is gone, a zombie, or none of the round's."""
    folder = Path("/proc", str(pid))
    try:
        command = (folder / "cmdline").read_bytes()
        environment = (folder / "environ").read_bytes()
        state, *numbers = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    mark = os.fsencode(home) + b"/"
    if state in b"ZX" or not (mark in command or mark in environment):
        return None
    words = tuple(word.decode(errors="replace") for word in command.split(b"\0")[:-1])
    _, _, told = (b"\0" + environment).partition(b"\0DAYFLY_INSTANCE=")
    instance = told.partition(b"\0")[0].decode()
    return Who(pid, int(numbers[18]), _role(words, instance, vms or {}), instance, words)


def _role(words: tuple[str, ...], instance: str, vms: dict[str, Record]) -> str:
    if client_program.__file__ in words:
        return "client"
    if not instance:
        return ""
    if any(word.endswith("/worker/runner.py") for word in words):
        return "runner"
    if "-m" not in words[:-1]:
        return ""
    match words[words.index("-m") + 1]:
        case "dayfly.master":
            return "master service"
        case "dayfly.worker":
            return "worker service"
        case "dayfly.cloud.localhost.init":
            return f"{role_of(vms[instance])} vm" if instance in vms else ""
    return ""


def role_of(record: Record) -> str:
    """``master``, ``worker``, or ``consumed`` for the user's own VM."""
    return record.instance.tags.get(Tag.ROLE, "consumed")


def records(home: Path) -> list[Record]:
    """The VMs of the round's cloud that it still knows of."""
    cloud = home / "cloud"
    found = []
    for path in (cloud / "instances").glob("i-*"):
        try:
            raw = Layout(cloud, path.name).record.read_bytes()
        except FileNotFoundError:
            continue
        found.append(msgspec.json.decode(raw, type=Record))
    return found


# -- connections --


def wires(people: list[Who]) -> list[Wire]:
    """The connections that a round may lose, each by the end that began it."""
    far_of = {inode: far for state, _, far, inode in _sockets() if state == _ESTABLISHED}
    found = []
    for who in people:
        for descriptor, inode in _descriptors(who.pid):
            if inode in far_of and (role := _wire_role(who, far_of[inode])):
                found.append(Wire(role, who, descriptor, far_of[inode]))
    return found


def _wire_role(owner: Who, far: tuple[str, int]) -> str:
    if owner.role == "client" and far[1] == 2222:
        return "tunnel"
    if owner.role == "worker service" and far[1] == 8080:
        return "agent link"
    return ""


def listening(addresses: set[str]) -> list[str]:
    """Which of these loopback addresses somebody still listens at."""
    return sorted(
        f"{near[0]}:{near[1]}"
        for state, near, _, _ in _sockets()
        if state == _LISTENING and near[0] in addresses
    )


def _sockets() -> Iterator[tuple[str, tuple[str, int], tuple[str, int], int]]:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        yield words[3], _address(words[1]), _address(words[2]), int(words[9])


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return socket.inet_ntoa(struct.pack("=I", int(host, 16))), int(port, 16)


def _descriptors(pid: int) -> Iterator[tuple[int, int]]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return
    for name in names:
        try:
            target = os.readlink(f"{folder}/{name}")  # noqa: PTH115
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            yield int(name), int(target[8:-1])
