"""What ends a step from outside: its deadline, or somebody's signal."""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

#: Signals that end this process.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Overdue(Exception):  # noqa: N818 - it is not an error of this program
    """The deadline of a step has passed."""


class Stopped(Exception):  # noqa: N818
    """Somebody wants this process to end."""


def listen() -> None:
    """Have both raised where they happen, from now on."""
    for name in SIGNALS:
        signal.signal(name, _stop)
    signal.signal(signal.SIGALRM, _overdue)


def ignore() -> None:
    """Have no signal end what is left to be told."""
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)


def within(seconds: float) -> None:
    """Raise :class:`Overdue` after this time; 0: never."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _overdue(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Overdue


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped(signal.Signals(number).name)
