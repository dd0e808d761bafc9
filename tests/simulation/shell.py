"""SSH in memory (:mod:`dayfly.shell.base`): the far side's greeting, logins, commands, tunnels."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import WSMsgType

from dayfly.errors import AccessDeniedError, CommandError, HostKeyError, UnreachableError
from dayfly.shell.base import CommandResult, Target
from tests.simulation.network import Network
from tests.simulation.process import Process, outside
from tests.simulation.stream import SimSocket
from tests.simulation.surroundings import Strikes

#: HungUpErrors that an SSH connection bears: four keepalives, of which none is answered.
BEARS = (30.0, 40.0)
#: Seconds that the two sides reckon for their keys.
HANDSHAKE = 0.05
#: Seconds after which a connection that drops does so.
DROPS = (0.001, 100.0)


class Greeting(msgspec.Struct, tag=True):
    """Who answers: the authority that signed its key, and for which role; or its bare key."""

    authority: str
    role: str
    key: str


class Login(msgspec.Struct, tag=True):
    """Who asks: a private key, of which the other side knows the public half."""

    key: str


class Welcome(msgspec.Struct, tag=True):
    """Whether the login is good."""

    granted: bool


class Command(msgspec.Struct, tag=True):
    number: int
    script: str
    stdin: bytes


class Kill(msgspec.Struct, tag=True):
    number: int


class Result(msgspec.Struct, tag=True):
    number: int
    status: int
    stdout: str
    stderr: str


Word = Greeting | Login | Welcome | Command | Kill | Result
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)


class HungUpError(Exception):
    """The other side has hung up."""


async def _say(socket: SimSocket, word: Word) -> None:
    await socket.send_bytes(_ENCODER.encode(word))


async def _hear(socket: SimSocket) -> Word:
    frame = await socket.receive()
    if frame.type is not WSMsgType.BINARY:
        raise HungUpError
    return _DECODER.decode(frame.data)


# -- the far side --


async def serve(
    socket: SimSocket,
    greeting: Greeting,
    admits: Callable[[str], bool],
    run: Callable[[str, bytes], tuple[Process, Awaitable[CommandResult]]],
) -> None:
    """What an SSH server does with a caller.

    Args:
        socket: The connection.
        greeting: Who it is.
        admits: Whether a private key opens it.
        run: Begins a command; returns its process and what comes of it.
    """
    running: dict[int, Process] = {}

    async def work(command: Command) -> None:
        process, ending = run(command.script, command.stdin)
        running[command.number] = process
        result = await ending
        # Perhaps nobody listens any more; the command has run all the same.
        with contextlib.suppress(ConnectionError):
            await _say(socket, Result(command.number, result.status, result.stdout, result.stderr))

    tasks: set[asyncio.Task[None]] = set()
    try:
        await _say(socket, greeting)
        login = await _hear(socket)
        granted = isinstance(login, Login) and admits(login.key)
        await _say(socket, Welcome(granted))
        while granted:
            match await _hear(socket):
                case Command() as command:
                    task = asyncio.create_task(work(command), name="ssh command")
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                case Kill(number=number):
                    if number in running:
                        running[number].kill()
    except (HungUpError, ConnectionError):
        return


# -- the near side --


class SimShell:
    """One process' way to the VMs (:class:`dayfly.shell.base.Shell`)."""

    def __init__(
        self, network: Network, process: Process, faults: Strikes, stream: random.Random
    ) -> None:
        self._network = network
        self._process = process
        self._faults = faults
        self._stream = stream

    async def connect(self, target: Target, *, timeout: float = 5.0) -> SimConnection:
        self._process.check()
        where = f"{target.name} at {target.address}:{target.port}"
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(target, where)
        except TimeoutError as error:
            raise UnreachableError(
                f"{where}: no answer within {timeout:g} s", cause="nothing answers at all"
            ) from error
        except ConnectionRefusedError as error:
            raise UnreachableError(
                f"{where}: connection refused",
                cause="the VM is up but its SSH server is not, yet or any more",
            ) from error
        except (OSError, aiohttp.ClientError, HungUpError) as error:
            raise UnreachableError(f"{where}: {error}", cause=str(error)) from error

    async def _connect(self, target: Target, where: str) -> SimConnection:
        if self._faults.strikes("ssh hangs"):
            await self._process.loop.create_future()
        socket = await self._network.connect(
            self._process, target.address, target.port, bears=BEARS
        )
        try:
            greeting = await _hear(socket)
            assert isinstance(greeting, Greeting)
            await asyncio.sleep(HANDSHAKE * (0.5 + self._stream.random()))
            if not _known(greeting, target):
                raise HostKeyError(f"{where}: its host key is not the one of {target.alias!r}")
            await _say(socket, Login(target.private_key))
            answer = await _hear(socket)
            if not (isinstance(answer, Welcome) and answer.granted):
                raise AccessDeniedError(f"{where}: it refused our key")
        except BaseException:
            socket.hang_up()
            raise
        if self._faults.strikes("ssh drops"):
            self._process.loop.call_later(
                self._faults.amount("ssh drops", *DROPS), socket.sever, context=outside()
            )
        return SimConnection(self._network, self._process, self._faults, socket, where)


