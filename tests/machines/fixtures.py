"""The fixture that gives a test an EC2 in a box."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from dayfly.cloud.ec2.network import making
from tests.aws.emulator import EmulatedAws, Life
from tests.aws.fixtures import account
from tests.aws.machine_fixtures import issue_keys
from tests.aws.world import ACCOUNT, REGION
from tests.machines import images, network, root
from tests.machines.box import Run
from tests.machines.images import Images
from tests.machines.index import PackageIndex
from tests.machines.metadata import LinkLocalMetadata
from tests.machines.nspawn import NspawnMachines
from tests.machines.trodden import Trodden, trodden_by

__all__ = [
    "Ec2Box",
    "aws",
    "box",
    "index",
    "module_box",
    "run",
    "shared_box",
    "trixie",
    "trodden",
    "warm_box",
]


@dataclass(frozen=True)
class Ec2Box:
    """A user's home, and an AWS account whose instances are machines that systemd boots.

    Attributes:
        path: ``$HOME``.
        config: What to hand to ``FunctionExecutor(config=...)``.
        config_file: The same as a file, found by every process that the test starts.
        aws: The emulated account.
        machines: What is behind its instances.
        metadata: What they are told at 169.254.169.254, and what they asked.
        index: The package index, which machines cannot reach until it is opened.
        images: What the disks of its images consist of.
    """

    path: Path
    config: dict[str, dict[str, Any]]
    config_file: Path
    aws: EmulatedAws
    machines: NspawnMachines
    metadata: LinkLocalMetadata
    index: PackageIndex
    images: Images
    _timers: list[threading.Timer] = field(default_factory=list)

    def instances(self, role: str = "", *states: str) -> list[Life]:
        """The instances of a role, ``master`` or ``worker``, in some states."""
        return [
            life
            for life in self.aws.instances(*states)
            if role in ("", self.aws.tags(life.id).get("dayfly:role"))
        ]

    def interrupt(self, instance_id: str, notice: float = 120.0) -> None:
        """Take a spot instance back as EC2 does: announced in its metadata, and then cut."""
        self.metadata.announce(instance_id, time.time() + notice)
        timer = threading.Timer(notice, self.aws.interrupt, [instance_id])
        self._timers.append(timer)
        timer.start()

    def write_config(self, **keys: Any) -> None:
        """Set keys of ``aws_ec2`` for every program that begins from now on."""
        self.config["aws_ec2"] |= keys
        self.config_file.write_text(yaml.safe_dump(self.config))

    def files(self, instance_id: str) -> Path:
        """Where the files of a machine that is on are, those in its memory among them."""
        return Path(f"/proc/{self.machines.node(instance_id).machine.init}/root")

    def close(self) -> None:
        """Delete the machines and what they would still be told."""
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self.aws.machines = None
        self.machines.raze()
        for life in self.aws.instances():
            # Shown with a test that fails.
            print(f"--- console of {life.id} ---\n{self.machines.console(life.id)[-6000:]}")


@pytest.fixture(scope="session")
def run() -> Run:
    """The run of the box that these tests are in."""
    current = Run.current()
    if current is None:
        pytest.fail("machine tests run in a box: python -m tests.machines")
    return current


@pytest.fixture
def aws(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    """An account of the test's own, reached from here and from the machines."""
    yield from account(monkeypatch, network.GATEWAY)


@pytest.fixture
def index(run: Run) -> Iterator[PackageIndex]:
    """A package index that no machine can reach yet."""
    with serving(run) as served:
        yield served


@pytest.fixture(scope="session")
def trixie(run: Run) -> str:
    """The id of an image with Python 3.13; it takes a minute or two to make, once."""
    images.stock(run, images.RELEASES[images.TRIXIE])
    return images.TRIXIE


@pytest.fixture
def box(
    run: Run,
    own_home: Path,
    aws: EmulatedAws,
    index: PackageIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Ec2Box]:
    """An EC2 in a box; the test fails if a process, a mount or a link of a machine is left."""
    with boxed(run, own_home, aws, index, monkeypatch) as home:
        yield home


