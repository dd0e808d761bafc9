"""Who hears of what becomes of the workers: the seam between the fleet and the hub."""

from __future__ import annotations

from typing import Protocol

from dayfly.environment.report import EnvironmentFailure
from dayfly.master.events import Pool
from dayfly.master.journal import KeptInstance


class Listener(Protocol):
    """Who is told what becomes of the workers. Nothing here may wait."""

    def worker_coming(
        self, worker: str, pool: Pool, *, returning: bool, engaged: list[str]
    ) -> None:
        """An instance is on its way."""
        ...

    def worker_drains(self, worker: str, reason: str) -> None:
        """A worker finishes what it runs and takes no more: the cloud takes it back."""
        ...

    def worker_lost(self, worker: str, reason: str, *, innocent: bool = False) -> bool:
        """A worker is gone, or never came.

        Args:
            worker: Which.
            reason: Why, with evidence.
            innocent: Whether what ran on it cannot be the cause.

        Returns:
            Whether much depends on its coming back: it is not to be ended in haste.
        """
        ...

    def worker_unfit(self, worker: str, failure: EnvironmentFailure) -> None:
        """A VM cannot be made a worker; that it is lost is told apart."""
        ...

    def worker_gone(self, worker: str, *, innocent: bool = False) -> None:
        """A worker that was lost does not come back."""
        ...

    def notice(
        self, level: str, text: str, pool: Pool, *, lost: str = "", silent: bool = False
    ) -> None:
        """Something that the users of a pool should read; see :class:`messages.Notice`."""
        ...

    def keep(self, kept: KeptInstance) -> None:
        """Something that must survive a restart has changed."""
        ...

    def fleet_changed(self) -> None:
        """A phase has changed."""
        ...
