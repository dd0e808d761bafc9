"""RunInstances as EC2 does it: tokens, capacity, and instances tagged from birth."""

from __future__ import annotations

from typing import Any

from moto.ec2.models.block_device import BlockDeviceType
from moto.ec2.models.elastic_block_store import VolumeAttachment
from moto.ec2.models.instances import Instance, Reservation
from moto.ec2.utils import parse_user_data, random_reservation_id, random_spot_request_id

from tests.aws.demand import Demand
from tests.aws.life import Life
from tests.aws.refusals import Refusal
from tests.aws.world import ACCOUNT, Birth, Launched, SpotRequest, World


def launch(world: World, demand: Demand) -> list[Life]:
    """Launch what is demanded, or find what the same token has launched before.

    Raises:
        Refusal: Nothing was launched.
    """
    key = (demand.token, demand.zone if demand.is_placed else "")
    with world.lock:
        before = world.tokens.get(key) if demand.token else None
        if before is None:
            mine = Launched(digest=demand.digest)
            lives = _begin(world, demand, mine)
            if demand.token:
                world.tokens[key] = mine
    if before is not None:
        return _replay(world, demand, before)
    try:
        _make_machines(world, demand, lives)
    except Exception as error:
        with world.lock:
            world.tokens.pop(key, None)
            for life in lives:
                world.forget(life)
        raise Refusal("InternalError", f"The machines could not be made: {error}") from error
    finally:
        mine.done.set()
    return lives


def _replay(world: World, demand: Demand, before: Launched) -> list[Life]:
    if before.digest != demand.digest:
        raise Refusal(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in "
            "previous request(s).",
        )
    before.done.wait(30)
    with world.lock:
        lives = [life for life in world.lives.values() if life.reservation == before.reservation]
    if all(life.state == "terminated" for life in lives):
        raise Refusal(
            "IdempotentInstanceTerminated",
            "The request to launch an instance uses the same client token as a previous request "
            "for which the instance has been terminated.",
        )
    return lives


def _begin(world: World, demand: Demand, mine: Launched) -> list[Life]:
    """Take capacity and make the instances."""
    _check_limits(world, demand)
    count = world.pools.draw(demand.pool, demand.most)
    if count < demand.least:
        for _ in range(count):
            world.pools.give_back(demand.pool)
        market = "Spot " if demand.spot else ""
        raise Refusal(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {market}{demand.instance_type} capacity in the "
            f"Availability Zone you requested ({demand.zone}). Our system will be working on "
            "provisioning additional capacity.",
        )
    mine.reservation = random_reservation_id()
    reservation = Reservation(mine.reservation, owner_id=ACCOUNT)
    world.backend.reservations[reservation.id] = reservation
    lives = [_make(world, demand, index, reservation) for index in range(count)]
    world.lives |= {life.id: life for life in lives}
    return lives


def _check_limits(world: World, demand: Demand) -> None:
    world.check_quota(demand.spot, demand.vcpus * demand.most)
    if demand.subnet.available_ip_address_count < demand.most:
        raise Refusal(
            "InsufficientFreeAddressesInSubnet",
            f"The specified subnet '{demand.subnet.id}' does not have enough free addresses to "
            "satisfy the request.",
        )


def _make(world: World, demand: Demand, index: int, reservation: Reservation) -> Life:
    params = demand.params
    nic = {
        "DeviceIndex": 0,
        "AssociatePublicIpAddress": demand.is_public,
        "DeleteOnTermination": demand.nic.get("DeleteOnTermination", True),
        "Description": demand.nic.get("Description", ""),
    }
    instance = Instance(  # type: ignore[abstract]
        world.backend,
        demand.image.id,
        parse_user_data(params.get("UserData")),
        list(demand.groups),
        instance_type=demand.instance_type,
        region_name=world.backend.region_name,
        subnet_id=demand.subnet.id,
        nics=[nic],
        key_name=params.get("KeyName"),
        ami_launch_index=index,
        client_token=demand.token,
        lifecycle="spot" if demand.spot else None,
        instance_initiated_shutdown_behavior=demand.on_poweroff,
        metadata_options=params.get("MetadataOptions", {}),
    )
    reservation.instances.append(instance)
    _tag(world, demand, "instance", instance.id)
    for each in instance.nics.values():
        _tag(world, demand, "network-interface", each.id)
    for device, plan in demand.volumes.items():
        _attach(world, demand, instance, device, plan)
    life = Life(
        id=instance.id,
        instance=instance,
        serial=world.next_serial(),
        born=world.now(),
        pool=demand.pool,
        vcpus=demand.vcpus,
        token=demand.token,
        reservation=reservation.id,
        profile=demand.profile,
        details=params,
        ready=False,
    )
    life.enter("pending", world.now(), world.pending)
    if world.dooms:
        life.doom = world.dooms.pop(0)
    if demand.spot:
        life.request = _request(world, demand, instance.id)
    return life


def _request(world: World, demand: Demand, instance_id: str) -> str:
    request = SpotRequest(
        id=str(random_spot_request_id()),
        instance=instance_id,
        instance_type=demand.instance_type,
        zone=demand.zone,
        image=demand.image.id,
        created=world.wall(),
        max_price=str(demand.spot_options.get("MaxPrice", "")),
    )
    world.requests[request.id] = request
    _tag(world, demand, "spot-instances-request", request.id)
    return request.id


def _tag(world: World, demand: Demand, kind: str, resource: str) -> None:
    if demand.tags.get(kind):
        world.backend.tags[resource].update(demand.tags[kind])


def _attach(world: World, demand: Demand, instance: Any, device: str, ebs: dict[str, Any]) -> None:
    encrypted = bool(ebs.get("Encrypted"))
    key = f"arn:aws:kms:{world.backend.region_name}:{ACCOUNT}:alias/aws/ebs"
    volume = world.backend.create_volume(
        size=int(ebs["VolumeSize"]),
        zone_name=demand.zone,
        snapshot_id=ebs.get("SnapshotId"),
        encrypted=encrypted,
        kms_key_id=ebs.get("KmsKeyId", key) if encrypted else None,
        volume_type=ebs.get("VolumeType", "gp2"),
        iops=ebs.get("Iops"),
        throughput=ebs.get("Throughput"),
    )
    attachment = VolumeAttachment(volume, instance, device, "attached")  # type: ignore[abstract]
    volume.attachment = attachment
    instance.block_device_mapping[device] = BlockDeviceType(
        volume_id=volume.id,
        status="in-use",
        size=volume.size,
        attach_time=volume.create_time,
        delete_on_termination=ebs["DeleteOnTermination"],
    )
    _tag(world, demand, "volume", volume.id)


def _make_machines(world: World, demand: Demand, lives: list[Life]) -> None:
    """Have machines made, which may take a while; then the instances may be seen."""
    machines = world.machines
    if machines is not None:
        births = [
            Birth(
                id=life.id,
                instance_type=demand.instance_type,
                user_data=demand.user_data,
                on_poweroff=life.on_poweroff,
                spot=demand.spot,
                tags=dict(world.backend.tags[life.id]),
                public=demand.is_public,
                details=demand.params,
            )
            for life in lives
        ]
        for instance_id, address in machines.launch(births).items():
            life = world.lives[instance_id]
            life.address, life.heard = address, "pending"
    with world.lock:
        for life in lives:
            life.ready = True
