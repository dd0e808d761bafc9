"""The machines behind emulated instances: containers that systemd boots, told all that EC2 tells.

Each has a disk over that of its image, an address on the bridge, the metadata service at EC2's
own address, and the AWS endpoint in its environment. Nothing of dayfly is put into it.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.aws.imds import MetadataService
from tests.aws.world import Birth
from tests.machines import network
from tests.machines.box import Run
from tests.machines.disks import Disk
from tests.machines.machine import GRACE, Machine

#: In all machines of a process, so that no two of its tests share one.
_serials = itertools.count()

_LINK = """[Match]
Name=host0
[Network]
Address={address}/{prefix}
Gateway={gateway}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


@dataclass
class Node:
    """A machine, and what EC2 is told of it.

    Attributes:
        state: By EC2's names, as of the last thing that was done to it.
        stays: Whether it reads as running, whatever it does.
        ending: Held while its disk is put away, which may take long: others are not in the way.
    """

    birth: Birth
    address: str
    disk: Disk
    machine: Machine
    state: str = "running"
    stays: bool = False
    ending: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class NspawnMachines:
    """The machines of an emulated EC2, by EC2's ids.

    Any thread may call.

    Args:
        run: Where they are.
        metadata: Their metadata service; it is opened and closed by whoever made it.
        endpoint: The URL of the AWS that they use.
        consoles: A folder for what machines print, which is kept when they are gone.
        layers: What the disk of an image consists of, the lowest layer first.

    Attributes:
        files: Put on the disk of each machine that is launched from now on: path -> text.
        disk_size: MiB that machines launched from now on can write; ``None``: no limit.
        containers: Whether those launched from now on have what a container engine needs: more
            rights than others, and a part of the disk that is no overlayfs.
    """

    run: Run
    metadata: MetadataService
    endpoint: str
    consoles: Path
    layers: Callable[[str], Sequence[Path]]
    files: dict[str, str] = field(default_factory=dict)
    disk_size: int | None = None
    containers: bool = False
    _nodes: dict[str, Node] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # What EC2 asks for

    def launch(self, births: Sequence[Birth]) -> dict[str, str]:
        """Power new machines on; returns their addresses.

        Raises:
            KeyError: Nothing is behind an image; then no machine is left.
            RuntimeError: One could not be made; likewise.
        """
        layers = {birth.id: self.layers(birth.details["ImageId"]) for birth in births}
        try:
            with self._lock:
                return {birth.id: self._launch(birth, layers[birth.id]) for birth in births}
        except (OSError, RuntimeError, ValueError):
            self.terminate(birth.id for birth in births if birth.id in self._nodes)
            raise

    def start(self, ids: Iterable[str]) -> None:
        """Power stopped machines on; they keep their disks and addresses."""
        for node in self._of(ids):
            node.machine.wait_off(GRACE)
            with node.ending, self._lock:
                node.disk.mount()
                node.state = "running"
                node.machine.power_on()

    def stop(self, ids: Iterable[str]) -> None:
        """Press the power button of machines that keep their disks."""
        self._end(ids, "stopping", "stopped")

    def terminate(self, ids: Iterable[str]) -> None:
        """End machines for good."""
        self._end(ids, "shutting-down", "terminated")

    def states(self) -> dict[str, str]:
        """The state of every machine that there ever was."""
        with self._lock:
            return {
                key: "running" if node.stays else node.state for key, node in self._nodes.items()
            }

    def console(self, instance_id: str) -> str:
        """What a machine has printed, without delay."""
        return self._nodes[instance_id].machine.console()

    # What tests ask for

    def node(self, instance_id: str) -> Node:
        """A machine and its disk."""
        return self._nodes[instance_id]

    def crash(self, instance_id: str) -> None:
        """A host failure: the machine is gone at once, and EC2 goes on calling it running."""
        node = self._nodes[instance_id]
        node.stays = True
        node.machine.pull_plug()
        assert node.machine.wait_off(GRACE)

    def freeze(self, instance_id: str, frozen: bool = True) -> None:
        """Let a machine hang, or go on."""
        self._nodes[instance_id].machine.freeze(frozen)

    def unplug(self, instance_id: str, out: bool = True) -> None:
        """Pull the network cable of a machine that is on, or put it back."""
        link = self._nodes[instance_id].machine.link
        network.ip("link", "set", link, "down" if out else "up")

    def reboot(self, instance_id: str) -> None:
        """Boot a machine anew, as EC2's ``RebootInstances`` does."""
        self._nodes[instance_id].machine.reboot()

    def snapshot(self, instance_id: str, layer: Path, *, reboot: bool) -> tuple[Path, ...]:
        """Copy what is on a machine's disk; returns the layers that it consists of then.

        Args:
            instance_id: Which machine.
            layer: The folder to make.
            reboot: Whether one that is on is powered off for it, as EC2 does by default.
        """
        node = self._nodes[instance_id]
        again = reboot and node.machine.is_on
        if again:
            node.stays = True
            node.machine.press_power_button()
            node.machine.wait_off(2 * GRACE)
        node.disk.copy(layer)
        if again:
            self.start([instance_id])
            node.stays = False
        return (*node.disk.layers, layer)

    def raze(self) -> None:
        """End every machine at once and delete every disk."""
        nodes = list(self._nodes.values())
        for node in nodes:
            node.state = "shutting-down"
            node.machine.pull_plug()
        for node in nodes:
            # Longer: to delete the disk of one that was terminated takes a while.
            assert node.machine.wait_off(6 * GRACE), f"{node.birth.id} cannot be ended"
            self._finish(node)

    # How

    def _launch(self, birth: Birth, layers: Sequence[Path]) -> str:
        serial = next(_serials)
        name = f"m{serial}"
        address = str(network.FIRST + serial)
        profile = birth.details.get("IamInstanceProfile", {})
        role = profile.get("Name") or profile.get("Arn", "").rpartition("/")[2]
        self.metadata.add(birth.id, birth.instance_type, birth.user_data, role)
        self.metadata.locate(birth.id, address)
        disk = Disk(self.run.folder / name, layers, size=self.disk_size)
        disk.mount()
        for path, text in (self._hardware(address) | self.files).items():
            disk.write(path, text, 0o755 if text.startswith("#!") else 0o644)
        machine = Machine(
            name,
            disk.root,
            self.run.cgroup / name,
            self.consoles / name,
            functools.partial(self._has_ended, birth.id),
            self._room_for_containers(disk.folder) if self.containers else (),
        )
        self._nodes[birth.id] = Node(birth, address, disk, machine)
        machine.power_on()
        return address

    def _room_for_containers(self, folder: Path) -> list[str]:
        options = ["--capability=all", "--system-call-filter=add_key keyctl bpf"]
        for name in ("docker", "containers"):
            path = folder / "nested" / name
            path.mkdir(parents=True)
            options.append(f"--bind={path}:/var/lib/{name}")
        return options

    def _hardware(self, address: str) -> dict[str, str]:
        """What a machine finds out from what it runs on: its address, and which AWS is its own."""
        return {
            "/etc/systemd/network/10-host0.network": _LINK.format(
                address=address, prefix=network.NETWORK.prefixlen, gateway=network.GATEWAY
            ),
            "/etc/hostname": f"ip-{address.replace('.', '-')}\n",
            "/etc/environment": f"AWS_ENDPOINT_URL={self.endpoint}\n",
            "/etc/systemd/system.conf.d/90-ec2.conf": (
                f"[Manager]\nDefaultEnvironment=AWS_ENDPOINT_URL={self.endpoint}\n"
            ),
        }

    def _end(self, ids: Iterable[str], going: str, gone: str) -> None:
        for node in self._of(ids):
            with self._lock:
                node.stays = False
                if node.state in ("shutting-down", "terminated"):
                    continue
                if node.machine.is_on:
                    node.state = going
                    node.machine.press_power_button()
                    continue
                node.state = gone
            self._finish(node)

    def _has_ended(self, instance_id: str) -> None:
        """A machine has gone off: as it was told, by itself, or by a crash."""
        with self._lock:
            node = self._nodes[instance_id]
            if node.state == "running" and not node.stays:
                stops = node.birth.on_poweroff == "stop"
                node.state = "stopping" if stops else "shutting-down"
        self._finish(node)

    def _finish(self, node: Node) -> None:
        with node.ending:
            node.disk.unmount()
            with self._lock:
                if node.state == "stopping":
                    node.state = "stopped"
                elif node.state == "shutting-down":
                    node.state = "terminated"
            if node.state == "terminated" and node.disk.folder.exists():
                node.disk.delete()

    def _of(self, ids: Iterable[str]) -> list[Node]:
        return [self._nodes[each] for each in ids]
