"""CreateImage: an image of an instance, which becomes available when its disk has been copied."""

from __future__ import annotations

from typing import Any

from moto.ec2.utils import random_ami_id

from tests.aws.images import UbuntuImage
from tests.aws.refusals import Refusal
from tests.aws.world import ACCOUNT, World


def create_image(world: World, params: dict[str, Any]) -> str:
    """Make an image as EC2 does, tags and all; returns its id.

    Raises:
        Refusal: There is no such instance, it is on its way, or the name is taken.
    """
    life = world.life(params["InstanceId"])
    name, backend = params["Name"], world.backend
    if life.state not in ("running", "stopped"):
        message = f"Instance is not in state 'running' or 'stopped' but '{life.state}'."
        raise Refusal("IncorrectState", message)
    for other in backend.amis.values():
        if other.name == name and other.owner_id == ACCOUNT:
            raise Refusal(
                "InvalidAMIName.Duplicate",
                f"AMI name {name} is already in use by AMI {other.id}",
            )
    source = backend.amis.get(life.instance.image_id)
    image_id = random_ami_id()
    image = UbuntuImage(
        backend,
        image_id,
        instance=life.instance,
        name=name,
        description=params.get("Description", ""),
        owner_id=ACCOUNT,
        root_device_type="ebs",
        root_device_name=source.root_device_name if source else "/dev/sda1",
        region_name=life.zone,
        snapshot_description=f"Created by CreateImage({life.id}) for {image_id}",
    )
    kinds = {"image": image, "snapshot": image.ebs_snapshot}
    for each in params.get("TagSpecifications", []):
        for tag in each["Tags"]:
            kinds[each["ResourceType"]].add_tag(tag["Key"], tag.get("Value", ""))
    backend.amis[image_id] = image
    if world.on_image is not None:
        image.state = "pending"
        world.on_image(life.id, image, not params.get("NoReboot"))
    return image_id
