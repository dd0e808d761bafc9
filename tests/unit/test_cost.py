"""What VMs cost: EC2's billing as arithmetic, and what the user is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from dayfly import cost
from dayfly.client.estimate import estimate_note
from dayfly.config import Config
from dayfly.config.sections import DayflySection, Ec2Section
from dayfly.errors import ConfigError
from dayfly.model import DismantlePolicy, ExecMode, Instance, InstanceState, JobSpec, Price
from tests.unit.master_support import spec

POLICY = DismantlePolicy(hard=3600.0)
UNKNOWN = Price(hourly=None, source="no on-demand price of it in mars-1 is known")


def share(role: Any, count: int, name: str, hourly: float | None, **more: Any) -> cost.Share:
    price = UNKNOWN if hourly is None else Price(hourly=hourly, source="prices of 2026-02-09")
    return cost.Share(role=role, count=count, instance_type=name, price=price, **more)


FLEET = [share("worker", 4, "t3.medium", 0.0416, spot=True), share("master", 1, "t2.micro", 0.0116)]


def estimated(shares: list[cost.Share], policy: DismantlePolicy = POLICY) -> cost.Estimate:
    return cost.estimate(shares, policy, start_timeout=300.0)


def test_a_start_is_billed_for_sixty_seconds_at_least() -> None:
    assert cost.bill(1.0, 3.6, started=True) == pytest.approx(0.06)
    assert cost.bill(61.0, 3.6, started=True) == pytest.approx(0.061)
    assert cost.bill(1.0, 3.6, started=False) == pytest.approx(0.001)


def test_a_vm_also_pays_for_its_disk_and_its_public_address() -> None:
    disk = 8 * 0.08 / 730
    assert cost.all_in(0.0416) == pytest.approx(0.0416 + 0.005 + disk)
    assert cost.all_in(0.0416, public=False) == pytest.approx(0.0416 + disk)
    assert cost.all_in(0.0) == 0.0


def test_an_address_is_paid_for_unless_it_is_known_to_be_private() -> None:
    vm = Instance(
        id="i-1",
        instance_type="t3.medium",
        state=InstanceState.PENDING,
        tags={},
        launched_at=0.0,
        address="10.0.0.4",
        private_address="10.0.0.4",
        hourly=0.0416,
    )
    running = msgspec.structs.replace(vm, state=InstanceState.RUNNING)
    public = msgspec.structs.replace(running, address="203.0.113.9")
    assert cost.hourly_of(vm) == cost.hourly_of(public) == cost.all_in(0.0416)
    assert cost.hourly_of(running) == cost.all_in(0.0416, public=False)
    assert cost.hourly_of(msgspec.structs.replace(vm, hourly=None)) is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0.0, "$0.00"),
        (0.00001, "<$0.0001"),
        (0.00123, "$0.0012"),
        (0.0949, "$0.0949"),
        (0.19, "$0.19"),
        (1234.5, "$1,234.50"),
    ],
)
def test_dollars_read_as_people_write_them(amount: float, text: str) -> None:
    assert cost.dollars(amount) == text


def test_a_bound_is_rounded_up() -> None:
    assert cost.dollars(0.221, up=True) == "$0.23"
    assert cost.dollars(0.22, up=True) == "$0.22"
    assert cost.dollars(0.00121, up=True) == "$0.0013"


def test_an_estimate_tells_the_rate_and_the_worst_case() -> None:
    found = estimated(FLEET)
    hourly = 4 * cost.all_in(0.0416) + cost.all_in(0.0116)
    assert found.per_hour == pytest.approx(hourly)
    assert found.minimum == pytest.approx(hourly / 60)
    assert found.worst == pytest.approx(hourly * 3905 / 3600)
    assert str(found) == (
        "4 x t3.medium spot + master t2.micro: $0.21 per hour;"
        " at most $0.23 by hard_dismantle_timeout (prices of 2026-02-09)"
    )


def test_the_worst_case_is_that_of_the_dearest_that_may_come() -> None:
    other = Price(hourly=1.0, source="on-demand")
    found = estimated([share("worker", 2, "t3.medium", 0.01, others=(other,))])
    assert found.per_hour == pytest.approx(2 * cost.all_in(0.01))
    assert found.minimum == pytest.approx(2 * cost.all_in(0.01) / 60)
    assert found.worst == pytest.approx(2 * cost.all_in(1.0) * 3905 / 3600)
    assert found.source == "prices of 2026-02-09; on-demand"


def test_what_is_up_already_is_not_started_again() -> None:
    found = estimated([share("worker", 2, "t3.medium", 0.04), share("master", 1, "t2.micro", 0.01)])
    warm = estimated(
        [
            share("worker", 2, "t3.medium", 0.04),
            share("master", 1, "t2.micro", 0.01, starts=False),
        ]
    )
    assert found.per_hour == warm.per_hour
    assert warm.minimum == pytest.approx(2 * cost.all_in(0.04) / 60)


def test_without_timers_there_is_no_worst_case() -> None:
    found = estimated(FLEET, DismantlePolicy(auto=False))
    assert found.worst is None
    assert "no bound, as auto_dismantle is off" in str(found)


def test_an_unknown_price_is_said_to_be_unknown() -> None:
    found = estimated([*FLEET, share("worker", 1, "m9.large", None)])
    assert not found.known
    assert found.minimum is found.worst is found.per_hour is None
    assert str(found).endswith(f"no price known (m9.large: {UNKNOWN.source})")


def test_a_cap_below_what_the_launch_costs_is_refused() -> None:
    found = estimated(FLEET)
    assert found.minimum is not None
    cost.check_cap(found, None)
    cost.check_cap(found, found.minimum)
    with pytest.raises(ConfigError, match=r"max_cost: \$0\.0010 is less than the launch alone"):
        cost.check_cap(found, 0.001)


def test_a_cap_that_no_price_is_known_for_is_refused() -> None:
    found = estimated([share("worker", 1, "m9.large", None)])
    cost.check_cap(found, None)
    with pytest.raises(ConfigError, match="cannot be kept") as caught:
        cost.check_cap(found, 5.0)
    assert "mars-1" in caught.value.cause


# -- the note before the launch --


@dataclass
class Cloud:
    """Asked for prices only."""

    known: dict[tuple[str, bool], float]
    asked: list[tuple[list[str], bool]] = field(default_factory=list)

    async def prices(self, instance_types: Any, *, spot: bool) -> dict[str, Price]:
        self.asked.append((sorted(instance_types), spot))
        source = "spot" if spot else "listed"
        return {
            name: Price(hourly=self.known.get((name, spot)), source=source)
            for name in instance_types
        }


@dataclass
class FakeParts:
    config: Config
    cloud: Cloud


def parts(known: dict[tuple[str, bool], float], **keys: Any) -> Any:
    backend: Any = keys.pop("backend", "aws_ec2")
    section = Ec2Section(master_instance_type="t2.micro", **keys)
    return FakeParts(Config(dayfly=DayflySection(backend=backend), aws_ec2=section), Cloud(known))


def job(**keys: Any) -> JobSpec:
    return msgspec.structs.replace(spec(), instance_types=["t3.medium"], **keys)


SPOT = {("t3.medium", True): 0.0125, ("t3.medium", False): 0.0416, ("t2.micro", False): 0.0116}


async def test_the_note_tells_what_is_launched() -> None:
    house = parts(SPOT)
    text = await estimate_note(house, job(), launch=4)
    assert text.startswith("4 x t3.medium spot + master t2.micro: $0.0")
    assert "(spot; listed)" in text
    assert sorted(house.cloud.asked) == [(["t2.micro"], False), (["t3.medium"], True)]


async def test_the_note_reckons_with_on_demand_where_that_may_come() -> None:
    house = parts(SPOT, on_demand_fallback=True)
    text = await estimate_note(house, job(), launch=4)
    hourly = 4 * cost.all_in(0.0416) + cost.all_in(0.0116)
    assert f"at most {cost.dollars(hourly * 3905 / 3600, up=True)}" in text


async def test_nothing_launched_is_nothing_said() -> None:
    house = parts(SPOT)
    assert await estimate_note(house, job(), launch=0, warm=3, master_up=True) == ""
    assert not house.cloud.asked


async def test_a_free_backend_says_nothing() -> None:
    assert await estimate_note(parts({}, backend="localhost"), job(), launch=2) == ""


async def test_a_cap_is_refused_before_the_launch() -> None:
    with pytest.raises(ConfigError, match="less than the launch alone"):
        await estimate_note(parts(SPOT), job(max_cost=0.0001), launch=100)
    with pytest.raises(ConfigError, match="cannot be kept"):
        await estimate_note(parts({}), job(max_cost=10.0), launch=1)
    consumed = job(mode=ExecMode.CONSUME, max_cost=10.0)
    with pytest.raises(ConfigError, match="dayfly did not launch it"):
        await estimate_note(parts(SPOT), consumed, launch=0)
