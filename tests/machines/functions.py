"""What tests map: in a module that needs nothing, since machines have nothing of the tests."""

from __future__ import annotations

import platform
import subprocess
import time
from contextlib import suppress
from pathlib import Path


def square(x: int) -> int:
    return x * x


def where(x: int) -> str:
    time.sleep(0.2)
    return platform.node()


def slow(x: int) -> int:
    time.sleep(0.5)
    return x


def speak(x: int) -> int:
    for part in range(20):
        print(f"call {x} says {part}", flush=True)
        time.sleep(0.2)
    return x


def greet(_: int) -> str:
    """Needs a program of a package of Debian's."""
    return subprocess.run(["hello"], capture_output=True, text=True, check=True).stdout.strip()


def fill(_: int) -> int:
    """Leave next to nothing of the disk."""
    with Path("/var/tmp/full").open("wb") as file:
        with suppress(OSError):  # that is what it is for
            while True:
                file.write(bytes(1 << 20))
        file.truncate(file.tell() - (8 << 20))
    return 1
