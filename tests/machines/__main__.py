"""Runs the machine tests in namespaces of their own: ``python -m tests.machines [pytest's]``.

The namespaces (network, mounts, processes) have no names: they, and with them every machine,
mount and link, are gone when the run's first process ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import sys

from tests.machines import box, root

#: Program -> Debian's package of it.
_NEEDED = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}


def main(arguments: list[str]) -> None:
    """Become the run; returns only if it cannot be."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        sys.exit("the machine tests need root on Linux")
    lacking = {package for name, package in _NEEDED.items() if shutil.which(name) is None}
    if lacking:
        sys.exit(f"the machine tests need: apt-get install {' '.join(sorted(lacking))}")
    cache = root.cache_folder()
    root.ensure(root.Recipe(), cache)
    run = box.open_run(cache)
    os.environ.update(run.environment)
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp(  # noqa: S606 - it has no shell, and that is as it should be
        "unshare", [*unshare, sys.executable, "-m", "tests.machines.inside", *arguments]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
