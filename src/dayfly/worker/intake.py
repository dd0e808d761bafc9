"""Calls whose function or items are still on their way from storage: decisions only, no I/O."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Intake(msgspec.Struct, eq=False):
    """Calls of one span that are still wanted."""

    job: str
    indices: set[int]


class Intakes:
    """All calls that are still on their way."""

    def __init__(self) -> None:
        self._open: list[Intake] = []

    def begin(self, job: str, indices: Iterable[int]) -> Intake:
        """More calls are on their way."""
        intake = Intake(job, set(indices))
        self._open.append(intake)
        return intake

    def end(self, intake: Intake) -> None:
        """They have come, or never will."""
        self._open.remove(intake)

    def indices(self) -> dict[str, set[int]]:
        """The calls that are on their way, by job."""
        found: dict[str, set[int]] = {}
        for intake in self._open:
            found.setdefault(intake.job, set()).update(intake.indices)
        return found

    def drop(self, job: str, indices: set[int] | None = None) -> list[int]:
        """Calls are not wanted any more, all of the job when ``None``; which were there."""
        gone: list[int] = []
        for intake in self._open:
            if intake.job == job:
                dropped = intake.indices if indices is None else intake.indices & indices
                intake.indices = intake.indices - dropped
                gone += dropped
        return gone

    def take_newest(self, job: str, count: int) -> list[int]:
        """Take out up to ``count`` calls, the newest first."""
        found: list[int] = []
        for intake in reversed(self._open):
            if intake.job == job:
                newest = sorted(intake.indices, reverse=True)[: count - len(found)]
                intake.indices.difference_update(newest)
                found += newest
        return found
