"""What a RunInstances call asks for, and what EC2 refuses before it looks for capacity."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any

from moto.iam.models import iam_backends

from tests.aws.pools import facts, is_offered, spot_price, vcpus
from tests.aws.refusals import Refusal
from tests.aws.world import ACCOUNT, World

#: Bytes of user-data before encoding, and characters of a token.
_LONGEST_DATA, _LONGEST_TOKEN = 16384, 64
_TAGGABLE = ("instance", "volume", "network-interface", "spot-instances-request")


class Demand:
    """One RunInstances call, read and checked.

    Attributes:
        least: ``MinCount``.
        most: ``MaxCount``.
        nic: What it says of the first network interface.
        tags: By resource type.
        user_data: Decoded, and unpacked.
        groups: moto's security groups.
        volumes: Device -> what is to be there.

    Raises:
        Refusal: It asks for something that cannot be.
    """

    def __init__(self, world: World, params: dict[str, Any]) -> None:
        self.world = world
        self.backend = world.backend
        self.params = params
        self.instance_type: str = params.get("InstanceType", "m1.small")
        self.least = int(params.get("MinCount", 0))
        self.most = int(params.get("MaxCount", 0))
        market = params.get("InstanceMarketOptions", {})
        self.spot = market.get("MarketType") == "spot"
        self.spot_options: dict[str, Any] = market.get("SpotOptions", {})
        nics = params.get("NetworkInterfaces", [])
        self.nic: dict[str, Any] = nics[0] if nics else {}
        self.tags = {
            each.get("ResourceType", ""): {t["Key"]: t.get("Value", "") for t in each["Tags"]}
            for each in params.get("TagSpecifications", [])
        }

        self._check_numbers()
        self._check_tags()
        self.image = self._find_image()
        self._check_type()
        self._check_market()
        self.user_data = self._read_user_data()
        self.profile = self._find_profile()
        self._check_key()
        self.subnet = self._find_subnet()
        self.groups = self._find_groups()
        self.volumes = self._plan_volumes()
        self._check_zone()

    @property
    def zone(self) -> str:
        return str(self.subnet.availability_zone)

    @property
    def pool(self) -> tuple[str, str, bool]:
        return self.instance_type, self.zone, self.spot

    @property
    def vcpus(self) -> int:
        """Of each instance."""
        return vcpus(self.instance_type)

    @property
    def token(self) -> str:
        return str(self.params.get("ClientToken", ""))

    @property
    def is_placed(self) -> bool:
        """Whether the call names a zone, which makes its token one of that zone."""
        return bool(self._subnet_id() or self.params.get("Placement", {}).get("AvailabilityZone"))

    @property
    def is_public(self) -> bool:
        """Whether the instances get public addresses."""
        asked = self.nic.get("AssociatePublicIpAddress")
        return bool(self.subnet.map_public_ip_on_launch if asked is None else asked)

    @property
    def on_poweroff(self) -> str:
        # A one-time spot instance cannot be stopped by anybody.
        default = "terminate" if self.spot else "stop"
        return str(self.params.get("InstanceInitiatedShutdownBehavior", default))

    @property
    def digest(self) -> str:
        """Of everything but the token."""
        told = {k: v for k, v in self.params.items() if k not in ("ClientToken", "DryRun")}
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def _check_numbers(self) -> None:
        if not 1 <= self.least <= self.most:
            raise Refusal(
                "InvalidParameterValue",
                f"Invalid value '{self.most}' for maxCount. Must be at least minCount "
                f"'{self.least}', which must be at least 1.",
            )
        if len(self.token) > _LONGEST_TOKEN:
            raise Refusal("InvalidParameterValue", "The client token is longer than 64 characters")

    def _read_user_data(self) -> str:
        data = base64.b64decode(self.params.get("UserData") or "")
        if len(data) > _LONGEST_DATA:
            raise Refusal("InvalidParameterValue", "User data is limited to 16384 bytes")
        # As cloud-init does.
        return (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode()

    def _check_key(self) -> None:
        key = self.params.get("KeyName")
        if key and key not in self.backend.key_pairs:
            raise Refusal("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")

    def _check_zone(self) -> None:
        if not is_offered(self.instance_type, self.zone):
            raise Refusal(
                "Unsupported",
                f"Your requested instance type ({self.instance_type}) is not supported in your "
                f"requested Availability Zone ({self.zone}).",
            )
        cap = self.spot_options.get("MaxPrice")
        if self.spot and cap and float(cap) < spot_price(self.instance_type, self.zone):
            raise Refusal(
                "SpotMaxPriceTooLow",
                f"Your Spot request price of {cap} is lower than the minimum required Spot "
                f"request fulfillment price of {spot_price(self.instance_type, self.zone)}.",
            )

    def _check_tags(self) -> None:
        for kind in self.tags:
            if kind not in _TAGGABLE or (kind == "spot-instances-request" and not self.spot):
                raise Refusal(
                    "InvalidParameterValue",
                    f"'{kind}' is not a valid taggable resource type for this operation.",
                )

    def _find_image(self) -> Any:
        image_id = self.params.get("ImageId", "")
        if not image_id.startswith("ami-"):
            raise Refusal("InvalidAMIID.Malformed", f'Invalid id: "{image_id}" (expecting "ami-")')
        if image_id not in self.backend.amis:
            raise Refusal("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
        image = self.backend.amis[image_id]
        if image.state != "available":
            message = f"The image id '[{image_id}]' is not available: it is {image.state}"
            raise Refusal("InvalidAMIID.Unavailable", message)
        return image

    def _check_type(self) -> None:
        known = facts(self.instance_type)
        if known is None:
            raise Refusal(
                "InvalidParameterValue",
                f"Invalid value '{self.instance_type}' for InstanceType.",
            )
        supported = known["ProcessorInfo"]["SupportedArchitectures"]
        if self.image.architecture not in supported:
            raise Refusal(
                "Unsupported",
                f"The requested configuration is currently not supported: the architecture "
                f"'{', '.join(supported)}' of the specified instance type does not match the "
                f"architecture '{self.image.architecture}' of the specified AMI.",
            )
        if "CreditSpecification" in self.params and not known["BurstablePerformanceSupported"]:
            raise Refusal(
                "InvalidParameterCombination",
                f"The {self.instance_type} instance type does not support CPU credits.",
            )

    def _check_market(self) -> None:
        if not self.spot:
            return
        options = self.spot_options
        if options.get("SpotInstanceType", "one-time") != "one-time":
            raise Refusal("InvalidParameterCombination", "Persistent requests are not emulated.")
        if options.get("InstanceInterruptionBehavior", "terminate") != "terminate":
            raise Refusal(
                "InvalidParameterCombination",
                "One-time Spot Instances can only be terminated when they are interrupted.",
            )
        if self.params.get("InstanceInitiatedShutdownBehavior") == "stop":
            raise Refusal(
                "InvalidParameterCombination",
                "The shutdown behavior 'stop' is not supported for one-time Spot Instances.",
            )

    def _find_profile(self) -> dict[str, str]:
        given = self.params.get("IamInstanceProfile", {})
        if not given:
            return {}
        name = given.get("Name") or given.get("Arn", "").rpartition("/")[2]
        for profile in iam_backends[ACCOUNT]["aws"].instance_profiles.values():
            if profile.name == name:
                return {"Arn": profile.arn, "Id": profile.id}
        raise Refusal(
            "InvalidParameterValue",
            f"Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM "
            "Instance Profile name",
        )

    def _subnet_id(self) -> str:
        return str(self.nic.get("SubnetId") or self.params.get("SubnetId") or "")

    def _find_subnet(self) -> Any:
        if self.nic and ({"SubnetId", "SecurityGroupIds", "SecurityGroups"} & set(self.params)):
            raise Refusal(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level subnet ID or security groups may not "
                "be specified on the same request",
            )
        wanted = self._subnet_id()
        zone = self.params.get("Placement", {}).get("AvailabilityZone")
        for subnets in self.backend.subnets.values():
            for subnet in subnets.values():
                if wanted and subnet.id == wanted:
                    return subnet
                here = zone in (None, subnet.availability_zone)
                if not wanted and subnet.default_for_az in (True, "true") and here:
                    return subnet
        if wanted:
            raise Refusal("InvalidSubnetID.NotFound", f"The subnet ID '{wanted}' does not exist")
        raise Refusal("MissingInput", "No default subnet for availability zone: '{zone}'.")

    def _find_groups(self) -> list[Any]:
        ids = self.nic.get("Groups") or self.params.get("SecurityGroupIds") or []
        groups = []
        for each in ids:
            group = self.backend.get_security_group_from_id(each)
            if group is None:
                raise Refusal(
                    "InvalidGroup.NotFound", f"The security group '{each}' does not exist"
                )
            if group.vpc_id != self.subnet.vpc_id:
                raise Refusal(
                    "InvalidParameter",
                    f"Security group {each} and subnet {self.subnet.id} belong to different "
                    "networks.",
                )
            groups.append(group)
        return groups or [self.backend.get_default_security_group(self.subnet.vpc_id)]

    def _plan_volumes(self) -> dict[str, dict[str, Any]]:
        """Device -> what the image has there, overridden by what the call says."""
        plans = {each["DeviceName"]: dict(each["Ebs"]) for each in self.image.block_device_mappings}
        for mapping in self.params.get("BlockDeviceMappings", []):
            device, ebs = mapping["DeviceName"], mapping.get("Ebs", {})
            plan = plans.setdefault(device, {"DeleteOnTermination": False})
            size, smallest = ebs.get("VolumeSize"), plan.get("VolumeSize", 1)
            if size is not None and int(size) < smallest:
                raise Refusal(
                    "InvalidBlockDeviceMapping",
                    f"Volume of size {size}GB is smaller than snapshot "
                    f"'{plan.get('SnapshotId')}', expect size >= {smallest}GB",
                )
            plan.update(ebs)
            if "VolumeSize" not in plan:
                raise Refusal("MissingParameter", "The request must contain the parameter size")
        return plans
