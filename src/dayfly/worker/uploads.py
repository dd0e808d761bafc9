"""Large outcomes on their way to storage.

The first goes at once. Those that wait while others are on their way go together, as one object: a
request costs as much as many bytes, in time and in money.
"""

from __future__ import annotations

from collections import deque

import msgspec

from dayfly.model import CallOutcome, OutcomeKind
from dayfly.storage import keys
from dayfly.storage.base import Storage

#: Objects that are put at once.
SLOTS = 4
#: Bytes of outcomes in one object, about; one that is larger has an object to itself.
PACK = 4 * 1024 * 1024


class Uploads:
    """The outcomes that storage does not have yet, and which are to go next.

    Attributes:
        weight: Their bytes.
    """

    def __init__(self) -> None:
        self.weight = 0
        self._running = 0
        self._waiting: dict[str, deque[CallOutcome]] = {}
        self._indices: dict[str, set[int]] = {}

    def add(self, job: str, outcome: CallOutcome) -> None:
        """An outcome is to go to storage."""
        self._waiting.setdefault(job, deque()).append(outcome)
        self._indices.setdefault(job, set()).add(outcome.index)
        self.weight += len(outcome.payload)

    def take(self) -> tuple[str, list[CallOutcome]] | None:
        """The job and the outcomes of the object that is to be put now, if any is."""
        if not self._waiting or self._running >= SLOTS:
            return None
        self._running += 1
        job, waiting = next(iter(self._waiting.items()))
        taken = [waiting.popleft()]
        size = len(taken[0].payload)
        while waiting and size + len(waiting[0].payload) <= PACK:
            taken.append(waiting.popleft())
            size += len(taken[-1].payload)
        del self._waiting[job]
        if waiting:  # the jobs take turns
            self._waiting[job] = waiting
        return job, taken

    def ended(self, job: str, taken: list[CallOutcome]) -> None:
        """Storage has them, or will not have them."""
        self._running -= 1
        self.weight -= sum(len(outcome.payload) for outcome in taken)
        self._indices[job].difference_update(outcome.index for outcome in taken)
        if not self._indices[job]:
            del self._indices[job]

    def indices(self) -> dict[str, set[int]]:
        """The calls, by job."""
        return {job: set(indices) for job, indices in self._indices.items()}


async def store(
    storage: Storage, job: str, outcomes: list[CallOutcome], mark: str
) -> list[CallOutcome]:
    """Put outcomes to storage, as one object.

    Args:
        storage: The cluster's.
        job: Their job.
        outcomes: One or more.
        mark: Names the object, if it holds more than one.

    Returns:
        The same outcomes, of which each says where its value is.

    Raises:
        StorageError: Storage does not have them.
    """
    first = outcomes[0].index
    if len(outcomes) == 1:
        key = keys.outcome(job, first)
        await storage.put_object(key, outcomes[0].payload)
        return [_stored(outcomes[0], key)]
    key = keys.outcome_pack(job, first, mark)
    await storage.put_object(key, b"".join([outcome.payload for outcome in outcomes]))
    stored, start = [], 0
    for outcome in outcomes:
        stop = start + len(outcome.payload)
        stored.append(_stored(outcome, keys.part(key, start, stop)))
        start = stop
    return stored


def _stored(outcome: CallOutcome, place: str) -> CallOutcome:
    return msgspec.structs.replace(outcome, kind=OutcomeKind.STORED, payload=place.encode())
