"""Which calls of a job have their outcome here already."""

from __future__ import annotations

from dayfly.model import CallOutcome


class Received:
    """One byte per call."""

    def __init__(self) -> None:
        self._came = bytearray()

    def fresh(self, outcomes: list[CallOutcome]) -> list[CallOutcome]:
        """Those that have not come before; one delivery names no call twice."""
        came = self._came
        indices = [outcome.index for outcome in outcomes]
        came.extend(bytes(max(0, max(indices, default=-1) + 1 - len(came))))
        fresh = [outcome for outcome in outcomes if not came[outcome.index]]
        for index in indices:
            came[index] = 1
        return fresh
