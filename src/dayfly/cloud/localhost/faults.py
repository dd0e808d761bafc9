"""What a test may ask to go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from dayfly.cloud.localhost.files import write_atomically

#: What is wrong with one VM. ``never_boot``: it is running, and nothing in it ever runs.
#: ``refuse_ssh``: it boots, and nobody listens. ``silent_ssh``: the port accepts and says nothing.
Fault = Literal["", "never_boot", "refuse_ssh", "silent_ssh"]


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Faults of a cloud, kept in its directory so that every process sees the same.

    Attributes:
        capacity: The most instances that may be up at once; ``None`` for no limit.
        never_boot: How many of the next launched VMs never boot.
        refuse_ssh: How many of the next launched VMs have no SSH server.
        silent_ssh: How many of the next launched VMs accept connections and say nothing.
        ssh_drops_after: Seconds after which each new SSH connection is cut; ``None`` for never.
    """

    capacity: int | None = None
    never_boot: int = 0
    refuse_ssh: int = 0
    silent_ssh: int = 0
    ssh_drops_after: float | None = None

    def draw(self) -> tuple[Fault, Faults]:
        """Take the fault of the next VM; what remains is for those after it."""
        if self.never_boot:
            return "never_boot", msgspec.structs.replace(self, never_boot=self.never_boot - 1)
        if self.refuse_ssh:
            return "refuse_ssh", msgspec.structs.replace(self, refuse_ssh=self.refuse_ssh - 1)
        if self.silent_ssh:
            return "silent_ssh", msgspec.structs.replace(self, silent_ssh=self.silent_ssh - 1)
        return "", self


def read_faults(directory: Path) -> Faults:
    """The faults of a cloud; none when none were asked for."""
    try:
        return msgspec.json.decode((directory / "faults.json").read_bytes(), type=Faults)
    except FileNotFoundError:
        return Faults()


def write_faults(directory: Path, faults: Faults) -> None:
    """Set the faults of a cloud."""
    write_atomically(directory / "faults.json", msgspec.json.encode(faults))
