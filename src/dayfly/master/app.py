"""The master's socket: one websocket endpoint for clients and workers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from dayfly.errors import WireError
from dayfly.master.doors import serve_client, serve_worker
from dayfly.master.hub import Hub
from dayfly.wire import messages as m
from dayfly.wire.link import HEARTBEAT, MAX_FRAME, PATH, Link, Socket, answer

log = logging.getLogger(__name__)


class App:
    """The door that both kinds of callers come through."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sockets: dict[web.WebSocketResponse, None] = {}

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application()
        application.router.add_get(PATH, self._door)
        return application

    async def aclose(self) -> None:
        """Hang up on everybody."""
        for socket in list(self._sockets):
            await socket.close()

    async def _door(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT, max_msg_size=MAX_FRAME, compress=False, timeout=2.0
        )
        try:
            await socket.prepare(request)
        except ConnectionError:
            return web.Response(status=499)  # the caller is gone already, and hears nothing
        self._sockets[socket] = None
        try:
            await converse(self._hub, socket)
        finally:
            del self._sockets[socket]
        return socket


async def converse(hub: Hub, socket: Socket) -> None:
    """Let a caller in who proves itself, and talk until it is gone."""
    config = hub.config
    secrets = {
        "client": config.access.client_secret,
        "worker": config.access.worker_secret,
    }
    welcome = m.Welcome(
        instance=config.instance.id, package=config.package, journal=hub.journal_name
    )
    try:
        hello = await answer(socket, secrets, welcome)
    except (WireError, TimeoutError, ConnectionError, RuntimeError) as error:
        log.warning("a caller was not let in: %s", error)
        await socket.close()
        return
    if hello.role == "client":
        await serve_client(hub, Link(socket, m.FROM_CLIENT, hello.name))
    else:
        await serve_worker(hub, Link(socket, m.FROM_WORKER, hello.name))


@asynccontextmanager
async def serving(
    hub: Hub, *, host: str = "", port: int = 0, unix_socket: Path | None = None
) -> AsyncIterator[list[int]]:
    """Serve while the block runs, at an address, at a Unix socket, or both.

    Yields:
        The TCP ports that it listens at.
    """
    app = App(hub)
    runner = web.AppRunner(app.application(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        if host:
            await web.TCPSite(runner, host, port).start()
        if unix_socket is not None:
            await web.UnixSite(runner, str(unix_socket)).start()
        yield [address[1] for address in runner.addresses if isinstance(address, tuple)]
    finally:
        await app.aclose()
        await runner.cleanup()
