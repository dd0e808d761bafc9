"""No await hangs: each is told beforehand when it must be over."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.simulation.process import Process, current

#: Seconds between two looks at what is awaited.
LOOK = 5.0


@dataclass(frozen=True)
class Wait:
    """Something that is awaited, and until when it may take."""

    what: str
    begun: float
    by: Callable[[], float]
    process: Process | None


class Awaits:
    """What is awaited now.

    Args:
        now: Virtual time.
        violated: Told of an await that is not over in time; its process is killed, so that the
            story goes on.
    """

    def __init__(self, now: Callable[[], float], violated: Callable[[str, str], None]) -> None:
        self._now = now
        self._violated = violated
        self._waits: dict[int, Wait] = {}
        self._numbers = itertools.count()
        self._look_at = 0.0

    @contextmanager
    def bounded(self, what: str, by: Callable[[], float]) -> Iterator[None]:
        """Within this, something is awaited that must be over by a moment.

        Args:
            what: For people.
            by: The moment; it may move as things happen.
        """
        number = next(self._numbers)
        self._waits[number] = Wait(what, self._now(), by, current())
        try:
            yield
        finally:
            self._waits.pop(number, None)

    def check(self, now: float) -> None:
        """To be called after every step; most often it looks at one number."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        for number, wait in list(self._waits.items()):
            process = wait.process
            if process is not None and not process.alive:
                del self._waits[number]
            elif (process is None or not process.halted) and now > wait.by():
                del self._waits[number]
                took, allowed = now - wait.begun, wait.by() - wait.begun
                self._violated(
                    "no await hangs",
                    f"{wait.what} has taken {took:.1f} s so far; {allowed:.1f} s were allowed",
                )
                if process is not None:
                    process.kill()
