"""Which machine image: the newest Ubuntu 22.04, or the one that was given."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Final

import msgspec

from dayfly.baked import platform_in
from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.marks import Told, matching, tags_of
from dayfly.cloud.ec2.partitions import canonical
from dayfly.environment.lock import Platform
from dayfly.errors import ApiError, ConfigError
from dayfly.model import Tag

log = logging.getLogger(__name__)

#: EC2's names of architectures -> Ubuntu's.
_UBUNTU: Final = {"x86_64": "amd64", "arm64": "arm64"}
#: Source: Canonical, "Find Ubuntu images on AWS"; gp2 in the path up to release 23.04.
_PARAMETER: Final = (
    "/aws/service/canonical/ubuntu/server/22.04/stable/current/{}/hvm/ebs-gp2/ami-id"
)
_NAME: Final = "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{}-server-*"
#: Seconds for which the newest image is not asked for again.
_FRESH: Final = 3600.0


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A machine image.

    Attributes:
        architecture: By EC2's name: ``x86_64`` or ``arm64``.
        root_device: The name of its root volume's device.
        min_root: GiB that its root volume has at least.
        owner: The account that has published it.
        platform: What its tags say that compiled packages can rely on, if it is of our making.
    """

    id: str
    architecture: str
    root_device: str
    name: str
    min_root: int
    owner: str = ""
    platform: Platform | None = None


#: What this process knows: (region, target_ami, architecture) -> the image, and since when.
_known: dict[tuple[str, str, str], tuple[Image, float]] = {}


def forget() -> None:
    """Ask again."""
    _known.clear()


async def find_image(api: Ec2Api, target_ami: str, architecture: str) -> Image:
    """Find the image to launch, by one call where it is given, else by two; asked once an hour.

    Args:
        api: Where.
        target_ami: The image that was given, by id, or by name if it is the account's own;
            empty: the newest Ubuntu 22.04.
        architecture: Of the instance types, by EC2's name.

    Raises:
        ConfigError: There is no such image, or it is for other processors.
    """
    key = (api.region, target_ami, architecture)
    now = api.clock.monotonic()
    if key in _known and 0 <= now - _known[key][1] < _FRESH:
        return _known[key][0]
    if target_ami:
        image = _image(await given(api, target_ami))
        if image.architecture != architecture:
            raise ConfigError(
                f"[aws_ec2] target_ami: {target_ami} is for {image.architecture} processors, and "
                f"the instance types have {architecture} ones",
                cause=f"its name is {image.name}",
                hint="change target_ami, or worker_instance_type and master_instance_type",
            )
    else:
        image = _image(await _ubuntu(api, architecture))
    _known[key] = (image, now)
    return image


async def given(api: Ec2Api, target_ami: str) -> Told:
    """The image that the configuration names, as EC2 tells of it.

    Raises:
        ConfigError: There is none, or it cannot be launched from.
    """
    cause = "it may be another account's, and not shared"
    try:
        if is_id(target_ami):
            told = await api.call("describe_images", ImageIds=[target_ami], IncludeDeprecated=True)
            found = list(told["Images"])
        else:
            found = await _named(api, target_ami)
            cause = "names are looked for among the account's own images only"
    except ApiError as error:
        if not error.code.startswith("InvalidAMIID."):
            raise
        found, cause = [], error.cause
    if not found:
        raise ConfigError(
            f"[aws_ec2] target_ami: there is no image {target_ami} in {api.region}",
            cause=cause,
            hint="dayfly image list; or leave it out: then it is the newest Ubuntu 22.04",
        )
    image: Told = min(found, key=_preference)
    if image.get("State", "available") != "available":
        raise ConfigError(
            f"[aws_ec2] target_ami: the image {target_ami} is {image['State']}",
            hint="wait until it is available, or give another one",
        )
    return image


def is_id(target_ami: str) -> bool:
    """Whether it is an id, and not a name."""
    return target_ami.startswith("ami-")


async def _named(api: Ec2Api, name: str) -> list[Told]:
    """The account's own images of a name; another account's may have any name that it likes."""
    found = []
    for filters in ([matching("tag:Name", name), matching("tag-key", Tag.MANAGED)],
                    [matching("name", name)]):  # fmt: skip
        pages = api.pages(
            "describe_images", Owners=["self"], Filters=filters, IncludeDeprecated=True
        )
        found = [image async for page in pages for image in page["Images"]]
        if found:
            break
    return found


def _preference(image: Told) -> tuple[bool, float]:
    """One that can be launched from, and the newest of these."""
    made = datetime.fromisoformat(str(image["CreationDate"]))
    return image.get("State", "available") != "available", -made.timestamp()


async def find_chosen(api: Ec2Api, image_id: str, architecture: str) -> Image | None:
    """The image that was chosen for a launch; ``None`` if it is gone, or for others."""
    try:
        answer = await api.call("describe_images", ImageIds=[image_id])
    except ApiError as error:
        if not error.code.startswith("InvalidAMIID."):
            raise
        return None
    for told in answer["Images"]:
        if told.get("State") == "available" and told["Architecture"] == architecture:
            return _image(told)
    return None


async def _ubuntu(api: Ec2Api, architecture: str) -> Told:
    name = _UBUNTU.get(architecture)
    if name is None:
        raise ConfigError(
            f"there is no Ubuntu for {architecture} processors",
            hint="give worker_instance_type of another kind, or a target_ami",
        )
    owner = canonical(api.region)
    try:
        answer = await api.call("get_parameter", service="ssm", Name=_PARAMETER.format(name))
        newest = str(answer["Parameter"]["Value"])
        told = await api.call(
            "describe_images", ImageIds=[newest], Owners=[owner], IncludeDeprecated=True
        )
        found = list(told["Images"])
    except ApiError as error:
        log.debug("the newest Ubuntu is looked for by its name: %s", error)
        found = []
    if not found:
        found = [
            image
            async for page in api.pages(
                "describe_images",
                Owners=[owner],
                Filters=[
                    matching("name", _NAME.format(name)),
                    matching("architecture", architecture),
                    matching("state", "available"),
                ],
            )
            for image in page["Images"]
        ]
    if not found:
        raise ConfigError(
            f"there is no Ubuntu 22.04 for {architecture} processors in {api.region}",
            hint="name an image in target_ami",
        )
    return max(found, key=lambda image: str(image["CreationDate"]))


def _image(told: Told) -> Image:
    root = told.get("RootDeviceName", "/dev/sda1")
    sizes = {
        device.get("DeviceName"): device.get("Ebs", {}).get("VolumeSize", 0)
        for device in told.get("BlockDeviceMappings", ())
    }
    return Image(
        id=told["ImageId"],
        architecture=told["Architecture"],
        root_device=root,
        name=told.get("Name", ""),
        min_root=int(sizes.get(root, 0)),
        owner=told.get("OwnerId", ""),
        platform=platform_in(tags_of(told)),
    )
