"""Machine images with something behind them: Debian's, and what CreateImage makes."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.aws.emulator import EmulatedAws
from tests.aws.images import UbuntuImage
from tests.machines import root
from tests.machines.box import Run
from tests.machines.nspawn import NspawnMachines

#: Debian's account.
DEBIAN: Final = "136693071363"
#: Image id -> Debian's release.
RELEASES: Final = {
    "ami-0d12b00c000000000": "bookworm",
    "ami-0d137000000000000": "trixie",
}
BOOKWORM, TRIXIE = RELEASES
#: Debian's release -> what the names of its images call it.
NUMBERS: Final = {"bookworm": "12", "trixie": "13"}
#: The one that has the Python of these tests, as far as one has (``host.py``).
OWN: Final = TRIXIE if sys.version_info[:2] == (3, 13) else BOOKWORM
#: The image that dayfly has been on, where a test has one (``trodden.py``).
TRODDEN: Final = "ami-0d7a0dde000000000"
#: Image id -> what is installed on Debian 12 in it: a container engine.
ENGINES: Final = {
    "ami-0d0c4e50000000000": ("docker.io", "docker-registry"),
    # crun would raise limits, which a host that is a container itself may not be allowed to.
    "ami-0b0d3a50000000000": ("podman", "runc"),
}
DOCKER, PODMAN = ENGINES


class Images:
    """What the disks of images consist of.

    Args:
        run: Where they are kept.
        aws: The account that is to know them.
    """

    def __init__(self, run: Run, aws: EmulatedAws) -> None:
        self._run = run
        self._aws = aws
        self._made: dict[str, tuple[Path, ...]] = {}
        self._copies: list[threading.Thread] = []
        for image_id, release in RELEASES.items():
            register(aws, image_id, release)
        for image_id in ENGINES:
            register(aws, image_id, RELEASES[BOOKWORM])

    def add(self, image_id: str, release: str, *more: Path) -> None:
        """Have the account know one more image of a release: its root with layers over it."""
        register(self._aws, image_id, release)
        self._made[image_id] = (stock(self._run, release), *more)

    def layers(self, image_id: str) -> Sequence[Path]:
        """The layers of an image, the lowest one first.

        Raises:
            KeyError: Nothing is behind this image.
        """
        if image_id in self._made:
            return self._made[image_id]
        if image_id in ENGINES:
            return (stock(self._run, RELEASES[BOOKWORM]), engine(self._run, image_id))
        if image_id not in RELEASES:
            raise KeyError(f"{image_id} has no disk in the box; {', '.join(RELEASES)} have")
        return (stock(self._run, RELEASES[image_id]),)

    def make(self, machines: NspawnMachines, instance_id: str, image: Any, reboot: bool) -> None:
        """Begin to make a pending image of a machine; it is available, or failed, by itself."""
        folder = self._run.folder / "images"
        folder.mkdir(exist_ok=True)

        def copy() -> None:
            try:
                self._made[image.id] = machines.snapshot(
                    instance_id, folder / image.id, reboot=reboot
                )
            except BaseException:
                image.state = "failed"
                raise
            image.state = "available"

        thread = threading.Thread(target=copy, name=image.id)
        self._copies.append(thread)
        thread.start()

    def close(self) -> None:
        """Wait for what is being copied, and delete all copies."""
        for thread in self._copies:
            thread.join()
        shutil.rmtree(self._run.folder / "images", ignore_errors=True)


def stock(run: Run, release: str) -> Path:
    """The root of a release; its first use takes a minute or two."""
    return root.ensure(root.Recipe(release), run.cache, run.execute)


def engine(run: Run, image_id: str) -> Path:
    """The layer of an image with a container engine; its first use takes half a minute."""
    recipe = root.Recipe(RELEASES[BOOKWORM])
    return root.ensure_layer(recipe, ENGINES[image_id], run.cache, run.execute)


def register(aws: EmulatedAws, image_id: str, release: str) -> None:
    """Have the account know an image of Debian's."""
    backend = aws.world.backend
    built = datetime(2025, 5, 20, tzinfo=UTC)
    image = UbuntuImage(
        backend,
        image_id,
        name=f"debian-{NUMBERS[release]}-amd64-{built:%Y%m%d}-2118",
        description=f"Debian {release} (amd64)",
        owner_id=DEBIAN,
        public=True,
        virtualization_type="hvm",
        architecture="x86_64",
        image_location=f"amazon/debian-{NUMBERS[release]}-amd64-{built:%Y%m%d}-2118",
        hypervisor="xen",
        root_device_type="ebs",
        root_device_name="/dev/xvda",
        creation_date=built,
        region_name=f"{backend.region_name}a",
    )
    backend.amis[image.id] = image
