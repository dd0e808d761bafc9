"""Every call to AWS is limited, bounded, repeated where that is safe, and told in our words."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    SSLError,
)

from dayfly.cloud.ec2.api import DEADLINE, MARGIN, Ec2Api, action, backoff, may_repeat
from dayfly.cloud.ec2.limits import Limits
from dayfly.errors import ApiError, CloudError, ConfigError, DeniedError
from tests.unit.ec2_support import (
    Answer,
    AnsweringAws,
    Fixed,
    TurnedClock,
    calls_of,
    new_api,
    refusal,
)

BROKEN = ConnectionClosedError(endpoint_url="https://ec2.us-east-1.amazonaws.com/")


def first(*failures: Exception, then: dict[str, Any] | None = None) -> Answer:
    """Fail some times, then answer."""
    left = list(failures)

    def answer(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if left:
            raise left.pop(0)
        return then or {"fine": True}

    return answer


def always(failure: Exception) -> Answer:
    def answer(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        raise failure

    return answer


@pytest.mark.parametrize(
    ("operation", "parameters", "safe"),
    [
        ("describe_instances", {}, True),
        ("get_console_output", {}, True),
        ("run_instances", {"ClientToken": "t"}, True),
        ("run_instances", {}, False),
        ("terminate_instances", {}, True),
        ("start_instances", {}, True),
        ("stop_instances", {}, True),
        ("create_tags", {}, True),
        ("delete_security_group", {}, True),
        ("create_security_group", {}, False),
        ("create_vpc", {}, False),
        ("create_vpc_endpoint", {"ClientToken": "t"}, True),
    ],
)
def test_what_may_be_said_twice(operation: str, parameters: dict[str, Any], safe: bool) -> None:
    assert may_repeat(operation, parameters) is safe


async def test_a_throttled_call_is_said_again_with_the_same_parameters_and_the_user_is_told() -> (
    None
):
    told: list[str] = []
    limit = refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
    api = new_api(first(*[limit] * 3), told=told)

    asked: dict[str, Any] = {"ClientToken": "t", "MaxCount": 10}
    assert await api.call("run_instances", **asked) == {"fine": True}

    assert api.aws.calls == [("run_instances", asked)] * 4  # type: ignore[attr-defined]
    assert any("throttles RunInstances: again in 2 s" in text for text in told)


async def test_a_throttled_create_is_said_again_too_since_nothing_happened() -> None:
    api = new_api(first(refusal("RequestLimitExceeded", "", 503)))
    assert await api.call("create_vpc") == {"fine": True}


@pytest.mark.parametrize("failure", [refusal("InternalError", "", 500), BROKEN])
async def test_an_unknown_outcome_is_asked_for_again_by_its_token(failure: Exception) -> None:
    api = new_api(first(failure, failure))
    assert await api.call("run_instances", ClientToken="t") == {"fine": True}
    assert len(calls_of(api)) == 3


@pytest.mark.parametrize("failure", [refusal("InternalError", "", 500), BROKEN])
async def test_what_would_make_a_second_one_is_not_said_again(failure: Exception) -> None:
    api = new_api(first(failure))
    with pytest.raises(CloudError):
        await api.call("create_security_group", GroupName="g")
    assert len(calls_of(api)) == 1


async def test_an_exhausted_pool_is_an_answer_though_it_comes_as_http_500() -> None:
    api = new_api(always(refusal("InsufficientInstanceCapacity", "none left", 500)))
    with pytest.raises(ApiError, match="RunInstances") as caught:
        await api.call("run_instances", ClientToken="t")
    assert caught.value.code == "InsufficientInstanceCapacity"
    assert caught.value.status == 500
    assert "none left" in str(caught.value)
    assert len(calls_of(api)) == 1


async def test_nobody_waits_for_ever() -> None:
    clock = TurnedClock()
    began = clock.monotonic()
    api = new_api(always(refusal("RequestLimitExceeded", "", 503)), clock=clock)
    with pytest.raises(ApiError) as caught:
        await api.call("describe_instances")
    assert caught.value.code == "RequestLimitExceeded"
    assert clock.monotonic() - began <= DEADLINE
    assert max(clock.slept) <= 15.0  # half of thirty seconds, as chance has it here


async def test_a_machine_without_network_hears_so_soon() -> None:
    clock = TurnedClock()
    api = new_api(always(EndpointConnectionError(endpoint_url="https://ec2/")), clock=clock)
    with pytest.raises(CloudError, match="DescribeInstances"):
        await api.call("describe_instances")
    assert len(calls_of(api)) == 5
    assert sum(clock.slept) < 16


async def test_a_certificate_that_is_not_accepted_is_not_asked_for_again() -> None:
    api = new_api(always(SSLError(endpoint_url="https://ec2/", error="self-signed")))
    with pytest.raises(CloudError, match="certificate"):
        await api.call("describe_instances")
    assert len(calls_of(api)) == 1


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (
            refusal(
                "UnauthorizedOperation",
                "You are not authorized to perform: ec2:RunInstances. "
                "Encoded authorization failure message: aBcD",
                403,
            ),
            DeniedError,
            "ec2:RunInstances",
        ),
        (
            refusal("AuthFailure.ServiceLinkedRoleCreationNotPermitted", "no", 403),
            DeniedError,
            "aws iam create-service-linked-role",
        ),
        (refusal("OptInRequired", "You are not subscribed", 401), ConfigError, "support"),
        (refusal("ExpiredToken", "expired", 400), ConfigError, "expired"),
        (NoCredentialsError(), ConfigError, "credentials"),
        (refusal("InvalidAMIID.NotFound", "ami-1"), ApiError, "target_ami"),
    ],
)
async def test_an_error_is_told_in_our_words(
    failure: Exception, kind: type[Exception], words: str
) -> None:
    api = new_api(always(failure))
    with pytest.raises(kind, match=words) as caught:
        await api.call("run_instances", ClientToken="t")
    assert type(caught.value) is kind
    assert "aBcD" not in str(caught.value)
    assert caught.value.__cause__ is failure
    assert len(calls_of(api)) == 1


async def test_the_local_limit_is_kept_before_ec2_must_refuse_and_told() -> None:
    clock, told = TurnedClock(), list[str]()
    api = new_api(first(), clock=clock, told=told)
    for _ in range(8):
        await api.call("run_instances", ClientToken="t")
    assert clock.slept == [0.5 + MARGIN, 0.25 + MARGIN, 0.25 + MARGIN]
    assert told == []  # too short to be told

    api.limits.take(api.region, "run_instances", clock.monotonic(), 1000)
    await api.call("run_instances", ClientToken="t", MaxCount=100)
    assert told
    assert "EC2's rate limit holds RunInstances back" in told[0]


async def test_launches_that_a_dry_pool_did_not_give_are_not_counted() -> None:
    api = new_api(always(refusal("InsufficientInstanceCapacity", "", 500)))
    for _ in range(12):
        with pytest.raises(ApiError):
            await api.call("run_instances", ClientToken="t", MaxCount=100)
    now = api.clock.monotonic()
    assert api.limits.budget(api.region, 1000, now).now == 1000

    api = new_api(first(then={"Instances": [{}] * 30}))
    await api.call("run_instances", ClientToken="t", MaxCount=100)
    assert api.limits.budget(api.region, 1000, api.clock.monotonic()).now == 970


async def test_a_long_wait_is_told_where_nobody_asked_to_be_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    throttled = refusal("RequestLimitExceeded", "", 503)
    aws, clock = AnsweringAws(always(throttled)), TurnedClock()
    api = Ec2Api(aws, clock=clock, entropy=Fixed(), limits=Limits())
    with pytest.raises(ApiError):
        await api.call("describe_instances")
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert any("AWS throttles DescribeInstances: again in 15 s" in text for text in told)


async def test_pages_of_ones_own_snapshots_are_bounded_too() -> None:
    api = new_api(lambda operation, parameters: {})
    _ = [page async for page in api.pages("describe_snapshots", OwnerIds=["self"])]
    assert api.aws.calls[0][1]["MaxResults"] == 100  # type: ignore[attr-defined]


async def test_pages_are_read_to_the_last_and_bounded_in_size() -> None:
    answers: Iterator[dict[str, Any]] = iter([{"NextToken": "b"}, {"NextToken": "c"}, {}])
    api = new_api(lambda operation, parameters: next(answers))
    pages = [page async for page in api.pages("describe_instances", Filters=[])]
    assert len(pages) == 3
    tokens = [asked.get("NextToken") for _, asked in api.aws.calls]  # type: ignore[attr-defined]
    assert tokens == [None, "b", "c"]
    assert all(asked["MaxResults"] == 100 for _, asked in api.aws.calls)  # type: ignore[attr-defined]


async def test_pages_by_ids_have_no_size_which_ec2_refuses() -> None:
    api = new_api(first())
    [page async for page in api.pages("describe_instances", InstanceIds=["i-1"])]
    assert "MaxResults" not in api.aws.calls[0][1]  # type: ignore[attr-defined]


def test_pauses_grow_to_half_a_minute_and_chance_spreads_them() -> None:
    assert [backoff(attempt, 1.0) for attempt in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff(3, 0.0) == 0.0
    assert all(backoff(a, 0.99) <= backoff(b, 0.99) for a, b in itertools.pairwise(range(12)))
    assert action("describe_instance_type_offerings") == "DescribeInstanceTypeOfferings"
