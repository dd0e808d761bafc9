"""The machine images that there are, for those who list and delete them."""

from __future__ import annotations

from collections.abc import Callable

from dayfly.client.imagebuild import imaging_of
from dayfly.client.outfit import Outfitter
from dayfly.client.picking import Picker
from dayfly.errors import UsageError
from dayfly.parts import Parts

Told = Callable[[str], None]


async def used_by_workers(parts: Parts) -> str:
    """Id of the image that this client's next worker is launched from; empty: of none of these."""
    if parts.cloud.imaging is None:
        return ""
    outfitter = Outfitter(parts)
    instance_type = parts.config.compute.worker_instance_types[0]
    packages = await outfitter.packages(instance_type)
    given = await parts.cloud.imaging.given()
    if given is not None:
        return given.id
    return (await Picker(parts, outfitter).pick(instance_type, packages.key)).image


async def delete_image(parts: Parts, wanted: str, told: Told) -> None:
    """Delete an image of this owner's, by name or id, and its snapshots.

    VMs that were launched from it go on, and are told of.

    Raises:
        UsageError: There is none, or it is not this owner's.
        CloudError: The cloud refused.
    """
    imaging = imaging_of(parts)
    found = [image for image in await imaging.images() if wanted in (image.id, image.name)]
    if not found:
        raise await _none(parts, wanted)
    for image in found:
        users = [] if image.state == "remains" else await imaging.users(image)
        await imaging.delete(image)
        told(f"deleted {image.name} ({image.id}, {image.size} GiB)")
        if users:
            told(f"  still up from it, and not touched: {', '.join(users)}")
    if imaging.base in {wanted, *(image.id for image in found), *(image.name for image in found)}:
        told(f"  target_ami of this configuration names it still: {imaging.base}")


async def _none(parts: Parts, wanted: str) -> UsageError:
    imaging = imaging_of(parts)
    everybody = await imaging.images(everybody=True)
    others = [image for image in everybody if wanted in (image.id, image.name)]
    if others:
        return UsageError(
            f"the image {wanted} is not yours",
            cause=f"its owner is {others[0].owner}",
            hint="whoever made it deletes it",
        )
    return UsageError(
        f"dayfly has made no image {wanted} here",
        cause=f"in {parts.cloud.region}, as {await parts.cloud.owner()}",
        hint="dayfly image list",
    )
