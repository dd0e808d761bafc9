"""Which instances there are: asked by filters, page by page, and once for all who ask the same.

EC2's listings lag behind its answers: an instance that was launched seconds ago may not be
listed, and its id may not be known. Absence means something only after a minute.

Source: the EC2 developer guide, "Eventual consistency".
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.instances.view import view
from dayfly.model import Instance, InstanceState

#: Seconds after a launch within which an instance that is not known is one that is not known yet.
YOUNG: Final = 60.0
#: Values that one filter takes. Source: DescribeInstances in the API reference.
VALUES: Final = 200


class Listing:
    """The instances of one region.

    Args:
        api: Who asks.
        ssh_port: Where their SSH servers listen.
    """

    def __init__(self, api: Ec2Api, *, ssh_port: int = 22) -> None:
        self._api = api
        self.ssh_port = ssh_port
        self._flights: dict[tuple[Any, ...], asyncio.Task[list[Instance]]] = {}
        self._landing: set[asyncio.Task[list[Instance]]] = set()
        self._young: dict[str, tuple[Instance | None, float]] = {}

    async def find(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        ids: Collection[str] | None = None,
        states: Collection[InstanceState] | None = None,
    ) -> list[Instance]:
        """See :meth:`dayfly.cloud.base.Cloud.list`."""
        wanted = {str(key): value for key, value in (tags or {}).items()}
        if (ids is not None and not ids) or (states is not None and not states):
            return []
        key = (
            frozenset(wanted.items()),
            None if ids is None else frozenset(ids),
            None if states is None else frozenset(states),
        )
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(self._ask(wanted, ids, states))
            self._flights[key] = flight
            self._landing.add(flight)
            flight.add_done_callback(lambda done: self._landed(key, done))
        found = {instance.id: instance for instance in await asyncio.shield(flight)}
        for instance in self._unseen(wanted, ids, states):
            found.setdefault(instance.id, instance)
        return sorted(found.values(), key=lambda instance: (instance.launched_at, instance.id))

    def launched(self, instances: Iterable[Instance]) -> None:
        """Instances were launched just now, or seconds ago."""
        until = self._api.clock.monotonic() + YOUNG
        self._young |= {i.id: (i, until) for i in instances}
        self.changed()

    def expect(self, ids: Iterable[str]) -> None:
        """Another program launched these seconds ago."""
        until = self._api.clock.monotonic() + YOUNG
        for each in ids:
            self._young.setdefault(each, (None, until))

    def ended(self, ids: Iterable[str]) -> None:
        """These will not come any more, should they not have been listed yet."""
        for each in ids:
            self._young.pop(each, None)
        self.changed()

    def young(self, ids: Iterable[str]) -> set[str]:
        """Those among ``ids`` that were launched here less than a minute ago."""
        now = self._api.clock.monotonic()
        return {i for i in ids if i in self._young and self._young[i][1] > now}

    def changed(self) -> None:
        """Something was changed: who asks from now on is not answered from before."""
        self._flights.clear()

    async def aclose(self) -> None:
        """Let go of questions whose askers have left."""
        self._flights.clear()
        for flight in list(self._landing):
            flight.cancel()
        await asyncio.gather(*self._landing, return_exceptions=True)

    def _landed(self, key: tuple[Any, ...], flight: asyncio.Task[list[Instance]]) -> None:
        self._landing.discard(flight)
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # its askers may all have left

    async def _ask(
        self,
        tags: Mapping[str, str],
        ids: Collection[str] | None,
        states: Collection[InstanceState] | None,
    ) -> list[Instance]:
        filters = [
            {"Name": f"tag:{key}", "Values": [_literal(value)]}
            for key, value in sorted(tags.items())
        ]
        # What is not listed yet, and so taken for pending, must be told from what has ended.
        if states is not None and not self._unseen(tags, ids, states):
            filters.append({"Name": "instance-state-name", "Values": sorted(states)})
        known = None if ids is None else sorted(set(ids))
        answers = await asyncio.gather(
            *(
                self._pages([*filters, {"Name": "instance-id", "Values": some}])
                for some in _parts(known, VALUES)
            )
            if known is not None
            else [self._pages(filters)]
        )
        found = [instance for answer in answers for instance in answer]
        for instance in found:
            self._young.pop(instance.id, None)
        # Wildcards in a filter find more than was meant.
        return [
            i
            for i in found
            if tags.items() <= i.tags.items() and (states is None or i.state in states)
        ]

    async def _pages(self, filters: list[dict[str, Any]]) -> list[Instance]:
        asked: dict[str, Any] = {"Filters": filters} if filters else {}
        return [
            view(told, ssh_port=self.ssh_port)
            async for page in self._api.pages("describe_instances", **asked)
            for reservation in page.get("Reservations", ())
            for told in reservation.get("Instances", ())
        ]

    def _unseen(
        self,
        tags: Mapping[str, str],
        ids: Collection[str] | None,
        states: Collection[InstanceState] | None,
    ) -> list[Instance]:
        """The instances that no listing has shown yet, and that this one should."""
        now = self._api.clock.monotonic()
        self._young = {i: (inst, until) for i, (inst, until) in self._young.items() if until > now}
        return [
            instance
            for instance, _ in self._young.values()
            if instance is not None
            and (ids is None or instance.id in ids)
            and (states is None or InstanceState.PENDING in states)
            and tags.items() <= instance.tags.items()
        ]


def _literal(value: str) -> str:
    return value.replace("\\", "\\\\")


def _parts(values: list[str], size: int) -> list[list[str]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
