"""Who has to do with the course of a job: its owner, its items, and what brings it to a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from dayfly.client.channel import JobChannel
from dayfly.model import LogLine
from dayfly.serialize import Outcome


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who follows the course of a job; nothing here waits or fails.

    Attributes:
        recorded: An outcome is here.
        changed: The job stands differently.
        heard: A function printed or logged a line.
        noted: The user should read this; the second is its level, as in :mod:`logging`.
        finished: Nothing more will come.
        abandoned: The master was to be told to stop, and that was interrupted.
    """

    recorded: Callable[[Outcome], None]
    changed: Callable[[], None]
    heard: Callable[[LogLine], None]
    noted: Callable[[str, str], None]
    finished: Callable[[], None]
    abandoned: Callable[[], None]


GiveUp: TypeAlias = Callable[[BaseException], None]


class Connect(Protocol):
    """Brings a job to a session."""

    async def __call__(self, give_up: GiveUp, /) -> JobChannel | None:
        """Submit; ``None`` when there was no item, so that nothing is launched.

        Args:
            give_up: To be called when the job has failed.
        """
        ...


class Items(Protocol):
    """A job's items, as far as its course goes."""

    @property
    def total(self) -> int | None:
        """How many there are; ``None`` while that is not known."""
        ...

    def settle(self, done: int) -> None:
        """So many outcomes are here."""
        ...

    async def aclose(self) -> None:
        """No more are needed."""
        ...
