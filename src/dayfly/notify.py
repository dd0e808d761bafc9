"""Tell the service manager that a service is up."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """Say ``READY=1`` to whoever started this service; silent where nobody listens.

    Source: sd_notify(3). An address that begins with ``@`` is in Linux's abstract namespace.

    Raises:
        OSError: The service manager named a socket that does not answer.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        sender.send(b"READY=1")
