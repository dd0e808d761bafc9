"""What instances cost: spot from EC2's own price history, on-demand from a dated catalogue.

The catalogue is ``catalogue.json`` beside this file: lists of on-demand prices (Linux, shared
tenancy), each with its date and source. Of a family it holds one size, and those that are off
the line: AWS's prices follow the size. For us-east-1, 707 types were held against AWS's list
and are within 0.1 %; in other regions the smallest sizes may be 1 % off, by rounding.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from dayfly.aws.session import Aws
from dayfly.cloud.ec2.api import Ec2Api
from dayfly.errors import CloudError
from dayfly.model import Price

#: Seconds for which spot prices are taken to hold; they "adjust gradually" (EC2 user guide).
FRESH = 600.0

_UNITS = {"nano": 0.0625, "micro": 0.125, "small": 0.25, "medium": 0.5, "large": 1.0, "xlarge": 2.0}


class PriceList(msgspec.Struct, frozen=True):
    """On-demand prices of one date.

    Attributes:
        date: Of the prices.
        source: Who told them.
        regions: Region -> family -> size -> dollars per hour; unlisted sizes of a family
            follow from the one that comes first.
    """

    date: str
    source: str
    regions: dict[str, dict[str, dict[str, float]]]


@functools.cache
def read_catalogue() -> list[PriceList]:
    """The catalogue that comes with this dayfly."""
    text = Path(__file__).with_name("catalogue.json").read_bytes()
    return msgspec.json.decode(text, type=list[PriceList])


def on_demand(region: str, instance_type: str) -> Price:
    """The list price of a type; unknown where the catalogue has none."""
    family, _, size = instance_type.partition(".")
    for prices in read_catalogue():
        sizes = prices.regions.get(region, {}).get(family)
        hourly = None if sizes is None else _of_size(sizes, size)
        if hourly is not None:
            return Price(hourly=hourly, source=f"on-demand, prices of {prices.date}")
    return Price(hourly=None, source=f"no on-demand price of it in {region} is known")


def _of_size(sizes: dict[str, float], size: str) -> float | None:
    if size in sizes:
        return sizes[size]
    first, price = next(iter(sizes.items()))
    wanted, listed = _units(size), _units(first)
    return round(price * wanted / listed, 5) if wanted and listed else None


def _units(size: str) -> float | None:
    """A size in units of ``large``, as AWS counts for Reserved Instances; metal has none."""
    if match := re.fullmatch(r"([1-9]\d*)xlarge", size):
        return 2.0 * int(match[1])
    return _UNITS.get(size)


async def find_prices(
    api: Ec2Api, names: Collection[str], *, spot: bool, zones: Collection[str] = ()
) -> dict[tuple[str, str], Price]:
    """Prices by instance type and zone. That one is not known is no error.

    Args:
        api: The region.
        names: Instance types.
        spot: Whether as spot instances.
        zones: Of spot instances, those that an answer is wanted for in any case.

    Returns:
        Under ``(type, "")`` the price wherever it is: the list's, or the dearest spot price of
        ``zones`` (of all that have one, if none are given); and each spot price by its zone.
    """
    if not spot:
        return {(name, ""): on_demand(api.region, name) for name in names}
    try:
        known, date = await _spot_prices(api, names)
    except CloudError as error:
        why = f"the spot prices could not be asked for: {error.what}"
        return {
            (name, zone): Price(hourly=None, source=why) for name in names for zone in ("", *zones)
        }
    source = f"spot prices of {date:%Y-%m-%d %H:%M} UTC"
    found: dict[tuple[str, str], Price] = {}
    for name in names:
        here = {zone: hourly for (kind, zone), hourly in known.items() if kind == name}
        for zone in zones or here:
            found[name, zone] = _spot(here.get(zone), source)
        within = [hourly for zone, hourly in here.items() if not zones or zone in zones]
        found[name, ""] = _spot(max(within, default=None), source)
    return found


def _spot(hourly: float | None, source: str) -> Price:
    return Price(hourly=hourly, source=source if hourly is not None else "it has no spot price")


class _Answer(msgspec.Struct, frozen=True):
    """What the price history told, and when, by the monotonic clock and by date."""

    at: float
    date: datetime
    prices: dict[tuple[str, str], float]


#: By account in a region, and by the types that were asked for.
_answers: WeakKeyDictionary[Aws, dict[frozenset[str], _Answer]] = WeakKeyDictionary()


async def _spot_prices(
    api: Ec2Api, names: Collection[str]
) -> tuple[dict[tuple[str, str], float], datetime]:
    """The current spot price by type and zone, and their date."""
    answers = _answers.setdefault(api.aws, {})
    now, key = api.clock.monotonic(), frozenset(names)
    known = answers.get(key)
    if known is None or not 0 <= now - known.at < FRESH:
        date = datetime.fromtimestamp(api.clock.now(), UTC)
        known = answers[key] = _Answer(now, date, await _ask(api, names, date))
    return known.prices, known.date


async def _ask(api: Ec2Api, names: Collection[str], date: datetime) -> dict[tuple[str, str], float]:
    latest: dict[tuple[str, str], tuple[datetime, float]] = {}
    # With the present as its start the history is one row per pool: the price that holds now.
    pages = api.pages(
        "describe_spot_price_history",
        StartTime=date,
        InstanceTypes=sorted(names),
        ProductDescriptions=["Linux/UNIX"],
    )
    async for page in pages:
        for row in page.get("SpotPriceHistory", []):
            pool = row["InstanceType"], row["AvailabilityZone"]
            if pool not in latest or row["Timestamp"] > latest[pool][0]:
                latest[pool] = row["Timestamp"], float(row["SpotPrice"])
    return {pool: price for pool, (_, price) in latest.items()}
