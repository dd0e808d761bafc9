"""Which machine image VMs are launched from: one that has all that this client's jobs need."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from dayfly.baked import NONE, Contents, MachineImage, choose, lacks
from dayfly.client.ground import python
from dayfly.client.outfit import Outfitter
from dayfly.errors import CloudError
from dayfly.parts import Parts

log = logging.getLogger(__name__)

#: Seconds for which a listing of images is trusted.
TRUSTED = 60.0
NO_IMAGE = "workers are launched from no image of yours"


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """An image, and why.

    Attributes:
        image: Its id; empty: the one that the configuration names.
        why: For the user; empty: there is nothing to tell.
    """

    image: str = ""
    why: str = ""


class Picker:
    """Picks images, for one session.

    Args:
        parts: The cloud whose images these are.
        outfitter: Knows what VMs need.
    """

    def __init__(self, parts: Parts, outfitter: Outfitter) -> None:
        self._parts = parts
        self._outfitter = outfitter
        self._listed: tuple[float, MachineImage | None, list[MachineImage]] | None = None
        self._listing = asyncio.Lock()

    async def pick(self, instance_type: str, packages: str | None = None) -> Pick:
        """The newest image of this owner's that has all that a VM needs.

        An image that the configuration names is taken as it is; what it lacks is installed.

        Args:
            instance_type: Of the VM.
            packages: Key of the functions' packages, empty for the VM's own runtime; ``None``
                where no function will run.
        """
        if self._parts.cloud.imaging is None:
            return Pick()
        lock = await self._outfitter.ours(instance_type)
        if lock is None:
            return Pick()  # environment: image, and so the one that is configured
        try:
            given, images = await self._images()
        except CloudError as error:
            # A right that only this needs may be missing.
            log.warning("the machine images cannot be listed, so none is used: %s", error)
            return Pick()
        wanted = Contents(
            kit=lock.key,
            packages="" if packages is None else packages or NONE,
            apt=self._parts.config.compute.system_packages if packages is not None else (),
            platform=lock.platform.name,
            base=self._parts.cloud.imaging.base,
            python=python(),
        )
        pick = _given(given, wanted) if given is not None else _chosen(images, wanted)
        if pick.why:
            log.info("%s: %s", instance_type, pick.why)
        return pick

    async def _images(self) -> tuple[MachineImage | None, list[MachineImage]]:
        imaging, clock = self._parts.cloud.imaging, self._parts.clock
        assert imaging is not None  # noqa: S101  # asked before
        async with self._listing:
            if self._listed is None or self._listed[0] < clock.monotonic():
                given = await imaging.given()
                images = [] if given is not None else await imaging.images()
                self._listed = clock.monotonic() + TRUSTED, given, images
            return self._listed[1:]


def _given(image: MachineImage, wanted: Contents) -> Pick:
    # What it was built from is the user's business here.
    wanted = msgspec.structs.replace(wanted, base=image.tags.get("dayfly:base", ""))
    lacking = lacks(image, wanted)
    why = f"workers are launched from image {image.name} ({image.id}), by target_ami"
    if lacking:
        return Pick(why=f"{why}; some is installed all the same: {'; '.join(lacking)}")
    return Pick(why=f"{why}: it has all that is needed")


def _chosen(images: list[MachineImage], wanted: Contents) -> Pick:
    image, lacking = choose(images, wanted)
    if image is not None:
        return Pick(
            image=image.id,
            why=f"workers are launched from image {image.name} ({image.id}): "
            "it has this program's packages",
        )
    if lacking:
        return Pick(why=f"{NO_IMAGE}: {'; '.join(lacking)} (dayfly image build)")
    return Pick()
