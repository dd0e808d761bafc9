"""What every cloud promises (dayfly.cloud.base), said to each of its forms."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection

import msgspec
import pytest

from dayfly.cloud.base import Cloud
from dayfly.errors import CloudError, ConfigError, InstanceNotFoundError
from dayfly.model import ALIVE, Instance, InstanceSpec, InstanceState, Tag
from tests.contract.forms import Form
from tests.embedded import eventually

S = InstanceState
#: Tags that a cloud may add of its own.
OWN = {Tag.LAUNCH, Tag.HOURLY}


def spec(form: Form, spot: bool = False, instance_type: str = "", **tags: str) -> InstanceSpec:
    return InstanceSpec(
        role="worker",
        instance_types=[instance_type or form.instance_type],
        on_poweroff="terminate",
        user_data="#cloud-config\n{}\n",
        tags={"Name": "w-1", **tags},
        spot=spot,
    )


async def one(form: Form, name: str = "one", **tags: str) -> Instance:
    launch = await form.cloud.launch(msgspec.structs.replace(spec(form), tags=tags), 1, token=name)
    return launch.instances[0]


async def ours(form: Form, name: str) -> Instance:
    owner = await form.cloud.owner()
    return await one(form, name, **{Tag.MANAGED.value: "true", Tag.OWNER.value: owner})


def given(instance: Instance) -> dict[str, str]:
    """The tags that were asked for."""
    return {key: value for key, value in instance.tags.items() if key not in OWN}


async def until(cloud: Cloud, instance: Instance, states: Collection[InstanceState]) -> Instance:
    async def there() -> bool:
        return bool(await cloud.list(ids=[instance.id], states=states))

    await eventually(there, f"one of {states}")
    return (await cloud.list(ids=[instance.id]))[0]


async def test_an_instance_carries_its_tags_and_type_from_birth(cloud: Cloud, form: Form) -> None:
    launch = await cloud.launch(spec(form, cluster="c", spot=True), 2, token="t")

    assert not launch.shortfalls
    assert len({instance.id for instance in launch.instances}) == 2
    for instance in launch.instances:
        assert given(instance) == {"Name": "w-1", "cluster": "c"}
        assert instance.name == "w-1"
        assert instance.instance_type == form.instance_type
        assert instance.spot
        assert instance.state in (S.PENDING, S.RUNNING)
        assert instance.launched_at > 0


async def test_a_pending_instance_comes_up_with_an_address_of_its_own(
    cloud: Cloud, form: Form
) -> None:
    launch = await cloud.launch(spec(form), 2, token="t")
    up = [await until(cloud, instance, [S.RUNNING]) for instance in launch.instances]

    assert len({(instance.address, instance.ssh_port) for instance in up}) == 2
    assert all(instance.address for instance in up)


async def test_the_listing_is_narrowed_by_tags_ids_and_states(cloud: Cloud, form: Form) -> None:
    a = await one(form, "a", cluster="x", role="master")
    b = await one(form, "b", cluster="x", role="worker")
    await until(cloud, a, [S.RUNNING])
    await until(cloud, b, [S.RUNNING])

    async def ids(**narrowed: object) -> set[str]:
        return {instance.id for instance in await cloud.list(**narrowed)}  # type: ignore[arg-type]

    assert await ids() == {a.id, b.id}
    assert await ids(tags={"cluster": "x"}) == {a.id, b.id}
    assert await ids(tags={"cluster": "x", "role": "worker"}) == {b.id}
    assert await ids(tags={"cluster": "y"}) == set()
    assert await ids(ids=[a.id, "i-00000000000000000"]) == {a.id}
    assert await ids(ids=[]) == set()
    assert await ids(states=[S.RUNNING]) == {a.id, b.id}
    assert await ids(states=[S.STOPPED]) == set()


async def test_a_launch_that_is_said_again_launches_nothing(cloud: Cloud, form: Form) -> None:
    first = await cloud.launch(spec(form), 2, token="same")
    again = await cloud.launch(spec(form), 2, token="same")
    other = await cloud.launch(spec(form), 1, token="other")

    assert {i.id for i in again.instances} == {i.id for i in first.instances}
    assert {i.id for i in other.instances}.isdisjoint({i.id for i in first.instances})
    assert len(await cloud.list()) == 3


async def test_two_programs_that_launch_with_one_token_at_once_share_the_instances(
    cloud: Cloud,
    form: Form,
) -> None:
    launches = await asyncio.gather(*(cloud.launch(spec(form), 2, token="same") for _ in range(4)))

    assert len({frozenset(i.id for i in launch.instances) for launch in launches}) == 1
    assert len(await cloud.list()) == 2


async def test_an_instance_type_has_processes_and_an_unknown_one_is_refused(
    cloud: Cloud, form: Form
) -> None:
    instance_type, processes = form.processes
    assert await cloud.processes(instance_type) == processes
    assert re.fullmatch(r"(3\.\d+)?", await cloud.python(instance_type))
    nobodys, anothers = form.unknown
    with pytest.raises(ConfigError, match=re.escape(nobodys)):
        await cloud.processes(nobodys)
    with pytest.raises(ConfigError, match=re.escape(anothers)):
        await cloud.launch(spec(form, instance_type=anothers), 1, token="t")
    assert await cloud.list() == []


async def test_stop_and_start_keep_the_instance(cloud: Cloud, form: Form) -> None:
    instance = await until(cloud, await one(form), [S.RUNNING])

    await cloud.stop([instance.id])
    stopped = await until(cloud, instance, [S.STOPPED])
    assert stopped.state_reason.startswith("Client.UserInitiatedShutdown")
    await cloud.stop([instance.id])  # stopped already: not an error

    await cloud.start([instance.id])
    again = await until(cloud, instance, [S.RUNNING])
    await cloud.start([instance.id])  # up already: not an error
    assert again.tags == instance.tags
    assert again.launched_at >= instance.launched_at  # EC2 dates each start
    assert again.state_reason == ""


async def test_a_terminated_instance_stays_visible_and_cannot_come_back(
    cloud: Cloud, form: Form
) -> None:
    instance = await one(form)
    await cloud.terminate([instance.id])
    assert (await cloud.list(ids=[instance.id]))[0].state in (S.SHUTTING_DOWN, S.TERMINATED)
    gone = await until(cloud, instance, [S.TERMINATED])
    assert gone.state_reason.startswith("Client.UserInitiatedShutdown")

    await cloud.terminate([instance.id, "i-00000000000000000"])  # gone already: not an error
    with pytest.raises(CloudError, match="terminated"):
        await cloud.start([instance.id])


async def test_a_stopped_instance_can_be_terminated(cloud: Cloud, form: Form) -> None:
    instance = await until(cloud, await one(form), [S.RUNNING])
    await cloud.stop([instance.id])
    await until(cloud, instance, [S.STOPPED])
    await cloud.terminate([instance.id])
    await until(cloud, instance, [S.TERMINATED])


async def test_an_unknown_instance_starts_nothing_else(cloud: Cloud, form: Form) -> None:
    instance = await until(cloud, await one(form), [S.RUNNING])
    await cloud.stop([instance.id])
    await until(cloud, instance, [S.STOPPED])

    with pytest.raises(InstanceNotFoundError, match="i-00000000000000000"):
        await cloud.start([instance.id, "i-00000000000000000"])
    assert (await cloud.list(ids=[instance.id]))[0].state is S.STOPPED
    with pytest.raises(InstanceNotFoundError):
        await cloud.stop(["i-00000000000000000"])


async def test_a_spot_instance_cannot_be_stopped(cloud: Cloud, form: Form) -> None:
    launch = await cloud.launch(spec(form, spot=True), 1, token="t")
    with pytest.raises(CloudError, match="spot"):
        await cloud.stop([launch.instances[0].id])


async def test_tags_can_be_added_and_replaced(cloud: Cloud, form: Form) -> None:
    instance = await one(form, Name="w-1", colour="red")
    await cloud.tag([instance.id], {"colour": "blue", "size": "1"})
    (now,) = await cloud.list(ids=[instance.id])
    assert given(now) == {"Name": "w-1", "colour": "blue", "size": "1"}
    with pytest.raises(InstanceNotFoundError):
        await cloud.tag(["i-00000000000000000"], {"a": "b"})


async def test_the_console_shows_the_host_keys(cloud: Cloud, form: Form) -> None:
    instance = await one(form)
    form.boot(instance)

    async def printed() -> bool:
        return "-----END SSH HOST KEY KEYS-----" in await cloud.console(instance.id)

    await eventually(printed, "host keys on the console")
    text = await cloud.console(instance.id)
    keys = text.split("-----BEGIN SSH HOST KEY KEYS-----")[1].split("-----END")[0]
    assert keys.strip().startswith("ssh-ed25519 AAAA")
    with pytest.raises(InstanceNotFoundError):
        await cloud.console("i-00000000000000000")


async def test_the_inventory_names_what_exists_and_purge_empties_it(
    cloud: Cloud, form: Form
) -> None:
    a, b = await ours(form, "a"), await ours(form, "b")
    await cloud.terminate([a.id])
    await until(cloud, a, [S.TERMINATED])
    instances = [found.id for found in await cloud.inventory() if found.kind == "instance"]
    assert instances == [b.id]

    await cloud.purge()
    assert await cloud.inventory() == []
    await cloud.purge()  # nothing there: not an error


async def test_purge_leaves_what_the_user_made(cloud: Cloud, form: Form) -> None:
    own = await one(form, "own")
    await ours(form, "ours")
    await cloud.purge()
    assert await cloud.inventory() == []
    assert [instance.id for instance in await cloud.list(states=ALIVE)] == [own.id]
    assert (await until(cloud, own, [S.RUNNING])).state is S.RUNNING


async def test_the_owner_has_a_name(cloud: Cloud) -> None:
    assert await cloud.owner()
