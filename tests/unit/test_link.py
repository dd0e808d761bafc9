"""The handshake, over real websockets on loopback."""

from __future__ import annotations

import asyncio
import socket as socketlib
import struct
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from dayfly import errors
from dayfly.wire import link as wire
from dayfly.wire import messages as m
from dayfly.wire.client import MasterDoor

SECRETS = {"client": "secret-of-clients", "worker": "secret-of-workers"}
WELCOME = m.Welcome(instance="i-master", package="abc")


class Master:
    """Answers the handshake, then echoes what it is told into a notice."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.failures: list[errors.DayflyError] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=wire.MAX_FRAME, compress=False)
        await socket.prepare(request)
        try:
            hello = await wire.answer(socket, SECRETS, WELCOME)
        except errors.DayflyError as error:
            self.failures.append(error)
            return socket
        try:
            async for message in wire.Link(socket, m.FROM_CLIENT, hello.name):
                self.heard.append(type(message).__name__)
                notice = m.ENCODER.encode(m.Notice(level="info", text=hello.name))
                await socket.send_bytes(m.row([notice]))
        except errors.WireError as error:
            self.failures.append(error)
        return socket


@pytest.fixture
async def master() -> AsyncIterator[Master]:
    master = Master()
    app = web.Application()
    app.router.add_get(wire.PATH, master.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    master.port = runner.addresses[0][1]
    yield master
    await runner.cleanup()


async def dial(master: Master, secret: str, role: str = "client") -> wire.Link[m.ToClient]:
    return await wire.dial(
        m.TO_CLIENT, role=role, name="me", secret=secret, host="127.0.0.1", port=master.port
    )


async def test_whoever_holds_the_secret_is_let_in_and_heard(master: Master) -> None:
    link = await dial(master, SECRETS["client"])
    assert link.welcome == WELCOME
    await link.send(m.ListJobs(request=1))
    async for message in link:
        assert message == m.Notice(level="info", text="me")
        break
    assert master.heard == ["ListJobs"]
    await link.aclose()


async def test_a_caller_without_the_secret_hears_nothing_and_is_not_heard(master: Master) -> None:
    with pytest.raises(errors.AuthenticationError, match="does not hold this cluster's secret"):
        await dial(master, "guess")
    assert not master.heard


async def test_a_worker_cannot_pass_for_a_client(master: Master) -> None:
    with pytest.raises(errors.AuthenticationError):
        await dial(master, SECRETS["worker"], role="client")


async def test_a_role_that_does_not_exist_is_refused(master: Master) -> None:
    with pytest.raises(errors.AuthenticationError):
        await dial(master, "", role="owner")


async def test_a_caller_that_skips_the_proof_is_refused(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that trusts any master still has to prove itself."""
    honest = wire.prove

    def prove(secret: str, speaker: str, nonce: bytes) -> bytes:
        return (
            b""
            if speaker == "client" and secret == "forged"
            else honest(SECRETS["client"], speaker, nonce)
        )

    monkeypatch.setattr(wire, "prove", prove)
    with pytest.raises(errors.AuthenticationError, match="does not hold the secret of a client"):
        await dial(master, "forged")


async def test_another_version_of_the_protocol_is_refused_by_number(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = m.ENCODER.encode

    class Older:
        def encode(self, message: m.Message) -> bytes:
            if isinstance(message, m.Hello):
                message = m.Hello(protocol=99, role="client", name="old", nonce=b"")
            return encode(message)

    monkeypatch.setattr(m, "ENCODER", Older())
    with pytest.raises(errors.VersionMismatchError, match="old 99"):
        await dial(master, SECRETS["client"])


async def test_nobody_at_the_door_is_an_error_that_names_the_address() -> None:
    with pytest.raises(errors.WireError, match=r"127\.0\.0\.1:9 does not answer"):
        await wire.dial(m.TO_CLIENT, role="client", name="me", secret="", host="127.0.0.1", port=9)


async def test_a_frame_that_is_none_of_ours_ends_the_conversation(master: Master) -> None:
    link = await dial(master, SECRETS["client"])
    await link.send_encoded(b"\x00garbage")
    received = [message async for message in link]
    assert received == []
    await link.aclose()
    async with asyncio.timeout(5):
        while not master.failures:
            await asyncio.sleep(0.01)
    assert "none of ours" in str(master.failures[0])


async def test_a_silent_master_is_given_up(master: Master) -> None:
    async def silent(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await asyncio.sleep(3600)
        return socket

    app = web.Application()
    app.router.add_get(wire.PATH, silent)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(errors.WireError, match="does not answer"):
            await wire.dial(
                m.TO_CLIENT,
                role="client",
                name="me",
                secret="",
                host="127.0.0.1",
                port=runner.addresses[0][1],
                timeout=0.1,
            )
    finally:
        await runner.cleanup()


@pytest.fixture
async def listening() -> AsyncIterator[tuple[int, asyncio.Future[bool]]]:
    """A master with a quick heart: its port, and whether its caller ended in silence."""
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=0.2, compress=False, timeout=0.5)
        await socket.prepare(request)
        hello = await wire.answer(socket, SECRETS, WELCOME)
        link = wire.Link(socket, m.FROM_CLIENT, hello.name)
        async for _ in link:
            pass
        ended.set_result(link.silent)
        return socket

    app = web.Application()
    app.router.add_get(wire.PATH, handle)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1], ended
    await runner.cleanup()


