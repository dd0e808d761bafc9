"""Launches on the simulated cloud: lost, cut in two, short of capacity."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from dayfly.errors import (
    CapacityError,
    CloudError,
    StorageError,
)
from dayfly.model import InstanceState, Tag
from dayfly.storage.notes import StorageNotes
from tests.simulation.chance import Chance
from tests.simulation.cloud import SimCloud
from tests.simulation.faults import Faults
from tests.simulation.process import Killed
from tests.simulation.stage import Stage, play, spec, until, up
from tests.simulation.vms import Pool

S = InstanceState


def test_a_launch_whose_answer_is_lost_is_there_and_said_again_brings_the_same() -> None:
    async def story(stage: Stage) -> None:
        client = stage.cloud()
        with pytest.raises(CloudError, match="did not answer") as caught:
            await client.launch(spec(), 3, token="t")
        assert not isinstance(caught.value, CapacityError)
        there = {vm.id for vm in stage.state.up()}
        assert len(there) == 3
        again = await client.launch(spec("m5.large"), 7, token="t")
        assert {instance.id for instance in again.instances} == there == set(stage.state.vms)

    play(story, ambiguous_launch=[5.0])


def test_a_launch_that_never_arrives_brings_nothing_until_it_is_said_again() -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(CloudError, match="could not be asked"):
            await stage.cloud().launch(spec(), 2, token="t")
        assert not stage.state.vms
        assert len((await stage.cloud().launch(spec(), 2, token="t")).instances) == 2

    play(story, launch_lost_before=[5.0])


def test_a_client_killed_in_a_launch_is_followed_by_one_that_goes_on_with_it() -> None:
    async def story(stage: Stage) -> None:
        stage.state.capacity[Pool("t3.medium", "us-east-1a", False)] = 2
        stage.state.capacity[Pool("t3.medium", "us-east-1b", False)] = 2
        stage.state.capacity[Pool("t3.medium", "us-east-1c", False)] = 2
        first = stage.process()
        launching = first.spawn(stage.cloud(first).launch(spec(), 6, token="t"))
        while not stage.state.vms:  # the first of three pools
            await asyncio.sleep(0.001)
        first.kill()
        await asyncio.sleep(60.0)
        assert len(stage.state.vms) == 2
        assert not launching.done()

        launch = await stage.cloud(stage.process()).launch(spec(), 6, token="t")
        assert len(launch.instances) == len(stage.state.vms) == 6

    play(story)


def test_a_launch_that_cannot_be_written_down_is_not_made() -> None:
    async def story(stage: Stage) -> None:
        cloud = SimCloud(stage.state, notes=StorageNotes(stage.storage()))
        with pytest.raises(StorageError):  # as on EC2, whose launches write to storage too
            await cloud.launch(spec(), 1, token="t")
        assert not stage.state.vms
        assert (await cloud.launch(spec(), 1, token="t")).instances

    play(story, storage_error=[1.0])


def test_a_vm_boots_and_ends_whatever_becomes_of_whoever_launched_it() -> None:
    async def story(stage: Stage) -> None:
        client = stage.process()
        launch = await client.spawn(stage.cloud(client).launch(spec(), 1, token="t"))
        client.kill()
        await until(stage.state, launch.instances[0], S.RUNNING)

    play(story)


def test_the_dead_ask_for_nothing_and_are_told_nothing() -> None:
    async def story(stage: Stage) -> None:
        client = stage.process()
        cloud = stage.cloud(client)
        client.kill()
        for asked in (cloud.list(), cloud.launch(spec(), 1, token="t"), cloud.terminate(["i-1"])):
            with pytest.raises(Killed):
                await asked
        assert not stage.state.vms

    play(story)


def test_what_the_first_type_lacks_comes_from_the_next() -> None:
    async def story(stage: Stage) -> None:
        launch = await stage.cloud().launch(spec("t3.medium", "m5.large"), 5, token="t")
        assert [each.instance_type for each in launch.instances] == ["t3.medium"] * 2 + [
            "m5.large"
        ] * 3
        assert (launch.shortfalls[0].asked, launch.shortfalls[0].got) == (5, 2)
        assert launch.shortfalls[0].code == "InsufficientInstanceCapacity"
        kinds = {vm.instance.tags[Tag.HOURLY] for vm in stage.state.vms.values()}
        assert kinds == {"0.0416", "0.096"}

    play(story, some_capacity=[2.0])


def test_a_launch_may_bring_less_than_was_asked() -> None:
    async def story(stage: Stage) -> None:
        launch = await stage.cloud().launch(spec(), 5, token="t")
        again = await stage.cloud().launch(spec(), 5, token="t")
        assert len(launch.instances) == len(again.instances) == len(stage.state.vms) == 2
        assert sum(each.got for each in launch.shortfalls) == 2
        assert again.shortfalls == launch.shortfalls

    play(story, some_capacity=[2.0])


def test_where_no_spot_instance_can_be_had_on_demand_ones_come_if_they_may() -> None:
    async def story(stage: Stage) -> None:
        launch = await stage.cloud().launch(spec(spot=True, fallback=True), 2, token="t")
        assert [each.spot for each in launch.instances] == [False, False]
        with pytest.raises(CapacityError, match="EC2 gave 0"):
            await stage.cloud().launch(spec(spot=True), 2, token="u")

    play(story, no_capacity=[100.0])


def test_a_launch_that_failed_is_over_though_there_is_room_by_now() -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(CapacityError, match="at least 1; EC2 gave 0"):
            await stage.cloud().launch(spec(), 2, token="t")
        await asyncio.sleep(101.0)
        again = await stage.cloud().launch(spec(), 2, token="t")
        assert again.instances == []
        assert again.shortfalls
        assert len((await stage.cloud().launch(spec(), 2, token="u")).instances) == 2

    play(story, no_capacity=[100.0])


def test_too_few_are_none() -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(CapacityError, match="at least 4; EC2 gave 3"):
            await stage.cloud().launch(spec(), 5, minimum=4, token="t")
        assert not stage.state.up()

    play(story, some_capacity=[3.0])


def test_a_launch_can_fail_after_it_was_answered() -> None:
    async def story(stage: Stage) -> None:
        (instance,) = (await stage.cloud().launch(spec(), 1, token="t")).instances
        assert instance.state is S.PENDING
        await until(stage.state, instance, S.TERMINATED)
        (ended,) = await stage.cloud().list(ids=[instance.id])
        assert ended.state_reason.startswith("Server.InsufficientInstanceCapacity")
        assert stage.state.cost() == 0.0

    play(story, no_capacity=[1.0])


def test_room_is_given_back_by_what_ends() -> None:
    async def story(stage: Stage) -> None:
        for zone in stage.state.zones:
            stage.state.capacity[Pool("t3.medium", zone, False)] = int(zone == "us-east-1a")
        (first,) = await up(stage)
        with pytest.raises(CapacityError):
            await stage.cloud().launch(spec(), 1, token="t")
        await stage.cloud().terminate([first.id])
        assert (await stage.cloud().launch(spec(), 1, token="u")).instances

    play(story)


# -- whatever happens --

#: The states that may follow each one. Source: the EC2 user guide, "Instance lifecycle"; the
#: ends that come at once are those of a host that fails.
FOLLOWING: dict[InstanceState | None, set[InstanceState]] = {
    None: {S.PENDING},
    S.PENDING: {S.RUNNING, S.STOPPING, S.SHUTTING_DOWN, S.TERMINATED, S.STOPPED},
    S.RUNNING: {S.STOPPING, S.SHUTTING_DOWN, S.TERMINATED, S.STOPPED},
    S.STOPPING: {S.STOPPED, S.SHUTTING_DOWN},
    S.STOPPED: {S.PENDING, S.SHUTTING_DOWN},
    S.SHUTTING_DOWN: {S.TERMINATED},
    S.TERMINATED: set(),
}
UNKIND = ("throttled", "no capacity", "some capacity", "ambiguous launch", "launch lost before")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_cloud_stays_true_to_itself(seed: int) -> None:
    async def story(stage: Stage) -> None:
        state, random = stage.state, Chance(seed).stream("story")
        rates = dict.fromkeys((*UNKIND, "listing lag", "slow boot"), 0.3)
        state.faults = Faults(rates, Chance(seed), lambda _: None)
        for zone in state.zones:
            state.capacity[Pool("t3.medium", zone, False)] = 5
        states: dict[str, InstanceState] = {}
        brought: dict[str, set[str]] = {}

        def heed(vm: str, old: InstanceState | None, new: InstanceState) -> None:
            assert states.get(vm) == old
            assert new in FOLLOWING[old]
            states[vm] = new
            assert state.vms[vm].born["Name"] == "w"

        async def use(cloud: SimCloud) -> None:
            for _ in range(20):
                await asyncio.sleep(random.expovariate(0.1))
                ids = random.sample(sorted(state.vms), min(2, len(state.vms)))
                token, stays = f"t-{random.randrange(4)}", random.random() < 0.5
                with suppress(CloudError):
                    match random.randrange(8):
                        case 0 | 1:
                            launch = await cloud.launch(spec(stays=stays), 4, token=token)
                            here = {instance.id for instance in launch.instances}
                            assert brought.setdefault(token, here) >= here
                        case 2:
                            await cloud.stop(ids)
                        case 3:
                            await cloud.start(ids)
                        case 4:
                            await cloud.terminate(ids[:1])
                        case 5:
                            await cloud.tag(ids, {"n": token})
                        case 6 if ids:
                            random.choice([state.crash, state.lose, state.powered_off])(ids[0])
                        case _:
                            await cloud.list()

        state.on_change(heed)
        clients = [stage.process() for _ in range(3)]
        using = [client.spawn(use(stage.cloud(client))) for client in clients]
        await asyncio.sleep(random.uniform(0.0, 100.0))
        clients[0].kill()
        await asyncio.gather(*using[1:])
        await asyncio.sleep(1000.0)
        settled = {S.RUNNING, S.STOPPED, S.TERMINATED}
        assert {vm.state for vm in state.vms.values()} <= settled
        shown = {i.id: i for i in state.look()}
        assert all(shown[vm.id] == vm.instance for vm in state.vms.values() if vm.id in shown)
        for pool, left in state.capacity.items():
            assert left + sum(vm.pool == pool for vm in state.up()) == 5
            assert left >= 0
        for order in state.orders.values():
            assert order.missing >= 0

    play(story, seed=seed)


def test_a_seed_is_played_the_same_each_time() -> None:
    async def story(stage: Stage) -> None:
        clouds = [stage.cloud(stage.process()) for _ in range(3)]
        await asyncio.gather(*(c.launch(spec(), 4, token=str(i % 2)) for i, c in enumerate(clouds)))
        await clouds[0].terminate([vm.id for vm in stage.state.up()])
        await clouds[1].purge()

    assert play(story, seed=1) == play(story, seed=1) != play(story, seed=2)
