"""The simulated cloud where it is unkind: what the contract of all clouds cannot ask for."""

from __future__ import annotations

import asyncio

import pytest

from dayfly.cost import MINIMUM, all_in
from dayfly.errors import (
    ApiError,
    CloudError,
    ConfigError,
    InstanceNotFoundError,
)
from dayfly.model import InstanceState, Launch, Tag
from tests.simulation.cloud import SimCloud
from tests.simulation.process import EPOCH, current
from tests.simulation.stage import Stage, play, spec, until, up
from tests.simulation.vms import BY_ACCIDENT, BY_GUEST, BY_SPOT, TYPES

S = InstanceState


async def states(cloud: SimCloud) -> list[str]:
    return [instance.state.value for instance in await cloud.list()]


# -- listings lag --


def test_only_who_launched_it_knows_a_vm_before_listings_tell_of_it() -> None:
    async def story(stage: Stage) -> None:
        ours, others = stage.cloud(), stage.cloud()
        (instance,) = (await ours.launch(spec(), 1, token="t")).instances
        assert [each.id for each in await ours.list(ids=[instance.id])] == [instance.id]
        assert await ours.list(states=[S.RUNNING]) == []
        assert await others.list() == []
        for asked in (
            others.tag([instance.id], {"a": "b"}),
            others.start([instance.id]),
            others.console(instance.id),
            ours.start([instance.id]),
        ):
            with pytest.raises(InstanceNotFoundError, match=instance.id):
                await asked
        await asyncio.sleep(20.0)
        assert [each.id for each in await others.list()] == [instance.id]

    play(story, listing_lag=[20.0])


def test_a_tag_waits_until_a_vm_is_known_that_was_launched_here() -> None:
    async def story(stage: Stage) -> None:
        cloud = stage.cloud()
        (instance,) = (await cloud.launch(spec(), 1, token="t")).instances
        begun = stage.state.now
        await cloud.tag([instance.id], {"colour": "red"})
        assert 15.0 < stage.state.now - begun < 30.0
        assert stage.state.vms[instance.id].instance.tags["colour"] == "red"
        assert "colour" not in stage.state.vms[instance.id].born

    play(story, listing_lag=[20.0])


def test_a_vm_that_is_not_known_yet_is_ended_by_who_launched_it_and_missed_by_others() -> None:
    async def story(stage: Stage) -> None:
        ours, others = stage.cloud(), stage.cloud()
        (instance,) = (await ours.launch(spec(), 1, token="t")).instances
        await others.terminate([instance.id])  # "gone already", for all that it can tell
        assert stage.state.up()
        await ours.terminate([instance.id])
        assert not stage.state.up()

    play(story, listing_lag=[20.0])


def test_listings_tell_of_what_was() -> None:
    async def story(stage: Stage) -> None:
        cloud = stage.cloud()
        (instance,) = await up(stage, stays=True)
        stage.faults.next["listing lag"] = [20.0, 15.0, 0.2]
        await cloud.tag([instance.id], {"colour": "red"})
        await cloud.stop([instance.id])
        (seen,) = await cloud.list()
        assert (seen.state, "colour" in seen.tags) == (S.RUNNING, False)
        await asyncio.sleep(19.0)  # the tag first: what is told is told in its order
        (seen,) = await cloud.list()
        assert (seen.state, "colour" in seen.tags) != (S.STOPPING, False)
        await asyncio.sleep(200.0)
        (seen,) = await cloud.list()
        assert (seen.state, seen.tags["colour"]) == (S.STOPPED, "red")

    play(story)


def test_a_vm_is_forgotten_an_hour_after_its_end() -> None:
    async def story(stage: Stage) -> None:
        cloud = stage.cloud()
        (instance,) = await up(stage)
        await cloud.terminate([instance.id])
        await until(stage.state, instance, S.TERMINATED)
        await asyncio.sleep(3590.0)
        assert await states(cloud) == ["terminated"]
        await asyncio.sleep(20.0)
        assert await states(cloud) == []
        await cloud.terminate([instance.id])
        with pytest.raises(InstanceNotFoundError):
            await cloud.tag([instance.id], {"a": "b"})
        assert stage.state.vms[instance.id].history[-1].state is S.TERMINATED

    play(story)


# -- too many calls --


def test_what_is_refused_as_too_much_is_said_again() -> None:
    async def story(stage: Stage) -> None:
        await stage.cloud().list()
        assert 20.0 <= stage.state.now < 60.0

    play(story, throttled=[20.0])


def test_what_is_refused_for_minutes_is_an_error_that_says_so() -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(ApiError, match="describe_instances") as caught:
            await stage.cloud().list()
        assert caught.value.code == "RequestLimitExceeded"
        assert 60.0 < stage.state.now <= 125.0

    play(story, throttled=[500.0])


