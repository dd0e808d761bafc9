"""What a job asks of AWS, counted: as many calls for a thousand workers as for one, but for what
carries them: a launch takes a hundred per call, and so does a page of a listing.

The clients are programs of their own, with nothing remembered from another test.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from dayfly.client.ascent import Ascender
from dayfly.config import load
from dayfly.model import Tag
from dayfly.parts import open_parts
from tests.aws.calls import Call
from tests.aws.hollow import HollowMachines
from tests.aws.machine_fixtures import Ec2Home

pytestmark = [pytest.mark.timeout(90), pytest.mark.thorough]

#: Instances per RunInstances, and per page of DescribeInstances.
BATCH = 100
#: Cancels its job once all workers are on their way to it, unless it is to be finished.
PROGRAM = """
import asyncio, json, sys, time
from dayfly import FunctionExecutor
from dayfly.cloud.ec2 import Ec2Cloud
from dayfly.cloud.ec2.network import making

making.SETTLE = 0.2
workers, maps, finish, pace = json.loads(sys.argv[1])
if pace:
    Ec2Cloud.pace = pace

async def main():
    async with FunctionExecutor(max_workers=workers, progress=False) as executor:
        for _ in range(maps):
            began.append(time.monotonic())
            job = executor.map(lambda x: x * x, range(2 * workers))
            while not finish and job.progress.workers_coming < workers and not job.done():
                await asyncio.sleep(0.02)
            if finish or job.done():
                await job
            else:
                job.cancel()
                await asyncio.wait([asyncio.ensure_future(job)])

