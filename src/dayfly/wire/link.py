"""One authenticated conversation over a websocket, for either end.

Both ends hold a secret that went to them over SSH. Each proves it with an HMAC over the
other's nonce, so the secret itself is never said, and nothing else is read from a peer
before its proof has been checked. After that a frame holds all that was said in one turn of the
loop: a system call, and a packet of the tunnel, cost more than most messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import aiohttp
import msgspec

from dayfly import errors
from dayfly.wire import messages as m

#: Seconds between pings; a peer that does not answer for as long again is gone.
HEARTBEAT = 10.0
#: The largest frame: many times what either end sends (chunks are cut far below).
MAX_FRAME = 64 * 1024 * 1024
#: Bytes that may wait for the peer to read before whoever says more waits, too; and that a frame
#: of several messages holds, about.
FULL = 256 * 1024
#: Seconds for the last words of a conversation that is closed.
LAST_WORDS = 1.0
PATH = "/v1"

In = TypeVar("In")


class Decoder(Protocol[In]):  # type: ignore[misc]  # msgspec's decoders are invariant
    """How a frame becomes a value."""

    def decode(self, data: bytes, /) -> In:
        """Decode one frame."""
        ...


class Socket(Protocol):
    """What a link needs of either of aiohttp's websockets."""

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        ...

    async def send_bytes(self, data: bytes) -> None:
        """Send one binary frame."""
        ...

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        """The next frame."""
        ...

    async def close(self) -> bool:
        """Close it."""
        ...

    def exception(self) -> BaseException | None:
        """What it broke of; ``None`` while it is open, or when the peer closed it."""
        ...


class Link(Generic[In]):
    """An open conversation: iterate over it to receive, until the peer is gone.

    Attributes:
        peer: The name that the other side gave.
        welcome: What the master said of itself; only where this end is the caller.
        silent: Whether it ended because nothing more was heard: the peer, or the network between,
            may be asleep. A peer that ended, was killed or hung up is not silent: its kernel says
            so.
    """

    def __init__(
        self,
        socket: Socket,
        decoder: Decoder[list[In]],
        peer: str,
        *,
        welcome: m.Welcome | None = None,
        close: Callable[[], Any] | None = None,
    ) -> None:
        self._socket = socket
        self._decoder = decoder
        self._close = close
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self._broken: Exception | None = None
        self.peer = peer
        self.welcome = welcome
        self.silent = False

    async def send(self, message: m.Message) -> None:
        """Say something, in one frame with what else is said in this turn of the loop.

        Waits while the peer reads more slowly than we write.

        Raises:
            WireError: The conversation is over.
        """
        await self.send_encoded(m.ENCODER.encode(message))

    async def send_encoded(self, message: bytes) -> None:
        """Say something that is encoded already."""
        self._refuse_when_over()
        self._unsent.append(message)
        self._unsent_bytes += len(message)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name=f"dayfly says to {self.peer}")
        if self._unsent_bytes >= FULL:
            await asyncio.wait([self._sending])
            self._refuse_when_over()

    def _refuse_when_over(self) -> None:
        if self._broken is not None or self._socket.closed:
            raise errors.WireError(
                f"the connection with {self.peer} is closed", cause=str(self._broken or "")
            ) from self._broken

    async def _send(self) -> None:
        try:
            while self._unsent:
                frame: list[bytes] = []
                before = self._unsent_bytes
                while self._unsent and before - self._unsent_bytes < FULL:
                    frame.append(self._unsent.popleft())
                    self._unsent_bytes -= len(frame[-1])
                await self._socket.send_bytes(m.row(frame))
        except (ConnectionError, aiohttp.ClientError, RuntimeError) as error:
            self._broken = error  # whoever reads sees the end too
        finally:
            self._sending = None

    async def __aiter__(self) -> AsyncIterator[In]:
        while True:
            try:
                frame = await self._socket.receive()
            except (ConnectionError, RuntimeError):
                return
            if frame.type is not aiohttp.WSMsgType.BINARY:
                # A pong that is not back in time, and what the kernel sent in vain (ETIMEDOUT),
                # are both a TimeoutError.
                self.silent = isinstance(self._socket.exception(), TimeoutError)
                return
            try:
                messages = self._decoder.decode(frame.data)
            except msgspec.MsgspecError as error:
                await self.aclose()
                raise errors.WireError(
                    f"{self.peer} sent a frame that is none of ours", cause=str(error)
                ) from error
            for message in messages:
                yield message

    async def aclose(self) -> None:
        """Say what is still to be said, and end the conversation."""
        if (sending := self._sending) is not None:
            await asyncio.wait([sending], timeout=LAST_WORDS)
            sending.cancel()
        await (self._close or self._socket.close)()


def prove(secret: str, speaker: str, nonce: bytes) -> bytes:
    """The proof that ``speaker`` holds ``secret``, over the other side's nonce."""
    return hmac.digest(secret.encode(), speaker.encode() + b"\0" + nonce, hashlib.sha256)


class Dial(Protocol):
    """How a conversation with the master is opened; see :func:`dial`, its real form."""

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
        """Call the master."""
        ...


