"""The machines behind emulated instances, and what they find there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from dayfly.aws.session import Aws
from dayfly.cloud.localhost import Faults
from dayfly.errors import CapacityError, InstanceNotFoundError
from tests.aws import fixtures, machine_fixtures
from tests.aws.imds import MetadataService
from tests.aws.machines import SSH_PORT, EmbeddedMachines
from tests.aws.world import Birth
from tests.conftest import processes_of
from tests.embedded import Embedded, eventually
from tests.unit.metadata_support import Asker, issue, metadata_service

ENDPOINT = "http://127.0.0.1:9"


def birth(name: str, user_data: str, **more: Any) -> Birth:
    """What the emulator says of a new instance."""
    plain: dict[str, Any] = {
        "instance_type": "t3.medium",
        "on_poweroff": "terminate",
        "spot": False,
        "tags": {"Name": "guest"},
        "details": {"IamInstanceProfile": {"Name": "dayfly"}},
    }
    return Birth(id=name, user_data=user_data, **plain | more)


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    with metadata_service(issue) as service:
        yield service


machines = machine_fixtures.machines
aws = fixtures.aws


@dataclass
class Site:
    """Machines, and the words of these tests."""

    machines: EmbeddedMachines
    embedded: Embedded

    def launch(self, *ids: str, **more: Any) -> dict[str, str]:
        """Launch machines that know the user's key."""
        births = [birth(name, self.embedded.user_data(), **more) for name in ids]
        return self.machines.launch(births)

    async def run(self, instance_id: str, command: str) -> str:
        """Run a command on a machine that may still be booting."""
        result = await self.embedded.run(self.machines.instance(instance_id), command)
        assert result.status == 0, result
        return result.stdout

    async def power_off(self, instance_id: str) -> None:
        """Power a machine off from within."""
        async with self.embedded.connected(self.machines.instance(instance_id)) as connection:
            await self.embedded.power_off(connection)

    async def until(self, instance_id: str, state: str) -> None:
        """Wait for a state."""
        await eventually(
            lambda: self.machines.states()[instance_id] == state, f"{instance_id} to be {state}"
        )


@pytest.fixture
async def site(own_home: Path, metadata: MetadataService) -> AsyncIterator[Site]:
    directory = own_home / "ec2"
    machines = EmbeddedMachines(directory, metadata, endpoint=ENDPOINT)
    yield Site(machines, Embedded(machines.cloud))
    machines.raze()
    assert not processes_of(own_home), "processes were left behind"
    assert not list(directory.glob("*")), "files were left behind"


#: What any program with an AWS SDK does on an instance, to say what it found.
_WHO = """
import json, botocore.session
session = botocore.session.get_session()
keys = session.get_credentials()
print(json.dumps([keys.method, keys.access_key, keys.token]))
"""
_WHO_ASYNC = """
import asyncio, json, aioboto3
async def who():
    keys = await (await aioboto3.Session()._session.get_credentials()).get_frozen_credentials()
    print(json.dumps(["iam-role", keys.access_key, keys.token]))
asyncio.run(who())
"""


async def test_a_program_on_a_machine_gets_its_keys_as_on_ec2(site: Site) -> None:
    addresses = site.launch("i-0one", "i-0two")

    assert len({*addresses.values()}) == 2
    assert all(address.startswith("127.") for address in addresses.values())
    assert site.machines.instance("i-0one").ssh_port == SSH_PORT
    first, second = await asyncio.gather(
        site.run("i-0one", f"python3 -c '{_WHO}'"), site.run("i-0two", f"python3 -c '{_WHO_ASYNC}'")
    )
    for name, answer in {"i-0one": first, "i-0two": second}.items():
        method, key, token = json.loads(answer)
        assert method == "iam-role"
        assert key.startswith("ASIA")
        assert token == f"dayfly/{name}"
        assert site.machines.metadata.count("security-credentials/dayfly", instance_id=name) == 1
    assert set(site.machines.states().values()) == {"running"}


