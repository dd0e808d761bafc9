"""Calls that may take machines down: who was in whose hands when that was lost. Pure rules.

Each loss of a worker that nobody can explain marks the calls that it had in hand. One mark says
little: most of them were there by chance, and many had not begun. So the marked ones are handed
out with nothing ahead of them; those that are marked twice, one by one, each alone on a worker.
What is lost with a worker that had nothing else in hand took it down, unless that worker was only
silent: the verdict waits until it is back, or is sent where it cannot come back from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import msgspec

from dayfly.wire.messages import Span

#: Marks from which on a call is handed out alone.
SUSPECT = 2
#: Marks, the last one alone, with which a call is failed.
CONVICTED = 3


class Loss(msgspec.Struct, frozen=True):
    """A worker was lost for no known reason, with calls of a job in hand.

    Attributes:
        worker: Which.
        incarnation: Of its agent, by which it is known when it comes back.
        reason: What was seen.
        spans: The calls, in order.
    """

    worker: str
    incarnation: str
    reason: str
    spans: list[Span]

    def names(self, index: int) -> bool:
        """Whether a call was in its hands."""
        place = bisect_right(self.spans, index, key=lambda span: span.start)
        return place > 0 and index < self.spans[place - 1].stop


class Suspects:
    """The losses of one job's workers, and so the marks of its calls."""

    def __init__(self) -> None:
        self._losses: list[Loss] = []

    def __bool__(self) -> bool:
        return bool(self._losses)

    def add(self, loss: Loss) -> None:
        """A worker was lost."""
        self._losses.append(loss)

    def take_back(self, worker: str, incarnation: str) -> bool:
        """A worker that was thought lost is back: nothing had taken it down.

        Returns:
            Whether it had been thought lost.
        """
        before = len(self._losses)
        self._losses = [
            loss
            for loss in self._losses
            if (loss.worker, loss.incarnation) != (worker, incarnation)
        ]
        return len(self._losses) < before

    def marks(self, index: int) -> list[Loss]:
        """The losses that a call was in hand at."""
        return [loss for loss in self._losses if loss.names(index)]

    def suspicious(self, index: int) -> bool:
        """Whether a call is to be handed out alone."""
        return len(self._losses) >= SUSPECT and len(self.marks(index)) >= SUSPECT


def verdict(losses: Iterable[Loss]) -> str:
    """What a call is failed with that took down all these workers, the last one alone."""
    losses = list(losses)
    names = dict.fromkeys(loss.worker for loss in losses)
    if len(names) == len(losses):
        times = f"it was in the hands of {len(losses)} workers when they were lost"
    else:
        times = f"{len(losses)} times it was in the hands of a worker when that was lost"
    words = [f"{times}, and the last one had nothing else to do"]
    words += [f"  {loss.worker}: {loss.reason}" for loss in losses]
    words.append(
        "most likely it takes the machine down, by the memory that it needs or by what it does:"
        " try a larger worker_instance_type, and look at what it printed last"
    )
    return "\n".join(words)