async def dial(
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
    """Call the master, through a tunnel's Unix socket or straight at ``host:port``.

    Args:
        decoder: For what the master will say.
        role: ``client`` or ``worker``; each has a secret of its own.
        name: Who is calling.
        secret: The role's secret.
        host: The master's address.
        port: The master's service port.
        unix_socket: This end of an SSH tunnel, in place of host and port.
        timeout: Seconds for each step of the handshake.

    Raises:
        WireError: Nobody answered, or the conversation broke.
        AuthenticationError: The master does not hold the secret, or refused ours.
        VersionMismatchError: The master speaks another version of the protocol.
    """
    where = f"the master at {host}:{port}" if unix_socket is None else "the master"
    connector = aiohttp.UnixConnector(str(unix_socket)) if unix_socket else None
    async with AsyncExitStack() as stack:
        try:
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            async with asyncio.timeout(timeout):
                socket = await session.ws_connect(
                    f"http://{host}:{port}{PATH}",
                    heartbeat=HEARTBEAT,
                    max_msg_size=MAX_FRAME,
                    compress=0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
                )
            stack.push_async_callback(socket.close)
            welcome = await introduce(
                socket, role=role, name=name, secret=secret, where=where, timeout=timeout
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise errors.WireError(
                f"{where} does not answer", cause=str(error) or type(error).__name__
            ) from error
        return Link(socket, decoder, where, welcome=welcome, close=stack.pop_all().aclose)


async def introduce(
    socket: Socket, *, role: str, name: str, secret: str, where: str, timeout: float
) -> m.Welcome:
    """The caller's side of the handshake, on a websocket that has just been opened.

    Args:
        socket: The websocket.
        role: See :func:`dial`, like the next two.
        name: Who is calling.
        secret: The role's secret.
        where: The master, in words.
        timeout: Seconds to wait for each of its words.

    Raises:
        AuthenticationError: The master does not hold the secret, or refused ours.
        VersionMismatchError: It speaks another version of the protocol.
        WireError: It said something else.
        TimeoutError: It said nothing.
    """
    nonce = secrets.token_bytes(32)
    await _say(socket, m.Hello(protocol=m.PROTOCOL, role=role, name=name, nonce=nonce))
    challenge = await _next(socket, where, m.Challenge, timeout)
    if not hmac.compare_digest(challenge.proof, prove(secret, "master", nonce)):
        raise errors.AuthenticationError(
            f"{where} does not hold this cluster's secret",
            cause="something else listens there, or the cluster was made anew",
            hint="dayfly clean --all, then run again",
        )
    await _say(socket, m.Proof(proof=prove(secret, role, challenge.nonce)))
    return await _next(socket, where, m.Welcome, timeout)


async def answer(
    socket: Socket,
    secret_of: Mapping[str, str],
    welcome: m.Welcome,
    *,
    timeout: float = 10.0,
) -> m.Hello:
    """The master's side of the handshake, on a websocket that has just been opened.

    Args:
        socket: The websocket.
        secret_of: The secret of each role.
        welcome: What to say once the caller has proved itself.
        timeout: Seconds to wait for each word of the caller.

    Returns:
        Who is calling; from here on the caller is authenticated.

    Raises:
        AuthenticationError: It does not hold the secret of the role that it claims.
        VersionMismatchError: It speaks another version of the protocol.
        WireError: It said something else, or nothing.
    """
    hello = await _next(socket, "a caller", m.Hello, timeout)
    if hello.protocol != m.PROTOCOL:
        reason = f"the master speaks protocol {m.PROTOCOL}, {hello.name} {hello.protocol}"
        await _say(socket, m.Refused(code="VersionMismatchError", reason=reason))
        raise errors.VersionMismatchError(reason)
    # An unknown role is checked against a secret that nobody has, in the same time.
    secret = secret_of.get(hello.role) or secrets.token_hex(32)
    nonce = secrets.token_bytes(32)
    await _say(socket, m.Challenge(nonce=nonce, proof=prove(secret, "master", hello.nonce)))
    proof = await _next(socket, hello.name, m.Proof, timeout)
    if not hmac.compare_digest(proof.proof, prove(secret, hello.role, nonce)):
        reason = f"{hello.name} does not hold the secret of a {hello.role}"
        await _say(socket, m.Refused(code="AuthenticationError", reason=reason))
        raise errors.AuthenticationError(reason)
    await _say(socket, welcome)
    return hello


Word = TypeVar("Word", bound=m.Message)


async def _say(socket: Socket, word: m.Message) -> None:
    """Say one word of the handshake: a frame by itself, whatever version the peer is of."""
    await socket.send_bytes(m.ENCODER.encode(word))


async def _next(socket: Socket, peer: str, expected: type[Word], timeout: float) -> Word:
    frame = await socket.receive(timeout=timeout)
    if frame.type is not aiohttp.WSMsgType.BINARY:
        raise errors.WireError(f"{peer} hung up during the handshake")
    try:
        word = m.OPENING.decode(frame.data)
    except msgspec.MsgspecError as error:
        raise errors.WireError(f"{peer} does not speak our protocol") from error
    if isinstance(word, expected):
        return word
    if isinstance(word, m.Refused):
        raise errors.named(word.code, errors.WireError)(word.reason)
    raise errors.WireError(f"{peer} said {type(word).__name__} out of turn")
