"""The machine as its init knows it: its disk, its console, and how it starts processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dayfly.cloud.localhost import processes
from dayfly.cloud.localhost.record import Layout


@dataclass(frozen=True)
class Machine:
    """A VM from within.

    Attributes:
        environment: Of every process that init starts.
        booted: When, on the monotonic clock.
    """

    layout: Layout
    address: str
    environment: Mapping[str, str]
    booted: float

    def say(self, text: str) -> None:
        """Print a line on the console, which is init's own standard output."""
        os.write(1, f"[{time.monotonic() - self.booted:8.3f}] {text}\n".encode())

    def print(self, text: str) -> None:
        """Print a line on the console as it is."""
        os.write(1, f"{text}\n".encode())

    def inside(self, path: str) -> Path:
        """Where an absolute path of the VM lies."""
        return self.layout.inside(path)

    async def spawn(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        output: int | IO[bytes] | None = None,
        error: int | IO[bytes] | None = None,
    ) -> asyncio.subprocess.Process:
        """Start a process in a session of its own, which dies with init.

        Raises:
            OSError: It cannot be started.
        """
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=error,
            env=environment or self.environment,
            cwd=directory or self.layout.home,
            start_new_session=True,
            preexec_fn=processes.die_with_parent,
        )
