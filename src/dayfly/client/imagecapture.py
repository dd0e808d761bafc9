"""The last part of ``image build``: a VM that is furnished is stopped, and an image made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from dayfly.baked import Contents, MachineImage, Mark
from dayfly.cloud.base import Imaging
from dayfly.errors import CloudError, DayflyError
from dayfly.model import Instance, InstanceState, Tag
from dayfly.parts import Parts

#: Seconds until a VM has stopped, and an image of it is available: EC2 copies each byte that was
#: ever written.
STOP, COPY = 300.0, 3600.0
#: Seconds between two words that it is not available yet; and between two looks, at the most.
WORD, LOOK = 30.0, 10.0

Told = Callable[[str], None]


class Capture:
    """Makes images of VMs.

    Args:
        parts: Where.
        imaging: Its images.
        told: Called with each thing done.
    """

    def __init__(self, parts: Parts, imaging: Imaging, told: Told) -> None:
        self._parts = parts
        self._imaging = imaging
        self._told = told

    async def stop(self, instance: Instance) -> None:
        """Stop a VM, so that nothing is written while its disk is copied.

        Raises:
            CloudError: It ended instead, or does not stop.
        """
        parts = self._parts
        began = parts.clock.monotonic()
        await parts.cloud.stop([instance.id])
        while True:
            (now,) = await parts.cloud.list(ids=[instance.id]) or (instance,)
            if now.state is InstanceState.STOPPED:
                break
            if now.state in (InstanceState.TERMINATED, InstanceState.SHUTTING_DOWN):
                raise CloudError(
                    f"the builder {instance.id} has ended before an image was made of it",
                    cause=now.state_reason or "its time may have been over",
                    hint="give it longer: hard_dismantle_timeout",
                )
            if parts.clock.monotonic() - began > STOP:
                raise CloudError(f"the builder {instance.id} is still {now.state}")
            await parts.clock.sleep(parts.cloud.pace)
        self._told(f"the VM has stopped ({parts.clock.monotonic() - began:.1f} s)")

    async def create(
        self, instance: Instance, name: str, contents: Contents, cluster: str
    ) -> MachineImage:
        """Make an image of a stopped VM; returns when it is available. Half of one is deleted.

        Args:
            instance: The VM.
            name: What people will call it.
            contents: What it holds.
            cluster: Whose keys opened the VM.

        Raises:
            CloudError: It cannot be made.
        """
        build = self._parts.entropy.hex(8)
        tags = (
            dict(self._parts.config.compute.tags)
            | contents.tags
            | {
                Tag.NAME.value: name,
                Tag.MANAGED.value: "true",
                Tag.OWNER.value: await self._parts.cloud.owner(),
                Tag.CLUSTER.value: cluster,
                Mark.BUILD.value: build,
            }
        )
        about = f"dayfly {contents.version}, Python {contents.python}, from {contents.base}"
        creating = asyncio.ensure_future(
            self._imaging.create(instance.id, f"{name}-{build}", tags, about)
        )
        try:
            image = await asyncio.shield(creating)
            self._told(f"the image {image.id} is being made of it")
            return await self._available(image)
        except BaseException:
            # Half an image is of no use to anybody, and costs money.
            await asyncio.shield(asyncio.ensure_future(self._undo(creating, build)))
            raise

    async def _undo(self, creating: asyncio.Future[MachineImage], build: str) -> None:
        made = []
        with suppress(DayflyError):  # which is told by who waited for it
            made = [await creating]
        if not made:
            listed = await self._imaging.images()
            made = [image for image in listed if image.tags.get(Mark.BUILD) == build]
        for image in made:
            await self._imaging.delete(image)
            self._told(f"deleted the half-made image {image.id}")

    async def _available(self, image: MachineImage) -> MachineImage:
        clock = self._parts.clock
        began = told = clock.monotonic()
        while True:
            now = await self._imaging.look(image.id)
            took = clock.monotonic() - began
            if now is not None and now.available:
                self._told(f"the image is available ({took:.1f} s)")
                return now
            if now is not None and now.broken:
                raise CloudError(
                    f"the image {image.id} is {now.state}",
                    cause=now.detail,
                    hint="dayfly image build again",
                )
            if took > COPY:
                raise CloudError(f"the image {image.id} is still pending after {COPY:.0f} s")
            if clock.monotonic() - told > WORD:
                told = clock.monotonic()
                self._told(f"it is not available yet ({took:.0f} s)")
            await clock.sleep(min(LOOK, self._parts.cloud.pace * (1.0 + took / 10.0)))
