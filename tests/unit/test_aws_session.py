"""An AWS account: its clients, who calls, and what botocore raises in our words."""

from __future__ import annotations

import asyncio
import inspect
import string
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import botocore
import pytest
from aiohttp import ClientPayloadError
from botocore import exceptions
from botocore.exceptions import ClientError
from botocore.loaders import JSONFileLoader

from dayfly.aws.errors import NEVER_SENT, denial_of, in_our_words, read_denial
from dayfly.aws.models import ModelFiles
from dayfly.aws.session import Aws, Caller, Credentials
from dayfly.errors import ApiError, CloudError, ConfigError, DayflyError, DeniedError
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws

__all__ = ["aws"]


@pytest.fixture
async def account(aws: EmulatedAws) -> AsyncIterator[Aws]:
    account = Aws(aws.region)
    yield account
    await account.aclose()


# -- clients --


async def test_a_client_is_opened_once_for_all_who_ask(account: Aws) -> None:
    first, second, other = await asyncio.gather(
        account.client("s3"), account.client("s3"), account.client("s3", repeat=False)
    )
    assert first is second
    assert first is not other
    assert await account.client("s3", region="us-east-1") is first
    assert (await account.client("s3", region="eu-west-1")).meta.region_name == "eu-west-1"


async def test_a_call_is_repeated_by_botocore_or_by_us_and_not_by_both(
    aws: EmulatedAws, account: Aws
) -> None:
    aws.fail_next("DescribeInstances", "InternalError", 500, times=2)
    with pytest.raises(ClientError):
        await (await account.client("ec2", repeat=False)).describe_instances()
    assert aws.count("DescribeInstances") == 1
    await (await account.client("ec2")).describe_instances()
    assert aws.count("DescribeInstances") == 3


async def test_an_account_that_was_closed_opens_its_clients_anew(
    aws: EmulatedAws, account: Aws
) -> None:
    await (await account.client("ec2")).describe_instances()
    await account.aclose()
    await (await account.client("ec2")).describe_instances()
    assert aws.count("DescribeInstances") == 2


