"""The one conversation with the master breaks, is taken up again, and is closed for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dayfly import errors
from dayfly.client.channel import JobRequest
from dayfly.client.conversation import Channel, Conversation
from dayfly.clock import SystemClock
from dayfly.wire import messages as m
from tests.unit.master_support import spec


class Door:
    """A master that says what it is made to say."""

    journal = "one"

    def __init__(self) -> None:
        self.heard: list[m.FromClient] = []
        self.words: asyncio.Queue[m.ToClient | None] = asyncio.Queue()

    async def send(self, message: m.FromClient) -> None:
        self.heard.append(message)

    async def pushed(self) -> AsyncIterator[m.ToClient]:
        while (word := await self.words.get()) is not None:
            yield word


class Ascent:
    """The way to it."""

    def __init__(self) -> None:
        self.door = Door()
        self.closed = False
        self.closing = asyncio.Event()
        self.closing.set()

    async def aclose(self) -> None:
        self.closed = True
        await self.closing.wait()


class Talk:
    """A conversation, and whom it is with.

    Attributes:
        ascents: Each time that the master was brought up.
        faulty: Whether what is heard next meets a fault of ours.
    """

    def __init__(self) -> None:
        self.ascents: list[Ascent] = []
        self.way = asyncio.Event()
        self.way.set()
        self.faulty = False
        self.channels: dict[str, Channel] = {}
        self.conversation = Conversation(
            cast("Any", SimpleNamespace(ascend=self._ascend)),
            self.channels,
            self._hear,
            recall=self._recall,
            patience=1.0,
            clock=SystemClock(),
        )

    async def begin(self, job: str) -> Channel:
        request = JobRequest(spec=msgspec.structs.replace(spec(job)), function=b"")
        channel = self.channels[job] = Channel(cast("Any", self), request)
        await self.conversation.tell(channel, m.FollowLogs(job=job), remember=True)
        return channel

    async def _ascend(self, told: object, *, launch: bool) -> Ascent:
        await self.way.wait()
        self.ascents.append(Ascent())
        return self.ascents[-1]

    async def _hear(self, message: m.ToClient) -> None:
        if self.faulty:
            self.faulty = False
            raise ZeroDivisionError("a fault")
        assert isinstance(message, m.Notice)
        self.channels[message.job].emit(message)

    async def _recall(self, channel: Channel) -> bool:
        return False


def listeners() -> int:
    return sum(task.get_name() == "dayfly listener" for task in asyncio.all_tasks())


async def test_a_fault_in_what_is_heard_fails_the_jobs_and_the_next_one_is_heard_again() -> None:
    talk = Talk()
    first = await talk.begin("j-1")
    talk.faulty = True
    talk.ascents[0].door.words.put_nowait(m.Notice(level="info", text="hello", job="j-1"))
    with pytest.raises(ZeroDivisionError):
        await anext(first.events())
    second = await talk.begin("j-2")
    talk.ascents[-1].door.words.put_nowait(m.Notice(level="info", text="hello", job="j-2"))
    async with asyncio.timeout(1.0):
        assert isinstance(await anext(second.events()), m.Notice)
    assert talk.ascents[0].closed
    await talk.conversation.aclose()


async def test_a_master_that_comes_up_after_the_executor_was_closed_is_let_go_of() -> None:
    talk = Talk()
    talk.way.clear()
    beginning = asyncio.create_task(talk.begin("j-1"))
    await asyncio.sleep(0)
    await talk.conversation.aclose()
    talk.way.set()
    with pytest.raises(errors.WireError, match="closed"):
        await beginning
    assert [ascent.closed for ascent in talk.ascents] == [True]
    assert not listeners()


async def test_closing_ends_a_listener_that_is_still_letting_go_of_the_old_master() -> None:
    talk = Talk()
    await talk.begin("j-1")
    talk.ascents[0].closing.clear()
    talk.ascents[0].door.words.put_nowait(None)
    while not talk.ascents[0].closed:
        await asyncio.sleep(0)
    await talk.begin("j-2")
    assert (len(talk.ascents), listeners()) == (2, 2)
    await talk.conversation.aclose()
    assert not listeners()
    assert talk.ascents[1].closed
