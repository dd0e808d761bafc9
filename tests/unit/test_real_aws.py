"""The suite for a real AWS account: it refuses, it keeps to its cap, and it is no dead text.

The same files run here on the emulated account, as programs of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import aioboto3
import pytest

from dayfly.model import Instance, InstanceState
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.real_aws import listing
from tests.real_aws.ledger import Ledger, SpentError
from tests.real_aws.settings import TEST_TAG, RefusedError, read

__all__ = ["aws"]

ROOT = Path(__file__).parents[2]
ASKED = {
    "DAYFLY_REAL_AWS": "1",
    "DAYFLY_REAL_AWS_REGION": "eu-north-1",
    "DAYFLY_REAL_AWS_ROLE": "dayfly-vm",
}


def suite(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the suite as a person does."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "DAYFLY_", "PYTEST_"))
    }
    kept["AWS_EC2_METADATA_DISABLED"] = "true"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
        cwd=ROOT,
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=170,
    )


# -- it refuses --


def test_a_plain_run_selects_nothing_of_it() -> None:
    done = suite("-n0", "-q", "tests/real_aws")
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    assert "deselected" in done.stdout


def test_the_marker_alone_is_refused_and_all_that_is_missing_is_named() -> None:
    done = suite("-n0", "-q", "-m", "real_aws", "tests/real_aws/fleet")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    for word in ("DAYFLY_REAL_AWS=1", "credentials", "_REGION", "_ROLE", "README.md"):
        assert word in done.stderr
    assert "passed" not in done.stdout


def test_without_an_image_of_ones_own_ubuntus_is_brought_up() -> None:
    assert not read(ASKED, credentials=True).ami


@pytest.mark.parametrize("wrong", ["much", "0", "-1", "nan", "5000"])
def test_a_cap_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(RefusedError, match="MAX_COST"):
        read({**ASKED, "DAYFLY_REAL_AWS_MAX_COST": wrong}, credentials=True)
    assert read(ASKED, credentials=True).max_cost == 1.0


def test_an_endpoint_of_somebody_elses_is_no_real_account() -> None:
    elsewhere = {**ASKED, "AWS_ENDPOINT_URL": "http://127.0.0.1:5000"}
    with pytest.raises(RefusedError, match="no real account"):
        read(elsewhere, credentials=True)


# -- it keeps to its cap --


def vm(state: InstanceState, hourly: float | None = 1.0, launched_at: float = 0.0) -> Instance:
    return Instance(
        id="i-1",
        instance_type="t3.micro",
        state=state,
        tags={},
        launched_at=launched_at,
        address="10.0.0.1",
        private_address="10.0.0.1",
        hourly=hourly,
    )


def test_the_ledger_counts_the_jobs_and_the_listing_and_believes_the_larger() -> None:
    ledger = Ledger(cap=2.0)
    ledger.job(0.5)
    ledger.job(None)
    assert ledger.spent == 0.5
    ledger.look([vm(InstanceState.RUNNING)], now=3600.0)
    assert 1.0 < ledger.spent < 1.01
    ledger.look([vm(InstanceState.TERMINATED)], now=9000.0)
    assert ledger.spent < 1.01, "it was up when it was seen last"
    ledger.look([vm(InstanceState.RUNNING, launched_at=9000.0)], now=9001.0)
    assert 1.0 + 1 / 60 < ledger.spent < 1.03, "a start is a minute"


def test_the_ledger_refuses_at_the_cap_and_gives_no_job_more_than_is_left() -> None:
    ledger = Ledger(cap=0.3)
    assert ledger.for_a_job == 0.25
    ledger.job(0.2)
    assert ledger.for_a_job == pytest.approx(0.1)
    ledger.look([vm(InstanceState.RUNNING, hourly=None)], now=4 * 3600.0)
    with pytest.raises(SpentError, match=r"\$0\.40 of \$0\.30"):
        ledger.check()


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_a_run_that_has_spent_its_cap_goes_no_further_and_is_cleaned_all_the_same() -> None:
    done = suite(
        "-n0",
        "-q",
        "-m",
        "real_aws",
        "tests/real_aws/account/test_cloud.py",
        "-k",
        "type_from_birth or tags_can_be_added",
        DAYFLY_REAL_AWS_EMULATED="1",
        DAYFLY_REAL_AWS_MAX_COST="0.0001",
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "1 passed" in done.stdout
    assert "1 error" in done.stdout
    assert "may cost no more" in done.stdout


# -- its proof of cleaning --


async def test_the_listing_sees_what_dayfly_has_made_and_what_it_has_not(aws: EmulatedAws) -> None:
    async def left() -> list[str]:
        return await listing.left(aws.region, owner="me@1", run="run-1")

    def tags(key: str, value: str) -> list[dict[str, str]]:
        return [{"Key": key, "Value": value}]

    async with aioboto3.Session(region_name=aws.region).client("ec2") as ec2:
        vpc = (await ec2.create_vpc(CidrBlock="10.9.0.0/16"))["Vpc"]["VpcId"]
        volume = await ec2.create_volume(AvailabilityZone=f"{aws.region}a", Size=1)
        launched = await ec2.run_instances(
            ImageId=aws.image, InstanceType="t3.micro", MinCount=1, MaxCount=1
        )
        vm = launched["Instances"][0]["InstanceId"]
        assert await left() == []
        await ec2.create_tags(Resources=[vpc], Tags=tags("dayfly:owner", "me@1"))
        await ec2.create_tags(Resources=[volume["VolumeId"]], Tags=tags(TEST_TAG, "run-1"))
        await ec2.create_tags(Resources=[vm], Tags=tags(TEST_TAG, "run-1"))
        assert await left() == [f"instance {vm}", f"volume {volume['VolumeId']}", f"vpc {vpc}"]
        await ec2.create_tags(Resources=[vpc], Tags=tags("dayfly:owner", "you@1"))
        aws.shutting_down = 0.0
        await ec2.terminate_instances(InstanceIds=[vm])
        await ec2.delete_volume(VolumeId=volume["VolumeId"])
        assert await left() == []


# -- it runs --


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_it_runs_on_the_emulated_account_and_leaves_nothing_there() -> None:
    parts = [
        "found_again_by_another_program",  # the network, a second program's map
        "ssh_is_let_in",
        "unknown_instance_starts_nothing_else",  # the contract of a cloud
        "purge_leaves_what_the_user_made",
        "first_put_wins",  # the contract of storage
        "policies_are_what_iam_takes",
        "token_is_remembered",  # facts
        "a_second_program_finds_its_machines",  # jobs
        "clean_all_leaves_nothing",
    ]
    done = suite(
        "-n0",
        "-q",
        "-m",
        "real_aws",
        "tests/real_aws",
        "-k",
        " or ".join(parts),
        DAYFLY_REAL_AWS_EMULATED="1",
    )
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert "8 passed, 4 skipped" in done.stdout
    assert "a map of 8 on 2 workers" in done.stdout