async def test_s3_is_asked_in_its_region_even_where_botocore_would_not(
    aws: EmulatedAws, account: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    endpoints = [(await account.client(name)).meta.endpoint_url for name in ("s3", "sts")]
    assert endpoints == [
        "https://s3.us-east-1.amazonaws.com",
        "https://sts.us-east-1.amazonaws.com",
    ]


@pytest.mark.parametrize("service", ["ec2", "s3", "sts", "ssm", "service-quotas"])
def test_models_are_read_as_botocore_reads_them(service: str) -> None:
    folder = max((Path(botocore.__file__).parent / "data" / service).glob("*-*-*"))
    for kind in ("service-2", "endpoint-rule-set-1"):
        path = str(folder / kind)
        ours, theirs = ModelFiles().load_file(path), JSONFileLoader().load_file(path)
        assert ours == theirs
        assert list(ours) == list(theirs)
    assert ModelFiles().load_file(str(folder / "nothing")) is None


def test_nothing_of_botocore_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, dayfly.aws.errors, dayfly.aws.session, dayfly.storage.s3\n"
        "sys.exit(any(name.startswith(('boto', 'aioboto', 'aiohttp')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- who calls --


async def test_who_calls_is_asked_once(aws: EmulatedAws, account: Aws) -> None:
    callers = await asyncio.gather(*(account.caller() for _ in range(5)))
    assert {caller.account for caller in callers} == {aws.account}
    assert await account.account() == aws.account
    assert aws.count("GetCallerIdentity") == 1


async def test_an_account_that_is_known_is_not_asked_for(aws: EmulatedAws) -> None:
    account = Aws(aws.region, account_id="210987654321")
    assert await account.account() == "210987654321"
    assert aws.calls == []


@pytest.mark.parametrize(
    ("arn", "name"),
    [
        ("arn:aws:iam::1:user/alice", "alice"),
        ("arn:aws:iam::1:user/people/alice", "alice"),
        ("arn:aws:sts::1:assumed-role/ci-role/run-77", "ci-role"),
        ("arn:aws:iam::1:root", "root"),
        (
            "arn:aws:sts::1:assumed-role/AWSReservedSSO_Admin_0123456789abcdef/alice@example.com",
            "alice@example.com",
        ),
    ],
)
def test_a_caller_has_the_name_of_the_user_or_the_role(arn: str, name: str) -> None:
    assert Caller(account="1", arn=arn).name == name


def test_credentials_do_not_show_themselves() -> None:
    keys = Credentials(access_key_id="AKIA", secret_access_key="hidden", session_token="too")
    assert repr(keys) == "Credentials(given)"


# -- no way in --


@pytest.mark.parametrize(
    ("environment", "cause", "hint"),
    [
        ({}, "no credentials were found", "aws configure"),
        ({"AWS_ACCESS_KEY_ID": "A"}, "Partial credentials", "aws configure"),
        ({"AWS_PROFILE": "nobody"}, "nobody", "aws configure list-profiles"),
    ],
)
async def test_missing_credentials_say_what_to_do(
    aws: EmulatedAws,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    cause: str,
    hint: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    account = Aws(aws.region)
    with pytest.raises(ConfigError) as caught:
        await account.caller()
    await account.aclose()
    assert cause in caught.value.cause
    assert hint in caught.value.hint


async def test_a_region_that_is_none_is_told(aws: EmulatedAws) -> None:
    account = Aws("us east 1")
    with pytest.raises(ConfigError, match="us east 1") as caught:
        await account.client("ec2")
    await account.aclose()
    assert "aws.region" in caught.value.hint


async def test_a_cloud_that_nobody_answers_for_is_told(
    aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    account = Aws(aws.region)
    client = await account.client("ec2", repeat=False)
    with pytest.raises(CloudError, match="the instances could not be listed") as caught:
        with in_our_words("the instances could not be listed"):
            await client.describe_instances()
    await account.aclose()
    assert not isinstance(caught.value, ApiError)
    assert "127.0.0.1:9 could not be reached" in caught.value.cause
    assert caught.value.hint == "curl -sI http://127.0.0.1:9"


# -- what AWS answers --


def answer(code: str, message: str = "no", status: int = 400) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": "r-1",
                "RetryAttempts": 2,
                "HostId": "",
                "HTTPHeaders": {},
            },
        },
        "RunInstances",
    )


def told(error: Exception) -> DayflyError:
    with pytest.raises(DayflyError) as caught, in_our_words("it could not be done"):
        raise error
    assert caught.value.what == "it could not be done"
    assert caught.value.__cause__ is error
    return caught.value


def test_an_answer_keeps_its_code_its_status_and_its_request() -> None:
    error = told(answer("InsufficientInstanceCapacity", "none left", 500))
    assert type(error) is ApiError
    assert (error.code, error.status) == ("InsufficientInstanceCapacity", 500)
    assert error.cause == (
        "AWS says: none left (InsufficientInstanceCapacity, HTTP 500, asked 3 times, request r-1)"
    )


@pytest.mark.parametrize(
    ("code", "message", "cause", "hint"),
    [
        ("ExpiredToken", "", "expired", "aws sso login"),
        ("RequestExpired", "Request has expired.", "clock", "aws sso login"),
        ("InvalidClientTokenId", "", "no such access key", "aws sts get-caller-identity"),
        ("SignatureDoesNotMatch", "", "secret", "aws sts get-caller-identity"),
        ("SignatureDoesNotMatch", "Signature expired: 2020 is now", "clock", "timedatectl"),
        ("RequestTimeTooSkewed", "", "clock", "timedatectl"),
        (
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
            "not valid",
            "aws sts get-caller-identity",
        ),
    ],
)
def test_credentials_that_aws_does_not_take_are_told(
    code: str, message: str, cause: str, hint: str
) -> None:
    error = told(answer(code, message, 403))
    assert type(error) is ConfigError
    assert cause in error.cause
    assert code in error.cause
    assert "r-1" in error.cause
    assert hint in error.hint


