"""What a master has let go of is in storage: a result is kept until storage has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from dayfly.master.hub import Hub
from dayfly.model import JobRecord
from dayfly.storage import keys
from tests.simulation.storage import StorageState

#: Seconds between two looks.
LOOK = 5.0

PROMISE = "a result is kept until storage has it"


class Records:
    """Looks at the jobs that masters take to be in storage.

    Args:
        hubs: The masters that serve now.
        cleaned: Whether ``clean`` has begun, which deletes what is stored.
        violated: Told of a job that is nowhere any more.
    """

    def __init__(
        self,
        storage: StorageState,
        *,
        hubs: Callable[[], Iterable[Hub]],
        cleaned: Callable[[], bool],
        violated: Callable[[str, str], None],
    ) -> None:
        self._storage = storage
        self._hubs = hubs
        self._cleaned = cleaned
        self._violated = violated
        self._look_at = 0.0
        self._known: set[str] = set()

    def check(self, now: float) -> None:
        """To be called after every step; most often it looks at one number."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        if self._cleaned():
            return
        for hub in self._hubs():
            for job in hub.books.rows:
                dossier = hub.books.dossier(job)
                if job not in self._known and (dossier is None or dossier.archived):
                    self._known.add(job)
                    self._look_for(job)

    def _look_for(self, job: str) -> None:
        if record_of(self._storage, job) is None:
            self._violated(PROMISE, f"its master has let go of {job}, and storage does not have it")


def record_of(storage: StorageState, job: str) -> JobRecord | None:
    """What storage tells of a job that is over, whosever part of it that is in."""
    name = "/" + keys.record(job).removeprefix(keys.ROOT)
    found = next((each for key, each in storage.objects.items() if key.endswith(name)), None)
    return None if found is None else msgspec.json.decode(found.data, type=JobRecord)
