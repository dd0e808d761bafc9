"""Small scenarios for the tests of the loop itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.simulation.chance import Chance
from tests.simulation.loop import SeededLoop
from tests.simulation.process import Host, current

T = TypeVar("T")

Main = Callable[[SeededLoop], Coroutine[Any, Any, T]]


def run(main: Main[T], seed: int = 1, **options: Any) -> tuple[T, SeededLoop]:
    """The result of a scenario, and its loop: what the dead left is buried, all is closed."""
    loop = SeededLoop(Chance(seed), **options)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(main(loop)), loop
        finally:
            loop.bury()


class Scene:
    """Two processes and what they did."""

    def __init__(self, loop: SeededLoop) -> None:
        self.loop = loop
        self.laptop = Host(loop, "laptop")
        self.vm = Host(loop, "vm")
        self.client = self.laptop.start("client")
        self.agent = self.vm.start("agent")
        self.done: list[str] = []

    def do(self, what: str) -> None:
        process = current()
        self.done.append(f"{'nobody' if process is None else process.name}: {what}")
