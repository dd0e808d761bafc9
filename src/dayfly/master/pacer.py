"""How jobs stand, pushed to their followers when it changes, and not more often than of use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from dayfly.clock import Clock
from dayfly.master.peers import ClientPeer
from dayfly.wire import messages as m

#: Seconds between two statuses of a job to one follower, and before the first.
PACE = 0.1


class Pacer:
    """Pushes statuses.

    Args:
        status: How a job stands; ``None`` for one that does not run.
        followers: Who is told.
        clock: Where time comes from.
    """

    def __init__(
        self,
        status: Callable[[str], m.JobStatus | None],
        followers: Callable[[str], Iterable[ClientPeer]],
        clock: Clock,
    ) -> None:
        self._status = status
        self._followers = followers
        self._clock = clock
        self._stale: dict[str, None] = {}
        self._any = asyncio.Event()

    def changed(self, job: str) -> None:
        """A job may stand otherwise than before."""
        self._stale[job] = None
        self._any.set()

    async def run(self) -> None:
        """Pause when something changes, push, and begin again."""
        while True:
            await self._any.wait()
            # A job that is over by then has told all there is to tell.
            await self._clock.sleep(PACE)
            self._any.clear()
            stale, self._stale = self._stale, {}
            for job in stale:
                if (status := self._status(job)) is not None:
                    self._push(status)

    def _push(self, status: m.JobStatus) -> None:
        for peer in self._followers(status.job):
            if peer.told.get(status.job) != status:
                peer.statuses[status.job] = status
                peer.wake()
