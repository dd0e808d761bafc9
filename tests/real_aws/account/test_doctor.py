"""``doctor`` and its policies, held against the account's own IAM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.real_aws import listing
from tests.real_aws.run import FLEET, Run, client, command

HOLDERS = ["client", "master", "worker", "instance"]


def test_doctor_finds_nothing_wrong_for_this_fleet(run: Run) -> None:
    """Its dry runs ask EC2 for each right, launches with the parameters of real ones."""
    looked = command("doctor", "-m", str(FLEET), "--json")
    findings = json.loads(looked.stdout)
    told = [f"{f['verdict']}: {f['what']}: {f['detail']} {f['hint']}".strip() for f in findings]
    for line in told:
        run.measured(f"doctor: {line}")
    assert looked.exit_code == 0, "\n".join(told)


async def test_doctor_launches_nothing_and_makes_no_network(run: Run) -> None:
    command("clean", "--all")
    command("doctor", "-m", str(FLEET))
    async with run.open() as parts:
        assert await parts.cloud.inventory() == []
    assert not await listing.left(run.region, owner=run.owner, run=run.settings.run)


@pytest.mark.parametrize("holder", HOLDERS)
async def test_the_policies_are_what_iam_takes(run: Run, holder: str) -> None:
    document = policy(holder)
    if run.emulated:
        pytest.skip("the emulated AWS has no Access Analyzer")
    async with client(run, "accessanalyzer") as analyzer:
        answer = await analyzer.validate_policy(
            policyDocument=json.dumps(document), policyType="IDENTITY_POLICY"
        )
    for found in answer["findings"]:
        run.measured(f"policy of {holder}: {found['findingType']}: {found['findingDetails']}")
    bad = [f for f in answer["findings"] if f["findingType"] in ("ERROR", "SECURITY_WARNING")]
    assert not bad, bad


#: An action, what it is asked about, what is known of that, and whether a client may.
CLIENT: list[tuple[str, str, dict[str, str], bool]] = [
    (
        "ec2:RunInstances",
        "instance/*",
        {"aws:RequestTag/dayfly:managed": "true", "ec2:MetadataHttpTokens": "required"},
        True,
    ),
    ("ec2:RunInstances", "instance/*", {"aws:RequestTag/dayfly:managed": "true"}, False),
    ("ec2:RunInstances", "instance/*", {"ec2:MetadataHttpTokens": "required"}, False),
    ("ec2:TerminateInstances", "instance/i-1", {"aws:ResourceTag/dayfly:managed": "true"}, True),
    ("ec2:TerminateInstances", "instance/i-1", {}, False),
    ("ec2:DeleteVpc", "vpc/vpc-1", {"aws:ResourceTag/dayfly:managed": "true"}, True),
    ("ec2:DeleteVpc", "vpc/vpc-1", {}, False),
    ("ec2:CreateTags", "instance/i-1", {"ec2:CreateAction": "RunInstances"}, True),
    ("ec2:CreateTags", "instance/i-1", {"aws:ResourceTag/dayfly:managed": "true"}, False),
]


@pytest.mark.parametrize(
    ("action", "thing", "known", "allowed"),
    CLIENT,
    ids=[f"{a}-{i}" for i, (a, *_) in enumerate(CLIENT)],
)
async def test_iam_decides_by_the_clients_policy_as_it_was_meant(
    run: Run, action: str, thing: str, known: dict[str, str], allowed: bool
) -> None:
    document = policy("client")
    if run.emulated:
        pytest.skip("the emulated IAM cannot simulate a policy")
    account = run.owner.rpartition("@")[2]
    context: list[dict[str, Any]] = [
        {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
        for key, value in known.items()
    ]
    async with client(run, "iam") as iam:
        answer = await iam.simulate_custom_policy(
            PolicyInputList=[json.dumps(document)],
            ActionNames=[action],
            ResourceArns=[f"arn:aws:ec2:{run.region}:{account}:{thing}"],
            ContextEntries=context,
        )
    (result,) = answer["EvaluationResults"]
    assert (result["EvalDecision"] == "allowed") is allowed, result


def policy(holder: str) -> dict[str, Any]:
    """The document that the command prints."""
    printed = command("doctor", "--policy", holder)
    assert printed.exit_code == 0, printed.output
    document: dict[str, Any] = json.loads(printed.stdout)
    assert document["Statement"]
    return document
