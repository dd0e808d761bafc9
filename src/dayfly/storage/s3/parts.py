"""Large objects go in parts, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeVar

_MIB: Final = 1 << 20
#: Bytes from which an object goes in parts.
LARGE: Final = 16 * _MIB
#: Bytes of a part, where the object is not too large for it.
PART: Final = 8 * _MIB
#: Parts of one object. Source: the S3 user guide, "Multipart upload limits".
MOST_PARTS: Final = 10_000
#: Bytes that are on their way at once: what a transfer keeps in memory, unless one part alone
#: is larger (in objects of 320 GiB and more).
AT_ONCE: Final = 32 * _MIB

T = TypeVar("T")


def part_size(size: int) -> int:
    """Bytes of each part of an object, the last one excepted."""
    least = -(-size // MOST_PARTS)
    return max(PART, -(-least // _MIB) * _MIB)


def parts_of(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Where the parts begin and end."""
    step = part_size(stop - start)
    for begin in range(start, stop, step):
        yield begin, min(begin + step, stop)


def abreast(size: int) -> int:
    """How many parts of an object go at once."""
    return max(1, AT_ONCE // part_size(size))


async def each_of(items: Iterable[T], most: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Do ``work`` on every item, ``most`` at once; when one fails, the others are cancelled."""
    left = iter(items)

    async def one_after_another() -> None:
        for item in left:
            await work(item)

    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(most):
                group.create_task(one_after_another())
    except BaseExceptionGroup as failures:
        failure = failures.exceptions[0]
    if failure is not None:
        raise failure  # the first: whoever asked for one transfer hears of one failure
