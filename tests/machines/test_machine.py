"""What a machine of the box is like: it boots, it is reached, and it ends as on EC2."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from dayfly.errors import AccessDeniedError, UnreachableError
from dayfly.model import DismantlePolicy
from tests.embedded import Pair
from tests.machines.fixtures import Ec2Box
from tests.machines.guest import Guests

pytestmark = [pytest.mark.machines, pytest.mark.timeout(120)]


@pytest.fixture
def guests(box: Ec2Box) -> Guests:
    return Guests(box.aws)


async def test_a_machine_shows_the_host_key_of_its_user_data_and_lets_the_key_in(
    box: Ec2Box, guests: Guests
) -> None:
    (one,) = await guests.launch()
    # The certificate of the CA, and nothing else, is what the connection trusts.
    done = await guests.run(one, "sudo id -u && cat /proc/1/comm && hostname")
    address = box.aws.world.lives[one].address
    assert done.stdout.split() == ["0", "systemd", f"ip-{address.replace('.', '-')}"]
    guests.user = Pair()
    with pytest.raises(AccessDeniedError):
        await guests.run(one, "true")


async def test_a_machine_is_stock(box: Ec2Box, guests: Guests) -> None:
    (one,) = await guests.launch()
    done = await guests.run(one, "python3 -m pip; python3 -m venv /tmp/v; ls /opt; echo $?")
    assert "No module named pip" in done.stderr
    assert "ensurepip is not" in done.stdout + done.stderr
    done = await guests.run(one, "systemctl is-system-running --wait; echo $AWS_ENDPOINT_URL")
    assert done.stdout.split() == ["running", box.aws.endpoint]
    done = await guests.run(one, "curl -sS --max-time 2 http://192.0.2.1/; echo $?")
    assert done.stdout.strip() == "28", "what goes outside is dropped in silence"
    assert "Cloud-init" in box.machines.console(one)


@pytest.mark.parametrize(
    ("on_poweroff", "state"), [("stop", "stopped"), ("terminate", "terminated")]
)
async def test_a_poweroff_inside_is_seen_as_its_launch_said(
    guests: Guests, on_poweroff: str, state: str
) -> None:
    (one,) = await guests.launch(on_poweroff=on_poweroff)
    async with guests.connected(one) as connection:
        with pytest.raises(UnreachableError):
            await connection.run("sudo poweroff; sleep 30")
    await guests.until(one, state, within=15)


async def test_stopped_and_started_it_has_its_disk(guests: Guests) -> None:
    (one,) = await guests.launch(on_poweroff="stop")
    await guests.run(one, "echo kept >kept; sync")
    await guests.call("stop_instances", InstanceIds=[one])
    await guests.until(one, "stopped")
    await guests.call("start_instances", InstanceIds=[one])
    await guests.until(one, "running")
    done = await guests.run(one, "cat kept; ls /run/cloud-init/instance-data.json")
    assert done.stdout.split()[0] == "kept"


async def test_a_reboot_is_none_of_ec2s_business(box: Ec2Box, guests: Guests) -> None:
    (one,) = await guests.launch()
    async with guests.connected(one) as connection:
        with pytest.raises(UnreachableError):
            await connection.run(
                "touch /run/user/before; sudo touch /run/before; sudo reboot; sleep 30"
            )
    done = await guests.run(one, "ls /run/before; sudo uptime")
    assert "No such file" in done.stderr
    assert box.aws.state(one) == "running"


async def test_the_deadline_of_our_user_data_powers_it_off_without_a_network(
    box: Ec2Box, guests: Guests
) -> None:
    data = guests.user_data(DismantlePolicy(hard=5))
    (one,) = await guests.launch(user_data=data)
    await guests.run(one, "systemctl is-active dayfly-deadline")
    box.machines.unplug(one)
    assert 0.5 < await guests.until(one, "terminated") < 15


async def test_the_metadata_service_knows_who_asks(box: Ec2Box, guests: Guests) -> None:
    one, two = await guests.launch(2, spot=True)
    ask = (
        "T=$(curl -sfX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "
        "http://169.254.169.254/latest/api/token); "
        'curl -s -H "X-aws-ec2-metadata-token: $T" http://169.254.169.254/latest/'
    )
    for each in (one, two):
        assert (await guests.run(each, ask + "meta-data/instance-id")).stdout == each
    bare = "curl -s -o /dev/null -w '%{http_code}' http://169.254.169.254/latest/meta-data/"
    assert (await guests.run(one, bare)).stdout == "401"
    notice = ask + "meta-data/spot/instance-action"
    assert (await guests.run(one, notice)).stdout == ""
    box.interrupt(one, notice=5)
    assert json.loads((await guests.run(one, notice)).stdout)["action"] == "terminate"
    assert (await guests.run(two, notice)).stdout == ""
    await guests.until(one, "terminated")
    assert box.aws.state(two) == "running"


async def test_a_host_failure_is_not_known_to_ec2(box: Ec2Box, guests: Guests) -> None:
    (one,) = await guests.launch()
    await guests.run(one, "true")
    box.machines.crash(one)
    with pytest.raises(UnreachableError):
        await guests.shell.connect(guests.target(one), timeout=1)
    assert box.aws.state(one) == "running"
    await guests.call("terminate_instances", InstanceIds=[one])
    await guests.until(one, "terminated")


async def test_a_machine_hangs_and_goes_on(box: Ec2Box, guests: Guests) -> None:
    (one,) = await guests.launch()
    await guests.run(one, "true")
    box.machines.freeze(one)
    with pytest.raises(UnreachableError):
        await guests.shell.connect(guests.target(one), timeout=1)
    box.machines.freeze(one, frozen=False)
    assert (await guests.run(one, "echo on")).stdout == "on\n"


async def test_a_disk_may_be_full_and_apt_broken(box: Ec2Box, guests: Guests) -> None:
    box.machines.disk_size = 16
    box.machines.files["/usr/bin/apt-get"] = "#!/bin/sh\necho 'dpkg is interrupted' >&2; exit 100\n"
    (one,) = await guests.launch()
    done = await guests.run(one, "head -c 32M /dev/zero >big; sudo apt-get update; echo $?")
    assert "No space left on device" in done.stderr
    assert "dpkg is interrupted" in done.stderr
    assert done.stdout.strip() == "100"


async def test_machines_tell_each_other_apart_and_reach_each_other(
    box: Ec2Box, guests: Guests
) -> None:
    one, two = await guests.launch(2)
    address = box.aws.world.lives[two].address
    await guests.run(two, "true")
    done = await guests.run(one, f"bash -c 'exec 3<>/dev/tcp/{address}/22; head -c 8 <&3'")
    assert done.stdout == "SSH-2.0-"


@pytest.mark.parametrize("count", [1, 8])
async def test_how_long_a_boot_takes(box: Ec2Box, guests: Guests, count: int) -> None:
    began = time.monotonic()
    ids = await guests.launch(count)
    launched = time.monotonic() - began

    async def up(instance_id: str) -> float:
        await guests.run(instance_id, "true")
        return time.monotonic() - began

    took = sorted(await asyncio.gather(*[up(each) for each in ids]))
    print(
        f"{count} at once: launched in {launched:.2f} s, "
        f"SSH after {took[0]:.2f} to {took[-1]:.2f} s"
    )
    assert took[-1] < 60
