"""What ends a run before its time."""

from __future__ import annotations


class Deadlock(BaseException):
    """Nothing is ready, no timer is left, and what the run waits for has not come."""


class Busy(BaseException):
    """One step has kept the processor for longer than any step should."""


class Endless(BaseException):
    """More steps than any run should take, in all or without time going on."""


class Refused(RuntimeError):  # noqa: N818  (as it reads)
    """Simulated code asked the loop for something real."""
