"""What is asked about new instances, how often, and when no more."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import cast

from dayfly.client.cluster import Cluster
from dayfly.client.conversation import Channel
from dayfly.client.lookout import UNSEEN, Lookout
from dayfly.model import Instance, InstanceState, Tag
from tests.unit.ec2_support import TurnedClock

PENDING, RUNNING, TERMINATED = (
    InstanceState.PENDING,
    InstanceState.RUNNING,
    InstanceState.TERMINATED,
)


def instance(name: str, state: InstanceState = PENDING, launch: str = "one") -> Instance:
    tags = {Tag.LAUNCH.value: launch}
    return Instance(id=name, instance_type="t3.medium", state=state, tags=tags, launched_at=0)


@dataclass
class Job:
    ended: bool = False
    staffed: bool = True


@dataclass
class Ec2:
    """Instances by the second from which they are in a state; each question is written down."""

    clock: TurnedClock
    story: dict[str, list[tuple[float, InstanceState]]]
    born: float = 1_000.0
    asked: list[tuple[str, bool, bool]] = field(default_factory=list)

    async def see(
        self, ids: Collection[str], states: Collection[InstanceState], *, launch: str = ""
    ) -> list[Instance]:
        self.asked.append((launch, PENDING in states, RUNNING in states))
        age = self.clock.time - self.born
        now = {
            name: [state for since, state in story if since <= age]
            for name, story in self.story.items()
        }
        seen = [instance(name, past[-1]) for name, past in now.items() if past]
        found = [each for each in seen if each.state in states and each.id in ids]
        await asyncio.sleep(0)  # the answer travels
        return found


ALL, WAITING, ENDED = (True, True), (True, False), (False, False)


async def look(
    story: dict[str, list[tuple[float, InstanceState]]], *launches: str, job: Job | None = None
) -> tuple[list[str], list[tuple[bool, bool]], list[str]]:
    """Look after the instances of a story; returns who ended, and what was asked."""
    clock = TurnedClock()
    ec2 = Ec2(clock, story)
    lookout = Lookout(cast("Cluster", ec2), clock, 1.0)
    channel = cast("Channel", job or Job())
    for launch in launches or ("one",):
        assert lookout.watch(channel, [instance(name, launch=launch) for name in story])
    ended = [found.id async for _, found in lookout.ended()]
    return (
        ended,
        [(pending, running) for _, pending, running in ec2.asked],
        [launch for launch, *_ in ec2.asked],
    )


async def test_instances_that_run_at_the_first_look_are_not_looked_for_again() -> None:
    ended, asked, launches = await look({f"i-{n}": [(0, RUNNING)] for n in range(1000)})
    assert not ended
    assert asked == [ALL]
    assert launches == ["one"], "nothing else of the cluster is listed"


async def test_while_they_are_pending_most_questions_are_for_the_ended_only() -> None:
    ended, asked, _ = await look({"i-1": [(0, PENDING), (8.5, RUNNING)]})
    assert not ended
    assert asked == [ALL, *[ENDED] * 4, WAITING, *[ENDED] * 4, WAITING]


async def test_a_late_failure_is_told_within_a_second() -> None:
    story = {"i-1": [(0, PENDING), (2.5, TERMINATED)], "i-2": [(0, PENDING), (3.0, RUNNING)]}
    ended, asked, _ = await look(story)
    assert ended == ["i-1"]
    assert asked == [ALL, ENDED, ENDED, ENDED, ENDED, WAITING]


async def test_those_that_run_are_looked_after_until_they_are_workers() -> None:
    job, clock = Job(staffed=False), TurnedClock()
    story: dict[str, list[tuple[float, InstanceState]]] = {
        "i-1": [(0, RUNNING), (12.5, TERMINATED)],  # while packages were installed on it
        "i-2": [(0, RUNNING), (30.5, TERMINATED)],
    }
    ec2 = Ec2(clock, story)
    lookout = Lookout(cast("Cluster", ec2), clock, 1.0)
    assert lookout.watch(cast("Channel", job), [instance(name) for name in story])
    ended = []
    async for _, found in lookout.ended():
        ended.append((found.id, clock.time - ec2.born))
        job.staffed = True  # by the other one: that is the master's to watch from now on
    assert ended == [("i-1", 16.0)]
    assert [(pending, running) for _, pending, running in ec2.asked] == [ALL, *[ENDED] * 3]


async def test_one_that_is_never_listed_is_given_up_after_a_while() -> None:
    ended, asked, _ = await look({"i-1": []})
    assert not ended
    assert len(asked) == UNSEEN + 1


async def test_nobody_looks_for_a_job_that_is_over() -> None:
    assert await look({"i-1": [(0, PENDING)]}, job=Job(ended=True)) == ([], [], [])


async def test_two_launches_that_are_answered_at_once_are_looked_after_by_one() -> None:
    clock = TurnedClock()
    ec2 = Ec2(clock, {"a": [(0.0, TERMINATED)]})
    lookout = Lookout(cast("Cluster", ec2), clock, 1.0)
    job = cast("Channel", Job())
    assert lookout.watch(job, [instance("a")])
    assert lookout.watch(job, [instance("b")])  # the first has not begun to look

    async def ended() -> list[str]:
        return [one.id async for _, one in lookout.ended()]

    both = await asyncio.gather(ended(), ended())
    assert sorted(both) == [[], ["a"]]
