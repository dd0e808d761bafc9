"""Misfortune: which fault strikes when, each kind by a stream of its own.

A kind that is dropped from a seed leaves the others' draws as they were, so that a failing seed
can be shrunk (:mod:`tests.simulation.story`).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from tests.simulation.chance import Chance
from tests.simulation.knobs import SPONTANEOUS

HOUR = 3600.0
#: The share of strikes that come just as something else happens.
RACES = 0.5


class Faults:
    """The faults of one story.

    Args:
        rates: The kinds that strike: the chance of each opportunity, or strikes per hour for
            those that are spontaneous.
        chance: Where they are drawn from.
        noted: Called with each strike, for the trace.

    Attributes:
        counts: Strikes so far, by kind.
        healed: Whether all misfortune is over.
    """

    def __init__(
        self, rates: Mapping[str, float], chance: Chance, noted: Callable[[str], None]
    ) -> None:
        self._rates = dict(rates)
        self._chance = chance
        self._noted = noted
        self._streams: dict[str, random.Random] = {}
        self.counts: Counter[str] = Counter()
        self.healed = False

    def rate(self, kind: str) -> float:
        """How often it strikes; 0 for a kind that is not in this story."""
        return 0.0 if self.healed else self._rates.get(kind, 0.0)

    def strikes(self, kind: str) -> bool:
        """Whether it strikes here and now."""
        rate = self.rate(kind)
        if not rate or self.stream(kind).random() >= rate:
            return False
        self.struck(kind)
        return True

    def struck(self, kind: str, what: str = "") -> None:
        """It has struck."""
        self.counts[kind] += 1
        if kind != "late wake-up":  # thousands, and the loop draws them for itself
            self._noted(f"FAULT {kind}{': ' if what else ''}{what}")

    def amount(self, kind: str, low: float, high: float) -> float:
        """How much of it, heavy-tailed between two bounds."""
        return math.exp(self.stream(kind).uniform(math.log(low), math.log(high)))

    def stream(self, kind: str) -> random.Random:
        """The kind's own stream."""
        if kind not in self._streams:
            self._streams[kind] = self._chance.stream(f"fault {kind}")
        return self._streams[kind]

    def heal(self) -> None:
        """From now on nothing strikes."""
        self.healed = True
        self._noted("HEAL: no fault strikes from here on")


class Victims(Protocol):
    """What can be struck out of the blue; each returns whom it struck, or nothing if nobody."""

    def strike(self, kind: str, stream: random.Random) -> str: ...

    def race(self, kind: str, stream: random.Random) -> float:
        """Seconds until something happens that is worth a race; 0 if nothing is to be seen."""
        ...


async def misfortune(faults: Faults, victims: Victims) -> None:
    """Strike spontaneously, each kind at moments of its own, until healed."""
    async with asyncio.TaskGroup() as kinds:
        for kind in SPONTANEOUS:
            if faults.rate(kind):
                kinds.create_task(_strike(kind, faults, victims), name=f"fault {kind}")


async def _strike(kind: str, faults: Faults, victims: Victims) -> None:
    stream = faults.stream(kind)
    while rate := faults.rate(kind):
        # Some strike soon, when everything is still under way.
        wait = stream.expovariate(rate / HOUR)
        if stream.random() < 0.3:
            wait = math.exp(stream.uniform(math.log(0.05), math.log(120.0)))
        await asyncio.sleep(wait)
        if stream.random() < RACES:
            await asyncio.sleep(victims.race(kind, stream))
        if faults.rate(kind) and (whom := victims.strike(kind, stream)):
            faults.struck(kind, whom)
