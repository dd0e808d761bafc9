"""The addresses of the box: who is where in its network namespace.

The namespace has one bridge. Machines have addresses on it and a default route to it, as on EC2;
nothing is forwarded, so what they send elsewhere is dropped in silence, as in a subnet without a
way out. What is outside for them has addresses of the documentation networks.
"""

from __future__ import annotations

import ipaddress
import subprocess
from typing import Final

BRIDGE: Final = "machines0"
NETWORK: Final = ipaddress.IPv4Network("10.77.0.0/16")
#: The bridge's own address: here are the tests, the client and the emulated AWS.
GATEWAY: Final = "10.77.0.1"
#: Where the first machine is.
FIRST: Final = ipaddress.IPv4Address("10.77.1.1")
METADATA: Final = "169.254.169.254"
#: The package index, for machines that may reach it.
INDEX: Final = "198.51.100.10"


def build() -> None:
    """Make the bridge in this network namespace, which is a new one."""
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{GATEWAY}/{NETWORK.prefixlen}", "dev", BRIDGE)
    ip("addr", "add", f"{METADATA}/32", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")


def links() -> list[str]:
    """The links to machines that there are."""
    told = ip("-o", "link", "show", "master", BRIDGE)
    return [line.split(":")[1].strip().partition("@")[0] for line in told.splitlines()]


def ip(*arguments: str) -> str:
    """Run ``ip``.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
