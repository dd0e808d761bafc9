"""DescribeInstances and its kin: instances as EC2 shows them, filtered and in pages."""

from __future__ import annotations

import base64
import fnmatch
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from tests.aws.life import CODES, Life
from tests.aws.refusals import Refusal
from tests.aws.world import ACCOUNT, World

_FIELDS: dict[str, Callable[[World, Life], Any]] = {
    "architecture": lambda _, life: life.instance.architecture,
    "availability-zone": lambda _, life: life.zone,
    "client-token": lambda _, life: life.token,
    "image-id": lambda _, life: life.instance.image_id,
    "instance-id": lambda _, life: life.id,
    "instance-lifecycle": lambda _, life: "spot" if life.spot else "",
    "instance-state-code": lambda _, life: str(CODES[life.state]),
    "instance-state-name": lambda _, life: life.state,
    "instance-type": lambda _, life: life.instance_type,
    "ip-address": lambda world, life: addresses(world, life)[1],
    "key-name": lambda _, life: life.instance.key_name or "",
    "private-ip-address": lambda world, life: addresses(world, life)[0],
    "reservation-id": lambda _, life: life.reservation,
    "spot-instance-request-id": lambda _, life: life.request,
    "subnet-id": lambda _, life: "" if life.state == "terminated" else life.instance.subnet_id,
    "vpc-id": lambda _, life: "" if life.state == "terminated" else life.instance.vpc_id,
    "iam-instance-profile.arn": lambda _, life: life.profile.get("Arn", ""),
    "instance.group-id": lambda _, life: [group.id for group in life.instance.security_groups],
    "tag-key": lambda world, life: list(world.backend.tags[life.id]),
}


def addresses(world: World, life: Life) -> tuple[str, str]:
    """Private and public address; empty where there is none."""
    nic = life.instance.nics.get(0)
    if nic is None:
        return "", ""
    private = life.address or str(nic.private_ip_address)
    # EC2 tells the public address only once the instance runs.
    public = (life.address or str(nic.public_ip)) if nic.public_ip else ""
    return private, public if life.state != "pending" else ""


def matching(world: World, lives: Iterable[Life], filters: list[dict[str, Any]]) -> list[Life]:
    """The instances that pass all filters; ``*`` and ``?`` stand for what they do in EC2."""
    found = list(lives)
    for each in filters:
        name, values = each.get("Name", ""), each.get("Values", [])
        if name.startswith("tag:"):
            key = name.removeprefix("tag:")
            pick = _tag_picker(key)
        elif name in _FIELDS:
            pick = _FIELDS[name]
        else:
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
        test = _tester(values)
        found = [life for life in found if test(pick(world, life))]
    return found


def _tag_picker(key: str) -> Callable[[World, Life], Any]:
    return lambda world, life: world.backend.tags[life.id].get(key)


def _tester(values: list[str]) -> Callable[[Any], bool]:
    exact = {each for each in values if not set(each) & {"*", "?"}}
    patterns = [re.compile(fnmatch.translate(each)) for each in values if each not in exact]

    def test(value: Any) -> bool:
        if isinstance(value, list):
            return any(test(each) for each in value)
        if value is None:
            return False
        return value in exact or any(pattern.match(value) for pattern in patterns)

    return test


def page(lives: list[Life], params: dict[str, Any]) -> tuple[list[Life], str | None]:
    """One page of instances, and the token of the next one."""
    token, most = params.get("NextToken"), params.get("MaxResults")
    if token:
        try:
            after = int(base64.b64decode(token, validate=True))
        except ValueError:
            raise Refusal("InvalidParameterValue", "Invalid NextToken") from None
        lives = [life for life in lives if life.serial > after]
    if most is None:
        # All in one answer, as EC2 still does for accounts with few instances.
        return lives, None
    if not 5 <= int(most) <= 1000:
        raise Refusal(
            "InvalidParameterValue",
            f"Value ( {most} ) for parameter maxResults is invalid. Expecting a value between 5 "
            "and 1000.",
        )
    shown = lives[: int(most)]
    following = str(shown[-1].serial).encode() if len(lives) > len(shown) else b""
    return shown, base64.b64encode(following).decode() or None


