"""A file written for Lithops' EC2 backend loads unchanged."""

from __future__ import annotations

import pytest

from dayfly.config import Config, load
from dayfly.errors import ConfigError
from dayfly.model import ExecMode

#: As Lithops' own documentation has it, with a key of each kind.
FILE = """
lithops:
    backend: aws_ec2
    storage: aws_s3
    data_limit: 16
    execution_timeout: 600
    log_level: INFO

aws:
    region: us-east-1
    access_key_id: AKIA1
    secret_access_key: hush
    account_id: 123456789012

aws_ec2:
    iam_role: ec2LithopsInstanceRole
    public_subnet_id: subnet-01234567
    public_subnet_cidr_block: 10.0.2.0/24
    exec_mode: create
    worker_processes: AUTO
    extra_apt_packages: git curl
    ebs_volumes:
        - device_name: /dev/xvda
          ebs:
              volume_size: 100
    execution_role: arn:aws:iam::123456789012:role/x

aws_s3:
    region_name: eu-west-1
    storage_bucket: mine

ibm:
    iam_api_key: x
"""


def read(text: str) -> Config:
    return load(environ={"DAYFLY_CONFIG": text})


def test_it_means_the_same_here() -> None:
    config = read(FILE)
    assert (config.dayfly.backend, config.dayfly.storage) == ("aws_ec2", "aws_s3")
    assert config.dayfly.log_level == "info"
    assert config.aws.account_id == "123456789012"
    ec2 = config.aws_ec2
    assert (ec2.instance_role, ec2.region) == ("ec2LithopsInstanceRole", "us-east-1")
    assert (ec2.subnet_id, ec2.subnet_cidr_block) == ("subnet-01234567", "10.0.2.0/24")
    assert ec2.exec_mode is ExecMode.CREATE
    assert ec2.extra_apt_packages == ("git", "curl")
    assert ec2.ebs_volumes == ({"device_name": "/dev/xvda", "ebs": {"volume_size": 100}},)
    assert (config.aws_s3.region, config.aws_s3.storage_bucket) == ("eu-west-1", "mine")


def test_each_key_without_a_meaning_is_named() -> None:
    execution_timeout = "[lithops] execution_timeout has no meaning in dayfly"
    assert read(FILE).warnings == (
        "$DAYFLY_CONFIG:5: [lithops] data_limit has no meaning in dayfly",
        f"$DAYFLY_CONFIG:6: {execution_timeout}; use map(..., timeout=...)",
        "$DAYFLY_CONFIG:26: [aws_ec2] execution_role has no meaning in dayfly",
        "$DAYFLY_CONFIG:32: [ibm] has no meaning in dayfly",
    )


def test_the_old_standalone_section_gives_way_to_the_backends_own() -> None:
    config = read(
        "lithops: {mode: standalone}\n"
        "aws_ec2: {instance_role: r, region: us-east-1, exec_mode: create, access_key_id: A,\n"
        "          secret_access_key: B}\n"
        "standalone: {backend: aws_ec2, exec_mode: reuse, soft_dismantle_timeout: 60}\n"
    )
    assert config.aws_ec2.exec_mode is ExecMode.CREATE
    assert config.policy.soft == 60.0
    assert config.aws.access_key_id == "A"


def test_without_a_backend_the_sections_tell() -> None:
    assert read("lithops: {log_level: null}").dayfly.backend == "localhost"
    ec2 = "lithops:\naws_ec2: {region: us-east-1, instance_role: r}"
    assert read(ec2).dayfly.backend == "aws_ec2"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lithops: {}\ndayfly: {}", "both a section `dayfly` and a section `lithops`"),
        ("lithops: {backend: aws_lambda}", "'aws_lambda' is not allowed"),
        ("lithops: {mode: serverless}", "'serverless' is not allowed"),
        ("lithops: {bakend: aws_ec2}", "did you mean backend?"),
        ("lithops: {}\naws_ec2: {instance_rol: x}", "did you mean instance_role?"),
        ("lithops: {}\naws_s4: {}", "there is no such section (did you mean aws_s3?)"),
    ],
)
def test_what_is_wrong_there_is_refused_as_here(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert told in str(caught.value)
