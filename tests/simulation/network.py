"""Addresses, who listens there, who hears whom, and how a process calls the master."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiohttp

from dayfly.errors import WireError
from dayfly.wire.link import Decoder, Dial, Link, introduce
from tests.simulation.process import Host, Process, outside
from tests.simulation.stream import BEARS, CLOSING, SimSocket
from tests.simulation.surroundings import heavy

In = TypeVar("In")

#: Seconds until an unanswered call is said again, at first and at most (as Linux does).
SYN, SYN_MOST = 1.0, 64.0
#: Seconds from one process of a host to another.
LOCAL = 30e-6

Handler = Callable[["SimSocket"], Awaitable[None]]


@dataclass(eq=False)
class Listener:
    """Somebody who listens at an address.

    Attributes:
        conversations: With those who have called.
        crashed: Called with what a handler did not expect.
    """

    network: Network
    process: Process
    port: int
    handler: Handler
    crashed: Callable[[Exception], None]
    conversations: dict[asyncio.Task[None], SimSocket] = field(default_factory=dict)

    def take(self, socket: SimSocket) -> None:
        """Somebody calls."""
        if not self.process.alive:
            socket.hang_up()
            return
        task = self.process.spawn(
            self._serve(socket), f"conversation with {socket.peer.process.name}"
        )
        self.conversations[task] = socket

    async def _serve(self, socket: SimSocket) -> None:
        socket.answer()
        try:
            await self.handler(socket)
        except Exception as error:  # noqa: BLE001  # as aiohttp does: the others go on
            self.crashed(error)
        finally:
            task = asyncio.current_task()
            assert task is not None
            del self.conversations[task]
            await socket.close()

    async def aclose(self) -> None:
        """Listen no more, and hang up on everybody, as :mod:`dayfly.master.app` does."""
        self.network.ignore(self)
        for socket in list(self.conversations.values()):
            await socket.close()
        if self.conversations:
            await asyncio.wait(self.conversations, timeout=CLOSING)
        for task in self.conversations:
            task.cancel()


@dataclass(eq=False)
class Tunnel:
    """A socket that an SSH connection has opened here, and that leads to ``host:port`` there.

    Attributes:
        streams: This end of what goes through it.
    """

    host: str
    port: int
    streams: list[SimSocket] = field(default_factory=list)

    def close(self) -> None:
        """The connection is gone, and what went through it."""
        for stream in self.streams:
            stream.sever()


class Network:
    """All hosts, and what is on its way between them.

    Args:
        loop: Its time.
        typical: Seconds that a frame takes, about.
        stream: What latencies and heartbeats are drawn from.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, typical: float, stream: random.Random
    ) -> None:
        self._loop = loop
        self._typical = typical
        self._stream = stream
        self._hosts: dict[str, Host] = {}
        self._dark: set[Host] = set()
        self._partitions: list[tuple[frozenset[Host], frozenset[Host]]] = []
        self._listeners: dict[tuple[Host, int], Listener] = {}
        self._tunnels: dict[Path, Tunnel] = {}
        self._dug = 0
        self._ends: dict[Process, dict[SimSocket, None]] = {}
        self._stranded: dict[SimSocket, None] = {}
        self._stirred = False

    # -- who is where --

    def attach(self, address: str, host: Host) -> None:
        """From now on ``address`` is that host's."""
        self._hosts[address] = host

    def detach(self, host: Host) -> None:
        """It has no address any more."""
        for address in [address for address, owner in self._hosts.items() if owner is host]:
            del self._hosts[address]

    def at(self, address: str) -> Host | None:
        """Who has an address."""
        return self._hosts.get(address)

    def listen(
        self,
        process: Process,
        port: int,
        handler: Handler,
        crashed: Callable[[Exception], None],
    ) -> Listener:
        """Have ``handler`` talk with whoever calls at this port of a process' host.

        Raises:
            OSError: Somebody listens there already.
        """
        place = process.host, port
        if place in self._listeners:
            raise OSError(errno.EADDRINUSE, f"address already in use: port {port}")
        listener = self._listeners[place] = Listener(self, process, port, handler, crashed)
        process.on_kill(partial(self.ignore, listener))
        return listener

    def ignore(self, listener: Listener) -> None:
        """Nobody listens there any more."""
        place = listener.process.host, listener.port
        if self._listeners.get(place) is listener:
            del self._listeners[place]

    # -- who hears whom --

    def cut_power(self, host: Host) -> None:
        """A host goes without a word."""
        self._dark.add(host)
        host.kill()
        self.stir()

    def partition(self, some: Iterable[Host], others: Iterable[Host]) -> Callable[[], None]:
        """Let nothing pass between two groups of hosts; returns what heals it."""
        cut = frozenset(some), frozenset(others)
        self._partitions.append(cut)
        self.stir()

        def heal() -> None:
            if cut in self._partitions:
                self._partitions.remove(cut)
                self.stir()

        return heal

    def reset(self, one: Host, other: Host) -> bool:
        """Break what two hosts have opened with each other; whether there was anything."""
        broken = [
            end
            for process in one.processes
            for end in self._ends.get(process, ())
            if end.peer.process.host is other and not end.broken
        ]
        for end in broken:
            end.reset()
        return bool(broken)

    def passes(self, one: Host, other: Host) -> bool:
        """Whether frames get from one host to the other, now."""
        if one in self._dark or other in self._dark:
            return False
        if one is other:
            return True
        if one.paused or other.paused:
            return False
        return not any(
            (one in some and other in others) or (other in some and one in others)
            for some, others in self._partitions
        )

    def stir(self) -> None:
        """Somebody may have fallen silent, or be heard again."""
        if not self._stirred:
            self._stirred = True
            self._loop.call_soon(self._look, context=outside())

    def _look(self) -> None:
        self._stirred = False
        stranded, self._stranded = self._stranded, {}
        for ends in (stranded, *self._ends.values()):
            for end in list(ends):
                end.look()

    def strand(self, end: SimSocket) -> None:
        """What it has sent waits until the other end can be heard again."""
        self._stranded[end] = None

    def delay(self, one: Host, other: Host) -> float:
        """Seconds that the next frame from one host to the other takes."""
        return LOCAL if one is other else self.latency()

    def latency(self) -> float:
        """Seconds from one host to another."""
        return heavy(self._stream, self._typical)

    def silence(self, low: float, high: float) -> float:
        """Seconds of silence after which somebody gives up."""
        return self._stream.uniform(low, high)

    # -- streams --

    async def connect(
        self, process: Process, host: str, port: int, *, bears: tuple[float, float] = BEARS
    ) -> SimSocket:
        """Open a stream to ``host:port``; without an answer this waits for ever.

        Raises:
            ConnectionRefusedError: Nobody listens there.
            ClientError: Whoever listens hung up at once.
        """
        process.check()
        await asyncio.sleep(self.latency())
        again = SYN
        while (far := self._hosts.get(host)) is None or not self.passes(process.host, far):
            await asyncio.sleep(again)
            again = min(2.0 * again, SYN_MOST)
        listener = self._listeners.get((far, port))
        if listener is None:
            await asyncio.sleep(self.latency())
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"Connect call failed ('{host}', {port})"
            )
        near = self._pair(process, listener.process, bears)
        listener.take(near.peer)
        try:
            await near.opened()
        except BaseException:
            near.hang_up()
            raise
        return near

    def _pair(self, near: Process, far: Process, bears: tuple[float, float]) -> SimSocket:
        one, other = SimSocket(self, near, bears), SimSocket(self, far, bears)
        one.peer, other.peer = other, one
        for end in (one, other):
            if end.process not in self._ends:
                self._ends[end.process] = {}
                end.process.on_kill(partial(self._killed, end.process))
                if self.stir not in end.process.host.watchers:
                    end.process.host.watchers.append(self.stir)
            self._ends[end.process][end] = None
        if far.halted or near.halted:
            self.stir()
        return one

    def _killed(self, process: Process) -> None:
        for end in list(self._ends.pop(process, ())):
            end.hang_up()

    def forget(self, end: SimSocket) -> None:
        """An end that nobody holds any more."""
        if (ends := self._ends.get(end.process)) is not None:
            ends.pop(end, None)

    # -- tunnels --

    def dig(self, host: str, port: int) -> Path:
        """Have a new path lead to ``host:port``."""
        self._dug += 1
        path = Path(f"/run/user/tunnels/{self._dug}/ssh")
        self._tunnels[path] = Tunnel(host, port)
        return path

    def fill(self, path: Path) -> None:
        """The connection that carried it is gone."""
        if (tunnel := self._tunnels.pop(path, None)) is not None:
            tunnel.close()

    async def enter(self, process: Process, path: Path) -> SimSocket:
        """Open a stream through a tunnel.

        Raises:
            FileNotFoundError: There is none any more.
            ClientError: Nobody listens where it leads to.
        """
        process.check()
        tunnel = self._tunnels.get(path)
        if tunnel is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        try:
            stream = await self.connect(process, tunnel.host, tunnel.port)
        except ConnectionRefusedError as error:
            # The SSH server has accepted for it, and hangs up.
            raise aiohttp.ServerDisconnectedError from error
        if self._tunnels.get(path) is not tunnel:
            stream.sever()
        tunnel.streams = [old for old in tunnel.streams if not old.broken] + [stream]
        return stream

    def dial(self, process: Process) -> Dial:
        """How a process calls the master (:func:`dayfly.wire.link.dial`)."""
        return _Dial(self, process)


@dataclass(frozen=True)
class _Dial:
    network: Network
    process: Process

    async def __call__(
        self,
        decoder: Decoder[list[In]],
        *,
        role: str,
        name: str,
        secret: str,
        host: str = "localhost",
        port: int = 80,
        unix_socket: Path | None = None,
        timeout: float = 10.0,
    ) -> Link[In]:
        where = f"the master at {host}:{port}" if unix_socket is None else "the master"
        try:
            async with asyncio.timeout(timeout):
                if unix_socket is not None:
                    socket = await self.network.enter(self.process, unix_socket)
                else:
                    socket = await self.network.connect(self.process, host, port)
            try:
                welcome = await introduce(
                    socket, role=role, name=name, secret=secret, where=where, timeout=timeout
                )
            except BaseException:
                await socket.close()
                raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise WireError(
                f"{where} does not answer", cause=str(error) or type(error).__name__
            ) from error
        return Link(socket, decoder, where, welcome=welcome, close=socket.close)
