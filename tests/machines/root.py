"""Stock root images: what a bare cloud image has and no more, built once and kept.

An image is a folder that debootstrap has filled, with what tells cloud-init that it is on EC2.
It is the lowest layer of every machine's disk and is never written to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.machines.box import Execute, here
from tests.machines.disks import Disk

#: Debian's, with Python 3.11 and 3.13.
RELEASES = ("bookworm", "trixie")
MIRROR = "http://deb.debian.org/debian"
#: Debian's own cloud images have these and much that is of no use here; neither has pip.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "sudo",
    "iproute2",
    "netbase",
    "procps",
    "cloud-init",
    "python3",
    "ca-certificates",
    "curl",
)
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
#: The account that the image lets the owner of the key in to.
USERNAME = "debian"
#: Where a root is kept, unless this names another folder.
CACHE_VARIABLE = "MACHINES_CACHE"

# Nothing in the firmware says EC2, so this does, where a Xen instance has it: cloud-init asks
# for a token (IMDSv2) only where it is sure. Not before its first stage, which would then look
# for a DHCP client.
_HYPERVISOR = (
    "[Service]\n"
    "ExecStartPre=/bin/sh -c 'mount -o remount,rw /sys && mkdir -p /sys/hypervisor && "
    "echo ec2e1916-9099-7caf-fd21-012345abcdef >/sys/hypervisor/uuid && "
    "mount -o remount,ro /sys'\n"
)
#: Path in the root -> content.
FILES = {
    "etc/apt/sources.list": "deb {mirror} {release} main\n",
    # Debian's names of cloud-init's second stage, the older and the newer one.
    "etc/systemd/system/cloud-init.service.d/90-ec2.conf": _HYPERVISOR,
    "etc/systemd/system/cloud-init-network.service.d/90-ec2.conf": _HYPERVISOR,
    "etc/cloud/ds-identify.cfg": "datasource: Ec2\npolicy: enabled\n",
    "etc/cloud/cloud.cfg.d/90_ec2.cfg": (
        "datasource_list: [ Ec2 ]\n"
        "datasource: {Ec2: {strict_id: false, max_wait: 10, timeout: 5}}\n"
        # Each machine's address is on its disk before it boots, in place of DHCP.
        "network: {config: disabled}\n"
        "locale: C.UTF-8\n"
    ),
    # Nobody answers names: at once, and not after the half minute that a silent server costs.
    "etc/resolv.conf": "nameserver 127.0.0.1\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "localhost\n",
    "etc/fstab": "",
    # It comes at the first boot. Empty, and not "uninitialized": then systemd would
    # enable every unit that there is a default for.
    "etc/machine-id": "",
}
#: Run in the root, by sh.
SCRIPT = """set -eu
export DEBIAN_FRONTEND=noninteractive
# debootstrap cannot choose between providers, and so leaves what depends on one unconfigured.
apt-get -y -f --no-install-recommends install
dpkg --audit
dpkg-query -W {packages} >/dev/null
systemctl enable systemd-networkd.service ssh.service
systemctl mask apt-daily.timer apt-daily-upgrade.timer
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
apt-get clean
rm -rf /var/lib/apt/lists/*
! python3 -m pip --version 2>/dev/null
! python3 -m ensurepip --version 2>/dev/null
"""


#: Run in a root with what is to be a layer over it; nothing that it installs is started there.
LAYER_SCRIPT = """set -eu
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get -q update
apt-get -qy --no-install-recommends install {packages}
rm /usr/sbin/policy-rc.d
systemctl disable docker-registry.service 2>/dev/null || true
apt-get clean
rm -rf /var/lib/apt/lists/*
"""


@dataclass(frozen=True)
class Recipe:
    """What a root is made of.

    Attributes:
        release: Debian's code name: ``bookworm`` has Python 3.11, ``trixie`` has 3.13.
    """

    release: str = "bookworm"
    mirror: str = MIRROR
    packages: tuple[str, ...] = PACKAGES

    @property
    def digest(self) -> str:
        """Two recipes with the same digest make the same root."""
        told = repr((self, sorted(FILES.items()), SCRIPT))
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def cache_folder() -> Path:
    """Where roots, and what the package index has given, are kept between runs."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    own = os.environ.get("XDG_CACHE_HOME")
    return Path(own) / "dayfly-machines" if own else Path("/var/cache/dayfly-machines")


def ensure(recipe: Recipe, cache: Path, execute: Execute = here) -> Path:
    """The root of a recipe, built unless it is there; takes a minute or two then.

    Args:
        recipe: What is to be in it.
        cache: Where it is kept.
        execute: Runs a command where it reaches the mirror.

    Raises:
        RuntimeError: It could not be built; the end of the log is in the message.
    """
    root = cache / f"root-{recipe.release}-{recipe.digest}"
    if root.is_dir():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"root-{recipe.release}.lock"):
        if not root.is_dir():
            for stale in cache.glob(f"new-{recipe.release}-*"):
                shutil.rmtree(stale)  # whoever was building it was killed
            new = Path(tempfile.mkdtemp(prefix=f"new-{recipe.release}-", dir=cache))
            new.chmod(0o755)
            try:
                _build(recipe, new, execute)
                new.rename(root)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    return root


def ensure_layer(
    recipe: Recipe, packages: Sequence[str], cache: Path, execute: Execute = here
) -> Path:
    """What more packages put on a root, as a layer over it; built unless it is there.

    Args:
        recipe: Of the root.
        packages: Debian's names.
        cache: Where it is kept.
        execute: Runs a command where it reaches the mirror.

    Raises:
        RuntimeError: It could not be built; the end of the output is in the message.
    """
    told = hashlib.sha256(repr((recipe.digest, packages, LAYER_SCRIPT)).encode())
    layer = cache / f"layer-{packages[0]}-{told.hexdigest()[:12]}"
    if layer.is_dir():
        return layer
    lower = ensure(recipe, cache, execute)
    with locked(cache / f"layer-{packages[0]}.lock"):
        if not layer.is_dir():
            for stale in cache.glob(f"new-layer-{packages[0]}-*"):
                shutil.rmtree(stale)
            new = Path(tempfile.mkdtemp(prefix=f"new-layer-{packages[0]}-", dir=cache))
            disk = Disk(new / "disk", [lower])
            try:
                disk.mount()
                for name in ("etc/resolv.conf", "etc/hosts"):
                    disk.write(name, (Path("/") / name).read_text())
                script = LAYER_SCRIPT.format(packages=" ".join(packages))
                _run(["chroot", str(disk.root), "sh", "-c", script], execute)
                for name in ("etc/resolv.conf", "etc/hosts"):
                    disk.write(name, FILES[name])
                disk.unmount()
                disk.copy(new / "layer")
                (new / "layer").rename(layer)
            finally:
                disk.delete()
                shutil.rmtree(new, ignore_errors=True)
    return layer


def _build(recipe: Recipe, root: Path, execute: Execute) -> None:
    _run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(recipe.packages)}",
            recipe.release,
            str(root),
            recipe.mirror,
        ],
        execute,
        # What it could not configure is mended below, or fails there.
        may_fail=True,
    )
    if not (root / "usr/bin/apt-get").exists():
        raise RuntimeError(f"debootstrap made no {recipe.release}:\n{_tail(root)}")
    for name in ("etc/resolv.conf", "etc/hosts"):
        shutil.copyfile(Path("/") / name, root / name)  # the mirror has a name
    script = SCRIPT.format(packages=" ".join(recipe.packages))
    _run(["chroot", str(root), "sh", "-c", script], execute)
    for name, text in FILES.items():
        path = root / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            text.replace("{mirror}", recipe.mirror).replace("{release}", recipe.release)
        )


def _run(command: list[str], execute: Execute, *, may_fail: bool = False) -> None:
    # Nothing of the environment is the image's business: a proxy or a folder of wheels here is
    # not one there.
    keep = {name: os.environ[name] for name in ("PATH", "http_proxy") if name in os.environ}
    # What it mounts, and what it starts, is gone with it however it ends.
    done = execute([*_UNSHARE, *command], {**keep, "LC_ALL": "C"})
    if done.returncode and not may_fail:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{tail}")


def _tail(root: Path) -> str:
    log = root / "debootstrap/debootstrap.log"
    return "\n".join(log.read_text().splitlines()[-30:]) if log.exists() else "it wrote no log"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for all others who want the same."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
