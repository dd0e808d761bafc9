"""An account of a test's own, cut out of a real one."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from dayfly.aws.session import Aws
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.cloud.ec2 import Ec2Cloud
from dayfly.config.sections import Ec2Section
from dayfly.model import Instance, InstanceSpec, InstanceState, Launch
from tests.aws.notes import MemoryNotes
from tests.real_aws.run import Run, client

#: Which test launched an instance.
_TEST = "dayfly-test:one"
#: A VM that the suite, killed, would forget about powers itself off.
ROPE = '#cloud-config\nruncmd: [[shutdown, -P, "+20"]]\n'


class Ec2CloudApart(Ec2Cloud):
    """EC2 as if nothing were there but what one test has launched through it.

    EC2 lists what ended an hour ago and remembers tokens for a day; the contract is said of an
    account in which nothing has happened yet. So launches carry a mark more, which listings are
    narrowed to and do not show, and tokens begin with it.

    Args:
        run: Whose account.
        test: Unlike any other of the run.
        section: The configuration.
    """

    def __init__(self, run: Run, test: str, section: Ec2Section) -> None:
        super().__init__(
            section,
            Aws(section.region),
            MemoryNotes(),
            clock=SystemClock(),
            entropy=SystemEntropy(),
        )
        self._mark = {**run.mark, _TEST: test}
        self._test = f"{run.settings.run}-{test}"
        #: Whether machines are behind it that read their user-data as EC2's do.
        self._roped = run.emulated is None

    async def launch(
        self, spec: InstanceSpec, count: int, *, minimum: int = 1, token: str
    ) -> Launch:
        marked = msgspec.structs.replace(
            spec,
            tags={**spec.tags, **self._mark},
            user_data=ROPE if self._roped else spec.user_data,
        )
        token = f"{self._test}-{token}"
        launch = await super().launch(marked, count, minimum=minimum, token=token)
        return msgspec.structs.replace(launch, instances=[self._bare(i) for i in launch.instances])

    async def list(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        ids: Collection[str] | None = None,
        states: Collection[InstanceState] | None = None,
    ) -> builtins.list[Instance]:
        marked = {**(tags or {}), **self._mark}
        return [self._bare(i) for i in await super().list(tags=marked, ids=ids, states=states)]

    def _bare(self, instance: Instance) -> Instance:
        tags = {key: value for key, value in instance.tags.items() if key not in self._mark}
        return msgspec.structs.replace(instance, tags=tags)


async def default_network(run: Run) -> Ec2Section:
    """A section that names the default VPC's subnets and security group: nothing is dayfly's."""
    async with client(run, "ec2") as ec2:
        mine = [{"Name": "is-default", "Values": ["true"]}]
        vpcs: list[dict[str, Any]] = (await ec2.describe_vpcs(Filters=mine))["Vpcs"]
        assert vpcs, f"{run.region} has no default VPC: aws ec2 create-default-vpc"
        inside = [{"Name": "vpc-id", "Values": [vpcs[0]["VpcId"]]}]
        theirs = [*inside, {"Name": "default-for-az", "Values": ["true"]}]
        subnets = (await ec2.describe_subnets(Filters=theirs))["Subnets"]
        named = [*inside, {"Name": "group-name", "Values": ["default"]}]
        groups = (await ec2.describe_security_groups(Filters=named))["SecurityGroups"]
    return Ec2Section(
        region=run.region,
        instance_role=run.role,
        subnet_id=tuple(subnet["SubnetId"] for subnet in subnets),
        security_group_id=groups[0]["GroupId"],
    )
