"""Whether this machine can be host to machines, and what it lacks if it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.machines import box, root

#: Program -> Debian's package of it.
_NEEDED = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
#: What Debian's releases have; a client's own version must be on one of them.
PYTHONS = ((3, 11), (3, 13))
#: What a box is made of, tried in namespaces that are gone afterwards: what it takes -> how.
_TRIALS = {
    "namespaces and mounts of its own (CAP_SYS_ADMIN)": "true",
    "a network of its own (CAP_NET_ADMIN)": "ip link add machines0 type bridge",
    "cgroups (a writable cgroup2, kernel 5.14)": (
        "umount --recursive --lazy /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup"
        ' && mkdir "/sys/fs/cgroup/$0" && test -e "/sys/fs/cgroup/$0/cgroup.kill";'
        ' status=$?; rmdir "/sys/fs/cgroup/$0"; exit $status'
    ),
    "disks in {cache} (overlayfs, devices)": (
        'cd "$1" && mkdir lower own root && { [ "$(stat -f -c %T .)" != overlayfs ] ||'
        " mount -t tmpfs none own; } && mkdir own/upper own/work && mount -t overlay -o"
        " lowerdir=lower,upperdir=own/upper,workdir=own/work,index=off,metacopy=off,"
        "redirect_dir=off overlay root && mknod root/null c 1 3 && echo >root/null"
    ),
}


def refusal() -> str:
    """Why it cannot, with evidence and what to do; empty if it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "they need root on Linux"
    if sys.version_info[:2] not in PYTHONS:
        have = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        return f"they need Python {have}, as their images have; this is {sys.version.split()[0]}"
    lacking = {package for name, package in _NEEDED.items() if shutil.which(name) is None}
    if lacking:
        return f"apt-get install {' '.join(sorted(lacking))}"
    cache = root.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    for what, how in _TRIALS.items():
        with tempfile.TemporaryDirectory(prefix="trial-", dir=cache) as folder:
            name = f"dayfly-machines-{Path(folder).name}"
            done = subprocess.run(
                [*box.UNSHARE, "sh", "-c", how, name, folder], capture_output=True, text=True
            )
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()[-1:]
            return f"they need {what.format(cache=cache)}; here: {' '.join(said) or 'it failed'}"
    return ""
