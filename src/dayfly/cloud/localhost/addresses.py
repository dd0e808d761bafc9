"""Where a VM answers: a loopback address of its own on Linux, ports of its own elsewhere."""

from __future__ import annotations

import socket
import sys
from collections.abc import Collection, Iterator
from typing import NamedTuple

from dayfly.clock import Entropy
from dayfly.errors import CloudError

SSH_PORT = 2222
SERVICE_PORT = 8080

#: Draws before giving up: there are 15 million addresses.
_DRAWS = 200


class Endpoint(NamedTuple):
    """Where a VM answers."""

    address: str
    ssh_port: int = SSH_PORT
    service_port: int = SERVICE_PORT


def draw_endpoint(taken: Collection[str], entropy: Entropy) -> Endpoint:
    """Draw an endpoint that no VM has and nobody listens at.

    Args:
        taken: Addresses of this cloud's VMs.
        entropy: Chance.

    Raises:
        CloudError: None could be found.
    """
    if sys.platform != "linux":
        # Only 127.0.0.1 answers there unless root adds aliases.
        return Endpoint("127.0.0.1", *free_ports())
    for address in _addresses(entropy):
        endpoint = Endpoint(address)
        if address not in taken and _free(endpoint):
            return endpoint
    raise CloudError("no free loopback address was found", cause=f"{_DRAWS} were tried")


def _addresses(entropy: Entropy) -> Iterator[str]:
    # 127.16.0.0 up: systemd-resolved, Debian's host name and people's own aliases are lower.
    for _ in range(_DRAWS):
        number = int(entropy.hex(8), 16)
        second, third, fourth = number % 239 + 16, number // 239 % 256, number // 61184 % 254 + 1
        yield f"127.{second}.{third}.{fourth}"


def _free(endpoint: Endpoint) -> bool:
    for port in (endpoint.ssh_port, endpoint.service_port):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((endpoint.address, port))
            except OSError:
                return False
    return True


def free_ports() -> tuple[int, int]:
    """Two ports of 127.0.0.1 at which nobody listens."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
