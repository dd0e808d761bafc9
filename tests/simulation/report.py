"""What came of one story."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Violation:
    """A promise that was broken.

    Attributes:
        promise: Which one, always in the same words: by these a story is shrunk.
        what: How, with names and figures.
        at: When, in seconds of virtual time.
    """

    promise: str
    what: str
    at: float

    def __str__(self) -> str:
        return f"{self.promise}: {self.what} (at {self.at:.3f} s)"


@dataclass(kw_only=True)
class Report:
    """One story, told from its end. It crosses processes, so it holds plain values alone.

    Attributes:
        options: The command line's that it was drawn with.
        seconds: Of virtual time.
        digest: Equal for equal stories.
        trace: What happened, in order; kept where something is violated.
        sizes: Counts of things, for the summary: VMs, calls, jobs, ...
        ends: How the awaits of jobs ended, by the kind of end.
        wall: Seconds that it took to tell.
    """

    seed: int
    options: str = ""
    seconds: float = 0.0
    steps: int = 0
    digest: str = ""
    violations: list[Violation] = field(default_factory=list)
    trace: list[tuple[float, str]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    timers: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0
