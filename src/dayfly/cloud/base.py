"""The seam to a cloud: one page that every backend keeps to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from dayfly.model import Instance, InstanceSpec, InstanceState, Launch


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """Something of ours that exists in the cloud, as ``clean`` lists it."""

    kind: str
    id: str
    detail: str = ""


class Cloud(Protocol):
    """Where instances come from.

    Every method may raise :class:`~dayfly.errors.CloudError`. "I could not ask" is always an
    error, never an empty answer.
    """

    @property
    def name(self) -> str:
        """The backend's name in the configuration."""
        ...

    async def owner(self) -> str:
        """Who is asking, for the owner tag: an account or a user."""
        ...

    async def processes(self, instance_type: str) -> int:
        """The vCPUs of an instance type.

        Raises:
            ConfigError: There is no such type.
        """
        ...

    async def launch(
        self, spec: InstanceSpec, count: int, *, minimum: int = 1, token: str
    ) -> Launch:
        """Launch up to ``count`` instances, at once, tagged from birth.

        The call is idempotent by ``token``: said again with the same token it launches
        nothing, and returns the instances of the first time as they are now.

        Raises:
            CapacityError: Fewer than ``minimum`` could be had; then none was launched.
        """
        ...

    async def list(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        ids: Collection[str] | None = None,
        states: Collection[InstanceState] | None = None,
    ) -> list[Instance]:
        """The instances that carry all of ``tags``, among ``ids``, in one of ``states``.

        Terminated instances stay visible for a while. Unknown ids are simply not there.
        """
        ...

    async def start(self, ids: Sequence[str]) -> None:
        """Start stopped instances; one that is up already is not an error.

        Raises:
            InstanceNotFoundError: Nothing was started.
            CloudError: One is terminated or still stopping.
        """
        ...

    async def stop(self, ids: Sequence[str]) -> None:
        """Stop instances, keeping their disks; one that is stopped already is not an error."""
        ...

    async def terminate(self, ids: Sequence[str]) -> None:
        """End instances and delete their disks; one that is gone already is not an error."""
        ...

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Add or replace tags."""
        ...

    async def console(self, instance_id: str) -> str:
        """What the VM printed while booting, host keys included; may lag, may be empty."""
        ...

    async def inventory(self) -> Sequence[Resource]:
        """Everything of ours that exists, terminated instances excepted."""
        ...

    async def purge(self) -> None:
        """Delete everything of ours, instances first; returns when the listing is empty."""
        ...
