"""``dayfly doctor``: what it sees in an account, and what it says of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from dayfly.aws.session import Aws
from dayfly.cli import doctor as command
from dayfly.cli.root import dayfly
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.cloud.base import Finding
from dayfly.cloud.ec2.api import Ec2Api
from dayfly.cloud.ec2.doctor import verdicts
from dayfly.cloud.ec2.doctor.examination import examine
from dayfly.cloud.ec2.doctor.permitted import Probe, denied
from dayfly.cloud.ec2.doctor.trials import Scene, dry_runs, reads
from dayfly.cloud.ec2.doctor.usage import Usage, purse, usage
from dayfly.cloud.ec2.doctor.verdicts import Fleet
from dayfly.cloud.ec2.iam.operations import OPERATIONS, When
from dayfly.cloud.ec2.iam.policies import Place
from dayfly.cloud.ec2.launch import images
from dayfly.cloud.ec2.launch.instancetypes import TypeFacts
from dayfly.cloud.ec2.network.ensuring import Network, Subnet
from dayfly.cloud.localhost import doctor as local
from dayfly.config.sections import Ec2Section
from dayfly.errors import CloudError, StorageError
from dayfly.model import ExecMode, InstanceSpec, Price, Tag
from dayfly.storage.directory import DirectoryStorage
from tests.aws.clouds import ec2_cloud, given_network
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws

__all__ = ["aws"]

ROLE = "dayfly-vm"


@pytest.fixture
async def api(aws: EmulatedAws) -> AsyncIterator[Ec2Api]:
    images.forget()
    account = Aws(aws.region)
    yield Ec2Api(account, clock=SystemClock(), entropy=SystemEntropy())
    await account.aclose()


def section(**keys: Any) -> Ec2Section:
    plain = {
        "instance_role": ROLE,
        "worker_instance_type": "c5.large",
        "master_instance_type": "m5.large",
    }
    return Ec2Section(region="us-east-1", **(plain | keys))


def given(aws: EmulatedAws) -> dict[str, Any]:
    """Keys that name the default network."""
    groups = aws.world.backend.groups
    [group] = [g for vpc in groups.values() for g in vpc.values() if g.name == "default"]
    return {
        "subnet_id": tuple(aws.subnets().values())[:2],
        "security_group_id": group.id,
    }


def said(findings: Sequence[Finding], what: str) -> Finding:
    """The one finding about something; of several the one that is just this."""
    found = [finding for finding in findings if finding.what.startswith(what)]
    [only] = [finding for finding in found if finding.what == what] or found
    return only


def bad(findings: Sequence[Finding]) -> list[str]:
    return [finding.what for finding in findings if finding.verdict != "ok"]


# -- an account, looked at --


async def test_an_account_where_all_is_well(aws: EmulatedAws, api: Ec2Api) -> None:
    found = await examine(api, section(**given(aws)), 10)
    assert said(found, "credentials").detail.endswith(" in us-east-1")
    # Nothing of ours runs that starting and ending could be tried on.
    assert bad(found) == ["permissions that could not be tried"]
    assert "RunInstances (the worker, c5.large as spot)" in said(found, "permissions").detail


async def test_spot_workers_that_run_are_nothing_to_complain_of(
    aws: EmulatedAws, api: Ec2Api
) -> None:
    cloud = ec2_cloud(given_network(aws), account=api.aws)
    spec = InstanceSpec(
        role="worker",
        instance_types=["c5.large"],
        on_poweroff="terminate",
        user_data="#cloud-config\n{}\n",
        tags={Tag.MANAGED.value: "true", Tag.OWNER.value: await cloud.owner()},
        spot=True,
    )
    await cloud.launch(spec, 2, token="fleet")
    found = await examine(api, section(**given(aws)), 2)
    assert bad(found) == ["permissions that could not be tried"]


async def test_nothing_is_changed_by_looking(aws: EmulatedAws, api: Ec2Api) -> None:
    await examine(api, section(), 10)
    for call in aws.calls:
        reads = call.action.startswith(("Describe", "Get"))
        assert reads or call.params.get("DryRun") in (True, "true"), call.action
    assert aws.instances() == []


async def test_a_denial_is_told_with_the_statement_that_grants_it(
    aws: EmulatedAws, api: Ec2Api
) -> None:
    aws.deny("iam:PassRole")
    found = await examine(api, section(**given(aws)), 10)
    denial = said(found, "permission to RunInstances")
    assert denial.verdict == "wrong"
    assert denial.detail.startswith("denied: iam:PassRole")
    statement = json.loads(denial.hint.partition("\n")[2])["Statement"][0]
    assert statement["Action"] == "iam:PassRole"
    assert statement["Resource"] == f"arn:aws:iam::{aws.account}:role/{ROLE}"


async def test_a_denial_is_understood_without_the_permission_to_decode_it(
    aws: EmulatedAws, api: Ec2Api
) -> None:
    aws.deny("iam:PassRole")
    aws.deny("sts:DecodeAuthorizationMessage")
    found = await examine(api, section(**given(aws)), 10)
    assert said(found, "permission to RunInstances").detail.startswith("denied: iam:PassRole")


async def test_a_denial_that_only_clean_suffers_from_is_a_warning(
    aws: EmulatedAws, api: Ec2Api
) -> None:
    aws.deny("ec2:DescribeVolumes")
    found = await examine(api, section(**given(aws)), 10)
    assert said(found, "permission to DescribeVolumes").verdict == "warning"


async def test_a_role_that_is_not_there_is_wrong(aws: EmulatedAws, api: Ec2Api) -> None:
    found = await examine(api, section(**given(aws) | {"instance_role": "nobody"}), 10)
    [first, *_] = [f for f in found if f.what.startswith("trying RunInstances")]
    assert first.verdict == "wrong"
    assert "instance profile" in first.detail


async def test_a_quota_that_is_too_small_says_how_many_workers_fit(
    aws: EmulatedAws, api: Ec2Api
) -> None:
    aws.quota_spot = 12
    quota = said(await examine(api, section(**given(aws)), 10), "quota All Standard")
    assert quota.verdict == "warning"
    assert "6 of 10 workers fit" in quota.detail
    assert "L-34B43A08, or set max_workers: 6" in quota.hint


async def test_too_few_addresses_are_told(aws: EmulatedAws, api: Ec2Api) -> None:
    keys = given(aws)
    for subnet in keys["subnet_id"]:
        aws.free_addresses(subnet, 3)
    network = said(await examine(api, section(**keys), 10), "network")
    assert network.verdict == "warning"
    assert "6 addresses free; 10 workers and the master need 11 more" in network.detail


async def test_a_type_that_does_not_exist_is_told_and_the_rest_is_looked_at(
    aws: EmulatedAws, api: Ec2Api
) -> None:
    found = await examine(api, section(worker_instance_type="c5.larg"), 10)
    assert said(found, "instance types").verdict == "wrong"
    assert said(found, "network").verdict == "ok"


async def test_wrong_credentials_are_all_that_is_told(aws: EmulatedAws, api: Ec2Api) -> None:
    aws.fail_next("GetCallerIdentity", "InvalidClientTokenId", 403)
    [only] = await examine(api, section(), 10)
    assert (only.what, only.verdict) == ("credentials", "wrong")


async def test_throttles_and_outages_are_findings(aws: EmulatedAws, api: Ec2Api) -> None:
    aws.fail_next("DescribeInstanceTypeOfferings", "InvalidParameterValue", 400, times=2)
    found = await examine(api, section(**given(aws)), 10)
    assert said(found, "zones").verdict == "warning"


async def test_a_vm_to_consume_that_is_not_there(aws: EmulatedAws, api: Ec2Api) -> None:
    consume = Ec2Section(
        region="us-east-1", exec_mode=ExecMode.CONSUME, instance_id="i-0123456789abcdef0"
    )
    found = await examine(api, consume, 1)
    assert said(found, "the VM to consume").verdict == "wrong"


async def test_a_vm_to_consume_is_started_and_stopped_dry(aws: EmulatedAws, api: Ec2Api) -> None:
    launched = await api.call(
        "run_instances", ImageId=aws.image, InstanceType="t3.micro", MinCount=1, MaxCount=1
    )
    name = launched["Instances"][0]["InstanceId"]
    consume = Ec2Section(region="us-east-1", exec_mode=ExecMode.CONSUME, instance_id=name)
    found = await examine(api, consume, 1)
    assert bad(found) == []
    granted = said(found, "permissions").detail
    assert "StartInstances" in granted
    assert "TerminateInstances" not in granted


# -- every operation is tried, or there is a reason --


def everything_there() -> Scene:
    subnet = Subnet(id="subnet-1", zone="us-east-1a", free=9, public=True)
    image = images.Image(
        id="ami-1", architecture="x86_64", root_device="/dev/sda1", name="u", min_root=8
    )
    return Scene(
        section=section(),
        images={"c5.large": image, "m5.large": image},
        network=Network(vpc="vpc-1", subnets=(subnet,), security_group="sg-1"),
        instance="i-1",
    )


async def test_all_that_jobs_need_is_tried_once_all_is_there(api: Ec2Api) -> None:
    scene = everything_there()
    place = Place(account="1" * 12, bucket="", section=scene.section)
    probes, later = dry_runs(api, place, scene)
    assert later == []
    tried = {probe.operation for probe in [*reads(api, place), *probes]}
    needed = {
        operation.name
        for operation in OPERATIONS
        if operation.service == "ec2"
        and {right.when for right in operation.rights} & {When.ALWAYS, When.LAUNCH, When.DOCTOR}
    }
    assert needed <= tried


async def test_before_there_is_a_network_what_makes_it_is_tried(api: Ec2Api) -> None:
    scene = msgspec.structs.replace(everything_there(), network=None, instance="")
    place = Place(account="1" * 12, bucket="", section=scene.section)
    probes, later = dry_runs(api, place, scene)
    assert {"create_vpc", "create_internet_gateway"} <= {probe.operation for probe in probes}
    assert {"create_subnet", "terminate_instances"} <= set(later)


# -- what facts mean --


def fleet(workers: int = 10, **keys: Any) -> Fleet:
    return Fleet(section=section(**keys), workers=workers)


def facts(name: str, vcpus: int = 2, **more: Any) -> TypeFacts:
    known: dict[str, Any] = {"architecture": "x86_64", "spot": True, "memory": 4096}
    return TypeFacts(name=name, vcpus=vcpus, burstable=name[0] == "t", **(known | more))


TYPES = {"c5.large": facts("c5.large"), "m5.large": facts("m5.large")}
SPOT = purse("c5.large", spot=True)
ON_DEMAND = purse("c5.large", spot=False)


def test_t2_is_warned_of_with_what_to_take_instead() -> None:
    found = verdicts.of_type(fleet(worker_instance_type="t2.medium"), facts("t2.medium"))
    assert found.verdict == "warning"
    assert found.hint == "worker_instance_type: t3.medium"


@pytest.mark.parametrize(("fallback", "verdict"), [(False, "wrong"), (True, "warning")])
def test_a_type_that_is_not_sold_as_spot(fallback: bool, verdict: str) -> None:
    found = verdicts.of_type(fleet(on_demand_fallback=fallback), facts("c5.large", spot=False))
    assert found.verdict == verdict


def test_a_type_is_sought_in_the_zones_of_the_network() -> None:
    subnet = Subnet(id="subnet-1", zone="us-east-1e", free=9, public=None)
    network = Network(vpc="vpc-1", subnets=(subnet,), security_group="sg-1")
    offered = {"m5.large": ["us-east-1e"], "c5.large": ["us-east-1a", "us-east-1b"]}
    master, worker = verdicts.of_zones(fleet(), offered, network)
    assert master.verdict == "ok"
    assert worker.verdict == "wrong"
    assert worker.hint == "give a subnet in us-east-1a, us-east-1b"


@pytest.mark.parametrize(
    ("limit", "others", "verdict", "fit"),
    [(20, 0, "ok", ""), (24, 4, "ok", ""), (20, 4, "warning", "8 of 10"), (1, 0, "wrong", "0 of")],
)
def test_what_others_run_counts(limit: float, others: int, verdict: str, fit: str) -> None:
    used = Usage(others={SPOT: others})
    found = verdicts.of_quota(fleet(), SPOT, limit, TYPES, used)
    assert found.verdict == verdict
    assert fit in found.detail


def test_a_master_that_cannot_run_is_wrong() -> None:
    assert verdicts.of_quota(fleet(), ON_DEMAND, 1, TYPES, Usage()).verdict == "wrong"


def test_the_second_market_is_spare() -> None:
    found = verdicts.of_quota(fleet(on_demand_fallback=True), ON_DEMAND, 8, TYPES, Usage())
    assert found.verdict == "warning"
    assert "3 of 10 workers fit" in found.detail


def test_ours_are_told_from_others() -> None:
    def instance(owner: str, cores: int, **more: str) -> dict[str, Any]:
        tags = [{"Key": Tag.OWNER.value, "Value": owner}]
        options = {"CoreCount": cores, "ThreadsPerCore": 2}
        return {"InstanceType": "c5.large", "CpuOptions": options, "Tags": tags, **more}

    seen = [instance("me", 1, InstanceLifecycle="spot"), instance("you", 4), instance("you", 1)]
    used = usage(seen, {Tag.OWNER.value: "me"})
    assert used.ours == {SPOT: 2}
    assert used.others == {ON_DEMAND: 10}


def test_a_fleet_that_may_cost_more_than_max_cost() -> None:
    price = {
        ("c5.large", ""): Price(hourly=0.5, source="a list"),
        ("m5.large", ""): Price(hourly=1.0, source="a list"),
    }
    assert "$6.00 an hour" in verdicts.of_prices(fleet(), price, price).detail
    found = verdicts.of_prices(fleet(max_cost=2.0), price, price)
    assert found.verdict == "warning"
    assert "max_cost ends a job at $2" in found.detail


async def test_a_denial_in_a_network_that_is_not_ours_proves_nothing() -> None:
    async def call() -> None:
        raise NotImplementedError

    place = Place(account="1" * 12, bucket="", section=section())
    probe = Probe(operation="run_instances", call=call, foreign="it is another's network")
    from dayfly.aws.errors import Denial

    subnet = Denial(action="ec2:RunInstances", resource="arn:aws:ec2:r:1:subnet/subnet-1")
    assert denied(probe, subnet, place).verdict == "warning"
    role = Denial(action="iam:PassRole", resource="arn:aws:iam::1:role/dayfly-vm")
    assert denied(probe, role, place).verdict == "wrong"


# -- the embedded cloud --


async def test_this_machine_can_be_a_cloud(own_home: Path) -> None:
    found = await local.examine(own_home / "cloud", 2, SystemEntropy())
    assert [finding.what for finding in found][:2] == ["directory", "SSH on a loopback address"]
    assert [finding.verdict for finding in found[:2]] == ["ok", "ok"]
    assert list(own_home.iterdir()) == []


def test_a_directory_that_cannot_be_written(own_home: Path) -> None:
    (own_home / "file").touch()
    found = local.examine_directory(own_home / "file" / "cloud", 2)
    assert found.verdict == "wrong"


async def test_a_machine_without_loopback_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise CloudError("no free loopback address was found")

    monkeypatch.setattr(local, "draw_endpoint", none)
    found = await local.examine_ssh(SystemEntropy())
    assert found.verdict == "wrong"
    assert "127.0.0.0/8" in found.hint


def test_many_more_vms_than_processors() -> None:
    assert local.examine_processors(100, 2).verdict == "warning"


# -- the command --


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(dayfly, ("doctor", *arguments))
    return result.exit_code, result.stdout, result.stderr


def config_file(path: Path, **ec2: Any) -> str:
    file = path / "ec2.yaml"
    keys = {"region": "us-east-1", "instance_role": ROLE} | ec2
    file.write_text(yaml.safe_dump({"dayfly": {"backend": "aws_ec2"}, "aws_ec2": keys}))
    return str(file)


def test_doctor_looks_at_the_embedded_cloud_and_its_storage(own_home: Path) -> None:
    status, out, _ = run("-m", "1")
    assert status == 0
    assert "✓ ok        storage localhost: a probe was stored, read and deleted in " in out
    assert not [path for path in (own_home / ".dayfly" / "storage").rglob("*") if path.is_file()]


def test_doctor_as_json() -> None:
    status, out, _ = run("-m", "1", "--json")
    assert status == 0
    assert {finding["verdict"] for finding in json.loads(out)} <= {"ok", "warning"}


def test_a_warning_of_the_configuration_comes_first(own_home: Path) -> None:
    file = own_home / "config.yaml"
    file.write_text("localhost: {auto_dismantle: false}\n")
    _, out, _ = run("-c", str(file), "-m", "1")
    lines = out.splitlines()
    assert lines[0].startswith("✓ ok        configuration: ")
    assert lines[1].startswith("! warning   configuration: ")


def test_what_is_wrong_makes_the_status(own_home: Path) -> None:
    (own_home / "file").touch()
    file = own_home / "config.yaml"
    file.write_text(f"localhost: {{storage_directory: {own_home / 'file' / 'storage'}}}\n")
    status, out, _ = run("-c", str(file), "-m", "1")
    assert status == 1
    assert "✗ wrong     storage localhost: a probe could not be stored: " in out


def test_a_hint_of_several_lines_stays_whole() -> None:
    finding = Finding(what="a", verdict="wrong", detail="b", hint='attach:\n{\n  "c": 1\n}')
    text = command.text_of(finding)
    assert json.loads("".join(text.splitlines()[2:])) == {"c": 1}


async def test_a_storage_that_forgets(own_home: Path) -> None:
    class Forgetful(DirectoryStorage):
        async def get_object(self, key: str, **_: Any) -> bytes:
            raise StorageError(f"{key} is gone")

    found = await command.examine_storage(
        Forgetful(own_home / "storage"), SystemEntropy(), SystemClock()
    )
    assert found.verdict == "wrong"
    assert found.detail.startswith("a probe could not be read: dayfly/in/doctor/")


@pytest.mark.parametrize("holder", ["client", "master", "worker", "instance"])
def test_a_policy_is_json_and_nothing_else(own_home: Path, holder: str) -> None:
    file = Path(config_file(own_home))
    file.write_text(file.read_text() + 'aws: {account_id: "111122223333"}\n')
    status, out, _ = run("-c", str(file), "--policy", holder)
    assert status == 0
    document = json.loads(out)
    assert document["Version"] == "2012-10-17"
    assert "dayfly-111122223333-us-east-1/dayfly/" in out


def test_the_account_of_a_policy_is_asked_for_and_nothing_else(
    aws: EmulatedAws, own_home: Path
) -> None:
    status, out, _ = run("-c", config_file(own_home), "--policy", "client")
    assert status == 0
    assert f":{aws.account}:" in out
    assert [call.action for call in aws.calls] == ["GetCallerIdentity"]


def test_a_policy_without_an_account_says_what_is_missing(
    own_home: Path, aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    status, out, err = run("-c", config_file(own_home), "--policy", "client")
    assert (status, out) == (1, "")
    assert 'aws: {account_id: "111122223333"}' in err


def test_the_embedded_cloud_has_no_policies() -> None:
    status, _, err = run("--policy", "client")
    assert status == 1
    assert "dayfly doctor -b aws_ec2 --policy client" in err


def test_doctor_looks_at_ec2_and_s3(aws: EmulatedAws, own_home: Path) -> None:
    images.forget()
    status, out, _ = run("-c", config_file(own_home), "-m", "2")
    assert status == 0, out
    assert "storage aws_s3: a probe was stored, read and deleted in " in out
    assert "jobs can run" in out