def test_all_who_call_draw_on_the_same_limits() -> None:
    async def story(stage: Stage) -> None:
        clouds = [stage.cloud(stage.process()) for _ in range(4)]
        await asyncio.gather(*(cloud.launch(spec(), 1, token="t") for cloud in clouds))
        quick = stage.state.now
        await asyncio.gather(*(cloud.list() for cloud in clouds))
        assert stage.state.now - quick > 25.0
        assert len(stage.state.vms) == 1

    play(story, limits={"describe": (50, 5), "describe_instances": (1, 0.1)})


# -- lives --


def test_a_slow_boot_takes_minutes() -> None:
    async def story(stage: Stage) -> None:
        (instance,) = (await stage.cloud().launch(spec(), 1, token="t")).instances
        assert await until(stage.state, instance, S.RUNNING) > 290.0

    play(story, slow_boot=[300.0])


@pytest.mark.parametrize("stays", [True, False])
def test_a_vm_that_powers_itself_off_is_stopped_or_deleted_as_it_was_launched(
    stays: bool,
) -> None:
    async def story(stage: Stage) -> None:
        (instance,) = await up(stage, stays=stays)
        stage.state.powered_off(instance.id)
        assert stage.state.vms[instance.id].state is (S.STOPPING if stays else S.SHUTTING_DOWN)
        await until(stage.state, instance, S.STOPPED if stays else S.TERMINATED)
        (ended,) = await stage.cloud().list()
        assert ended.state_reason == BY_GUEST

    play(story)


def test_a_vm_that_was_told_to_stop_is_stopped_soon_after_its_machine_is_off() -> None:
    async def story(stage: Stage) -> None:
        (instance,) = await up(stage, stays=True)
        seen: list[tuple[str | None, str]] = []

        def heed(vm: str, old: InstanceState | None, new: InstanceState) -> None:
            seen.append((old, new))
            if new is S.STOPPING:
                stage.state.powered_off(vm)  # within the listener, as a machine would

        stage.state.on_change(heed)
        stage.state.on_change(lambda _, old, new: seen.append((old, new)))
        await stage.cloud().stop([instance.id])
        await until(stage.state, instance, S.STOPPED)
        twice = [(S.RUNNING, S.STOPPING)] * 2 + [(S.STOPPING, S.STOPPED)] * 2
        assert seen == twice
        assert stage.state.vms[instance.id].instance.state_reason.startswith("Client.User")

    play(story)


def test_an_end_that_is_begun_is_not_undone_by_a_stop() -> None:
    async def story(stage: Stage) -> None:
        (instance,) = await up(stage, stays=True)
        await stage.cloud().stop([instance.id])
        await stage.cloud().terminate([instance.id])
        with pytest.raises(CloudError, match="shutting-down"):
            await stage.cloud().stop([instance.id])
        await until(stage.state, instance, S.TERMINATED)
        with pytest.raises(CloudError, match="terminated"):
            await stage.cloud().start([instance.id])

    play(story)


def test_a_vm_keeps_its_id_and_disk_over_a_stop_and_gets_another_address() -> None:
    async def story(stage: Stage) -> None:
        (first,) = await up(stage, stays=True)
        await stage.cloud().stop([first.id])
        with pytest.raises(CloudError, match="stopping"):
            await stage.cloud().start([first.id])
        await until(stage.state, first, S.STOPPED)
        begun = stage.state.now
        await stage.cloud().start([first.id])
        await until(stage.state, first, S.RUNNING)
        (second,) = await stage.cloud().list()
        assert second.id == first.id
        assert second.launched_at > EPOCH + begun > first.launched_at
        assert second.private_address == first.private_address
        assert len({first.address, second.address, first.private_address, ""}) == 4
        assert [moment.state for moment in stage.state.vms[first.id].history] == [
            S.PENDING, S.RUNNING, S.STOPPING, S.STOPPED, S.PENDING, S.RUNNING,
        ]  # fmt: skip

    play(story)


def test_a_stopped_vm_cannot_be_started_where_there_is_no_room() -> None:
    async def story(stage: Stage) -> None:
        vm = stage.state.add_users_vm()
        stage.faults.next["no capacity"] = [100.0]
        with pytest.raises(ApiError, match="cannot start") as caught:
            await stage.cloud().start([vm.id])
        assert caught.value.code == "InsufficientInstanceCapacity"
        await asyncio.sleep(100.0)
        await stage.cloud().start([vm.id])
        await until(stage.state, vm, S.RUNNING)

    play(story)


def test_a_spot_notice_comes_two_minutes_before_the_end() -> None:
    async def story(stage: Stage) -> None:
        notices: list[tuple[str, float]] = []
        stage.state.on_notice(lambda vm, at: notices.append((vm, at - stage.state.now)))
        (instance,) = await up(stage, spot=True)
        assert stage.state.interrupt(instance.id)
        assert not stage.state.interrupt(instance.id)
        assert notices == [(instance.id, 120.0)]
        taken = await until(stage.state, instance, S.SHUTTING_DOWN)
        assert taken == pytest.approx(120.0, abs=0.2)
        await until(stage.state, instance, S.TERMINATED)
        assert (await stage.cloud().list())[0].state_reason == BY_SPOT

    play(story)


