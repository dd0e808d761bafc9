"""What tests map: in a module that needs nothing, since machines have nothing of the tests."""

from __future__ import annotations

import platform
import time


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