async def called(session: aiohttp.ClientSession, port: int) -> aiohttp.ClientWebSocketResponse:
    """A caller that answers no ping before it reads."""
    socket = await session.ws_connect(f"http://127.0.0.1:{port}{wire.PATH}")
    secret = SECRETS["client"]
    await wire.introduce(socket, role="client", name="me", secret=secret, where="it", timeout=5)
    return socket


async def test_a_caller_that_sleeps_ends_in_silence(
    listening: tuple[int, asyncio.Future[bool]],
) -> None:
    port, silent = listening
    async with aiohttp.ClientSession() as session:
        caller = await called(session, port)
        assert await asyncio.wait_for(silent, 5)
        await caller.close()


async def test_a_caller_that_hangs_up_does_not(
    listening: tuple[int, asyncio.Future[bool]],
) -> None:
    port, silent = listening
    async with aiohttp.ClientSession() as session:
        await (await called(session, port)).close()
        assert not await asyncio.wait_for(silent, 5)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_caller_that_is_killed_does_not_for_its_kernel_says_so(
    listening: tuple[int, asyncio.Future[bool]], reset: bool
) -> None:
    port, silent = listening
    async with aiohttp.ClientSession() as session:
        socket = await called(session, port)
        transport = socket.get_extra_info("socket")
        if reset:
            linger = struct.pack("ii", 1, 0)
            transport.setsockopt(socketlib.SOL_SOCKET, socketlib.SO_LINGER, linger)
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()
        assert not await asyncio.wait_for(silent, 5)


def test_an_error_that_a_peer_names_is_one_of_ours_or_the_general_one() -> None:
    assert errors.named("HardTimeoutError", errors.JobError) is errors.HardTimeoutError
    for odd in ("annotations", "__doc__", "Exception", "NewerError"):
        assert errors.named(odd, errors.WireError) is errors.WireError


async def test_an_answer_that_comes_as_the_question_is_given_up_breaks_nothing() -> None:
    door = MasterDoor(cast("Any", None))
    reply: asyncio.Future[m.ToClient] = asyncio.get_running_loop().create_future()
    door._asked[1] = reply
    reply.cancel()
    door._dispatch(m.Jobs(request=1, rows=[]))
    door._dispatch(m.Refused(code="JobError", reason="no such job", request=1))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_a_row_of_messages_is_an_array_for_every_reader(count: int) -> None:
    said = [m.Cancel(job=f"j{n}") for n in range(count)]
    assert m.FROM_CLIENT.decode(m.row([m.ENCODER.encode(each) for each in said])) == said


class Paper:
    """A socket that keeps what is written, while it is read."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.read = asyncio.Event()
        self.read.set()
        self.closed = False

    async def send_bytes(self, data: bytes) -> None:
        await self.read.wait()
        if self.closed:
            raise ConnectionResetError("cannot write")
        self.frames.append(data)

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        raise AssertionError

    async def close(self) -> bool:
        self.closed = True
        return True

    def exception(self) -> None:
        return None


def heard(paper: Paper) -> list[list[str]]:
    """The jobs of each frame."""
    return [
        [c.job for c in m.FROM_CLIENT.decode(f) if isinstance(c, m.Cancel)] for f in paper.frames
    ]


async def test_what_is_said_in_one_turn_travels_in_one_frame() -> None:
    paper = Paper()
    link = wire.Link(paper, m.TO_CLIENT, "the master")
    for turn in (["a", "b", "c"], ["d"]):
        for job in turn:
            await link.send(m.Cancel(job=job))
        await asyncio.sleep(0)
    assert heard(paper) == [["a", "b", "c"], ["d"]]


async def test_last_words_are_said_before_the_connection_is_closed() -> None:
    paper = Paper()
    link = wire.Link(paper, m.TO_CLIENT, "the master")
    await link.send(m.Cancel(job="a"))
    await link.aclose()
    assert (heard(paper), paper.closed) == ([["a"]], True)
    with pytest.raises(errors.WireError, match="the connection with the master is closed"):
        await link.send(m.Cancel(job="b"))


async def test_whoever_says_more_than_is_read_waits_and_no_frame_grows_for_ever() -> None:
    paper = Paper()
    paper.read.clear()
    link = wire.Link(paper, m.TO_CLIENT, "the master")
    large = "x" * (wire.FULL // 4)
    saying = asyncio.create_task(say_often(link, large, 100))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not saying.done()
    assert link._unsent_bytes < 3 * wire.FULL
    paper.read.set()
    await saying
    await link.aclose()
    assert sum(map(len, heard(paper))) == 100
    assert max(map(len, paper.frames)) < 2 * wire.FULL


async def test_whoever_waits_for_room_hears_that_the_connection_broke() -> None:
    paper = Paper()
    paper.read.clear()
    link = wire.Link(paper, m.TO_CLIENT, "the master")
    saying = asyncio.create_task(say_often(link, "x" * wire.FULL, 3))
    await asyncio.sleep(0)
    paper.closed = True
    paper.read.set()
    with pytest.raises(errors.WireError, match="cannot write"):
        await saying


async def say_often(link: wire.Link[m.ToClient], job: str, times: int) -> None:
    for _ in range(times):
        await link.send(m.Cancel(job=job))
