"""Where instances are asked for next, when some come and others do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dayfly.cloud.ec2.launch.pools import (
    CLOSE,
    CLOSE_SUBNET,
    DRY_FOR,
    HALT,
    SHRINK,
    VOLUMES,
    Batch,
    Outcome,
    Outlook,
    Pool,
    Resting,
    learn,
    order,
    plan,
    unasked,
)
from dayfly.cloud.ec2.launch.quotas import code_of, family, name_of

Cloud = Callable[[Batch], Outcome]


def pool(
    name: str = "t3.micro", zone: str = "a", *, spot: bool = True, vcpus: int = 2, hourly: str = ""
) -> Pool:
    return Pool(
        instance_type=name,
        spot=spot,
        subnet=f"subnet-{zone}",
        zone=zone,
        family=family(name),
        vcpus=vcpus,
        hourly=hourly,
    )


def outlook(
    pools: Sequence[Pool], missing: int, minimum: int = 1, free: int = 4000, **more: object
) -> Outlook:
    return msgspec.structs.replace(
        Outlook(
            pools=tuple(pools),
            missing=missing,
            enough=minimum,
            free={each.subnet: free for each in pools},
        ),
        **more,
    )


def asked(batches: Sequence[Batch]) -> list[tuple[str, str, int]]:
    return [(batch.pool.market, batch.pool.zone, batch.count) for batch in batches]


def carry_out(look: Outlook, cloud: Cloud) -> tuple[list[list[Batch]], Outlook]:
    """Launch until nothing is left to ask; returns the waves."""
    waves = []
    while batches := plan(look):
        waves.append(batches)
        look = learn(look, [cloud(batch) for batch in batches])
        assert len(waves) < 200, "this never ends"
    return waves, look


def gives_all(batch: Batch) -> Outcome:
    return Outcome(batch=batch, got=batch.count)


def gives(left: dict[str, int]) -> Cloud:
    """So many instances by zone."""

    def cloud(batch: Batch) -> Outcome:
        got = min(batch.count, left.get(batch.pool.zone, 0))
        left[batch.pool.zone] = left.get(batch.pool.zone, 0) - got
        return Outcome(batch=batch, got=got, end="" if got == batch.count else CLOSE)

    return cloud


def quota(vcpus: int, *, told: int | None = None, name: str = "") -> Cloud:
    """An account whose quota has room for so many vCPUs; a batch that does not fit is refused."""
    room = vcpus

    def cloud(batch: Batch) -> Outcome:
        nonlocal room
        refusing = name or batch.pool.purse
        needed = batch.count * batch.pool.size(refusing)
        if needed > room:
            return Outcome(batch=batch, got=0, end=SHRINK, quota=refusing, limit=told)
        room -= needed
        return Outcome(batch=batch, got=batch.count)

    return cloud


ZONES = [pool(zone=zone) for zone in "abc"]


@pytest.mark.parametrize("count", [1, 10, 100])
def test_up_to_a_hundred_vms_are_one_call(count: int) -> None:
    assert asked(plan(outlook(ZONES, count))) == [("spot", "a", count)]


def test_a_thousand_vms_are_ten_calls_at_once_over_the_zones() -> None:
    (wave,), look = carry_out(outlook(ZONES, 1000), gives_all)
    assert [batch.count for batch in wave] == [100] * 10
    assert [batch.pool.zone for batch in wave] == list("abcabcabca")
    assert look.missing == 0


def test_what_is_short_is_asked_of_the_next_pool() -> None:
    waves, look = carry_out(outlook(ZONES, 250), gives({"a": 120, "b": 40, "c": 500}))
    assert asked(waves[0]) == [("spot", "a", 100), ("spot", "b", 100), ("spot", "c", 50)]
    assert look.missing == 0
    assert sum(batch.count for wave in waves for batch in wave if batch.pool.zone == "b") == 100


def test_spot_in_every_type_and_zone_comes_before_on_demand() -> None:
    choice = [
        pool(name, zone, spot=spot)
        for spot in (True, False)
        for name in ("t3.micro", "m5.large")
        for zone in "ab"
    ]
    waves, look = carry_out(outlook(choice, 1), gives({}))
    tried = [(batch.pool.market, batch.pool.instance_type) for wave in waves for batch in wave]
    assert list(dict.fromkeys(tried)) == [
        ("spot", "t3.micro"),
        ("spot", "m5.large"),
        ("on-demand", "t3.micro"),
        ("on-demand", "m5.large"),
    ]
    assert len(tried) == 8
    assert look.missing == 1


def test_the_cheapest_zone_comes_first_and_types_keep_their_order() -> None:
    choice = [
        pool("t3.micro", "a", hourly="0.004"),
        pool("t3.micro", "b", hourly="0.003"),
        pool("t3.micro", "c"),
        pool("t3.nano", "a", hourly="0.001"),
    ]
    assert [(each.instance_type, each.zone) for each in order(choice)] == [
        ("t3.micro", "b"),
        ("t3.micro", "a"),
        ("t3.micro", "c"),
        ("t3.nano", "a"),
    ]


def test_a_subnet_gets_no_more_than_it_has_addresses() -> None:
    look = outlook(ZONES, 300, free=70)
    waves, left = carry_out(look, gives_all)
    assert asked(waves[0]) == [("spot", "a", 70), ("spot", "b", 70), ("spot", "c", 70)]
    assert left.missing == 90
    assert {(s.code, s.asked) for s in unasked(left)} == {("InsufficientFreeAddressesInSubnet", 90)}


def test_a_full_subnet_is_dropped_for_every_type_and_market() -> None:
    choice = [pool(zone=z, spot=spot) for spot in (True, False) for z in "ab"]
    look = outlook(choice, 10)
    look = learn(look, [Outcome(batch=plan(look)[0], got=0, end=CLOSE_SUBNET)])
    waves, _ = carry_out(look, gives({}))
    assert {batch.pool.zone for wave in waves for batch in wave} == {"b"}


@settings(deadline=None)
@given(vcpus=st.integers(0, 300), count=st.integers(1, 400), told=st.booleans())
def test_a_launch_shrinks_to_just_what_a_quota_has_room_for(
    vcpus: int, count: int, told: bool
) -> None:
    waves, look = carry_out(outlook(ZONES, count), quota(vcpus, told=vcpus if told else None))
    assert count - look.missing == min(count, vcpus // 2)
    assert len(waves) <= 10


def test_a_quota_that_is_free_is_filled_at_once_when_ec2_says_how_large_it_is() -> None:
    waves, look = carry_out(outlook(ZONES, 100), quota(32, told=32))
    assert [[b.count for b in wave] for wave in waves[:2]] == [[100], [16]]
    assert look.missing == 84


def test_a_used_up_quota_closes_a_market_but_not_the_other() -> None:
    choice = [pool(zone=z, spot=spot) for spot in (True, False) for z in "ab"]

    def cloud(batch: Batch) -> Outcome:
        if batch.pool.spot:
            return Outcome(batch=batch, got=0, end=SHRINK, quota=batch.pool.purse)
        return gives_all(batch)

    waves, look = carry_out(outlook(choice, 8), cloud)
    assert look.missing == 0
    assert [batch.count for wave in waves for batch in wave] == [8, 3, 1, 8]


def test_a_smaller_type_may_fit_where_a_larger_one_does_not() -> None:
    choice = [pool("m5.4xlarge", vcpus=16), pool("t3.micro", vcpus=2)]
    _, look = carry_out(outlook(choice, 4), quota(5))
    assert look.missing == 2


def test_the_quota_of_volumes_counts_vms_of_every_market() -> None:
    choice = [pool(spot=spot) for spot in (True, False)]
    _, look = carry_out(outlook(choice, 40), quota(7, name=VOLUMES))
    assert look.missing == 33


def test_a_pool_that_was_dry_minutes_ago_is_asked_only_when_too_little_came() -> None:
    resting = Resting()
    resting.add("r", ZONES[0], 100.0)
    keys = resting.among("r", ZONES, 100.0 + DRY_FOR - 1)
    assert keys == {ZONES[0].key}
    assert not resting.among("other", ZONES, 101.0)
    assert not resting.among("r", ZONES, 100.0 + DRY_FOR + 1)

    waves, _ = carry_out(outlook(ZONES, 5, resting=keys), gives_all)
    assert asked(waves[0]) == [("spot", "b", 5)]

    waves, look = carry_out(outlook(ZONES, 5, resting=keys), gives({"a": 9, "b": 1}))
    assert {batch.pool.zone for wave in waves for batch in wave} == {"b", "c"}
    assert [s.message for s in unasked(look)] == ["it had none some minutes ago"]

    waves, look = carry_out(outlook(ZONES, 5, resting=keys), gives({"a": 9}))
    assert [batch.pool.zone for wave in waves for batch in wave] == ["b", "c", "a"]
    assert look.missing == 0


def test_a_throttled_launch_goes_with_what_came() -> None:
    look = outlook(ZONES, 250, minimum=150)
    first, second, third = plan(look)
    look = learn(
        look,
        [gives_all(first), Outcome(batch=second, got=0, end=HALT), gives_all(third)],
    )
    assert plan(look) == []
    assert look.enough == 0


def test_a_shortfall_says_which_pool_gave_how_many() -> None:
    batch = Batch(pool=pool("t3.medium", "us-east-1a"), count=100)
    assert Outcome(batch=batch, got=100).shortfall is None
    short = Outcome(batch=batch, got=37, code="C", message="m").shortfall
    assert short is not None
    assert (short.pool, short.asked, short.got) == ("t3.medium spot in us-east-1a", 100, 37)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), count=st.integers(1, 600))
def test_whatever_the_pools_give_no_launch_brings_too_many_or_asks_for_ever(
    data: st.DataObject, count: int
) -> None:
    choice = [
        pool(name, zone, spot=spot)
        for spot in (True, False)
        for name in ("t3.micro", "m5.large")
        for zone in "ab"
    ]

    def cloud(batch: Batch) -> Outcome:
        end = data.draw(st.sampled_from(["", CLOSE, CLOSE_SUBNET, SHRINK, HALT]))
        most = {CLOSE: batch.count - 1, "": batch.count}.get(end, 0)
        got = batch.count if not end else data.draw(st.integers(0, most))
        return Outcome(
            batch=batch, got=got, end=end, quota=batch.pool.purse if end == SHRINK else ""
        )

    came = 0
    look = outlook(choice, count, free=data.draw(st.integers(0, 300)))
    for _ in range(100):
        batches = plan(look)
        assert sum(batch.count for batch in batches) <= count - came
        assert all(0 < batch.count <= 100 for batch in batches)
        if not batches:
            break
        outcomes = [cloud(batch) for batch in batches]
        came += sum(outcome.got for outcome in outcomes)
        look = learn(look, outcomes)
    else:
        raise AssertionError("this never ends")
    assert came <= count


@pytest.mark.parametrize(
    ("instance_type", "name", "spot_code"),
    [
        ("t3.micro", "Standard (A, C, D, H, I, M, R, T, Z)", "L-34B43A08"),
        ("i3en.large", "Standard (A, C, D, H, I, M, R, T, Z)", "L-34B43A08"),
        ("im4gn.large", "Standard (A, C, D, H, I, M, R, T, Z)", "L-34B43A08"),
        ("inf2.xlarge", "Inf", "L-B5D1601B"),
        ("g5.xlarge", "G and VT", "L-3819A6DF"),
        ("p4d.24xlarge", "P", "L-7212CCBC"),
        ("trn1.2xlarge", "Trn", "L-6B0D517C"),
        ("dl1.24xlarge", "DL", "L-85EED4F7"),
    ],
)
def test_a_type_is_counted_by_the_quota_of_its_family(
    instance_type: str, name: str, spot_code: str
) -> None:
    assert family(instance_type) == name
    assert code_of(f"spot/{name}") == spot_code
    assert name_of(f"spot/{name}") == f"All {name} Spot Instance Requests ({spot_code})"


def test_the_quotas_to_raise_have_names_and_codes() -> None:
    standard = pool(spot=False).purse
    assert name_of(standard) == (
        "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances (L-1216C47A)"
    )
    assert name_of(VOLUMES).endswith("(L-7A658B76)")
