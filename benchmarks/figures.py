"""Names of the figures, which of them are left out for whom, and what is aimed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


def calls(count: int) -> str:
    """Name of the throughput of a map over so many calls."""
    return f"{count:,} no-op calls (calls/s)"


IMPORT: Final = "import, over bare python (ms)"
MEMORY: Final = "memory after the import (MB)"
FIRST: Final = "first result from nothing (s)"
FIRST_WARM: Final = "first result, warm cluster (s)"
CALL: Final = "warm call, median (ms)"
CALL_P99: Final = "warm call, p99 (ms)"
CLIENT_CPU: Final = "client's CPU, 10,000 calls (s)"
STREAM: Final = "generator of 1,000,000 (calls/s)"
STREAM_MEMORY: Final = "its memory over 10,000's (MB)"
DATA: Final = "1,000 x 100 kB, there and back (MB/s)"
EFFICIENCY: Final = "400 x 50 ms (ideal/actual)"
MIXED: Final = "400 x 5-500 ms (ideal/actual)"
MANY: Final = "40 workers, 1,600 x 50 ms (ideal/actual)"
STORAGE: Final = "100 x 10 MB, there and back (MB/s)"
STORAGE_RATIO: Final = "the same over the storage alone"

#: In the table's order.
ORDER: Final = (
    *(IMPORT, MEMORY, FIRST, FIRST_WARM, CALL, CALL_P99),
    *(calls(1_000), calls(10_000), calls(100_000), CLIENT_CPU, STREAM, STREAM_MEMORY),
    *(DATA, EFFICIENCY, MIXED, MANY, STORAGE, STORAGE_RATIO),
)

#: Differences, of which a ratio says nothing.
NO_RATIO: Final = frozenset({STREAM_MEMORY})

#: Parts that are left out for peers that do fewer calls/s than this, in a map of 1,000 (of 100 for
#: ``calls_1k``): they would take minutes.
LEAST_SPEED: Final[Mapping[str, float]] = {
    "calls_1k": 10,
    "calls_10k": 200,
    "calls_100k": 2_000,
    "data": 50,
    "mixed": 50,
}
#: Parts that the peers named have, and no other; the ``tunnel`` has but the first.
ONLY_FOR: Final[Mapping[str, frozenset[str]]] = {
    "storage": frozenset({"dayfly"}),
    "many": frozenset({"dayfly"}),
    "stream": frozenset({"floor", "pool", "joblib", "mpire", "dayfly"}),
}
TUNNEL_HAS: Final = "warm_call"


def has(peer: str, part: str) -> bool:
    """Whether a part makes sense for a peer."""
    if peer == "tunnel":
        return part == TUNNEL_HAS
    return peer in ONLY_FOR.get(part, {peer})


def too_slow(part: str, speed: float) -> str:
    """Why a part is left out for a peer, or nothing.

    Args:
        part: By the name that ``--only`` takes.
        speed: Calls per second of the peer.
    """
    least = LEAST_SPEED.get(part, 0)
    return "" if speed >= least else f"{speed:,.0f} no-op calls/s, it takes {least:,.0f}"


@dataclass(frozen=True)
class Aim:
    """A figure of dayfly's, as a ratio to one of its own or another peer's."""

    figure: str
    over: str = ""
    #: The peer; empty for the figure itself.
    peer: str = ""
    #: Of the other figure, where it is another one.
    most: float | None = None
    least: float | None = None

    @property
    def name(self) -> str:
        """What is compared with what."""
        if not self.peer:
            return self.figure
        other = f"{self.over}, " if self.over else ""
        return f"{self.figure} / {other}{self.peer}"

    @property
    def wanted(self) -> str:
        """The aim in words."""
        return f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}"

    def met(self, value: float) -> bool:
        """Whether it is reached."""
        if self.most is not None:
            return value <= self.most
        return self.least is not None and value >= self.least


AIMS: Final = (
    Aim(CALL, peer="ray", most=1),
    Aim(CALL, peer="tunnel", most=3),
    Aim(CALL_P99, over=CALL, peer="dayfly", most=5),
    *(Aim(calls(count), peer="ray", least=10) for count in (10_000, 100_000)),
    *(Aim(calls(10_000), peer=peer, least=30) for peer in ("dask", "parsl")),
    *(Aim(calls(count), peer="floor", least=0.5) for count in (10_000, 100_000)),
    Aim(DATA, peer="ray", least=1),
    Aim(STREAM_MEMORY, most=20),
    Aim(STORAGE_RATIO, least=0.7),
    Aim(EFFICIENCY, least=0.98),
    Aim(MIXED, least=0.95),
    Aim(MANY, least=0.95),
    Aim(CLIENT_CPU, peer="ray", most=0.2),
    Aim(FIRST_WARM, most=0.5),
    Aim(IMPORT, most=80),
)
