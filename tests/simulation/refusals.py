"""What has no place in virtual time: real sockets, signals, subprocesses and threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from tests.simulation.endings import Refused

_REFUSED = [
    "add_reader",
    "remove_reader",
    "add_writer",
    "remove_writer",
    "add_signal_handler",
    "remove_signal_handler",
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "getaddrinfo",
    "getnameinfo",
    "sendfile",
    "set_default_executor",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendfile",
    "sock_sendto",
    "start_tls",
    "subprocess_exec",
    "subprocess_shell",
]


class Unreal(asyncio.BaseEventLoop):
    """An event loop that has nothing real to give: to ask for it ends the run."""

    # Of the parent, which the typeshed does not tell.
    _check_closed: Callable[[], None]
    _stopping: bool
    _thread_id: int | None

    def fail(self, error: BaseException) -> None:
        """End the run with this error, whoever catches it."""
        raise error


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(loop: Unreal, *args: Any, **options: Any) -> NoReturn:
        error = Refused(f"{name}{args!r}: there is nothing real in a simulation")
        loop.fail(error)
        raise error

    return refuse


for _each in _REFUSED:
    setattr(Unreal, _each, _refusal(_each))