def reservations(world: World, lives: Iterable[Life]) -> list[dict[str, Any]]:
    """Instances grouped by the call that launched them."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for life in lives:
        grouped.setdefault(life.reservation, []).append(describe(world, life))
    return [
        {"ReservationId": key, "OwnerId": ACCOUNT, "Groups": [], "Instances": instances}
        for key, instances in grouped.items()
    ]


def describe(world: World, life: Life) -> dict[str, Any]:
    """An instance by the names of EC2's model."""
    instance = life.instance
    shown: dict[str, Any] = {
        "InstanceId": life.id,
        "ImageId": instance.image_id,
        "State": state(life.state),
        "StateTransitionReason": _transition(world, life),
        "KeyName": instance.key_name,
        "AmiLaunchIndex": instance.ami_launch_index,
        "InstanceType": life.instance_type,
        "LaunchTime": instance.launch_time,
        "Placement": {"AvailabilityZone": life.zone, "Tenancy": "default"},
        "Monitoring": {"State": "disabled"},
        "Architecture": instance.architecture,
        "RootDeviceType": "ebs",
        "RootDeviceName": instance.root_device_name,
        "VirtualizationType": "hvm",
        "Hypervisor": "xen",
        "ClientToken": life.token,
        "EbsOptimized": False,
        "SourceDestCheck": True,
        "PlatformDetails": "Linux/UNIX",
        "MetadataOptions": _metadata(instance.metadata_options),
        "Tags": tags(world, life.id),
        "SecurityGroups": [],
        "BlockDeviceMappings": [],
        "NetworkInterfaces": [],
    }
    if life.spot:
        shown |= {"InstanceLifecycle": "spot", "SpotInstanceRequestId": life.request}
    if life.reason:
        code, message = life.reason
        shown["StateReason"] = {"Code": code, "Message": f"{code}: {message}"}
    if life.profile:
        shown["IamInstanceProfile"] = dict(life.profile)
    if life.state != "terminated":
        shown |= _attached(world, life)
    return shown


def _attached(world: World, life: Life) -> dict[str, Any]:
    """What a terminated instance has no more."""
    instance = life.instance
    private, public = addresses(world, life)
    groups = [{"GroupId": each.id, "GroupName": each.name} for each in instance.security_groups]
    backend = world.backend
    shown: dict[str, Any] = {
        "PrivateIpAddress": private,
        "PrivateDnsName": f"ip-{private.replace('.', '-')}.ec2.internal",
        "SubnetId": instance.subnet_id,
        "VpcId": instance.vpc_id,
        "SecurityGroups": groups,
        "BlockDeviceMappings": [
            {
                "DeviceName": device,
                "Ebs": {
                    "VolumeId": block.volume_id,
                    "Status": "attached",
                    "DeleteOnTermination": block.delete_on_termination,
                    "AttachTime": block.attach_time,
                },
            }
            for device, block in instance.block_device_mapping.items()
        ],
        "NetworkInterfaces": [
            {
                "NetworkInterfaceId": nic.id,
                "Status": nic.status,
                "PrivateIpAddress": private,
                "SubnetId": nic.subnet.id,
                "VpcId": nic.subnet.vpc_id,
                "Groups": groups,
                "Attachment": {
                    "AttachmentId": nic.attachment_id,
                    "DeviceIndex": index,
                    "Status": "attached",
                    "DeleteOnTermination": bool(nic.delete_on_termination),
                },
                "Association": {"PublicIp": public, "IpOwnerId": "amazon"} if public else None,
            }
            for index, nic in instance.nics.items()
            if nic.id in backend.enis
        ],
    }
    if public:
        shown["PublicIpAddress"] = public
        shown["PublicDnsName"] = f"ec2-{public.replace('.', '-')}.compute-1.amazonaws.com"
    return shown


def state(name: str) -> dict[str, Any]:
    return {"Code": CODES[name], "Name": name}


def tags(world: World, resource: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in world.backend.tags[resource].items()]


def _metadata(options: Any) -> dict[str, Any]:
    return {
        "State": "applied",
        "HttpTokens": options.http_tokens,
        "HttpPutResponseHopLimit": options.http_put_response_hop_limit,
        "HttpEndpoint": options.http_endpoint,
        "InstanceMetadataTags": options.instance_metadata_tags,
    }


def _transition(world: World, life: Life) -> str:
    if life.reason is None:
        return ""
    ago = world.now() - life.since
    when = datetime.fromtimestamp(world.wall() - ago, tz=UTC)
    told = {
        "Client.UserInitiatedShutdown": "User initiated",
        "Client.InstanceInitiatedShutdown": "Instance initiated",
        "Server.SpotInstanceTermination": "Server.SpotInstanceTermination",
    }
    return f"{told.get(life.reason[0], life.reason[0])} ({when:%Y-%m-%d %H:%M:%S} GMT)"
