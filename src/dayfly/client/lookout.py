"""An eye on instances that were just launched: a launch can fail after it was answered.

EC2 answers ``pending``, and may make ``terminated`` of that some seconds later, for want of
capacity or of a quota. All that wait are looked after by one question at a time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable

from dayfly.client.cluster import Cluster
from dayfly.client.conversation import Channel
from dayfly.clock import Clock
from dayfly.errors import CloudError
from dayfly.model import Instance, InstanceState

log = logging.getLogger(__name__)

#: Seconds for which an instance that no listing tells of is taken to be too new for one.
#: Source: the EC2 developer guide, "Eventual consistency".
UNSEEN = 5.0


class Lookout:
    """Looks after pending instances, for all jobs of a session.

    Args:
        cluster: Whose instances.
        clock: Time.
        pace: Seconds between two looks.
    """

    def __init__(self, cluster: Cluster, clock: Clock, pace: float) -> None:
        self._cluster = cluster
        self._clock = clock
        self._pace = pace
        #: By instance: whose it is, and when it began to be watched.
        self._watched: dict[str, tuple[Channel, float]] = {}
        self._looking = False

    def watch(self, channel: Channel, instances: Iterable[Instance]) -> bool:
        """Look after the instances that are pending.

        Returns:
            Whether nobody looks yet: then :meth:`ended` is to be run.
        """
        now = self._clock.monotonic()
        for instance in instances:
            if instance.state is InstanceState.PENDING:
                self._watched[instance.id] = (channel, now)
        return bool(self._watched) and not self._looking

    async def ended(self) -> AsyncIterator[tuple[Channel, Instance]]:
        """Look until none is pending; yields those that have ended."""
        self._looking = True
        try:
            while self._watched:
                await self._clock.sleep(self._pace)
                for found in await self._look():
                    yield found
        finally:
            self._looking = False

    async def _look(self) -> list[tuple[Channel, Instance]]:
        try:
            ended, pending = await self._cluster.failed(self._watched.keys())
        except CloudError as error:
            log.warning("new instances could not be looked after: %s", error)
            return []
        found = [(self._watched.pop(instance.id)[0], instance) for instance in ended]
        now = self._clock.monotonic()
        for name, (_, since) in list(self._watched.items()):
            if name not in pending and now - since >= UNSEEN:
                del self._watched[name]
        return found
