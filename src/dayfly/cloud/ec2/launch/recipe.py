"""What one RunInstances call says, made from values: the same values make the same call.

All that an instance needs to be found, to be billed to somebody and to end by itself is said in
the launch call; nothing is added afterwards, since a client may die in between.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dayfly.cloud.ec2.launch.pools import Batch
from dayfly.errors import ConfigError
from dayfly.model import Guarded, InstanceSpec, Tag

#: Bytes of user-data that EC2 takes, before base64. Source: RunInstances in the API reference.
USER_DATA: Final = 16 * 1024


class Recipe(Guarded, frozen=True, kw_only=True):
    """All that the calls of one launch have in common.

    Attributes:
        spec: What was asked for; its user-data is in ``user_data``.
        user_data: As it is sent, in base64: compressed anew it might not be the same bytes.
        images: Instance type -> image.
        volumes: Instance type -> block device mappings, as EC2 takes them.
        burstable: Instance types that have CPU credits.
        public: Subnet -> whether its instances have public addresses; one that is not there
            goes by its own setting.
        own_network: Whether the network is ours, and perhaps seconds old.
        profile: The instance profile's name.
        hops: How far an answer of the metadata service may travel; a container is one more.
        launch: The value of the tag that names the launch.
    """

    spec: InstanceSpec
    user_data: str
    images: dict[str, str]
    volumes: dict[str, list[dict[str, Any]]]
    burstable: list[str]
    public: dict[str, bool]
    security_group: str
    own_network: bool
    profile: str
    key_name: str
    hops: int
    launch: str


def client_token(launch: str, wave: int, index: int, batch: Batch) -> str:
    """The token by which EC2 knows a batch again; at most 64 ASCII characters."""
    text = "\0".join([launch, str(wave), str(index), batch.pool.key, str(batch.count)])
    return hashlib.sha256(text.encode()).hexdigest()[:64]


def parameters(recipe: Recipe, batch: Batch, token: str) -> dict[str, Any]:
    """The parameters of the RunInstances call for one batch."""
    spec, pool = recipe.spec, batch.pool
    interface: dict[str, Any] = {
        "DeviceIndex": 0,
        "SubnetId": pool.subnet,
        "Groups": [recipe.security_group],
        "DeleteOnTermination": True,
    }
    if pool.subnet in recipe.public:
        interface["AssociatePublicIpAddress"] = recipe.public[pool.subnet]
    told: dict[str, Any] = {
        "ClientToken": token,
        "ImageId": recipe.images[pool.instance_type],
        "InstanceType": pool.instance_type,
        "MinCount": 1,
        "MaxCount": batch.count,
        "NetworkInterfaces": [interface],
        "BlockDeviceMappings": recipe.volumes[pool.instance_type],
        "TagSpecifications": _tag_specifications(recipe, batch),
        "UserData": base64.b64decode(recipe.user_data),  # botocore encodes it again
        "InstanceInitiatedShutdownBehavior": spec.on_poweroff,
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": recipe.hops,
        },
    }
    if recipe.profile:
        told["IamInstanceProfile"] = {"Name": recipe.profile}
    if recipe.key_name:
        told["KeyName"] = recipe.key_name
    if pool.spot:
        # No MaxPrice: AWS advises against one, it only brings more interruptions.
        told["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "one-time",
                "InstanceInterruptionBehavior": "terminate",
            },
        }
        if pool.instance_type in recipe.burstable:
            # Their default may be unlimited, which bills surplus credits on top of the price.
            told["CreditSpecification"] = {"CpuCredits": "standard"}
    return told


def _tag_specifications(recipe: Recipe, batch: Batch) -> list[dict[str, Any]]:
    spec, pool = recipe.spec, batch.pool
    tags = spec.tags | spec.type_tags.get(pool.instance_type, {}) | {Tag.LAUNCH: recipe.launch}
    if pool.hourly:
        tags |= {Tag.HOURLY: pool.hourly}
    listed = [{"Key": str(key), "Value": value} for key, value in sorted(tags.items())]
    kinds = ["instance", "volume", "network-interface"]
    if pool.spot:
        kinds.append("spot-instances-request")
    return [{"ResourceType": kind, "Tags": listed} for kind in kinds]


def pack_user_data(text: str) -> str:
    """User-data as it is sent, in base64; compressed where it is too long, which cloud-init reads.

    Raises:
        ConfigError: It is too long even so.
    """
    raw = text.encode()
    packed = raw if len(raw) <= USER_DATA else gzip.compress(raw, mtime=0)
    if len(packed) > USER_DATA:
        raise ConfigError(
            f"the user-data of the VMs is too long: {len(raw):,} bytes, "
            f"{len(packed):,} when compressed",
            cause=f"EC2 takes {USER_DATA:,} bytes",
            hint="shorten extra_apt_packages or extra_python_packages, or make an image: "
            "dayfly image build",
        )
    return base64.b64encode(packed).decode()


def volumes(
    given: Sequence[Mapping[str, Any]], *, root_device: str, root_size: int
) -> list[dict[str, Any]]:
    """The block device mappings of an instance: an encrypted root, and what was given.

    Every volume is deleted with its instance.

    Args:
        given: ``ebs_volumes`` of the configuration.
        root_device: The image's.
        root_size: The least size of it, in GiB; 0 where the image does not tell.
    """
    mappings = [_camel(volume) for volume in given]
    root: dict[str, Any] = {"VolumeType": "gp3", "Encrypted": True}
    if root_size:
        root["VolumeSize"] = root_size
    if not any(mapping.get("DeviceName") == root_device for mapping in mappings):
        mappings.insert(0, {"DeviceName": root_device, "Ebs": {}})
    for mapping in mappings:
        if "NoDevice" in mapping or "VirtualName" in mapping:
            continue
        own = root if mapping.get("DeviceName") == root_device else {}
        mapping["Ebs"] = own | mapping.get("Ebs", {}) | {"DeleteOnTermination": True}
    return mappings


def _camel(value: Any) -> Any:
    """Keys in snake case as EC2 writes them: ``volume_size`` -> ``VolumeSize``."""
    if not isinstance(value, Mapping):
        return value
    return {
        "".join(part[:1].upper() + part[1:] for part in str(key).split("_")): _camel(inner)
        for key, inner in value.items()
    }
