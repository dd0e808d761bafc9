"""Everything that is drawn, from one seed."""

from __future__ import annotations

import random


class Chance:
    """Independent random streams, one per name.

    A stream is drawn by nobody else, so that leaving one kind of fault out of a scenario
    changes nothing in what the others draw.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def stream(self, name: str) -> random.Random:
        """The stream of this name: the same object each time."""
        found = self._streams.get(name)
        if found is None:
            # Seeding with text goes through SHA-512: the same on every version and platform.
            found = self._streams[name] = random.Random(f"{self.seed}/{name}")
        return found


class SimEntropy:
    """The product's :class:`~dayfly.clock.Entropy`, over one stream."""

    def __init__(self, stream: random.Random) -> None:
        self._stream = stream

    def hex(self, count: int) -> str:
        return "".join(self._stream.choices("0123456789abcdef", k=count))

    def fraction(self) -> float:
        return self._stream.random()
