"""The user's functions and items, and what is expected of each call.

The functions are pickled by value, as those of a script are: the simulated VMs have no tests.
"""

from __future__ import annotations

from typing import Any

from tests.simulation.knobs import JobKnobs

#: Characters of a value that goes through storage.
LARGE = 80 * 1024


def work(number: int, raises: bool, large: bool) -> str:
    """The user's function."""
    if raises:
        raise ValueError(f"call {number} does not like its item")
    return f"value {number}" + "." * (81920 if large else 0)


def add(values: list[str]) -> int:
    """The user's reduction."""
    return sum(int(value.split()[1].rstrip(".")) for value in values)


for _function in (work, add):
    _function.__module__ = "__main__"


def item(job: JobKnobs, index: int) -> dict[str, Any]:
    """What the function is called with."""
    return {"number": index, "raises": index in job.failing, "large": index in job.large}


def value(job: JobKnobs, index: int) -> str:
    """What a call that succeeds returns."""
    return f"value {index}" + "." * (LARGE if index in job.large else 0)


def is_own_error(error: BaseException, index: int | None) -> bool:
    """Whether an error is what the user's function raises, for this or for any call."""
    if type(error) is not ValueError:
        return False
    words = str(error).split()
    return words[:1] == ["call"] and (index is None or words[1] == str(index))