began = []
asyncio.run(main())
print(json.dumps(began))
"""


@dataclass(frozen=True)
class Asked:
    """What one program asked of AWS, after each of its maps had begun."""

    maps: list[list[Call]]

    @property
    def calls(self) -> list[Call]:
        return [call for calls in self.maps for call in calls]

    def of(self, service: str) -> Counter[str]:
        return Counter(call.action for call in self.calls if call.service == service)

    @property
    def seconds(self) -> float:
        """For how long instances were waited for."""
        ec2 = [call for call in self.calls if call.service == "ec2"]
        launches = [call.at for call in ec2 if call.action == "RunInstances"]
        return ec2[-1].at - launches[0] if launches else 0.0


async def run(
    home: Ec2Home, workers: int, *, maps: int = 1, finish: bool = True, pace: float | None = None
) -> Asked:
    """Run a program to its end; for ``pace`` seconds it trusts what it was told by a listing."""
    before = len(home.aws.calls)
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        json.dumps([workers, maps, finish, pace]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await program.communicate()
    assert program.returncode == 0, err.decode()
    user = home.aws.environment["AWS_ACCESS_KEY_ID"]  # the machines have keys of their own
    calls = [call for call in home.aws.calls[before:] if call.caller == user]
    began = [*json.loads(out), time.monotonic()]
    for call in calls:
        check(call)
    return Asked(
        [
            [call for call in calls if begin <= call.at < end]
            for begin, end in itertools.pairwise(began)
        ]
    )


def check(call: Call) -> None:
    """No listing is of everything, in one piece, or of many by their ids."""
    if call.action != "DescribeInstances":
        return
    assert "InstanceIds" not in call.params
    assert call.params["MaxResults"] <= BATCH
    by_name = {each["Name"]: each["Values"] for each in call.params["Filters"]}
    ids = by_name.get("instance-id", ())
    assert len(ids) <= 1, "only a master is waited for by its id"
    assert ids or by_name["tag:dayfly:managed"] == ["true"]


async def prepare(home: Ec2Home) -> None:
    """Leave behind what another program of the same user has left: network, bucket and keys."""
    async with open_parts(load(home.config)) as parts:
        await parts.cloud.admit()
        await Ascender.prepare(parts)


def launches_of(workers: int) -> int:
    """The master's, and a hundred workers each."""
    return 1 + -(-workers // BATCH)


def looks_within(asked: Asked, workers: int) -> int:
    """DescribeInstances at most: by the seconds that were waited, and not by the worker.

    Once at the start; while something is pending, the master and all workers once a second each;
    every five seconds all that are pending, by the page.
    """
    pages = -(-workers // BATCH)
    return int(2 + 2 * asked.seconds + pages * (1 + asked.seconds // 5))


#: What any launch must know: processors, prices, the place, the image.
KNOWLEDGE = {
    "DescribeInstanceTypes": 1,
    "DescribeSpotPriceHistory": 1,
    "DescribeSubnets": 1,
    "DescribeSecurityGroups": 1,
    "DescribeImages": 1,
}


@pytest.mark.parametrize("workers", [1, 10, 100, 1000])
async def test_a_cold_start_asks_the_same_for_any_number_of_workers(
    machines: Ec2Home, workers: int
) -> None:
    aws = machines.aws
    aws.throttle = True
    await prepare(machines)
    if workers > 1:
        aws.machines = HollowMachines(machines.machines)
    asked = await run(machines, workers, finish=workers == 1)
    ec2 = asked.of("ec2")
    assert ec2.pop("DescribeInstances") <= looks_within(asked, workers)
    assert ec2 == {**KNOWLEDGE, "RunInstances": launches_of(workers)}
    assert asked.of("sts") == {"GetCallerIdentity": 1}
    assert asked.of("ssm") == {"GetParameter": 1}
    assert asked.of("s3").total() <= 18, asked.of("s3")
    assert not [call for call in asked.calls if call.code == "RequestLimitExceeded"]
    assert len(aws.instances()) == 1 + workers
    if workers > 5 * BATCH:
        first = next(call for call in asked.calls if call.action == "RunInstances")
        assert first.params["MaxCount"] == 1, "the master is not kept waiting by its workers"


async def test_a_first_start_makes_the_network_besides(machines: Ec2Home) -> None:
    zones = len(machines.aws.subnets())
    asked = await run(machines, 1)
    ec2 = asked.of("ec2")
    assert ec2.pop("DescribeInstances") <= looks_within(asked, 1)
    made = KNOWLEDGE | {
        "RunInstances": 2,
        "DescribeAvailabilityZones": 1,
        "DescribeVpcs": 2,
        "CreateVpc": 1,
        "DescribeSubnets": 2,
        "CreateSubnet": zones,
        "DescribeInternetGateways": 1,
        "CreateInternetGateway": 1,
        "AttachInternetGateway": 1,
        "DescribeRouteTables": 1,
        "CreateRouteTable": 1,
        "CreateRoute": 1,
        "AssociateRouteTable": zones,
        "DescribeVpcEndpoints": 1,
        "CreateVpcEndpoint": 1,
        "CreateSecurityGroup": 1,
        "AuthorizeSecurityGroupIngress": 1,
    }
    assert ec2 == made
    assert asked.of("s3").total() <= 24, asked.of("s3")


async def test_a_warm_start_asks_twice_and_a_second_map_never(machines: Ec2Home) -> None:
    await run(machines, 1)
    asked = await run(machines, 1, maps=2, pace=60)  # however slow this machine is just now
    first, second = asked.maps
    assert Counter(call.action for call in first if call.service != "s3") == {
        "GetCallerIdentity": 1,
        "DescribeInstanceTypes": 1,
        "DescribeInstances": 1,
    }
    assert not [call for call in second if call.service != "s3"]


async def test_all_that_serve_again_are_kept_by_one_call(machines: Ec2Home) -> None:
    await run(machines, 2)
    for instance in machines.aws.instances():
        tags = machines.aws.world.backend.tags[instance.id]
        tags[Tag.EXPIRES_AT] = str(int(tags[Tag.EXPIRES_AT]) - 600)  # as after ten minutes
    asked = await run(machines, 2, pace=60)
    assert asked.of("ec2") == {
        "DescribeInstanceTypes": 1,
        "DescribeInstances": 1,
        "CreateTags": 1,
    }
