"""The IAM policies: equal to the calls in the code, enough for what it does, and no more."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import botocore.session
import msgspec
import pytest
from botocore import xform_name

import dayfly
from dayfly.aws.session import Aws
from dayfly.baked import Mark
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.cloud.ec2.api import action
from dayfly.cloud.ec2.cloud import Ec2Cloud
from dayfly.cloud.ec2.iam.operations import OPERATIONS
from dayfly.cloud.ec2.iam.policies import HOLDERS, Holder, Place, missing, policy
from dayfly.config.sections import Ec2Section
from dayfly.model import ExecMode, InstanceSpec, Tag
from dayfly.storage import keys
from dayfly.storage.notes import StorageNotes
from dayfly.storage.s3.storage import S3Storage
from tests.aws.calls import Call
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.unit.iam import Request, allows, listed, requests

__all__ = ["aws"]

SOURCE = Path(dayfly.__file__).parent
ACCOUNT = "123456789012"
BUCKET = f"dayfly-{ACCOUNT}-us-east-1"
#: Of a managed policy, white space not counted. Source: the IAM user guide, "IAM quotas".
LONGEST = 6144

SECTIONS = {
    "all is made": Ec2Section(instance_role="dayfly-vm"),
    "a network is given": Ec2Section(instance_role="dayfly-vm", vpc_id="vpc-0123"),
    "all is given": Ec2Section(
        instance_role="dayfly-vm",
        vpc_id="vpc-0123",
        subnet_id=("subnet-0123", "subnet-4567"),
        security_group_id="sg-0123",
        ssh_key_name="mine",
        target_ami="ami-0123",
    ),
    "a subnet is given": Ec2Section(instance_role="dayfly-vm", subnet_id="subnet-0123"),
    "a group is given": Ec2Section(instance_role="dayfly-vm", security_group_id="sg-0123"),
    "a VM is consumed": Ec2Section(exec_mode=ExecMode.CONSUME, instance_id="i-0123"),
}


def place(section: Ec2Section = SECTIONS["all is made"], region: str = "us-east-1") -> Place:
    return Place(account=ACCOUNT, bucket=BUCKET, section=section, region=region)


def may(holder: Holder, action: str, resource: str, **context: str) -> bool:
    told = {key.replace("__", ":").replace("_", "/", 1): v for key, v in context.items()}
    return allows(policy(holder, place()), Request(action, resource, told))


def s3(key: str) -> str:
    return f"arn:aws:s3:::{BUCKET}/{key}"


# -- the table is the code --


def methods(service: str) -> set[str]:
    """The names that botocore's clients give to the operations of a service."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name) for name in model.operation_names}


def trees(pattern: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.glob(pattern)):
        yield path, ast.parse(path.read_text(), str(path))


def calls_of_ec2() -> Iterator[tuple[str, str]]:
    """Every ``api.call("...")`` and ``api.pages("...")``."""
    for path, tree in trees("cloud/ec2/**/*.py"):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in ("call", "pages") or path.name == "api.py":
                continue
            if ast.unparse(node.func) == "probe.call":
                continue  # doctor's own, which say their names themselves
            first = node.args[0] if node.args else None
            where = f"{path.name}:{node.lineno}"
            assert isinstance(first, ast.Constant), f"{where}: its name must be a literal"
            service = "ec2"
            for keyword in node.keywords:
                if keyword.arg == "service":
                    assert isinstance(keyword.value, ast.Constant), where
                    service = str(keyword.value.value)
            yield service, str(first.value)


