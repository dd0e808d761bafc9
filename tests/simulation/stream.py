"""Websockets between processes, in memory: what aiohttp's are, down to how they end.

What is on its way belongs to no process: it arrives though its sender was killed, unless the
path is silent. Silence (a host without power or asleep, a partition) is told by nothing but
its length: frames wait, and either end gives up after its heartbeat's time.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import aiohttp
from aiohttp import WSMessage, WSMsgType

from dayfly.wire.link import HEARTBEAT
from tests.simulation.process import Host, Process, outside

#: Bytes that one end may have sent and the other not read, before it has to wait.
WINDOW = 256 * 1024
#: Seconds for the other end's answer to a close, as the product asks of aiohttp.
CLOSING = 2.0
#: Silences that a websocket bears: a ping follows the last sign of life, and half a heartbeat
#: the ping.
BEARS = (0.5 * HEARTBEAT, 1.5 * HEARTBEAT)

_CLOSE = WSMessage(WSMsgType.CLOSE, 1000, "")
_CLOSED = WSMessage(WSMsgType.CLOSED, None, None)
_CLOSING = WSMessage(WSMsgType.CLOSING, None, None)
_OPEN = WSMessage(WSMsgType.CONTINUATION, None, None)


class Paths(Protocol):
    """What lies between two ends (:class:`tests.simulation.network.Network`)."""

    def passes(self, one: Host, other: Host) -> bool:
        """Whether frames get from one host to the other, now."""
        ...

    def delay(self, one: Host, other: Host) -> float:
        """Seconds that the next frame takes."""
        ...

    def silence(self, low: float, high: float) -> float:
        """Seconds of silence after which somebody gives up."""
        ...

    def strand(self, end: SimSocket) -> None:
        """What it has sent waits until the other end can be heard again."""
        ...

    def forget(self, end: SimSocket) -> None:
        """An end that nobody holds any more."""
        ...


class SimSocket:
    """One end of a stream (:class:`dayfly.wire.link.Socket`).

    Attributes:
        process: Whose end it is.
        peer: The other end.
        broken: Whether nothing can be sent any more: the other end's farewell has arrived, or
            this end has hung up.
    """

    peer: SimSocket

    def __init__(self, paths: Paths, process: Process, bears: tuple[float, float]) -> None:
        self.process = process
        self.broken = False
        self._paths = paths
        self._bears = bears
        self._loop = process.loop
        self._closed = False
        self._flight: list[tuple[float, WSMessage]] = []
        self._last_due = 0.0
        self._courier: asyncio.TimerHandle | None = None
        self._incoming: list[WSMessage] = []
        self._unread = 0
        self._writers: list[asyncio.Future[None]] = []
        self._reader: asyncio.Future[None] | None = None
        self._left: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._exception: BaseException | None = None

    # -- as the product sees it --

    @property
    def closed(self) -> bool:
        return self._closed

    def exception(self) -> BaseException | None:
        return self._exception

    async def send_bytes(self, data: bytes) -> None:
        self.process.check()
        self._refuse_when_gone()
        self._unread += len(data)
        self._send(WSMessage(WSMsgType.BINARY, data, None))
        while self._unread > WINDOW:
            room: asyncio.Future[None] = self._loop.create_future()
            self._writers.append(room)
            await room
            self._refuse_when_gone()

    async def receive(self, timeout: float | None = None) -> WSMessage:
        self.process.check()
        if self._reader is not None:
            raise RuntimeError("Concurrent call to receive() is not allowed")
        if self._closed:
            return _CLOSED
        if not self._incoming:
            if timeout is None:
                await self._something()
            else:
                async with asyncio.timeout(timeout):
                    await self._something()
        message = self._take()
        if message.type is WSMsgType.CLOSE:
            self._closed = True
            self._send(_CLOSE)
            self.hang_up()
        elif message.type is WSMsgType.CLOSED:
            self._closed = True
            self.hang_up()
        return message

    async def close(self) -> bool:
        self.process.check()
        if self._closed:
            return False
        self._closed = True
        if self._reader is not None:
            # Whoever receives is told first, and is through with it before this goes on.
            self._arrived(_CLOSING)
            self._left = self._loop.create_future()
            await self._left
        if self.broken:
            self.hang_up()
            return True
        self._send(_CLOSE)
        try:
            async with asyncio.timeout(CLOSING):
                while True:
                    while not self._incoming:
                        await self._something()
                    if self._take().type in (WSMsgType.CLOSE, WSMsgType.CLOSED):
                        break
        except TimeoutError:
            pass
        finally:
            self.hang_up()
        return True

    # -- as its host sees it --

    async def opened(self) -> None:
        """Wait until the other end's process has answered.

        Raises:
            ClientError: It has hung up instead.
        """
        if not self._incoming:
            await self._something()
        if self._take() is not _OPEN:
            self.hang_up()
            raise aiohttp.ServerDisconnectedError

    def answer(self) -> None:
        """Let the other end know that somebody is here."""
        self._send(_OPEN)

    def hang_up(self) -> None:
        """Its process lets go of it, or was killed: the other end is told, in time."""
        if not self.broken:
            self._send(_CLOSED)
        self.broken = True
        self._closed = True
        self._paths.forget(self)
        self._wake(self._writers)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def sever(self) -> None:
        """What carried the stream is gone: both ends are told."""
        if not self.broken:
            self._send(_CLOSED)
            self._arrived(_CLOSED)

    def reset(self) -> None:
        """The same, and what was on its way is lost."""
        self._flight.clear()
        self.peer._flight.clear()
        self.sever()

    def look(self) -> None:
        """Whether one can hear each other may have changed."""
        passes = self._paths.passes(self.process.host, self.peer.process.host)
        if passes and self._flight and self._courier is None:
            # It is sent again, by and by.
            self._last_due = self._loop.time() + self._paths.delay(
                self.process.host, self.peer.process.host
            )
            self._flight = [(self._last_due, message) for _, message in self._flight]
            self._set_off()
        elif self._flight and self._courier is None:
            self._paths.strand(self)  # not yet
        if self.broken:
            return
        if passes and not self.peer.process.halted:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
        elif self._alarm is None:
            self._beware(self._paths.silence(*self._bears))

    def _beware(self, seconds: float) -> None:
        self._alarm = self._loop.call_later(seconds, self._give_up, context=outside())

    def _give_up(self) -> None:
        """The other end was silent for too long."""
        self._alarm = None
        if self.process.halted:
            self._beware(self._bears[0])  # its timers ring when it is awake
            return
        waiting = self._reader is not None
        self.hang_up()
        self._exception = aiohttp.ServerTimeoutError("No PONG received")
        if waiting:
            self._arrived(WSMessage(WSMsgType.ERROR, self._exception, None))

    def _refuse_when_gone(self) -> None:
        if self.broken or self._closed:
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    def _delay(self) -> float:
        return self._paths.delay(self.process.host, self.peer.process.host)

    def _send(self, message: WSMessage) -> None:
        due = self._loop.time() + self._delay()
        self._last_due = due = max(due, self._last_due)
        self._flight.append((due, message))
        if self._courier is None:
            self._set_off()

    def _set_off(self) -> None:
        self._courier = self._loop.call_at(self._flight[0][0], self._deliver, context=outside())

    def _deliver(self) -> None:
        self._courier = None
        if not self._paths.passes(self.process.host, self.peer.process.host):
            self._paths.strand(self)
            return
        now = self._loop.time() + 1e-9
        there = 0
        for due, message in self._flight:
            if due > now:
                break
            there += 1
            self.peer._arrived(message)
        del self._flight[:there]
        if self._flight:
            self._set_off()

    def _arrived(self, message: WSMessage) -> None:
        if not self.process.alive:
            return
        if message is _CLOSED:
            if self.broken and self._closed:
                return
            self.broken = True
            self._wake(self._writers)
        self._incoming.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _something(self) -> None:
        """Wait for the next frame."""
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None
            if self._left is not None and not self._left.done():
                self._left.set_result(None)

    def _take(self) -> WSMessage:
        message = self._incoming.pop(0)
        if message.type is WSMsgType.BINARY:
            self.peer._read(len(message.data))
        return message

    def _read(self, count: int) -> None:
        self._unread -= count
        if self._writers and self._unread <= WINDOW:
            self._wake(self._writers)

    def _wake(self, waiting: list[asyncio.Future[None]]) -> None:
        while waiting:
            if not (one := waiting.pop()).done():
                one.set_result(None)