@pytest.fixture(scope="session")
def trodden(run: Run) -> Trodden:
    """What dayfly leaves on a VM and in storage, once for all that do not test how it comes."""
    return trodden_by(run, whole_box)


@pytest.fixture
def warm_box(trodden: Trodden, box: Ec2Box) -> Ec2Box:
    """A box whose image dayfly has been on: nothing has to be installed from an index."""
    trodden.lay(box)
    return box


@pytest.fixture(scope="module")
def module_box(run: Run, trodden: Trodden) -> Iterator[Ec2Box]:
    """Such a box for all tests of a module; take :func:`shared_box`."""
    with whole_box(run) as home:
        trodden.lay(home)
        yield home


@pytest.fixture
def shared_box(module_box: Ec2Box, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Ec2Box:
    """The module's box, whose VMs one test finds as the last one left them; a home of its own."""
    monkeypatch.setenv("DAYFLY_CONFIG_FILE", str(module_box.config_file))
    return module_box


@contextlib.contextmanager
def whole_box(run: Run) -> Iterator[Ec2Box]:
    """A box with all that it needs, for longer than a test."""
    with (
        tempfile.TemporaryDirectory(prefix="dfly-") as home,
        pytest.MonkeyPatch.context() as patch,
        contextlib.contextmanager(account)(patch, network.GATEWAY) as aws,
        serving(run) as index,
        boxed(run, Path(home), aws, index, patch) as whole,
    ):
        yield whole


@contextlib.contextmanager
def serving(run: Run) -> Iterator[PackageIndex]:
    """A package index, for so long."""
    served = PackageIndex(run.cache, run.execute)
    served.listen()
    try:
        yield served
    finally:
        served.close()
        served.refuse()


@contextlib.contextmanager
def boxed(
    run: Run, path: Path, aws: EmulatedAws, index: PackageIndex, patch: pytest.MonkeyPatch
) -> Iterator[Ec2Box]:
    """Machines behind an account, for so long."""
    config: dict[str, dict[str, Any]] = {
        "dayfly": {"backend": "aws_ec2"},
        "aws": {"region": REGION},
        "aws_ec2": {
            "instance_role": aws.role,
            "target_ami": images.OWN,
            "ssh_username": root.USERNAME,
            "ssh_cidr": str(network.NETWORK),
            "master_instance_type": "t3.micro",
            "worker_instance_type": "t3.medium",
            "start_timeout": 60,
        },
    }
    config_file = path / "config.yaml"
    patch.setenv("DAYFLY_CONFIG_FILE", str(config_file))
    # The emulated EC2 lists what it made at once.
    patch.setattr(making, "SETTLE", 0.1)
    known = Images(run, aws)

    def zone(instance_id: str) -> str:
        return aws.world.lives[instance_id].pool[1]

    with LinkLocalMetadata(region=REGION, account=ACCOUNT, zone=zone, issue=issue_keys) as metadata:
        consoles = path / "consoles"
        consoles.mkdir()
        machines = NspawnMachines(run, metadata, aws.endpoint, consoles, known.layers)
        aws.machines = machines
        aws.world.on_image = lambda *told: known.make(machines, *told)
        home = Ec2Box(path, config, config_file, aws, machines, metadata, index, known)
        home.write_config()
        try:
            yield home
        finally:
            home.close()
            known.close()
    left = leftovers(run)
    assert not left, f"left of the machines: {left}"


def leftovers(run: Run) -> list[str]:
    """What there is of machines: cgroups with their processes, mounts, links, files."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [
        *(str(path) for path in run.cgroup.iterdir() if path.is_dir()),
        *(mount for mount in mounts if mount.startswith(f"{run.folder}/")),
        *network.links(),
        *(str(path) for path in run.folder.iterdir()),
    ]