def calls_of_s3() -> Iterator[tuple[str, str]]:
    """Every name of a request that stands in the code of the storage, its table of words aside."""
    known = methods("s3")
    for path, tree in trees("storage/s3/*.py"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in known and path.name != "words.py":
                yield "s3", str(node.value)


def calls_of_sts() -> Iterator[tuple[str, str]]:
    known = methods("sts")
    for _, tree in trees("aws/*.py"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in known:
                yield "sts", node.attr


def test_every_operation_that_the_code_calls_has_a_row_and_no_other() -> None:
    code = {*calls_of_ec2(), *calls_of_s3(), *calls_of_sts()}
    table = [(operation.service, operation.name) for operation in OPERATIONS]
    assert len(table) == len(set(table))
    assert sorted(code - set(table)) == [], "called, and without a row"
    assert sorted(set(table) - code) == [], "a row, and never called"


@pytest.mark.parametrize("service", ["ec2", "s3", "ssm", "sts", "service-quotas"])
def test_every_row_is_an_operation_of_its_service(service: str) -> None:
    rows = {operation.name for operation in OPERATIONS if operation.service == service}
    assert rows <= methods(service)


def test_no_other_room_talks_to_aws() -> None:
    for path, tree in trees("**/*.py"):
        room = path.relative_to(SOURCE).parts
        if room[0] == "aws" or room[:2] in (("cloud", "ec2"), ("storage", "s3")):
            continue
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] not in ("boto3", "botocore", "aioboto3"), path


# -- not more than that --


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_nothing_is_granted_by_wildcards(holder: Holder, section: Ec2Section) -> None:
    for statement in policy(holder, place(section))["Statement"]:
        for name in listed(statement["Action"]):
            service, _, verb = name.partition(":")
            assert "*" not in name
            reads = verb.startswith(("Describe", "Get", "Decode"))
            assert reads or "*" not in listed(statement["Resource"]), f"{name} on everything"
            assert service in ("ec2", "s3", "ssm", "sts", "iam", "servicequotas")


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_policy_fits_into_a_managed_policy(holder: Holder, section: Ec2Section) -> None:
    document = policy(holder, place(section, "ap-southeast-1"))
    assert len(json.dumps(document, separators=(",", ":"))) < LONGEST


@pytest.mark.parametrize("holder", ["master", "worker", "instance"])
def test_the_vms_may_do_nothing_but_read_and_write_objects(holder: Holder) -> None:
    actions = {
        name for statement in policy(holder, place())["Statement"]
        for name in listed(statement["Action"])
    }  # fmt: skip
    assert actions <= {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"}


@pytest.mark.parametrize("holder", ["master", "worker", "instance"])
@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"])
def test_the_vms_never_see_a_clusters_keys(holder: Holder, action: str) -> None:
    for key in (keys.access("aws_ec2"), keys.launch("token") + "wave-000", keys.CLUSTERS):
        assert not may(holder, action, s3(whole(key)))


def whole(key: str) -> str:
    """A key of ours as it is in the bucket, where each owner has a part."""
    return key.replace(keys.ROOT, f"{keys.ROOT}aws_ec2-us-east-1-alice@{ACCOUNT}/", 1)


#: What VMs may read or write some of.
PLACES = (*keys.TEMPORARY, keys.ENVIRONMENTS)


def test_the_policies_speak_of_the_places_where_objects_lie() -> None:
    resources = {
        name for statement in policy("instance", place())["Statement"]
        for name in listed(statement["Resource"])
    }  # fmt: skip
    places = (prefix.replace(keys.ROOT, f"{keys.ROOT}*/") for prefix in PLACES)
    assert resources == {s3(f"{prefix}*") for prefix in places}
    assert s3(f"{keys.ROOT}*") in json.dumps(policy("client", place()))


def test_a_worker_reads_environments_and_only_the_master_adds_to_them() -> None:
    for key in (keys.lock("key"), keys.wheel("0" * 64)):
        assert may("worker", "s3:GetObject", s3(whole(key)))
        assert not may("worker", "s3:PutObject", s3(whole(key)))
        assert may("master", "s3:PutObject", s3(whole(key)))


def test_a_worker_reads_what_goes_in_and_writes_what_comes_out() -> None:
    for key in (keys.function("job"), keys.items("job", 0), keys.modules("digest")):
        assert may("worker", "s3:GetObject", s3(whole(key)))
        assert not may("worker", "s3:PutObject", s3(whole(key)))
    assert may("worker", "s3:PutObject", s3(whole(keys.outcome("job", 7))))
    assert not may("worker", "s3:PutObject", s3(whole(keys.record("job"))))


def test_a_master_writes_what_became_of_jobs() -> None:
    for key in (keys.record("job"), keys.outcomes("job", "part"), keys.logs("job")):
        assert may("master", "s3:PutObject", s3(whole(key)))
    assert not may("master", "s3:PutObject", s3(whole(keys.outcome("job", 7))))


def ec2(name: str) -> str:
    return f"arn:aws:ec2:us-east-1:{ACCOUNT}:{name}"


def client(action: str, resource: str, context: dict[str, str | list[str]]) -> bool:
    return allows(policy("client", place()), Request(action, resource, context))


OURS: dict[str, str | list[str]] = {f"aws:ResourceTag/{Tag.MANAGED}": "true"}
BORN: dict[str, str | list[str]] = {f"aws:RequestTag/{Tag.MANAGED}": "true"}


@pytest.mark.parametrize(
    "action",
    ["TerminateInstances", "StopInstances", "StartInstances", "GetConsoleOutput"],
)
def test_a_client_touches_only_instances_of_ours(action: str) -> None:
    assert client(f"ec2:{action}", ec2("instance/i-1"), OURS)
    assert not client(f"ec2:{action}", ec2("instance/i-1"), {})


def test_a_client_launches_nothing_without_tag_and_imdsv2() -> None:
    full = {**BORN, "ec2:MetadataHttpTokens": "required"}
    assert client("ec2:RunInstances", ec2("instance/*"), full)
    assert not client("ec2:RunInstances", ec2("instance/*"), BORN)
    assert not client("ec2:RunInstances", ec2("instance/*"), {**full, next(iter(BORN)): "no"})
    for kind in ("volume", "network-interface", "spot-instances-request"):
        assert client("ec2:RunInstances", ec2(f"{kind}/*"), BORN)
        assert not client("ec2:RunInstances", ec2(f"{kind}/*"), {})


def test_a_client_launches_images_of_known_owners_into_a_network_of_ours() -> None:
    image = "arn:aws:ec2:us-east-1::image/ami-1"
    assert client("ec2:RunInstances", image, {"ec2:Owner": "099720109477"})
    assert not client("ec2:RunInstances", image, {"ec2:Owner": "999999999999"})
    assert client("ec2:RunInstances", ec2("subnet/subnet-1"), OURS)
    assert not client("ec2:RunInstances", ec2("subnet/subnet-1"), {})


def test_a_client_makes_nothing_its_own_by_tagging_it() -> None:
    keys: list[str] = [Tag.MANAGED.value]
    assert not client("ec2:CreateTags", ec2("instance/i-1"), {"aws:TagKeys": keys, **BORN})
    assert not client("ec2:CreateTags", ec2("instance/i-1"), {"aws:TagKeys": keys, **OURS, **BORN})
    later: dict[str, str | list[str]] = {"aws:TagKeys": [Tag.EXPIRES_AT.value]}
    assert client("ec2:CreateTags", ec2("instance/i-1"), {**later, **OURS})
    assert not client("ec2:CreateTags", ec2("instance/i-1"), later)
    assert not client("ec2:CreateTags", ec2("volume/vol-1"), {**later, **OURS})


def test_what_is_given_is_named_by_its_id_and_nothing_is_made() -> None:
    document = policy("client", place(SECTIONS["all is given"]))
    text = json.dumps(document)
    for name in ("subnet/subnet-0123", "subnet/subnet-4567", "security-group/sg-0123"):
        assert allows(document, Request("ec2:RunInstances", ec2(name)))
    assert not allows(document, Request("ec2:RunInstances", ec2("subnet/subnet-9")))
    assert allows(document, Request("ec2:RunInstances", ec2("key-pair/mine")))
    assert allows(document, Request("ec2:RunInstances", "arn:aws:ec2:us-east-1::image/ami-0123"))
    assert "ec2:CreateVpc" not in text
    assert "ec2:CreateSecurityGroup" not in text


def test_in_a_network_that_is_given_nothing_but_a_group_is_made() -> None:
    document = policy("client", place(SECTIONS["a network is given"]))
    assert allows(document, Request("ec2:CreateSecurityGroup", ec2("security-group/*"), BORN))
    assert allows(document, Request("ec2:CreateSecurityGroup", ec2("vpc/vpc-0123")))
    assert not allows(document, Request("ec2:CreateSecurityGroup", ec2("vpc/vpc-9")))
    within: dict[str, str | list[str]] = {"ec2:Vpc": ec2("vpc/vpc-0123")}
    assert allows(document, Request("ec2:RunInstances", ec2("subnet/subnet-1"), within))
    assert not allows(document, Request("ec2:RunInstances", ec2("subnet/subnet-1")))
    assert "ec2:CreateVpc" not in json.dumps(document)


def image(name: str) -> str:
    return f"arn:aws:ec2:us-east-1::{name}"


@pytest.mark.parametrize("section", ["all is made", "all is given"])
def test_images_are_made_of_our_vms_tagged_and_launched_whatever_target_ami_says(
    section: str,
) -> None:
    document = policy("client", place(SECTIONS[section]))

    def may(action: str, resource: str, **context: str) -> bool:
        told = {"aws:" + key.replace("_", "/", 1) + ":managed": v for key, v in context.items()}
        return allows(document, Request(action, resource, told))

    assert may("ec2:CreateImage", ec2("instance/i-1"), ResourceTag_dayfly="true")
    assert not may("ec2:CreateImage", ec2("instance/i-1"))
    for kind in ("image/*", "snapshot/*"):
        assert may("ec2:CreateImage", image(kind), RequestTag_dayfly="true")
        assert not may("ec2:CreateImage", image(kind))
    for verb, name in (("DeregisterImage", "image/ami-1"), ("DeleteSnapshot", "snapshot/snap-1")):
        assert may(f"ec2:{verb}", image(name), ResourceTag_dayfly="true")
        assert not may(f"ec2:{verb}", image(name))
    assert may("ec2:RunInstances", image("image/ami-9"), ResourceTag_dayfly="true")
    assert not may("ec2:RunInstances", image("image/ami-9"))


def test_an_image_that_is_given_by_its_name_is_one_of_ours() -> None:
    section = Ec2Section(instance_role="dayfly-vm", target_ami="mine")
    document = policy("client", place(section))
    assert allows(document, Request("ec2:RunInstances", image("image/ami-9"), OURS))
    assert not allows(document, Request("ec2:RunInstances", image("image/ami-9")))


def test_who_consumes_starts_and_stops_one_vm_and_launches_none() -> None:
    document = policy("client", place(SECTIONS["a VM is consumed"]))
    assert allows(document, Request("ec2:StartInstances", ec2("instance/i-0123")))
    assert not allows(document, Request("ec2:StartInstances", ec2("instance/i-9")))
    assert not allows(document, Request("ec2:TerminateInstances", ec2("instance/i-0123")))
    assert "RunInstances" not in json.dumps(document)
    assert "PassRole" not in json.dumps(document)


def test_on_demand_alone_needs_nothing_for_spot() -> None:
    section = Ec2Section(instance_role="dayfly-vm", request_spot_instances=False)
    assert "spot.amazonaws.com" not in json.dumps(policy("client", place(section)))


def test_a_bucket_that_was_given_is_not_made() -> None:
    given = Place(
        account=ACCOUNT, bucket="mine", section=SECTIONS["all is made"], derived=False
    )  # fmt: skip
    assert "s3:CreateBucket" not in json.dumps(policy("client", given))


def test_the_other_partitions_have_arns_of_their_own() -> None:
    for region, partition in (("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")):
        document = policy("client", place(region=region))
        arns = [arn for s in document["Statement"] for arn in listed(s["Resource"]) if arn != "*"]
        assert all(arn.startswith(f"arn:{partition}:") for arn in arns)


@pytest.mark.parametrize(
    ("region", "canonical", "ec2"),
    [
        ("us-east-1", "099720109477", "ec2.amazonaws.com"),
        ("us-gov-west-1", "513442679011", "ec2.amazonaws.com"),
        ("cn-north-1", "837727238323", "ec2.amazonaws.com.cn"),
    ],
)
def test_the_other_partitions_have_another_canonical_and_china_another_ec2(
    region: str, canonical: str, ec2: str
) -> None:
    text = json.dumps(policy("client", place(region=region)))
    assert f'"ec2:Owner": ["amazon", "{canonical}", "{ACCOUNT}"]' in text
    assert f'"iam:PassedToService": "{ec2}"' in text


def test_the_statement_that_is_missing_is_as_narrow_as_the_denial() -> None:
    run = next(o for o in OPERATIONS if o.name == "run_instances")
    [role] = missing(run, place(), "iam:PassRole")["Statement"]
    assert role["Resource"] == f"arn:aws:iam::{ACCOUNT}:role/dayfly-vm"
    assert len(missing(run, place())["Statement"]) > 5


def test_the_statement_that_is_missing_is_for_this_configuration() -> None:
    start = next(o for o in OPERATIONS if o.name == "start_instances")
    [statement] = missing(start, place())["Statement"]
    assert statement["Condition"] == {"StringEquals": OURS}


# -- enough for what it does --


async def test_everything_that_a_client_does_is_allowed_by_its_policy(aws: EmulatedAws) -> None:
    refused: list[str] = []
    section = Ec2Section(
        region=aws.region, instance_role=aws.role, ssh_cidr="192.0.2.0/24",
        worker_instance_type="t3.medium", master_instance_type="t3.micro",
    )  # fmt: skip
    document = policy("client", place(section))

    def look(call: Call, moment: Literal["before", "after"]) -> None:
        if moment == "before":
            asked = requests(aws, call)
            refused.extend(f"{call.action}: {r}" for r in asked if not allows(document, r))

    aws.on_call = look
    await live(aws, section)
    assert refused == []
    done = {call.action for call in aws.calls}
    assert {"RunInstances", "TerminateInstances", "CreateVpc", "DeleteVpc", "PutObject"} <= done
    assert {"CreateImage", "DeregisterImage", "DeleteSnapshot"} <= done
    table = {action(operation.name) for operation in OPERATIONS}
    assert done <= table | {"GetCallerIdentity"}


class Hurried(SystemClock):
    """A clock that goes fast: what clients wait for, they wait for in vain here."""

    def monotonic(self) -> float:
        return super().monotonic() * 50

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 50)


async def live(aws: EmulatedAws, section: Ec2Section) -> None:
    """What a client does from its first launch to ``clean --all``."""
    clock, entropy = Hurried(), SystemEntropy()
    account = Aws(aws.region)
    storage = S3Storage(
        account, "", account="", region="", owns=False, clock=clock, entropy=entropy
    )  # fmt: skip
    cloud = Ec2Cloud(section, account, StorageNotes(storage), clock=clock, entropy=entropy)
    try:
        tags = {Tag.MANAGED.value: "true", Tag.OWNER.value: await cloud.owner()}
        await storage.locate()
        spec: dict[str, Any] = {"user_data": "#cloud-config\n", "tags": tags}
        master = InstanceSpec(
            role="master", instance_types=["t3.micro"], on_poweroff="stop", **spec
        )
        worker = InstanceSpec(
            role="worker", instance_types=["t3.medium"], on_poweroff="terminate", spot=True, **spec
        )
        [first] = (await cloud.launch(master, 1, token="m" * 64)).instances
        workers = (await cloud.launch(worker, 2, token="w" * 64)).instances
        ids = [instance.id for instance in workers]
        await cloud.tag(ids, {Tag.EXPIRES_AT: "1"})
        await cloud.console(first.id)
        await cloud.prices(["t3.medium"], spot=True)
        while (await cloud.list(ids=[first.id]))[0].state != "running":
            await clock.sleep(1)
        await cloud.stop([first.id])
        while (await cloud.list(ids=[first.id]))[0].state != "stopped":
            await clock.sleep(1)
        about = {**tags, Mark.BUILD.value: "b", Tag.NAME.value: "mine"}
        made = await cloud.imaging.create(first.id, "mine-b", about, "about it")
        own = msgspec.structs.replace(worker, image=made.id)
        ids += [i.id for i in (await cloud.launch(own, 1, token="o" * 64)).instances]
        await cloud.imaging.users(made)
        await cloud.imaging.delete(made)
        await cloud.start([first.id])
        await cloud.terminate(ids)
        await storage.put_object("dayfly/in/probe", b"x" * (17 << 20))
        await storage.get_object("dayfly/in/probe")
        await storage.head_object("dayfly/in/probe")
        await storage.delete_objects([key async for key in storage.list_keys(keys.ROOT)])
        await cloud.examine(2)
        await cloud.inventory()
        await cloud.purge()
    finally:
        await cloud.aclose()
        await account.aclose()
