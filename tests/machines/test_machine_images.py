"""Images: what is on a machine's disk is on the machines that are made of its image."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.machines.fixtures import Ec2Box
from tests.machines.guest import Guests

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]


@pytest.fixture
def guests(box: Ec2Box) -> Guests:
    return Guests(box.aws)


async def available(guests: Guests, image: str) -> None:
    async with asyncio.timeout(60):
        while True:
            told = await guests.call("describe_images", ImageIds=[image])
            if told["Images"][0]["State"] == "available":
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("reboot", [False, True])
async def test_an_image_keeps_what_was_written_and_what_was_deleted(
    box: Ec2Box, guests: Guests, reboot: bool
) -> None:
    (one,) = await guests.launch()
    await guests.run(
        one,
        "cloud-init status --wait; echo kept | sudo tee /opt/kept; sudo rm -r /usr/share/doc; sync",
    )
    began = time.monotonic()
    told = await guests.call(
        "create_image",
        InstanceId=one,
        Name="kept",
        NoReboot=not reboot,
        TagSpecifications=[
            {"ResourceType": kind, "Tags": [{"Key": "of", "Value": "test"}]}
            for kind in ("image", "snapshot")
        ],
    )
    await available(guests, told["ImageId"])
    print(f"available after {time.monotonic() - began:.2f} s")
    assert box.aws.state(one) == "running"
    await guests.call("terminate_instances", InstanceIds=[one])
    guests.authority = type(guests.authority)()
    (two,) = await guests.launch(image=told["ImageId"])
    done = await guests.run(two, "cat /opt/kept; ls -d /usr/share/doc; hostname")
    assert done.stdout.split()[0] == "kept"
    assert "No such file" in done.stderr


async def test_another_release_has_another_python(guests: Guests, trixie: str) -> None:
    (one,) = await guests.launch(image=trixie)
    done = await guests.run(one, "python3 -V; sudo systemctl is-system-running --wait")
    assert done.stdout.split() == ["Python", "3.13.5", "running"]
