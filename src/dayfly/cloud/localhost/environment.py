"""What a VM's processes see of the environment: that of a fresh machine, not the launcher's."""

from __future__ import annotations

import getpass
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import dayfly
from dayfly.cloud.localhost.record import Layout

# What describes the machine rather than its user: none of the launcher's secrets, nothing of
# its Python. COVERAGE_ lets the project's tests measure what runs inside VMs.
_KEPT = ("COVERAGE_", "LC_", "PIP_", "UV_")
_KEPT_NAMES = frozenset(
    {"LANG", "TZ", "PATH", "LD_LIBRARY_PATH"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}
)


def user_name() -> str:
    """The user whose processes we are; by number when it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        return f"uid-{os.getuid()}"


def machine_environment(
    layout: Layout, launcher: Mapping[str, str], given: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a VM's supervisor and init: it finds dayfly, and carries the marks.

    Args:
        layout: The VM's.
        launcher: The environment of whoever powers it on, most of which stays there.
        given: What this machine is to have all the same; it goes before the launcher's.
    """
    kept = {
        name: value
        for name, value in launcher.items()
        if name.startswith(_KEPT) or name.upper() in _KEPT_NAMES
    }
    source = str(Path(dayfly.__file__).parent.parent)
    path = [entry for entry in launcher.get("PYTHONPATH", "").split(os.pathsep) if entry]
    # A checkout must be named; site-packages is found, and would hide the standard library.
    if source not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *path):
        path.append(source)
    return {
        **kept,
        **given,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",  # the VM's own files never shadow modules
        "DAYFLY_INSTANCE": layout.id,
        "DAYFLY_ROOT": str(layout.root),
    }


def guest_environment(layout: Layout, machine: Mapping[str, str]) -> dict[str, str]:
    """The environment of everything that init starts."""
    kept = {
        name: value for name, value in machine.items() if not name.startswith(("PYTHON", "DAYFLY_"))
    }
    user = user_name()
    return kept | {
        "DAYFLY_INSTANCE": layout.id,
        "DAYFLY_ROOT": str(layout.root),
        "HOME": str(layout.home),
        "TMPDIR": str(layout.root / "tmp"),
        "PATH": f"{layout.root / 'usr/bin'}{os.pathsep}{machine.get('PATH', os.defpath)}",
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
    }
