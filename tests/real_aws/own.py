"""What a test makes as a user does: with bare calls, and removed by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh

from dayfly.cloud.ec2.network.caller import public_address
from tests.real_aws.apart import ROPE, default_network
from tests.real_aws.run import Run, client


def tagged(run: Run, kind: str, name: str) -> list[dict[str, Any]]:
    """The ``TagSpecifications`` of a thing that is the user's own."""
    pairs = [{"Key": key, "Value": value} for key, value in run.mark.items()]
    return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}, *pairs]}]


async def state(ec2: Any, instance_id: str) -> str:
    """An instance's state; empty: EC2 does not know it yet."""
    filters = [{"Name": "instance-id", "Values": [instance_id]}]
    told = (await ec2.describe_instances(Filters=filters))["Reservations"]
    return str(told[0]["Instances"][0]["State"]["Name"]) if told else ""


async def until(run: Run, ec2: Any, instance_id: str, wanted: str) -> float:
    """Wait for a state; returns the seconds that it took."""

    async def there() -> bool:
        return await state(ec2, instance_id) == wanted

    return await run.eventually(there, f"{instance_id} to be {wanted}")


async def image(run: Run) -> str:
    """What the run's instances are made of; else the newest Ubuntu 22.04 for x86."""
    if run.settings.ami:
        return run.settings.ami
    name = "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id"
    async with client(run, "ssm") as ssm:
        return str((await ssm.get_parameter(Name=name))["Parameter"]["Value"])


@asynccontextmanager
async def users_own_vm(run: Run, key: Path, *, stopped: bool) -> AsyncIterator[str]:
    """An instance of the user's, that SSH reaches from here by the user's own key."""
    pair = asyncssh.generate_private_key("ssh-ed25519")
    key.write_bytes(pair.export_private_key())
    key.chmod(0o600)
    public = pair.export_public_key().decode().strip()
    begin = "#cloud-config\n" if run.emulated else ROPE
    user_data = f'{begin}ssh_authorized_keys: ["{public}"]\n'
    network = await default_network(run)
    port = run.config["aws_ec2"].get("ssh_port", 22)
    here = "127.0.0.0/8" if run.emulated else f"{await public_address()}/32"
    async with client(run, "ec2") as ec2:
        subnet = network.subnet_id[0]
        (told,) = (await ec2.describe_subnets(SubnetIds=[subnet]))["Subnets"]
        group = await ec2.create_security_group(
            GroupName=f"{run.settings.run}-{key.parent.name}",
            Description="dayfly's tests: a user's own",
            VpcId=told["VpcId"],
            TagSpecifications=tagged(run, "security-group", "mine"),
        )
        try:
            await ec2.authorize_security_group_ingress(
                GroupId=group["GroupId"], CidrIp=here, IpProtocol="tcp", FromPort=port, ToPort=port
            )
            launched = await ec2.run_instances(
                ImageId=await image(run),
                InstanceType="t3.micro",
                MinCount=1,
                MaxCount=1,
                InstanceInitiatedShutdownBehavior="stop",
                IamInstanceProfile={"Name": run.role},
                NetworkInterfaces=[
                    {
                        "DeviceIndex": 0,
                        "SubnetId": subnet,
                        "Groups": [group["GroupId"]],
                        "AssociatePublicIpAddress": True,
                    }
                ],
                UserData=user_data,
                TagSpecifications=tagged(run, "instance", "mine"),
            )
            mine = str(launched["Instances"][0]["InstanceId"])
            try:
                await until(run, ec2, mine, "running")
                if stopped:
                    await ec2.stop_instances(InstanceIds=[mine])
                    await until(run, ec2, mine, "stopped")
                yield mine
            finally:
                await ec2.terminate_instances(InstanceIds=[mine])
                await until(run, ec2, mine, "terminated")
        finally:
            await ec2.delete_security_group(GroupId=group["GroupId"])
