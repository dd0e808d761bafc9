"""The emulated metadata service answers as that of EC2 does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.aws.imds import LONGEST_TTL, TTL_HEADER, Keys, MetadataService
from tests.unit.metadata_support import Asker, issue, metadata_service


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    with metadata_service(issue) as service:
        yield service


@pytest.fixture
def asker(metadata: MetadataService) -> Iterator[Asker]:
    metadata.add("i-0one", "t3.micro", "#cloud-config\n{}", "dayfly")
    metadata.locate("i-0one", "127.16.0.1")
    asker = Asker(metadata.endpoint("i-0one"))
    yield asker
    asker.connection.close()


def test_metadata_are_read_with_a_token_only(metadata: MetadataService, asker: Asker) -> None:
    assert asker.ask("GET", "/latest/meta-data/instance-id")[0] == 401
    assert asker.get("meta-data/instance-id", "made up")[0] == 401
    token = asker.token()
    assert asker.get("meta-data/instance-id", token) == (200, "i-0one")
    assert metadata.count("instance-id") == 3
    assert metadata.count("instance-id", instance_id="i-0two") == 0
    assert [request.status for request in metadata.requests] == [401, 401, 200, 200]

    metadata.forget_tokens("i-0one")
    assert asker.get("meta-data/instance-id", token)[0] == 401


def test_a_token_is_good_for_its_own_machine_only(metadata: MetadataService, asker: Asker) -> None:
    metadata.add("i-0two", "t3.micro", "", "")
    other = Asker(metadata.endpoint("i-0two"))
    assert other.get("meta-data/instance-id", asker.token())[0] == 401
    other.connection.close()


@pytest.mark.parametrize("ttl", ["", "0", "-1", "soon", str(LONGEST_TTL + 1)])
def test_a_token_is_asked_for_with_a_time_that_can_be(asker: Asker, ttl: str) -> None:
    assert asker.ask("PUT", "/latest/api/token", **{TTL_HEADER: ttl})[0] == 400


def test_a_token_is_not_given_to_a_proxy(asker: Asker) -> None:
    headers = {TTL_HEADER: "60", "X-Forwarded-For": "203.0.113.1"}
    assert asker.ask("PUT", "/latest/api/token", **headers)[0] == 403


def test_an_instance_reads_who_and_where_it_is(asker: Asker) -> None:
    token = asker.token()
    assert asker.get("meta-data/placement/region", token) == (200, "us-east-1")
    assert asker.get("meta-data/placement/availability-zone/", token) == (200, "us-east-1b")
    assert asker.get("meta-data/local-ipv4", token) == (200, "127.16.0.1")
    assert asker.get("meta-data/iam/security-credentials/", token) == (200, "dayfly")
    assert asker.get("user-data", token) == (200, "#cloud-config\n{}")
    assert asker.get("meta-data/local-hostname", token) == (200, "ip-127-16-0-1.ec2.internal")
    assert asker.get("meta-data/", token)[1].split() == [
        "hostname",
        "iam/",
        "instance-id",
        "instance-type",
        "local-hostname",
        "local-ipv4",
        "placement/",
        "public-ipv4",
    ]
    assert asker.get("meta-data/nonsense", token)[0] == 404
    document = json.loads(asker.get("dynamic/instance-identity/document", token)[1])
    assert document["accountId"] == "123456789012"
    assert document["region"] == "us-east-1"
    profile = json.loads(asker.get("meta-data/iam/info", token)[1])
    assert profile["InstanceProfileArn"] == "arn:aws:iam::123456789012:instance-profile/dayfly"


def test_an_instance_without_a_profile_has_no_keys(metadata: MetadataService) -> None:
    metadata.add("i-0bare", "t3.micro", "", "")
    asker = Asker(metadata.endpoint("i-0bare"))
    token = asker.token()
    for path in ("meta-data/iam/security-credentials/", "meta-data/iam/info", "user-data"):
        assert asker.get(path, token)[0] == 404
    asker.connection.close()


def test_notices_are_not_there_until_they_are_given(
    metadata: MetadataService, asker: Asker
) -> None:
    token = asker.token()
    rebalance, action = "meta-data/events/recommendations/rebalance", "meta-data/spot/"
    assert asker.get(rebalance, token)[0] == asker.get(f"{action}instance-action", token)[0] == 404

    metadata.recommend("i-0one")
    metadata.announce("i-0one", at=1_700_000_000)

    assert set(json.loads(asker.get(rebalance, token)[1])) == {"noticeTime"}
    at = "2023-11-14T22:13:20Z"
    answer = asker.get(f"{action}instance-action", token)[1]
    assert json.loads(answer) == {"action": "terminate", "time": at}
    assert asker.get(f"{action}termination-time", token) == (200, at)


def test_keys_are_replaced_before_they_end() -> None:
    lives = iter([time.time() + 60, time.time() + 3600])

    def short(role: str, instance_id: str) -> Keys:
        end = next(lives)
        return Keys(f"ASIA{end}", "secret", "token", end)

    with metadata_service(short) as service:
        service.add("i-0one", "t3.micro", "", "dayfly")
        asker = Asker(service.endpoint("i-0one"))
        token = asker.token()
        read = [
            json.loads(asker.get("meta-data/iam/security-credentials/dayfly", token)[1])
            for _ in range(3)
        ]
        # Left open: the service hangs up on who is still connected.
        first, second, third = (keys["AccessKeyId"] for keys in read)
        assert first != second == third
        assert read[0]["Code"] == "Success"
    asker.connection.close()
