"""The part of IAM that the policies use: does a document allow this, and what is a call about?

Rules by the IAM user guide, "Policy evaluation logic" and "IAM JSON policy elements". An absent
condition key fails every operator but ``ForAllValues``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tests.aws.calls import Call
from tests.aws.emulator import EmulatedAws


@dataclass(frozen=True)
class Request:
    """One thing that is asked of IAM: a call may be several."""

    action: str
    resource: str = "*"
    context: Mapping[str, str | list[str]] = field(default_factory=dict)


def allows(document: Mapping[str, Any], request: Request) -> bool:
    """Whether a document allows a request; none of ours denies anything."""
    return any(_fits(statement, request) for statement in document["Statement"])


def _fits(statement: Mapping[str, Any], request: Request) -> bool:
    assert statement["Effect"] == "Allow"
    conditions = statement.get("Condition", {})
    return (
        request.action in listed(statement["Action"])
        and any(fnmatchcase(request.resource, each) for each in listed(statement["Resource"]))
        and all(
            _holds(operator, listed(wanted), request.context.get(key))
            for operator, keys in conditions.items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, wanted: list[str], given: str | list[str] | None) -> bool:
    values = [] if given is None else listed(given)
    match operator:
        case "StringEquals":
            return any(value in wanted for value in values)
        case "StringLike" | "ArnLike":
            return any(fnmatchcase(value, each) for value in values for each in wanted)
        case "ForAllValues:StringEquals":
            return all(value in wanted for value in values)
    raise AssertionError(f"the policies use {operator}, which is not known here")


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


#: The beginning of an id -> the kind of thing.
KINDS = {
    "i": "instance",
    "vol": "volume",
    "eni": "network-interface",
    "sir": "spot-instances-request",
    "vpc": "vpc",
    "subnet": "subnet",
    "igw": "internet-gateway",
    "rtb": "route-table",
    "vpce": "vpc-endpoint",
    "sg": "security-group",
    "lt": "launch-template",
    "key": "key-pair",
    "snap": "snapshot",
    "ami": "image",
}
_ID = re.compile(rf"({'|'.join(KINDS)})-[0-9a-f]+")


def requests(aws: EmulatedAws, call: Call) -> Iterator[Request]:
    """What IAM is asked about one call, by the tags that things have at this moment."""
    match call.service:
        case "ec2" if call.action == "RunInstances":
            yield from _launch(aws, call)
        case "ec2" if call.action.startswith("Describe") and call.action[8:] != "InstanceAttribute":
            yield Request(f"ec2:{call.action}")
        case "ec2":
            yield from _on_things(aws, call)
        case "s3":
            yield _of_s3(call)
        case "ssm":
            name = call.params["Name"]
            yield Request("ssm:GetParameter", f"arn:aws:ssm:{aws.region}::parameter{name}")
        case "service-quotas":
            arn = f"arn:aws:servicequotas:{aws.region}:{aws.account}:ec2/{call.params['QuotaCode']}"
            yield Request("servicequotas:GetServiceQuota", arn)
        case "sts" if call.action != "GetCallerIdentity":
            yield Request(f"sts:{call.action}")


def _launch(aws: EmulatedAws, call: Call) -> Iterator[Request]:
    """Source: the EC2 user guide, "Example policies to control access", launching instances."""
    params = call.params
    kinds = ["instance", "volume", "network-interface"]
    if params.get("InstanceMarketOptions", {}).get("MarketType") == "spot":
        kinds.append("spot-instances-request")
    tags = _born_tags(call)
    for kind in kinds:
        context = dict(tags.get(kind, {}))
        if kind == "instance":
            context["ec2:MetadataHttpTokens"] = params["MetadataOptions"]["HttpTokens"]
        yield Request("ec2:RunInstances", _arn(aws, f"{kind}/*"), context)
        if kind in tags:
            context["ec2:CreateAction"] = "RunInstances"
            yield Request("ec2:CreateTags", _arn(aws, f"{kind}/*"), context)
    image = f"arn:aws:ec2:{aws.region}::image/{params['ImageId']}"
    yield Request("ec2:RunInstances", image, {"ec2:Owner": "amazon"})
    for interface in params.get("NetworkInterfaces", []):
        for thing in (interface["SubnetId"], *interface["Groups"]):
            yield Request("ec2:RunInstances", *_thing(aws, thing))
    if "KeyName" in params:
        yield Request("ec2:RunInstances", _arn(aws, f"key-pair/{params['KeyName']}"))
    if "IamInstanceProfile" in params:
        role = f"arn:aws:iam::{aws.account}:role/{params['IamInstanceProfile']['Name']}"
        yield Request("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})


def _on_things(aws: EmulatedAws, call: Call) -> Iterator[Request]:
    """What names things by their ids; and what is born with tags."""
    action = f"ec2:{call.action}"
    born = _born_tags(call)
    for kind, context in born.items():
        yield Request(action, _arn(aws, f"{kind}/*"), context)
        more = {**context, "ec2:CreateAction": call.action}
        yield Request("ec2:CreateTags", _arn(aws, f"{kind}/*"), more)
    asked = {}
    if call.action == "CreateTags":
        asked["aws:TagKeys"] = [tag["Key"] for tag in call.params["Tags"]]
    # Of what a rule lets in, IAM asks nothing.
    told = {key: value for key, value in call.params.items() if key != "IpPermissions"}
    found = [name for name in _strings(told) if _ID.fullmatch(name)]
    if "AssociationId" in told:
        tables = aws.world.backend.route_tables.values()
        found += [table.id for table in tables if told["AssociationId"] in table.associations]
        if not found:
            return  # gone with its subnet
    assert found or born, f"what is {call.action} about? {call.params}"
    for name in found:
        arn, context = _thing(aws, name)
        yield Request(action, arn, {**context, **asked})


def _of_s3(call: Call) -> Request:
    bucket, key = call.params["Bucket"], call.params.get("Key", "")
    action = {
        "ListObjectsV2": "ListBucket",
        "HeadBucket": "ListBucket",
        "HeadObject": "GetObject",
        "DeleteObjects": "DeleteObject",
        "CreateMultipartUpload": "PutObject",
        "UploadPart": "PutObject",
        "CompleteMultipartUpload": "PutObject",
        "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
        "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    }.get(call.action, call.action)
    context = {"s3:prefix": call.params["prefix"]} if "prefix" in call.params else {}
    if call.action == "DeleteObjects":
        key = "dayfly/some"  # its keys are in the body, which is not kept
    return Request(f"s3:{action}", f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else ""), context)


def _born_tags(call: Call) -> dict[str, dict[str, str | list[str]]]:
    return {
        spec["ResourceType"]: {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in spec["Tags"]}
        for spec in call.params.get("TagSpecifications", [])
    }


def _thing(aws: EmulatedAws, name: str) -> tuple[str, dict[str, str | list[str]]]:
    kind = KINDS[name.partition("-")[0]]
    tags = aws.tags(name)
    return _arn(aws, f"{kind}/{name}"), {f"aws:ResourceTag/{k}": v for k, v in tags.items()}


def _arn(aws: EmulatedAws, name: str) -> str:
    account = "" if name.startswith(("image/", "snapshot/")) else aws.account
    return f"arn:aws:ec2:{aws.region}:{account}:{name}"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
