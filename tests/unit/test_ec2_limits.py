"""How fast EC2 may be called, and what becomes of those who are too fast."""

from __future__ import annotations

import pytest

from dayfly.cloud.ec2.limits import Bucket, Limits

R = "us-east-1"


def test_a_bucket_gives_what_it_holds_at_once_and_the_rest_in_turn() -> None:
    bucket = Bucket(capacity=5, refill=2, level=5, at=0.0)
    waits = []
    for _ in range(8):
        bucket, wait = bucket.take(10.0)
        waits.append(wait)
    assert waits == [0, 0, 0, 0, 0, 0.5, 1.0, 1.5]


def test_a_bucket_fills_up_to_its_brim_and_never_over() -> None:
    bucket, _ = Bucket(capacity=5, refill=2, level=5, at=0.0).take(0.0, 5)
    assert bucket.filled(1.0).level == 2
    assert bucket.filled(100.0).level == 5
    assert bucket.filled(-5.0).level == 0  # a clock of another kind takes nothing away


@pytest.mark.parametrize(
    ("operation", "at_once", "per_second"),
    [
        ("run_instances", 5, 2),
        ("start_instances", 5, 2),
        ("stop_instances", 50, 5),
        ("terminate_instances", 100, 5),
        ("create_tags", 100, 10),
        ("describe_instances", 100, 20),
        ("describe_subnets", 100, 20),
        ("create_vpc", 50, 5),
    ],
)
def test_each_operation_has_the_bucket_that_ec2_gives_it(
    operation: str, at_once: int, per_second: float
) -> None:
    limits = Limits()
    waits = [limits.take(R, operation, 0.0) for _ in range(at_once + 2)]
    assert waits[:at_once] == [0.0] * at_once
    assert waits[at_once:] == pytest.approx([1 / per_second, 2 / per_second])


def test_the_first_thousand_vms_leave_within_three_seconds_and_the_second_waits_for_refill() -> (
    None
):
    limits = Limits()
    first = [limits.take(R, "run_instances", 0.0, 100) for _ in range(10)]
    assert max(first) == pytest.approx(2.5)

    second = [limits.take(R, "run_instances", 10.0, 100) for _ in range(10)]
    assert max(second) == pytest.approx(490.0)


def test_regions_and_operations_have_buckets_of_their_own() -> None:
    limits = Limits()
    for _ in range(5):
        limits.take(R, "run_instances", 0.0)
    assert limits.take(R, "run_instances", 0.0) > 0
    assert limits.take("eu-west-1", "run_instances", 0.0) == 0
    assert limits.take(R, "describe_instances", 0.0) == 0


def test_launches_that_did_not_happen_are_given_back() -> None:
    limits = Limits()
    limits.take(R, "run_instances", 0.0, 1000)
    assert limits.budget(R, 100, 0.0).now == 0
    limits.give(R, 400)
    assert limits.budget(R, 1000, 0.0).now == 400


def test_a_refusal_empties_the_bucket_and_a_second_one_halves_the_launches() -> None:
    limits = Limits()
    limits.take(R, "run_instances", 0.0, 200)
    limits.refused(R, "run_instances", 0.0)
    assert limits.take(R, "run_instances", 0.0) == pytest.approx(0.5)
    assert limits.budget(R, 1000, 0.0).now == 800
    limits.refused(R, "run_instances", 0.0, again=True)
    assert limits.budget(R, 1000, 0.0).now == 400


def test_the_budget_says_what_may_be_launched_now_and_when_the_rest() -> None:
    limits = Limits()
    assert str(limits.budget(R, 1000, 0.0)) == "1000 launches now"
    limits.take(R, "run_instances", 0.0, 880)
    assert str(limits.budget(R, 1000, 0.0)) == "120 launches now, the other 880 within 440 s"
    limits.forget()
    assert limits.budget(R, 1000, 0.0).rest == 0