async def test_a_machine_is_told_what_an_instance_is_told_and_no_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the launcher's own")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    site.launch("i-0one")

    lines = (await site.run("i-0one", "env")).splitlines()

    told = dict(line.split("=", 1) for line in lines if line.startswith("AWS_"))
    assert told == {
        "AWS_ENDPOINT_URL": ENDPOINT,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": site.machines.metadata.endpoint("i-0one"),
        "AWS_METADATA_SERVICE_TIMEOUT": "10",
        "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "3",
    }


async def test_python3_on_a_machine_has_what_dayfly_needs(site: Site) -> None:
    site.launch("i-0one")
    for user in ("", "sudo "):
        await site.run(
            "i-0one", f"{user}python3 -c 'import aioboto3, aiohttp, asyncssh, cloudpickle, msgspec'"
        )
    assert "first boot" in site.machines.console("i-0one")
    assert (site.machines.folder("i-0one") / "root").is_dir()


async def test_a_guest_that_powers_itself_off_is_seen_to_be_gone(site: Site) -> None:
    site.launch("i-0worker", spot=True)
    site.launch("i-0master", on_poweroff="stop")

    await asyncio.gather(site.power_off("i-0worker"), site.power_off("i-0master"))

    await site.until("i-0worker", "terminated")
    await site.until("i-0master", "stopped")
    for name in ("i-0worker", "i-0master"):
        reason = site.machines.instance(name).state_reason
        assert reason.startswith("Client.InstanceInitiatedShutdown")


async def test_a_machine_is_stopped_started_and_terminated(site: Site) -> None:
    addresses = site.launch("i-0master", on_poweroff="stop")
    await site.run("i-0master", 'echo kept >"$HOME/file"')

    site.machines.stop(["i-0master"])
    await site.until("i-0master", "stopped")
    site.machines.start(["i-0master"])

    assert await site.run("i-0master", 'cat "$HOME/file"') == "kept\n"
    assert site.machines.instance("i-0master").address == addresses["i-0master"]
    endpoint = site.machines.metadata.endpoint("i-0master")
    assert endpoint in await site.run("i-0master", "env"), "it is born again with its environment"
    site.machines.terminate(["i-0master"])
    await site.until("i-0master", "terminated")
    site.machines.terminate(["i-0master"])


#: What a worker does to learn whether it is about to be taken away.
_NOTICE = """
import os, urllib.error, urllib.request as web
base = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] + "/latest/"
ask = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
token = web.urlopen(web.Request(base + "api/token", method="PUT", headers=ask)).read().decode()
show = {"X-aws-ec2-metadata-token": token}
try:
    url = base + "meta-data/spot/instance-action"
    print(web.urlopen(web.Request(url, headers=show)).read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"""


async def test_a_spot_machine_reads_its_notice(site: Site) -> None:
    site.launch("i-0spot", spot=True)
    assert await site.run("i-0spot", f"python3 -c '{_NOTICE}'") == "404\n"

    site.machines.metadata.announce("i-0spot", time.time() + 120)

    notice = json.loads(await site.run("i-0spot", f"python3 -c '{_NOTICE}'"))
    assert notice["action"] == "terminate"


async def test_a_launch_that_cannot_be_had_in_full_leaves_nothing(site: Site) -> None:
    await site.embedded.cloud.set_faults(Faults(capacity=1))
    with pytest.raises(CapacityError):
        site.launch("i-0one", "i-0two")
    await site.until("i-0one", "terminated")


def test_an_unknown_instance_has_no_machine(site: Site) -> None:
    with pytest.raises(InstanceNotFoundError, match="i-0none"):
        site.machines.console("i-0none")


