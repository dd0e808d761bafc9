"""An eye on instances that were just launched: a launch can fail after it was answered.

EC2 answers ``pending``, and may make ``terminated`` of that some seconds later, for want of
capacity or of a quota. One that runs may be taken back before it is a worker, and its master
would wait for it all the same. All that are on their way are looked after by one question at a
time, which asks for those that have ended: most often there are none, of however many.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from dayfly.client.cluster import Cluster
from dayfly.client.conversation import Channel
from dayfly.clock import Clock
from dayfly.errors import CloudError
from dayfly.model import UP, Instance, InstanceState, Tag

log = logging.getLogger(__name__)

#: Seconds for which an instance that no listing tells of is taken to be too new for one.
#: Source: the EC2 developer guide, "Eventual consistency".
UNSEEN = 5.0
#: Seconds between two looks that tell of the pending too, and between two when all run.
CENSUS = 5.0


@dataclass(frozen=True)
class _Watch:
    """One instance that is watched: for which job, of which launch, and since when."""

    channel: Channel
    launch: str
    since: float


class Lookout:
    """Looks after instances that are to be workers, for all jobs of a session.

    Args:
        cluster: Whose instances.
        clock: Time.
        pace: Seconds between two looks.
    """

    def __init__(self, cluster: Cluster, clock: Clock, pace: float) -> None:
        self._cluster = cluster
        self._clock = clock
        self._pace = pace
        self._watched: dict[str, _Watch] = {}
        self._running: set[str] = set()
        self._counted: float | None = None
        self._looked = float("-inf")
        self._looking = False

    def watch(self, channel: Channel, instances: Iterable[Instance]) -> bool:
        """Look after the instances that are pending or running.

        Returns:
            Whether nobody looks yet: then :meth:`ended` is to be run.
        """
        now = self._clock.monotonic()
        for instance in instances:
            if instance.state in UP:
                launch = instance.tags.get(Tag.LAUNCH, "")
                self._watched[instance.id] = _Watch(channel, launch, now)
        return bool(self._watched) and not self._looking

    async def ended(self) -> AsyncIterator[tuple[Channel, Instance]]:
        """Look until all are workers; yields those that have ended."""
        if self._looking:
            return  # two launches were answered at once, and each was to begin it
        self._looking = True
        try:
            while self._watched:
                await self._clock.sleep(self._pace)
                self._forget_settled()
                for instance in await self._look() if self._is_due() else ():
                    channel = self._watched.pop(instance.id).channel
                    self._running.discard(instance.id)
                    yield channel, instance
        finally:
            self._looking, self._counted = False, None

    def _forget_settled(self) -> None:
        """Nobody waits for those of a job that is over, or whose workers are all here."""
        for name, one in list(self._watched.items()):
            if one.channel.ended or (one.channel.staffed and name in self._running):
                del self._watched[name]
                self._running.discard(name)

    def _is_due(self) -> bool:
        since = self._clock.monotonic() - self._looked
        return self._any_pending or (bool(self._watched) and since >= CENSUS)

    @property
    def _any_pending(self) -> bool:
        return len(self._watched) > len(self._running)

    async def _look(self) -> list[Instance]:
        """Those that have ended."""
        now = self._looked = self._clock.monotonic()
        states = self._worth_asking(now)
        launches = {one.launch for one in self._watched.values()}
        try:
            found = await self._cluster.see(
                self._watched.keys(),
                states,
                launch=launches.pop() if len(launches) == 1 else "",
            )
        except CloudError as error:
            log.warning("new instances could not be looked after: %s", error)
            return []
        if InstanceState.PENDING in states:
            self._counted = now
            there = {instance.id: instance.state for instance in found}
            self._running |= {
                name
                for name, one in self._watched.items()
                if there.get(name) is InstanceState.RUNNING
                or (name not in there and now - one.since >= UNSEEN)
            }
        return [instance for instance in found if instance.state not in UP]

    def _worth_asking(self, now: float) -> set[InstanceState]:
        """The states to be told of: the fewer instances are in them, the fewer pages."""
        everything = set(InstanceState)
        if self._counted is None:
            return everything  # most often all run by now
        if self._any_pending and now - self._counted >= CENSUS:
            return everything - {InstanceState.RUNNING}
        return everything - UP
