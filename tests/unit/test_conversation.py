"""The one conversation with the master breaks, is taken up again, and is closed for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dayfly import errors
from dayfly.client.channel import JobRequest
from dayfly.client.conversation import Channel, Conversation
from dayfly.clock import SystemClock
from dayfly.model import CallOutcome, OutcomeKind
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

    async def describe(self, job: str) -> None:
        raise errors.JobError(f"the master does not hold {job}, or not any more")

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
        failure: Why the master cannot be brought up.
        given_up: Jobs that have ended because of that.
    """

    def __init__(self) -> None:
        self.ascents: list[Ascent] = []
        self.way = asyncio.Event()
        self.way.set()
        self.faulty = False
        self.failure: errors.DayflyError | None = None
        self.given_up: list[Channel] = []
        self.channels: dict[str, Channel] = {}
        self.conversation = Conversation(
            cast("Any", SimpleNamespace(ascend=self._ascend)),
            self.channels,
            self._hear,
            recall=self._recall,
            renewed=lambda: None,
            given_up=self.given_up.append,
            patience=1.0,
            clock=SystemClock(),
        )

    async def begin(self, job: str, *, detach: bool = False) -> Channel:
        request = JobRequest(spec=msgspec.structs.replace(spec(job), detach=detach), function=b"")
        channel = self.channels[job] = Channel(cast("Any", self), request)
        await self.conversation.tell(channel, m.FollowLogs(job=job), remember=True)
        return channel

    async def _ascend(self, told: object, *, launch: bool, asked: float) -> Ascent:
        await self.way.wait()
        if self.failure is not None:
            raise self.failure
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


async def broken(talk: Talk) -> None:
    """The conversation breaks, and whoever would take it up again has come to an end."""
    talk.ascents[-1].door.words.put_nowait(None)
    while listeners():
        await asyncio.sleep(0)


async def test_a_job_that_is_given_up_is_stopped_until_its_master_has_heard_it() -> None:
    talk = Talk()
    await talk.begin("j-1")
    del talk.channels["j-1"]
    assert await talk.conversation.withdraw("j-1")
    assert m.Cancel(job="j-1") in talk.ascents[0].door.heard
    await broken(talk)  # nobody knows whether that was heard
    await talk.begin("j-2")
    assert talk.ascents[1].door.heard[0] == m.Cancel(job="j-1")
    assert not talk.conversation.withdrawing
    await talk.conversation.aclose()


async def test_a_job_that_is_given_up_while_its_master_is_away_is_stopped_when_it_is_back() -> None:
    talk = Talk()
    await talk.begin("j-1")
    del talk.channels["j-1"]
    await broken(talk)
    assert not await talk.conversation.withdraw("j-1")
    assert talk.conversation.withdrawing
    await talk.conversation.tell_withdrawn()
    assert talk.ascents[1].door.heard == [m.Cancel(job="j-1")]
    assert not talk.conversation.withdrawing
    await talk.conversation.aclose()


async def test_a_job_that_was_given_up_and_is_over_by_its_masters_word_is_not_stopped_again() -> (
    None
):
    talk = Talk()
    await talk.begin("j-1")
    assert await talk.conversation.withdraw("j-1")
    await talk.conversation.stopped("j-1")
    assert not talk.conversation.withdrawing
    assert talk.ascents[0].door.heard[-1] == m.Release(job="j-1")
    await talk.conversation.aclose()


async def test_jobs_whose_master_is_out_of_reach_may_go_on_and_detached_ones_do() -> None:
    talk = Talk()
    plain, detached = await talk.begin("j-1"), await talk.begin("j-2", detach=True)
    talk.failure = errors.UnreachableError("the master does not answer SSH")
    await broken(talk)
    for channel in (plain, detached):
        with pytest.raises(errors.UnreachableError) as caught:
            await anext(channel.events())
        assert any(f"dayfly job cancel {channel.id}" in note for note in caught.value.__notes__)
    assert not talk.channels  # nothing is kept of jobs that have failed
    assert talk.given_up == [plain, detached]
    talk.failure = None
    await talk.conversation.tell_withdrawn()
    assert talk.ascents[-1].door.heard == [m.Cancel(job="j-1")]
    await talk.conversation.aclose()


async def test_a_job_begun_just_as_the_master_goes_is_submitted_before_it_is_followed() -> None:
    talk = Talk()
    job = spec("j-1")
    channel = talk.channels["j-1"] = Channel(cast("Any", talk), JobRequest(spec=job, function=b""))
    adopt = m.Adopt(instances=[], policy=job.policy)
    await talk.conversation.tell(channel, adopt, remember=True)  # the workers are quicker
    talk.ascents[0].door.words.put_nowait(None)
    while len(talk.ascents) < 2:
        await asyncio.sleep(0)
    submit = m.Submit(spec=job, function=m.Payload(data=b""))
    await talk.conversation.tell(channel, submit, remember=True)
    # A master that is asked for a job before it is told of it refuses, and the job would fail.
    assert talk.ascents[1].door.heard == [adopt, submit]
    talk.ascents[1].door.words.put_nowait(None)
    while len(talk.ascents) < 3:
        await asyncio.sleep(0)
    await talk.conversation.ascent()
    assert talk.ascents[2].door.heard == [adopt, submit, m.Follow(job="j-1")]
    await talk.conversation.aclose()


async def test_what_comes_of_a_job_that_was_left_is_not_kept_here() -> None:
    talk = Talk()
    channel = await talk.begin("j-1", detach=True)
    channel.emit(m.Notice(level="info", text="hello", job="j-1"))
    events = cast("AsyncGenerator[Any]", channel.events())
    await anext(events)
    await events.aclose()
    for number in (1, 2, 3):
        outcomes = [CallOutcome(number, OutcomeKind.VALUE, b"large")]
        channel.deliver(m.Delivery(job="j-1", number=number, outcomes=outcomes))
    assert channel.last == 3
    assert channel._events.empty()
    await talk.conversation.aclose()
