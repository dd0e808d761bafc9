"""Ubuntu's machine images and the SSM parameters that name the newest of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.models.amis import Ami, AmiBackend
from moto.ssm.models import Parameter, ssm_backends

#: Canonical's account.
CANONICAL = "099720109477"
#: GiB of an image's snapshot.
ROOT_SIZE = 8
#: EC2's name of an architecture -> Ubuntu's.
ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}
#: Older builds and the newest one, which the parameters name.
SERIALS = ("20250112", "20250305", "20250516")


class UbuntuImage(Ami):
    """An image with a root volume that goes with its instance."""

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        ebs = {
            "SnapshotId": self.ebs_snapshot.id,
            "VolumeSize": ROOT_SIZE,
            "DeleteOnTermination": True,
            "VolumeType": "gp2",
            "Encrypted": False,
        }
        return [{"DeviceName": self.root_device_name, "Ebs": ebs}]


def ubuntu(architecture: str = "x86_64", serial: str = SERIALS[-1]) -> str:
    """The id of an Ubuntu 22.04 image: the newest one, unless an older build is named."""
    kind = {"x86_64": "a", "arm64": "b"}[architecture]
    return f"ami-0{kind}2204000{serial}"


def load_images(backend: Any) -> None:
    """Put Ubuntu 22.04 in an EC2 backend, each build, each architecture."""
    for architecture, name in ARCHITECTURES.items():
        for serial in SERIALS:
            built = datetime(int(serial[:4]), int(serial[4:6]), int(serial[6:]), tzinfo=UTC)
            image = UbuntuImage(
                backend,
                ubuntu(architecture, serial),
                name=f"ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{name}-server-{serial}",
                description=f"Canonical, Ubuntu, 22.04 LTS, {name} jammy image",
                owner_id=CANONICAL,
                public=True,
                virtualization_type="hvm",
                architecture=architecture,
                image_location=f"amazon/ubuntu-jammy-22.04-{name}-server-{serial}",
                hypervisor="xen",
                root_device_type="ebs",
                root_device_name="/dev/sda1",
                creation_date=built,
                region_name=f"{backend.region_name}a",
            )
            backend.amis[image.id] = image


def load_parameters(account: str, region: str) -> None:
    """Put Canonical's parameters in SSM."""
    parameters = ssm_backends[account][region]._parameters
    for architecture, name in ARCHITECTURES.items():
        path = (
            f"/aws/service/canonical/ubuntu/server/22.04/stable/current/{name}/hvm/ebs-gp2/ami-id"
        )
        parameters[path].append(
            Parameter(  # type: ignore[abstract]
                account_id=CANONICAL,
                name=path,
                value=ubuntu(architecture),
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=utcnow(),
                version=1,
                data_type="aws:ec2:image",
            )
        )


def replace_moto_images() -> None:
    """Have EC2 backends load these images, in place of the hundreds that moto comes with."""
    AmiBackend._load_amis = load_images  # type: ignore[method-assign, assignment]
