"""What a launch writes down before it calls: so that a client killed anywhere doubles nothing.

A launch is a row of *waves*, each written before its calls. A rerun reads them, says the calls
of the last one again word for word, which by their tokens launch nothing twice, and goes on from
there. Two programs with one launch token at once do the same: who comes second finds a note, and
goes by it. The last note has no calls left to make and tells what came of it all.
"""

from __future__ import annotations

import msgspec

from dayfly.cloud.base import Notes
from dayfly.cloud.ec2.launch.pools import Batch, Outlook
from dayfly.cloud.ec2.launch.recipe import Recipe
from dayfly.model import Shortfall


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch is to bring, as it was first said."""

    count: int
    minimum: int
    recipe: Recipe


class Wave(msgspec.Struct, frozen=True, kw_only=True):
    """One note: what was decided, and what the waves before it brought.

    Attributes:
        at: When it was written, in seconds since the epoch.
        order: In the first note only.
        outlook: What was known when its batches were decided.
        batches: The calls that are made once it is written; none in the last one.
        came: Ids of the instances of the waves before it.
        failed: In the last note: nothing of it is to stay.
    """

    number: int
    at: float
    outlook: Outlook
    batches: list[Batch]
    order: Order | None = None
    came: list[str] = []
    shortfalls: list[Shortfall] = []
    failed: bool = False

    @property
    def last(self) -> bool:
        """Whether the launch is over."""
        return not self.batches


class Book:
    """The notes of one launch.

    Args:
        notes: Where they lie.
        token: The launch's.
    """

    def __init__(self, notes: Notes, token: str) -> None:
        self._notes = notes
        self._token = token

    async def read(self) -> tuple[Order, Wave] | None:
        """The order and the newest wave; ``None`` if the launch was never begun."""
        first = newest = await self._read(0)
        while newest is not None and not newest.last:
            following = await self._read(newest.number + 1)
            if following is None:
                break
            newest = following
        if first is None or first.order is None or newest is None:
            return None
        return first.order, newest

    async def write(self, wave: Wave) -> Wave:
        """Write a wave down; returns the one that is there then."""
        there = await self._notes.claim(self._name(wave.number), msgspec.json.encode(wave))
        return msgspec.json.decode(there, type=Wave)

    async def _read(self, number: int) -> Wave | None:
        note = await self._notes.read(self._name(number))
        return None if note is None else msgspec.json.decode(note, type=Wave)

    def _name(self, number: int) -> str:
        return f"{self._token}/wave-{number:03d}"
