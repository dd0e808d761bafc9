"""What instances cost, by the catalogue and by the emulated price history."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dayfly.aws.session import Aws
from dayfly.clock import SystemEntropy
from dayfly.cloud.ec2 import prices
from dayfly.cloud.ec2.api import Ec2Api
from tests.aws.emulator import EmulatedAws
from tests.aws.fixtures import aws
from tests.unit.master_support import FakeClock

__all__ = ["aws"]


@pytest.fixture
async def api(aws: EmulatedAws) -> AsyncIterator[Ec2Api]:
    account = Aws(aws.region)
    yield Ec2Api(account, clock=FakeClock(1_790_000_000.0), entropy=SystemEntropy())
    await account.aclose()


# -- the catalogue --


@pytest.mark.parametrize(
    ("region", "instance_type", "hourly"),
    [
        # As listed on 2026-02-09.
        ("us-east-1", "t2.micro", 0.0116),
        ("us-east-1", "t2.small", 0.023),
        ("us-east-1", "t2.medium", 0.0464),
        ("us-east-1", "t3.nano", 0.0052),
        ("us-east-1", "t3.medium", 0.0416),
        ("us-east-1", "t4g.large", 0.0672),
        ("us-east-1", "m4.10xlarge", 2.0),
        ("us-east-1", "m5.large", 0.096),
        ("us-east-1", "m6idn.32xlarge", 10.18368),
        ("us-east-1", "c4.8xlarge", 1.591),
        ("us-east-1", "c5.18xlarge", 3.06),
        ("us-east-1", "c7a.medium", 0.05132),
        ("us-east-1", "c7i-flex.16xlarge", 2.7132),
        ("us-east-1", "r8g.48xlarge", 11.31072),
        ("us-east-1", "g5.12xlarge", 5.672),
        # As listed by whoever else was read.
        ("eu-central-1", "t2.micro", 0.0134),
        ("ap-northeast-1", "t2.micro", 0.0152),
        ("eu-west-1", "t2.small", 0.025),
        ("us-west-1", "t3a.medium", 0.0446),
        ("eu-south-1", "t3.large", 0.0958),
        ("me-south-1", "c5.18xlarge", 3.802),
    ],
)
def test_on_demand_prices_are_those_of_the_list(
    region: str, instance_type: str, hourly: float
) -> None:
    price = prices.on_demand(region, instance_type)
    exact = 0.001 if region == "us-east-1" else 0.01
    assert price.hourly == pytest.approx(hourly, rel=exact)
    assert price.source.startswith("on-demand, prices of 202")


@pytest.mark.parametrize(
    ("region", "instance_type"),
    [("mars-north-1", "t3.medium"), ("eu-west-1", "m9.large"), ("us-east-1", "m5.metal")],
)
def test_a_price_that_nobody_knows_is_not_invented(region: str, instance_type: str) -> None:
    price = prices.on_demand(region, instance_type)
    assert price.hourly is None
    assert region in price.source


def test_the_default_types_have_a_price_in_every_region_that_has_them() -> None:
    for catalogue in prices.read_catalogue():
        assert catalogue.date
        assert catalogue.source
        for region, families in catalogue.regions.items():
            assert "t2" in families or "t3" in families, region
            for sizes in families.values():
                assert all(0 < price < 100 for price in sizes.values())
    assert prices.on_demand("us-west-2", "t2.medium").hourly == pytest.approx(0.0464)


def test_the_catalogue_stays_small() -> None:
    from pathlib import Path

    assert Path(prices.__file__).with_name("catalogue.json").stat().st_size < 150_000


# -- spot --


async def test_spot_prices_come_by_zone_and_the_dearest_stands_for_all(
    aws: EmulatedAws, api: Ec2Api
) -> None:
    found = await prices.find_prices(api, ["t3.medium", "m5.large"], spot=True)
    zones = {zone for name, zone in found if name == "t3.medium" and zone}
    assert len(zones) > 1
    by_zone = [found["t3.medium", zone].hourly for zone in zones]
    assert None not in by_zone
    assert found["t3.medium", ""].hourly == max(price for price in by_zone if price is not None)
    assert found["m5.large", ""].source == "spot prices of 2026-09-21 14:13 UTC"
    assert aws.count("DescribeSpotPriceHistory") == 1


async def test_spot_prices_are_asked_for_once_in_ten_minutes(aws: EmulatedAws, api: Ec2Api) -> None:
    assert isinstance(api.clock, FakeClock)
    first = await prices.find_prices(api, ["t3.medium"], spot=True)
    await api.clock.advance(599)
    assert await prices.find_prices(api, ["t3.medium"], spot=True) == first
    assert aws.count("DescribeSpotPriceHistory") == 1
    await api.clock.advance(1)
    await prices.find_prices(api, ["t3.medium"], spot=True)
    assert aws.count("DescribeSpotPriceHistory") == 2


async def test_zones_that_were_asked_for_are_all_answered(aws: EmulatedAws, api: Ec2Api) -> None:
    zones = ("us-east-1a", "us-east-1zz")
    found = await prices.find_prices(api, ["t3.medium"], spot=True, zones=zones)
    assert set(found) == {("t3.medium", zone) for zone in ("", *zones)}
    assert found["t3.medium", ""] == found["t3.medium", "us-east-1a"]
    nowhere = found["t3.medium", "us-east-1zz"]
    assert (nowhere.hourly, nowhere.source) == (None, "it has no spot price")


async def test_a_history_that_may_not_be_read_is_no_error(aws: EmulatedAws, api: Ec2Api) -> None:
    aws.deny("ec2:DescribeSpotPriceHistory")
    found = await prices.find_prices(api, ["t3.medium"], spot=True, zones=["us-east-1a"])
    assert set(found) == {("t3.medium", ""), ("t3.medium", "us-east-1a")}
    for price in found.values():
        assert price.hourly is None
        assert "DescribeSpotPriceHistory" in price.source
    aws.allow("ec2:DescribeSpotPriceHistory")
    again = await prices.find_prices(api, ["t3.medium"], spot=True)
    assert again["t3.medium", ""].hourly is not None, "a failure is not remembered"


async def test_on_demand_prices_need_no_call(aws: EmulatedAws, api: Ec2Api) -> None:
    found = await prices.find_prices(api, ["t3.medium"], spot=False)
    assert found == {("t3.medium", ""): prices.on_demand("us-east-1", "t3.medium")}
    assert not aws.calls
