"""Streams between simulated processes behave as websockets over TCP do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from dayfly.wire.link import HEARTBEAT
from tests.simulation.chance import Chance
from tests.simulation.loop import SeededLoop
from tests.simulation.network import Network
from tests.simulation.process import Host
from tests.simulation.stream import WINDOW, SimSocket

ADDRESS, PORT = "10.0.0.1", 8080
#: Seconds in which everything that was sent has arrived.
SOON = 2.0


class Wire:
    """Two hosts, a process on each, and one stream between them."""

    def __init__(self, loop: SeededLoop) -> None:
        self.loop = loop
        self.network = Network(loop, 0.01, Chance(7).stream("network"))
        self.near_host, self.far_host = Host(loop, "near"), Host(loop, "far")
        self.near, self.far = self.near_host.start("caller"), self.far_host.start("server")
        self.network.attach(ADDRESS, self.far_host)
        self.crashes: list[Exception] = []
        self.taken: asyncio.Queue[SimSocket] = asyncio.Queue()
        self.network.listen(self.far, PORT, self._serve, self.crashes.append)

    async def _serve(self, socket: SimSocket) -> None:
        self.taken.put_nowait(socket)
        await asyncio.Event().wait()

    async def open(self) -> tuple[SimSocket, SimSocket]:
        near = await self.connect()
        return near, await self.taken.get()

    def connect(self) -> asyncio.Task[SimSocket]:
        return self.near.spawn(self.network.connect(self.near, ADDRESS, PORT))

    def hear(self, socket: SimSocket, timeout: float = 60.0) -> asyncio.Task[aiohttp.WSMessage]:
        return socket.process.spawn(socket.receive(timeout))

    def say(self, socket: SimSocket, data: bytes) -> asyncio.Task[None]:
        return socket.process.spawn(socket.send_bytes(data))


def told(story: Callable[[Wire], Coroutine[Any, Any, None]]) -> None:
    loop = SeededLoop(Chance(1))
    wire = Wire(loop)
    try:
        loop.run_until_complete(story(wire))
        assert not loop.complaints
        assert not wire.crashes
    finally:
        wire.near_host.kill()
        wire.far_host.kill()
        loop.bury()
        loop.close()


def test_frames_arrive_in_order_though_each_takes_its_time() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        sent = [bytes([n]) for n in range(100)]
        for frame in sent:
            await wire.say(near, frame)
        assert [(await wire.hear(far)).data for _ in sent] == sent

    told(story)


def test_the_last_words_of_a_killed_process_arrive_and_then_its_end() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        await wire.say(near, b"last words")
        wire.near.kill()
        assert (await wire.hear(far)).data == b"last words"
        assert (await wire.hear(far)).type is WSMsgType.CLOSED
        assert far.exception() is None
        with pytest.raises(ConnectionError):
            await wire.say(far, b"too late")

    told(story)


def test_a_host_without_power_is_silent_until_the_heartbeat_gives_it_up() -> None:
    async def story(wire: Wire) -> None:
        near, _ = await wire.open()
        since = wire.loop.time()
        wire.network.cut_power(wire.far_host)
        assert (await wire.hear(near)).type is WSMsgType.ERROR
        assert isinstance(near.exception(), TimeoutError)
        assert 0.5 * HEARTBEAT <= wire.loop.time() - since <= 1.5 * HEARTBEAT

    told(story)


def test_a_short_partition_delays_and_loses_nothing() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        heal = wire.network.partition([wire.near_host], [wire.far_host])
        await wire.say(near, b"one")
        await wire.say(near, b"two")
        with pytest.raises(TimeoutError):
            await wire.hear(far, 4.0)
        heal()
        assert (await wire.hear(far)).data == b"one"
        assert (await wire.hear(far)).data == b"two"
        await asyncio.sleep(3 * HEARTBEAT)
        assert not near.closed
        assert not far.closed

    told(story)


def test_a_long_partition_ends_the_stream_at_both_ends() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        wire.network.partition([wire.near_host], [wire.far_host])
        ends = [await wire.hear(end) for end in (near, far)]
        assert {end.type for end in ends} <= {WSMsgType.ERROR, WSMsgType.CLOSED}
        assert near.closed
        assert far.closed

    told(story)


def test_a_laptop_that_wakes_up_finds_that_the_other_side_has_hung_up() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        waiting = wire.hear(near, 10000.0)
        wire.near_host.pause()
        assert (await wire.hear(far)).type is WSMsgType.ERROR
        await asyncio.sleep(3600.0)
        wire.near_host.resume()
        assert (await waiting).type in (WSMsgType.CLOSED, WSMsgType.ERROR)
        assert wire.loop.time() < 3650.0

    told(story)


def test_a_stopped_process_keeps_its_stream_when_it_goes_on_soon() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        wire.far.pause()
        await wire.say(near, b"while it was stopped")
        await asyncio.sleep(4.0)
        wire.far.resume()
        assert (await wire.hear(far)).data == b"while it was stopped"
        await asyncio.sleep(3 * HEARTBEAT)
        assert not near.closed

    told(story)


def test_a_stopped_process_is_given_up_in_time() -> None:
    async def story(wire: Wire) -> None:
        near, _ = await wire.open()
        wire.far.pause()
        assert (await wire.hear(near)).type is WSMsgType.ERROR

    told(story)


def test_whoever_is_not_read_has_to_wait() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        large = bytes(WINDOW)
        await wire.say(near, large)
        waiting = wire.say(near, large)
        await asyncio.sleep(SOON)
        assert not waiting.done()
        await wire.hear(far)
        await wire.hear(far)
        await asyncio.wait_for(waiting, SOON)

    told(story)


def test_whoever_waits_for_room_is_told_when_the_reader_dies() -> None:
    async def story(wire: Wire) -> None:
        near, _ = await wire.open()
        waiting = wire.say(near, bytes(2 * WINDOW))
        await asyncio.sleep(SOON)
        wire.far.kill()
        with pytest.raises(ConnectionError):
            await waiting

    told(story)


def test_a_close_is_answered_and_ends_what_another_task_receives() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        receiving = wire.hear(near)
        answering = wire.hear(far)
        await asyncio.sleep(SOON)
        since = wire.loop.time()
        assert await wire.near.spawn(near.close())
        assert wire.loop.time() - since < SOON
        assert (await receiving).type is WSMsgType.CLOSING
        assert (await answering).type is WSMsgType.CLOSE
        assert far.closed

    told(story)


def test_a_close_that_is_not_answered_takes_two_seconds() -> None:
    async def story(wire: Wire) -> None:
        near, _ = await wire.open()
        since = wire.loop.time()
        assert await wire.near.spawn(near.close())
        assert wire.loop.time() - since == pytest.approx(2.0)

    told(story)


def test_a_call_is_refused_where_nobody_listens_and_not_answered_where_nobody_is() -> None:
    async def story(wire: Wire) -> None:
        with pytest.raises(ConnectionRefusedError):
            await wire.near.spawn(wire.network.connect(wire.near, ADDRESS, PORT + 1))
        calling = wire.near.spawn(wire.network.connect(wire.near, "10.0.0.2", PORT))
        await asyncio.wait([calling], timeout=30.0)
        assert not calling.done()
        calling.cancel()

    told(story)


def test_a_call_into_a_partition_is_answered_once_it_has_healed() -> None:
    async def story(wire: Wire) -> None:
        heal = wire.network.partition([wire.near_host], [wire.far_host])
        calling = wire.connect()
        await asyncio.wait([calling], timeout=2.0)
        assert not calling.done()
        heal()
        await asyncio.wait_for(calling, 5.0)

    told(story)


def test_a_stopped_server_does_not_answer_a_call() -> None:
    async def story(wire: Wire) -> None:
        wire.far.pause()
        calling = wire.connect()
        await asyncio.wait([calling], timeout=9.0)
        assert not calling.done()
        wire.far.resume()
        await asyncio.wait_for(calling, SOON)

    told(story)


def test_a_tunnel_goes_with_the_connection_that_has_dug_it() -> None:
    async def story(wire: Wire) -> None:
        path = wire.network.dig(ADDRESS, PORT)
        near = await wire.near.spawn(wire.network.enter(wire.near, path))
        far = await wire.taken.get()
        wire.network.fill(path)
        assert (await wire.hear(near)).type is WSMsgType.CLOSED
        assert (await wire.hear(far)).type is WSMsgType.CLOSED
        with pytest.raises(FileNotFoundError):
            await wire.near.spawn(wire.network.enter(wire.near, path))

    told(story)


def test_the_dead_neither_send_nor_receive() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        receiving = wire.hear(near)
        wire.near.kill()
        await wire.say(far, b"to the dead")
        await asyncio.sleep(SOON)
        assert not receiving.done()

    told(story)


def test_a_connection_that_is_reset_loses_what_was_on_its_way_and_tells_both_ends() -> None:
    async def story(wire: Wire) -> None:
        near, far = await wire.open()
        await wire.say(near, b"on its way")
        await wire.say(far, b"on its way back")
        assert wire.network.reset(wire.near_host, wire.far_host)
        assert (await wire.hear(near)).type is WSMsgType.CLOSED
        assert (await wire.hear(far)).type is WSMsgType.CLOSED
        await asyncio.sleep(SOON)
        assert not wire.network.reset(wire.near_host, wire.far_host)
        near, far = await wire.open()
        await wire.say(near, b"anew")
        assert (await wire.hear(far)).data == b"anew"

    told(story)
