"""Jobs are brought to the master, taken up again, and cut off when the executor is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dayfly import errors
from dayfly.client import session as module
from dayfly.client.channel import JobRequest
from dayfly.client.conversation import Channel
from dayfly.client.session import MasterSession
from dayfly.model import CallOutcome, InstanceState, JobSpec, JobState, OutcomeKind
from dayfly.wire import messages as m
from tests.unit.master_support import spec


async def nothing(*_: object, **__: object) -> None:
    await asyncio.sleep(0)


class Session(MasterSession):
    """One whose master runs a job of three calls, and is always there.

    Attributes:
        deaf: Whether telling it something fails.
        under_way: Launches that closing waits for.
        hanging_up: What happens while the conversation is closed.
    """

    def __init__(self) -> None:
        super().__init__(
            cast("Any", SimpleNamespace(storage=None, clock=SimpleNamespace(sleep=nothing)))
        )
        self.deaf = False
        self.under_way: set[asyncio.Task[None]] = set()
        self.hanging_up: Callable[[], Awaitable[None]] = nothing
        conversation = SimpleNamespace(
            tell=self._say, aclose=lambda: self.hanging_up(), withdrawing=False
        )
        staffing = SimpleNamespace(join=nothing, dismiss=lambda _: None, under_way=self.under_way)
        self._made = cast(
            "Any", SimpleNamespace(ascender=None, conversation=conversation, staffing=staffing)
        )

    async def _say(self, *_: object, **__: object) -> None:
        if self.deaf:
            raise errors.UnreachableError("the master does not answer SSH")

    async def _open_road(self) -> Any:
        return self._made

    async def _remembered(self, job: str) -> None:
        return None

    async def _describe(self, job: str) -> tuple[JobSpec, int]:
        await asyncio.sleep(0)
        return spec(job), 3


async def test_a_job_that_is_attached_to_twice_at_once_is_heard_by_the_first() -> None:
    session = Session()
    first, second = await asyncio.gather(
        session.attach("j-1"), session.attach("j-1"), return_exceptions=True
    )
    assert isinstance(second, errors.UsageError)
    assert not isinstance(first, BaseException)
    assert session._channels == {"j-1": first.channel}
    await session.aclose()


async def test_attaching_that_failed_halfway_can_be_tried_again() -> None:
    session = Session()
    session.deaf = True
    with pytest.raises(errors.UnreachableError):
        await session.attach("j-1")
    session.deaf = False
    assert (await session.attach("j-1")).total == 3
    await session.aclose()


async def test_what_the_master_asks_for_while_the_executor_closes_is_not_left_running() -> None:
    session = Session()
    begun: list[asyncio.Task[None]] = []

    async def forever() -> None:
        await asyncio.Event().wait()

    async def hang_up() -> None:
        begun.append(session.spawn(forever(), "dayfly workers j-1"))

    session.hanging_up = hang_up
    session.spawn(forever(), "dayfly job j-1")
    await session.aclose()
    assert [task.cancelled() for task in begun] == [True]


async def test_closing_that_is_interrupted_while_it_waits_for_a_launch_leaves_no_task() -> None:
    session = Session()
    task = session.spawn(asyncio.sleep(3600.0), "dayfly workers j-1")
    session.under_way.add(task)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(session.aclose(), 0.01)
    assert task.cancelled()


async def test_outcomes_in_storage_that_cannot_all_be_read_are_not_taken_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Memory:
        async def deliveries(self) -> Any:
            yield m.Delivery(job="j-1", number=1, outcomes=[CallOutcome(0, OutcomeKind.VALUE, b"")])
            raise errors.StorageError("the second part is gone")

    async def recollect(*_: object) -> Memory:
        return Memory()

    monkeypatch.setattr(module, "recollect", recollect)
    session = Session()
    channel = Channel(session, JobRequest(spec=spec("j-1"), function=b""))
    channel.talks_to("a journal")
    assert not await session._recall(channel)
    assert (channel.journal, channel.last) == ("a journal", 0)
    await session.aclose()


@pytest.mark.parametrize("broken", [True, False])
async def test_a_master_that_may_have_a_job_again_which_storage_says_is_over_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    class Memory:
        last_word = m.JobEnded(job="j-1", state=JobState.COMPLETED, after=1)

        async def deliveries(self) -> Any:
            yield m.Delivery(job="j-1", number=1, outcomes=[CallOutcome(0, OutcomeKind.VALUE, b"")])

    async def recollect(*_: object) -> Memory:
        return Memory()

    withdrawn: list[str] = []

    async def withdraw(job: str) -> bool:
        withdrawn.append(job)
        return False

    monkeypatch.setattr(module, "recollect", recollect)
    session = Session()
    made = cast("Any", session._made)
    made.conversation.withdraw, made.conversation.open = withdraw, not broken
    channel = Channel(session, JobRequest(spec=spec("j-1"), function=b""))
    channel.talks_to("a second master")
    assert await session._recall(channel)
    assert withdrawn == ["j-1"] * broken  # else it has just said that it knows no such job
    await session.aclose()


async def test_a_network_that_fails_for_a_moment_does_not_keep_a_job_from_being_left() -> None:
    session = Session()
    described = m.Described(request=1, spec=spec("j-1"), total=3)

    async def describe(job: str) -> m.Described:
        return described

    failures = 2

    async def ascent() -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise errors.CloudError("the cloud could not be asked")
        return SimpleNamespace(door=SimpleNamespace(describe=describe))

    cast("Any", session._made).conversation.ascent = ascent
    channel = Channel(session, JobRequest(spec=spec("j-1"), function=b""))
    assert await channel.handed_over()
    assert not failures
    channel.fail(errors.CloudError("the cloud could not be asked for a while"))
    assert not await channel.handed_over()


@pytest.mark.parametrize("there", [True, False])
async def test_a_job_that_is_given_up_may_go_on_only_if_its_master_could_not_be_told(
    there: bool,
) -> None:
    session = Session()
    withdrawn: list[str] = []

    async def withdraw(job: str) -> bool:
        withdrawn.append(job)
        return there

    cast("Any", session._made).conversation.withdraw = withdraw
    channel = Channel(session, JobRequest(spec=spec("j-1"), function=b""))
    never_said = Channel(session, JobRequest(spec=spec("j-2"), function=b""))
    channel.said.append(m.FollowLogs(job="j-1"))
    for each in (channel, never_said):
        await session.give_up(each, errors.StorageError("storage refused the second item"))
    assert withdrawn == ["j-1"]
    with pytest.raises(errors.StorageError) as caught:
        await anext(channel.events())
    notes = getattr(caught.value, "__notes__", [])
    assert ["dayfly job cancel j-1" in note for note in notes] == [True] * (not there)
    with pytest.raises(errors.StorageError) as caught:
        await anext(never_said.events())
    assert not hasattr(caught.value, "__notes__")


async def test_a_job_that_was_left_to_its_master_is_not_given_up_for_a_launch_that_fails() -> None:
    session = Session()
    withdrawn: list[str] = []

    async def withdraw(job: str) -> bool:
        withdrawn.append(job)
        return True

    cast("Any", session._made).conversation.withdraw = withdraw
    over, left = (Channel(session, JobRequest(spec=spec(j), function=b"")) for j in ("j-1", "j-2"))
    for channel in (over, left):
        channel.said.append(m.ItemsEnd(job=channel.id, total=1))
    over.fail(errors.CloudError("no worker could be launched"))
    assert not over.leave()
    assert left.leave()
    await session.give_up(left, errors.CloudError("no worker could be launched"))
    assert withdrawn == []
    assert not left.ended


@pytest.mark.parametrize("state", [InstanceState.RUNNING, InstanceState.STOPPED])
async def test_closing_stops_what_was_given_up_and_starts_no_master_for_it(
    state: InstanceState,
) -> None:
    session = Session()
    told: list[str] = []

    async def find() -> Any:
        return SimpleNamespace(state=state)

    async def tell_withdrawn() -> None:
        told.append("stop")

    made = cast("Any", session._made)
    made.ascender = SimpleNamespace(find=find)
    made.conversation.withdrawing, made.conversation.open = True, False
    made.conversation.tell_withdrawn = tell_withdrawn
    await session.aclose()
    assert told == ["stop"] * (state is InstanceState.RUNNING)


async def test_nothing_is_kept_of_a_job_that_was_cancelled_before_it_was_submitted() -> None:
    session = Session()

    async def items() -> Any:
        await asyncio.Event().wait()
        yield []

    channel = session.start(JobRequest(spec=spec("j-1"), function=b""), items())
    await asyncio.sleep(0)
    await channel.cancel()
    assert session._channels == {}
    await session.aclose()


async def test_a_master_that_cannot_be_reached_for_a_while_does_not_end_the_leaving_of_a_job() -> (
    None
):
    session = Session()
    described = m.Described(request=1, spec=spec("j-1"), total=3)

    async def describe(job: str) -> m.Described:
        return described

    failures: list[errors.DayflyError] = [
        errors.UnreachableError("the master does not answer SSH"),
        errors.ProvisionError("its service does not start"),
    ]

    async def ascent() -> Any:
        if failures:
            raise failures.pop()
        return SimpleNamespace(door=SimpleNamespace(describe=describe))

    cast("Any", session._made).conversation.ascent = ascent
    assert await Channel(session, JobRequest(spec=spec("j-1"), function=b"")).handed_over()
