"""The outcomes of a job that are here, in the order in which they came."""

from __future__ import annotations

from dayfly.errors import UsageError
from dayfly.serialize import Outcome

#: Outcomes that are let go together.
PIECE = 1000


class Arrived:
    """All of them; or, where a reader keeps none, those that it has not had yet.

    Attributes:
        count: How many have come.
        done_with: How many nobody waits to read: more items may be read for as many.
    """

    def __init__(self, job: str) -> None:
        self.count = 0
        self._job = job
        self._here: list[Outcome] = []
        self._gone = 0
        self._had: int | None = None

    @property
    def done_with(self) -> int:
        """See the class."""
        return self.count if self._had is None else self._had

    def add(self, outcome: Outcome) -> None:
        """One more is here."""
        self._here.append(outcome)
        self.count += 1

    def at(self, place: int) -> Outcome:
        """The one that came as number ``place``, from 0.

        Raises:
            UsageError: It was let go.
        """
        if place < self._gone:
            raise self._let_go()
        return self._here[place - self._gone]

    def had(self, place: int) -> None:
        """A reader that keeps none has had those before ``place``."""
        self._had = place
        if place - self._gone >= PIECE:
            del self._here[: place - self._gone]
            self._gone = place

    def all(self) -> list[Outcome]:
        """Every one.

        Raises:
            UsageError: Some were let go.
        """
        if self._had:
            raise self._let_go()
        return self._here

    def _let_go(self) -> UsageError:
        return UsageError(
            f"job {self._job}: its outcomes are not here any more",
            cause="as_completed(keep=False) keeps none that it has given",
            hint="as_completed(), or await FunctionExecutor.attach(job.id), which has them all",
        )
