"""The seam to a cloud: one page that every backend keeps to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from dayfly.baked import MachineImage
from dayfly.environment.lock import Platform
from dayfly.model import Instance, InstanceSpec, InstanceState, Launch, Price


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """Something of ours that exists in the cloud, as ``clean`` lists it."""

    kind: str
    id: str
    detail: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that ``doctor`` has looked at.

    Attributes:
        what: What was looked at.
        verdict: ``wrong`` keeps jobs from running; ``warning`` does not.
        detail: What was seen.
        hint: What to do, if anything.
    """

    what: str
    verdict: Literal["ok", "warning", "wrong"]
    detail: str = ""
    hint: str = ""


class Notes(Protocol):
    """Where a cloud writes down what it is about to launch, so that a rerun says the same."""

    async def claim(self, name: str, note: bytes) -> bytes:
        """Write a note unless one of this name is there; returns the one that is there then."""
        ...

    async def read(self, name: str) -> bytes | None:
        """Read a note; ``None`` where there is none."""
        ...


class Imaging(Protocol):
    """Machine images of a cloud that has them.

    What is half made, and what is left of an image, is listed like the rest: by its tags.
    """

    @property
    def base(self) -> str:
        """What instances are launched from by the configuration: a name, or an id."""
        ...

    async def given(self) -> MachineImage | None:
        """The image that the configuration names, if dayfly made it.

        Raises:
            ConfigError: It names one that is not there.
        """
        ...

    async def images(self, *, everybody: bool = False) -> list[MachineImage]:
        """The images that dayfly made, newest first: the caller's own, or everybody's."""
        ...

    async def look(self, image_id: str) -> MachineImage | None:
        """An image as it is now; ``None`` if it is gone."""
        ...

    async def create(
        self, instance_id: str, name: str, tags: Mapping[str, str], description: str
    ) -> MachineImage:
        """Begin to make an image of a stopped instance; said again, it is the same one.

        Args:
            instance_id: Of what.
            name: Nothing else may have it; the tags say what people call it.
            tags: Of the image and of its snapshots, from birth.
            description: For people.
        """
        ...

    async def users(self, image: MachineImage) -> list[str]:
        """The instances that were launched from an image and still exist, in words."""
        ...

    async def delete(self, image: MachineImage) -> None:
        """Delete an image and its snapshots; what is gone already is no error."""
        ...


class Cloud(Protocol):
    """Where instances come from.

    Every method may raise :class:`~dayfly.errors.CloudError`. "I could not ask" is always an
    error, never an empty answer.
    """

    @property
    def name(self) -> str:
        """The backend's name in the configuration."""
        ...

    @property
    def region(self) -> str:
        """The part of the backend that listings are of; empty where there is but one."""
        ...

    @property
    def pace(self) -> float:
        """Seconds between two looks at what is about to change."""
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

    async def platform(self, instance_type: str) -> Platform:
        """What compiled packages can rely on, on instances of a type with the configured image.

        Raises:
            ConfigError: There is no such type, or no such image.
        """
        ...

    async def python(self, instance_type: str) -> str:
        """The minor version of the configured image's Python; empty where nobody can say.

        Raises:
            ConfigError: There is no such type, or no such image.
        """
        ...

    async def launch(
        self, spec: InstanceSpec, count: int, *, minimum: int = 1, token: str
    ) -> Launch:
        """Launch up to ``count`` instances, at once, tagged from birth.

        The call is idempotent by ``token``: said again with the same token it launches
        nothing, and returns the instances of the first time as they are now. A rerun that
        was first said with another spec goes by the first one.

        Raises:
            CapacityError: Fewer than ``minimum`` could be had; then none is left. Said again
                after that it may answer with no instance at all.
            CloudError: Of any other kind: it may have happened all the same, so say it again.
            StorageError: It could not be written down before it was made.
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

    async def admit(self) -> None:
        """Let this machine reach the instances by SSH, wherever it is now."""
        ...

    @property
    def imaging(self) -> Imaging | None:
        """Its machine images; ``None``: it has none."""
        ...

    async def check_consumable(self, instance: Instance) -> None:
        """Refuse a user's own VM that a job in it would harm.

        Raises:
            ConfigError: A ``poweroff`` in it would delete it.
        """
        ...

    async def prices(self, instance_types: Collection[str], *, spot: bool) -> dict[str, Price]:
        """What instances of these types cost now."""
        ...

    async def examine(self, workers: int) -> Sequence[Finding]:
        """Look whether a fleet of so many workers can be had, launching nothing."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...

    async def inventory(self) -> Sequence[Resource]:
        """Everything of ours that exists, terminated instances excepted."""
        ...

    async def purge(self) -> None:
        """Delete everything of ours, instances first; returns when the listing is empty."""
        ...
