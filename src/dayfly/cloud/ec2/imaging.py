"""Machine images on EC2: AMIs, and the snapshots that they are made of.

CreateImage takes no token. What makes it safe to say twice is the image's name, which an account
can give but once: a name is one build's own, and what people call the image is its tag ``Name``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final

from dayfly.baked import MachineImage, Mark
from dayfly.cloud.ec2.api import Ec2Api, backoff, meaning
from dayfly.cloud.ec2.launch import images as known
from dayfly.cloud.ec2.marks import Filters, Told, matching, ours, tags_of
from dayfly.cloud.ec2.persistence import together
from dayfly.cloud.ec2.reactions import Kind
from dayfly.config.sections import Ec2Section
from dayfly.errors import ApiError, CloudError
from dayfly.model import ALIVE, Tag

log = logging.getLogger(__name__)

#: What images are built from where nothing is given. Newer builds of it come every few weeks,
#: and are no reason not to use an image.
UBUNTU: Final = "ubuntu-22.04"
#: Seconds for which a new image may be unknown to EC2, and a snapshot in use by one that is gone.
PATIENCE: Final = 60.0

Owner = Callable[[], Awaitable[str]]


class Ec2Imaging:
    """See :class:`dayfly.cloud.base.Imaging`.

    Args:
        api: Who asks.
        section: Of the configuration.
        owner: Whose images these are.
    """

    def __init__(self, api: Ec2Api, section: Ec2Section, owner: Owner) -> None:
        self._api = api
        self._section = section
        self._owner = owner

    @property
    def base(self) -> str:  # noqa: D102
        return self._section.target_ami or UBUNTU

    async def given(self) -> MachineImage | None:  # noqa: D102
        if not self._section.target_ami:
            return None
        told = await known.given(self._api, self._section.target_ami)
        return _view(told) if Mark.KIT in tags_of(told) else None

    async def images(self, *, everybody: bool = False) -> list[MachineImage]:  # noqa: D102
        managed = [matching(f"tag:{Tag.MANAGED.value}", "true")]
        filters = managed if everybody else ours(await self._owner())
        listed, snapshots = await together(self._images(filters), self._snapshots(filters))
        builds = {tags_of(told).get(Mark.BUILD, "") for told in listed}
        held = {snapshot for told in listed for snapshot in _snapshots_of(told)}
        left = [
            _remains(told)
            for told in snapshots
            if told["SnapshotId"] not in held
            and Mark.BUILD in (tags := tags_of(told))
            and tags[Mark.BUILD] not in builds
        ]
        found = [*(_view(told) for told in listed), *left]
        return sorted(found, key=lambda image: -image.created_at)

    async def _images(self, filters: Filters) -> list[Told]:
        pages = self._api.pages(
            "describe_images", Owners=["self"], Filters=filters, IncludeDeprecated=True
        )
        return [told async for page in pages for told in page["Images"]]

    async def _snapshots(self, filters: Filters) -> list[Told]:
        pages = self._api.pages("describe_snapshots", OwnerIds=["self"], Filters=filters)
        return [told async for page in pages for told in page["Snapshots"]]

    async def look(self, image_id: str) -> MachineImage | None:  # noqa: D102
        told = await self._look(image_id)
        return None if told is None else _view(told)

    async def _look(self, image_id: str) -> Told | None:
        try:
            answer = await self._api.call("describe_images", ImageIds=[image_id])
        except ApiError as error:
            if not error.code.startswith("InvalidAMIID."):
                raise
            return None
        found: list[Told] = answer["Images"]
        return found[0] if found else None

    async def create(  # noqa: D102
        self, instance_id: str, name: str, tags: Mapping[str, str], description: str
    ) -> MachineImage:
        known.forget()
        pairs = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
        deadline, attempt = self._api.clock.monotonic() + PATIENCE, 0
        while True:
            try:
                answer = await self._api.call(
                    "create_image",
                    InstanceId=instance_id,
                    Name=name,
                    Description=description,
                    NoReboot=True,  # it is stopped
                    TagSpecifications=[
                        {"ResourceType": kind, "Tags": pairs} for kind in ("image", "snapshot")
                    ],
                )
            except CloudError as error:
                if (there := await self._of_build(tags[Mark.BUILD])) is not None:
                    return there
                pause = backoff(attempt, self._api.entropy.fraction())
                again = meaning(error).kind in (Kind.UNKNOWN, Kind.ABSENT, Kind.RACE)
                if not again or self._api.clock.monotonic() + pause > deadline:
                    raise
            else:
                return MachineImage(
                    id=answer["ImageId"],
                    name=tags[Tag.NAME],
                    state="pending",
                    created_at=self._api.clock.now(),
                    tags=dict(tags),
                    owner=tags[Tag.OWNER],
                )
            attempt += 1
            await self._api.clock.sleep(pause)

    async def _of_build(self, build: str) -> MachineImage | None:
        """What came of a call that was not answered, or was said before."""
        found = await self._images([matching(f"tag:{Mark.BUILD.value}", build)])
        return _view(found[0]) if found else None

    async def users(self, image: MachineImage) -> list[str]:  # noqa: D102
        filters = [
            matching("image-id", image.id),
            matching("instance-state-name", *(state.value for state in ALIVE)),
        ]
        return [
            f"{tags_of(told).get(Tag.NAME, 'an instance')} ({told['InstanceId']}, "
            f"{told['State']['Name']})"
            async for page in self._api.pages("describe_instances", Filters=filters)
            for reservation in page["Reservations"]
            for told in reservation["Instances"]
        ]

    async def delete(self, image: MachineImage) -> None:  # noqa: D102
        known.forget()
        if image.state == "remains":
            await self._delete_snapshot(image.id)
            return
        # Their ids are told by the image alone, but for one that is not complete.
        told = await self._look(image.id)
        snapshots = set(_snapshots_of(told)) if told else set()
        if build := image.tags.get(Mark.BUILD):
            of_build = await self._snapshots([matching(f"tag:{Mark.BUILD.value}", build)])
            snapshots |= {str(each["SnapshotId"]) for each in of_build}
        if told is not None:
            try:
                await self._api.call("deregister_image", ImageId=image.id)
            except ApiError as error:
                if not error.code.startswith("InvalidAMIID."):
                    raise
        await together(*(self._delete_snapshot(each) for each in sorted(snapshots)))

    async def _delete_snapshot(self, snapshot: str) -> None:
        deadline, attempt = self._api.clock.monotonic() + PATIENCE, 0
        while True:
            try:
                await self._api.call("delete_snapshot", SnapshotId=snapshot)
            except ApiError as error:
                if error.code == "InvalidSnapshot.NotFound":
                    return
                pause = backoff(attempt, self._api.entropy.fraction())
                if (
                    error.code != "InvalidSnapshot.InUse"
                    or self._api.clock.monotonic() + pause > deadline
                ):
                    raise
            else:
                return
            attempt += 1
            await self._api.clock.sleep(pause)


def _view(told: Told) -> MachineImage:
    tags = tags_of(told)
    reason = told.get("StateReason") or {}
    return MachineImage(
        id=told["ImageId"],
        name=tags.get(Tag.NAME) or told.get("Name", ""),
        state=told.get("State", "available"),
        created_at=_seconds(told.get("CreationDate")),
        tags=tags,
        size=sum(_sizes(told)),
        owner=tags.get(Tag.OWNER, ""),
        detail=str(reason.get("Message", "")),
    )


def _remains(told: Told) -> MachineImage:
    tags = tags_of(told)
    return MachineImage(
        id=told["SnapshotId"],
        name=tags.get(Tag.NAME, ""),
        state="remains",
        created_at=_seconds(told.get("StartTime")),
        tags=tags,
        size=int(told.get("VolumeSize", 0)),
        owner=tags.get(Tag.OWNER, ""),
        detail="a snapshot whose image is gone",
    )


def _seconds(moment: Any) -> float:
    """Images have text, snapshots a date."""
    if not moment:
        return 0.0
    date = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
    return date.timestamp()


def _devices(told: Told) -> list[Told]:
    return [each["Ebs"] for each in told.get("BlockDeviceMappings", ()) if "Ebs" in each]


def _sizes(told: Told) -> list[int]:
    return [int(each.get("VolumeSize", 0)) for each in _devices(told)]


def _snapshots_of(told: Told) -> list[str]:
    return [str(each["SnapshotId"]) for each in _devices(told) if each.get("SnapshotId")]
