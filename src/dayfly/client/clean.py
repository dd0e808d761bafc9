"""Remove what dayfly made, and show from the cloud's own listing what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from dayfly import errors
from dayfly.client.visit import visit
from dayfly.cloud.base import Resource
from dayfly.model import ALIVE, InstanceState, JobState, Tag
from dayfly.parts import Parts
from dayfly.shell.ssh import sweep
from dayfly.storage import keys
from dayfly.wire import messages as m

#: Seconds to wait for instances to be gone.
PATIENCE = 300.0

Told = Callable[[str], None]


async def clean(parts: Parts, *, everything: bool, told: Told) -> Sequence[Resource]:
    """Delete the workers and dayfly's temporary objects.

    Running it again resumes what a failure cut short.

    Args:
        parts: Which cloud and storage.
        everything: Also the master, the cluster's keys, and all else that dayfly made.
        told: Called with each thing done, for the user to read.

    Returns:
        What of ours the cloud still lists: with ``everything``, nothing.

    Raises:
        CloudError: The cloud refused, or instances are not gone in time.
    """
    await _cancel_jobs(parts, told)
    await _terminate(parts, everything=everything, told=told)
    await _delete_objects(parts, everything=everything, told=told)
    await _delete_images(parts, everything=everything, told=told)
    if everything:
        await parts.cloud.purge()
        sweep()
    return await parts.cloud.inventory()


async def _cancel_jobs(parts: Parts, told: Told) -> None:
    """So that no client launches again what is being removed."""
    with suppress(errors.ShellError, errors.WireError):  # a master that is broken goes anyway
        async with visit(parts) as door:
            rows = await door.list_jobs() if door else []
            for row in rows:
                if door and row.state is JobState.RUNNING:
                    await door.send(m.Cancel(job=row.id))
                    told(f"cancelled job {row.id} of {row.client}")
            if door and rows:
                await door.list_jobs()  # the answer says that the cancels were heard


async def _terminate(parts: Parts, *, everything: bool, told: Told) -> None:
    mine: dict[str, str] = {Tag.MANAGED: "true", Tag.OWNER: await parts.cloud.owner()}
    found = await parts.cloud.list(tags=mine, states=ALIVE)
    if not everything:
        found = [instance for instance in found if instance.tags.get(Tag.ROLE) != "master"]
    ids = [instance.id for instance in found]
    if not ids:
        return
    await parts.cloud.terminate(ids)
    deadline = parts.clock.monotonic() + PATIENCE
    while True:
        left = [
            instance
            for instance in await parts.cloud.list(ids=ids)
            if instance.state is not InstanceState.TERMINATED
        ]
        if not left:
            break
        if parts.clock.monotonic() >= deadline:
            raise errors.CloudError(
                f"{len(left)} instances are not gone after {PATIENCE:.0f} s: "
                + ", ".join(f"{i.id} is {i.state}" for i in left),
                hint="dayfly clean again",
            )
        await parts.clock.sleep(parts.cloud.pace)
    for instance in found:
        told(f"terminated {instance.name} ({instance.id})")


async def _delete_images(parts: Parts, *, everything: bool, told: Told) -> None:
    """Machine images: all, or those that will never be of use."""
    imaging = parts.cloud.imaging
    for image in await imaging.images() if imaging else ():
        if imaging and (everything or image.broken):
            await imaging.delete(image)
            told(f"deleted the image {image.name} ({image.id}, {image.state})")


async def _delete_objects(parts: Parts, *, everything: bool, told: Told) -> None:
    prefixes = (keys.ROOT,) if everything else keys.TEMPORARY
    for prefix in prefixes:
        found = [key async for key in parts.storage.list_keys(prefix)]
        await parts.storage.delete_objects(found)
        if found:
            told(f"deleted {len(found)} objects below {prefix}")