@dataclass
class Account:
    """EC2 as a client of it sees it, and keys for what it launches."""

    home: machine_fixtures.Ec2Home
    ec2: Any
    keys: Embedded

    async def launch(self, count: int = 1, **more: Any) -> list[str]:
        """Launch instances."""
        launch = await self.ec2.run_instances(
            ImageId=self.home.aws.image,
            InstanceType="t3.medium",
            MinCount=count,
            MaxCount=count,
            UserData=self.keys.user_data(),
            **more,
        )
        return [instance["InstanceId"] for instance in launch["Instances"]]

    async def look(self, instance_id: str) -> dict[str, Any]:
        """An instance as ``DescribeInstances`` tells of it."""
        answer = await self.ec2.describe_instances(InstanceIds=[instance_id])
        return cast("dict[str, Any]", answer["Reservations"][0]["Instances"][0])

    async def until(self, instance_id: str, state: str) -> dict[str, Any]:
        """Wait for a state."""

        async def there() -> bool:
            return bool((await self.look(instance_id))["State"]["Name"] == state)

        await eventually(there, f"{instance_id} to be {state}")
        return await self.look(instance_id)


@pytest.fixture
async def account(machines: machine_fixtures.Ec2Home) -> AsyncIterator[Account]:
    async with contextlib.aclosing(Aws("us-east-1")) as opened:
        ec2 = await opened.client("ec2")
        yield Account(machines, ec2, Embedded(machines.machines.cloud))


#: What a worker does with its role. The region is in the metadata, and nowhere else.
_WORK = """
import asyncio, os, aioboto3
from aiobotocore.utils import AioInstanceMetadataRegionFetcher as Fetcher
where = {"ec2_metadata_service_endpoint": os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]}
async def work():
    region = await Fetcher(config=where).retrieve_region()
    session = aioboto3.Session(region_name=region)
    async with session.client("s3") as s3, session.client("sts") as sts:
        await s3.create_bucket(Bucket="made-on-a-machine")
        await s3.put_object(Bucket="made-on-a-machine", Key="it", Body=b"works")
        print((await sts.get_caller_identity())["Arn"], region)
asyncio.run(work())
"""


async def test_an_instance_of_the_emulated_ec2_is_really_reached(account: Account) -> None:
    aws, keys = account.home.aws, account.keys
    (name,) = await account.launch(
        InstanceInitiatedShutdownBehavior="terminate", IamInstanceProfile={"Name": aws.role}
    )

    seen = await account.until(name, "running")

    instance = account.home.machines.instance(name)
    assert seen["PublicIpAddress"] == seen["PrivateIpAddress"] == instance.address
    async with keys.connected(instance) as connection:
        said = await connection.run(f"python3 -c '{_WORK}'")
        assert said.status == 0, said.stderr
        role = f"arn:aws:sts::{aws.account}:assumed-role/{aws.role}/{name}"
        assert said.stdout.split() == [role, aws.region]
        put = [call for call in aws.calls if call.action == "PutObject"]
        assert [call.caller[:4] for call in put] == ["ASIA"], "by the role's keys"
        console = await account.ec2.get_console_output(InstanceId=name)
        assert "SSH HOST KEY" in console["Output"]
        await keys.power_off(connection)
    gone = await account.until(name, "terminated")
    assert gone["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


async def test_an_instance_keeps_its_disk_from_stop_to_start(account: Account) -> None:
    (name,) = await account.launch()
    await account.until(name, "running")
    instance = account.home.machines.instance(name)
    assert (await account.keys.run(instance, 'echo kept >"$HOME/file"')).status == 0

    await account.ec2.stop_instances(InstanceIds=[name])
    await account.until(name, "stopped")
    await account.ec2.start_instances(InstanceIds=[name])

    await account.until(name, "running")
    assert (await account.keys.run(instance, 'cat "$HOME/file"')).stdout == "kept\n"
    await account.ec2.terminate_instances(InstanceIds=[name])
    await account.until(name, "terminated")


async def test_an_interruption_is_announced_and_then_done(account: Account) -> None:
    first, second = await account.launch(2, InstanceMarketOptions={"MarketType": "spot"})
    for name in (first, second):
        await account.until(name, "running")

    account.home.interrupt(first, notice=0.2)
    account.home.interrupt(second, notice=600)

    gone = await account.until(first, "terminated")
    assert gone["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert account.home.machines.states()[first] == "terminated"
    asker = Asker(account.home.machines.metadata.endpoint(second))
    assert asker.get("meta-data/spot/instance-action", asker.token())[0] == 200
    asker.connection.close()
    assert (await account.look(second))["State"]["Name"] == "running"