def test_an_image_that_is_somebody_elses_is_no_matter_of_credentials() -> None:
    error = told(answer("AuthFailure", "Not authorized for images: [ami-1]"))
    assert type(error) is ApiError
    assert error.code == "AuthFailure"


DENIAL = (
    "You are not authorized to perform this operation. User: arn:aws:iam::1:user/eve is not "
    "authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:us-east-1:1:instance/* "
    "because no identity-based policy allows the ec2:RunInstances action. Encoded authorization "
    "failure message: q0ZG-Hk_x"
)


def test_a_denial_names_the_permission_that_lacks() -> None:
    error = told(answer("UnauthorizedOperation", DENIAL, 403))
    assert isinstance(error, DeniedError)
    assert "q0ZG" not in str(error)
    assert error.hint == (
        "allow ec2:RunInstances on arn:aws:ec2:us-east-1:1:instance/*; "
        "dayfly doctor prints the statement"
    )
    denial = denial_of(error)
    assert denial.action == "ec2:RunInstances"
    assert denial.resource == "arn:aws:ec2:us-east-1:1:instance/*"
    assert denial.who == "arn:aws:iam::1:user/eve"
    assert denial.why == "because no identity-based policy allows the ec2:RunInstances action"
    assert denial.encoded == "q0ZG-Hk_x"


@pytest.mark.parametrize(
    ("message", "action", "resource", "why"),
    [
        (
            (
                "User: arn:aws:iam::1:user/e is not authorized to perform: s3:PutObject on "
                'resource: "arn:aws:s3:::b/k" because no identity-based policy allows the '
                "s3:PutObject action"
            ),
            "s3:PutObject",
            "arn:aws:s3:::b/k",
            "because no identity-based policy allows the s3:PutObject action",
        ),
        (
            (
                "User: arn:aws:sts::1:assumed-role/r/s is not authorized to perform: iam:PassRole "
                "on resource: arn:aws:iam::1:role/x with an explicit deny in a service control "
                "policy"
            ),
            "iam:PassRole",
            "arn:aws:iam::1:role/x",
            "with an explicit deny in a service control policy",
        ),
        ("User: u is not authorized to perform: sts:AssumeRole", "sts:AssumeRole", "", ""),
        ("Access Denied", "", "", ""),
    ],
)
def test_denials_are_taken_apart(message: str, action: str, resource: str, why: str) -> None:
    denial = read_denial(message)
    assert (denial.action, denial.resource, denial.why) == (action, resource, why)


def test_a_deny_is_not_answered_by_an_allow() -> None:
    message = "User: u is not authorized to perform: ec2:RunInstances with an explicit deny in x"
    assert "taken back" in told(answer("AccessDenied", message, 403)).hint


# -- nothing leaks --


def instances_of_all_errors() -> list[Exception]:
    errors: list[Exception] = []
    for _, kind in inspect.getmembers(exceptions, inspect.isclass):
        named: Any = kind
        if not issubclass(kind, exceptions.BotoCoreError) or kind is exceptions.WaiterError:
            continue  # waiters are not used
        fields = [name for _, name, _, _ in string.Formatter().parse(named.fmt) if name]
        errors.append(named(**dict.fromkeys(fields, "x")))
    return errors


@pytest.mark.parametrize("error", instances_of_all_errors(), ids=lambda e: type(e).__name__)
def test_whatever_botocore_raises_is_told_in_our_words(error: Exception) -> None:
    assert told(error).cause


def test_what_was_never_sent_has_a_code_of_its_own() -> None:
    error = told(exceptions.ParamValidationError(report="Invalid bucket name"))
    assert isinstance(error, ApiError)
    assert error.code == NEVER_SENT


def test_an_answer_that_breaks_off_is_told() -> None:
    assert "the connection broke" in told(ClientPayloadError("half of it")).cause


def test_what_is_not_the_clouds_goes_its_way() -> None:
    for error in (ValueError("ours"), ConfigError("ours"), TimeoutError()):
        with pytest.raises(type(error)) as caught, in_our_words("it could not be done"):
            raise error
        assert caught.value is error
