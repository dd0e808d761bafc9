"""Which of the pins no index has for the VM, and why.

uv stops at the first that it cannot do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from dayfly.environment import uv
from dayfly.environment.lock import Pin
from dayfly.environment.uv import Solution, Target, Unsolvable

#: uv is asked so often at a time.
_AT_ONCE: Final = 4

#: How uv says that it is one package alone that cannot be had, and how we do.
_WORDS: Final = (
    (r"has no usable wheels", "the index has it as source only"),
    (r"has no wheels with a matching platform tag", "the index has no wheel of it for {platform}"),
    (
        r"has no wheels with a matching Python (?:implementation|ABI|version) tag",
        "the index has no wheel of it for Python {python}",
    ),
    (
        r"was not found in the (?:package registry|cache|provided package locations)",
        "no index has it",
    ),
)
_NO_VERSION: Final = re.compile(r"Because there is no version of ([\w.-]+)==(\S+) and you require")
_PLATFORMS: Final = re.compile(r"on the following platforms?: (.+)")


async def sort_out(pins: Sequence[Pin], target: Target) -> tuple[Solution, dict[Pin, str]]:
    """The wheels of those that an index has, and why it has not the others.

    Raises:
        EnvironmentSyncError: uv fails for each of them, and not in words that are known.
    """
    halving = _Halving(target)
    solution = await halving.sort_out(pins)
    if len(halving.odd) == len(pins) > 1:  # it is hardly the fault of each of them
        raise uv.trouble(halving.odd[pins[0]], target)
    unknown = {pin: f"uv says: {uv.cause_of(words)}" for pin, words in halving.odd.items()}
    return solution, halving.refused | unknown


class _Halving:
    """Pins that cannot be had are found by uv's words, and by halves whatever uv says.

    Without dependencies no pin is in another's way, so the halves go their own ways: what is
    well is not asked for again with each pin that is not.

    Attributes:
        refused: Why pins cannot be had, in our words.
        odd: uv's words about pins where these were not understood.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self.refused: dict[Pin, str] = {}
        self.odd: dict[Pin, str] = {}

    async def sort_out(self, pins: Sequence[Pin]) -> Solution:
        if not pins:
            return Solution()
        try:
            async with self._turn:
                return await uv.solve("\n".join(map(str, pins)), self._target)
        except Unsolvable as error:
            found = culprit(error, pins, self._target)
            if found:
                self.refused[found[0]] = found[1]
                pins = [pin for pin in pins if pin != found[0]]
            elif len(pins) == 1:
                self.odd[pins[0]] = error.words
                return Solution()
        middle = len(pins) // 2
        try:
            async with asyncio.TaskGroup() as group:
                first = group.create_task(self.sort_out(pins[:middle]))
                second = group.create_task(self.sort_out(pins[middle:]))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        one, other = first.result(), second.result()
        return Solution(files=one.files + other.files, local=one.local | other.local)


def culprit(error: Unsolvable, pins: Sequence[Pin], target: Target) -> tuple[Pin, str] | None:
    """The pin that uv's words are about, and why; ``None`` where they are not understood.

    Args:
        error: What uv said.
        pins: What it was asked for.
        target: For what.
    """
    by_name = {pin.name: pin for pin in pins}
    if error.package:
        pin = by_name.get(error.package)
        return (pin, error.words) if pin else None
    told = " ".join(error.words.split())
    version = _NO_VERSION.search(told)
    if version and version[1] in by_name:
        return by_name[version[1]], "the indexes do not have this version"
    for words, ours in _WORDS:
        match = re.search(rf"Because ([\w.-]+?)(?:==\S+)? {words}", told)
        if match and match[1] in by_name:
            reason = ours.format(platform=target.platform.name, python=target.python)
            has = _PLATFORMS.search(error.words)
            return by_name[match[1]], reason + (
                f" (it has {has[1].replace('`', '')})" if has else ""
            )
    return None
