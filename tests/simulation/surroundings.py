"""What the simulated cloud and storage ask of those around them, and forms that ask for nothing."""

from __future__ import annotations

import math
import random
from typing import Protocol


class Strikes(Protocol):
    """Which faults strike here and now (:class:`tests.simulation.faults.Faults`)."""

    def strikes(self, kind: str) -> bool:
        """Whether it strikes."""
        ...

    def amount(self, kind: str, low: float, high: float) -> float:
        """How much of it."""
        ...


class NoFaults:
    """Nothing ever strikes."""

    def strikes(self, kind: str) -> bool:
        return False

    def amount(self, kind: str, low: float, high: float) -> float:
        raise AssertionError(f"{kind!r} did not strike")


class Mortal(Protocol):
    """Whoever asks, and may be dead by now (:class:`tests.simulation.process.Process`)."""

    def check(self) -> None:
        """Raise if it is."""
        ...


class Immortal:
    """A process that is never killed."""

    def check(self) -> None:
        pass


def heavy(stream: random.Random, typical: float) -> float:
    """Seconds that something takes: most often about ``typical``, at times far longer."""
    tail = 1.0 / math.sqrt(1.0 - stream.random()) - 1.0
    return typical * min(50.0, stream.lognormvariate(0.0, 0.7) + tail)