def _known(greeting: Greeting, target: Target) -> bool:
    lines = target.known_hosts.splitlines()
    if greeting.authority:
        signed = f"@cert-authority * {greeting.authority}" in lines
        return signed and greeting.role == target.alias
    return f"{target.address} {greeting.key}" in lines


class SimConnection:
    """An open connection (:class:`dayfly.shell.base.Connection`)."""

    def __init__(
        self,
        network: Network,
        process: Process,
        faults: Strikes,
        socket: SimSocket,
        where: str,
    ) -> None:
        self._network = network
        self._process = process
        self._faults = faults
        self._socket = socket
        self._where = where
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[CommandResult]] = {}
        self._paths: list[Path] = []
        self._reader = asyncio.create_task(self._read(), name=f"ssh with {where}")

    async def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        heard: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        self._process.check()
        number = next(self._numbers)
        result: asyncio.Future[CommandResult] = self._process.loop.create_future()
        self._asked[number] = result
        hangs = self._faults.strikes("ssh hangs")
        try:
            async with asyncio.timeout(timeout):
                if self._reader.done():
                    raise ConnectionResetError
                if not hangs:
                    await _say(self._socket, Command(number, command, stdin))
                return await result
        except TimeoutError:
            result.cancel()
            await self._kill(number)
            raise CommandError(
                f"{self._where}: a command did not end within {timeout:g} s",
                cause="it printed last: nothing",
            ) from None
        except asyncio.CancelledError:
            result.cancel()
            await self._kill(number)
            raise
        except ConnectionError as error:
            raise UnreachableError(
                f"{self._where}: the connection broke during a command",
                cause="the VM closed it",
            ) from error
        finally:
            del self._asked[number]

    async def forward(self, host: str, port: int) -> Path:
        self._process.check()
        if self._reader.done():
            raise UnreachableError(f"{self._where}: the connection is closed")
        path = self._network.dig(host, port)
        self._paths.append(path)
        return path

    async def wait_closed(self) -> None:
        await asyncio.shield(self._reader)

    async def aclose(self) -> None:
        self._process.check()
        self._socket.sever()
        await asyncio.wait([self._reader])

    async def _kill(self, number: int) -> None:
        try:
            async with asyncio.timeout(1.0):
                await _say(self._socket, Kill(number))
        except (ConnectionError, TimeoutError):
            pass

    async def _read(self) -> None:
        try:
            while True:
                word = await _hear(self._socket)
                asked = self._asked.get(word.number) if isinstance(word, Result) else None
                if isinstance(word, Result) and asked is not None and not asked.done():
                    said = CommandResult(status=word.status, stdout=word.stdout, stderr=word.stderr)
                    asked.set_result(said)
        except (HungUpError, ConnectionError):
            pass
        finally:
            self._socket.hang_up()
            for path in self._paths:
                self._network.fill(path)
            for result in self._asked.values():
                if not result.done():
                    result.set_exception(ConnectionResetError())
                    result.exception()  # whoever asked may wait for something else by now