def test_a_vm_that_ended_before_its_notice_was_up_stays_ended() -> None:
    async def story(stage: Stage) -> None:
        (instance,) = await up(stage, spot=True)
        stage.state.interrupt(instance.id)
        await stage.cloud().terminate([instance.id])
        await asyncio.sleep(300.0)
        (ended,) = await stage.cloud().list()
        assert (ended.state, ended.state_reason[:11]) == (S.TERMINATED, "Client.User")

    play(story)


def test_a_spot_vm_may_be_gone_at_once_and_any_vm_may_lose_its_host() -> None:
    async def story(stage: Stage) -> None:
        (spot, other) = await up(stage, spot=True, count=2)
        assert stage.state.reclaim(spot.id)
        assert stage.state.crash(other.id)
        assert not stage.state.crash(other.id)
        reasons = [vm.history[-1] for vm in stage.state.vms.values()]
        assert [(moment.state, moment.reason) for moment in reasons] == [
            (S.TERMINATED, BY_SPOT),
            (S.TERMINATED, BY_ACCIDENT),
        ]
        stays = await stage.cloud().launch(spec(stays=True), 2, token="m")
        assert not stage.state.reclaim(stays.instances[0].id)
        assert stage.state.crash(stays.instances[0].id)
        assert stage.state.lose(stays.instances[1].id)
        assert (await states(stage.cloud()))[2:] == ["stopped", "terminated"]

    play(story)


def test_those_who_listen_are_no_process_even_where_a_process_is_the_cause() -> None:
    async def story(stage: Stage) -> None:
        heard: list[object] = []
        stage.state.on_change(lambda vm, old, new: heard.append((vm, old, new, current())))
        client = stage.process()
        launch: Launch = await client.spawn(stage.cloud(client).launch(spec(), 1, token="t"))
        assert heard == [(launch.instances[0].id, None, S.PENDING, None)]

    play(story)


# -- money --


def test_a_vm_costs_its_running_time_and_a_minute_at_the_least() -> None:
    async def story(stage: Stage) -> None:
        (instance,) = await up(stage, stays=True)
        vm, rate = stage.state.vms[instance.id], all_in(TYPES["t3.medium"].hourly) / 3600.0
        assert stage.state.cost() == pytest.approx(MINIMUM * rate)
        await asyncio.sleep(1000.0)
        await stage.cloud().stop([instance.id])
        await until(stage.state, instance, S.STOPPED)
        ((begun, end),) = vm.runs(stage.state.now)
        assert end - begun == pytest.approx(1000.0, abs=10.0)
        await asyncio.sleep(1000.0)
        assert stage.state.cost([instance.id]) == pytest.approx((end - begun) * rate)
        await stage.cloud().start([instance.id])
        await until(stage.state, instance, S.RUNNING)
        assert stage.state.cost() == pytest.approx((end - begun + MINIMUM) * rate)

    play(story)


def test_a_type_that_the_price_list_has_not_costs_money_all_the_same() -> None:
    async def story(stage: Stage) -> None:
        found = await stage.cloud().prices(["t3.medium", "m99.large"], spot=True)
        assert found["m99.large"].hourly is None
        assert found["t3.medium"].hourly == pytest.approx(0.0416 * 0.35)
        (instance,) = await up(stage, "m99.large")
        assert instance.hourly is None
        assert Tag.HOURLY not in instance.tags
        assert stage.state.cost() > 0.0

    play(story)


# -- a user's own, and the console --


def test_a_users_own_vm_is_consumed_unless_a_poweroff_would_delete_it() -> None:
    async def story(stage: Stage) -> None:
        cloud = stage.cloud()
        good = stage.state.add_users_vm()
        bad = stage.state.add_users_vm(on_poweroff="terminate", running=True)
        assert await states(cloud) == ["stopped", "running"]
        await cloud.check_consumable(good)
        with pytest.raises(ConfigError, match=bad.id):
            await cloud.check_consumable(bad)
        await cloud.purge()
        assert await states(cloud) == ["stopped", "running"]
        await cloud.start([good.id])
        await until(stage.state, good, S.RUNNING)

    play(story)


def test_a_console_may_be_empty_for_a_while() -> None:
    async def story(stage: Stage) -> None:
        vm = stage.state.add_users_vm(running=True)
        stage.state.printed(vm.id, "login:")
        assert await stage.cloud().console(vm.id) == ""
        assert await stage.cloud().console(vm.id) == "login:"

    play(story, console_empty=[1.0])
