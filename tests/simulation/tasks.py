"""Tasks and futures that are the same in every run: numbered in the order of their making.

asyncio keeps tasks in sets, and a set's order follows the hash. Python's own hash of an object
is its address, which differs from one run to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.simulation.process import CURRENT, Process

if TYPE_CHECKING:
    from tests.simulation.loop import SeededLoop


class SimTask(asyncio.Task[Any]):
    """A task that knows its number and its process."""

    __slots__ = ("number", "process")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        loop: SeededLoop,
        number: int,
        name: str | None,
        context: Context | None,
    ) -> None:
        # Before anything else: being made, a task is put into a set.
        self.number = number
        self.process: Process | None = CURRENT.get() if context is None else context.get(CURRENT)
        # The name that asyncio would give counts all the tasks of the interpreter.
        super().__init__(
            coroutine, loop=loop, name=name or f"{_name(coroutine)}#{number}", context=context
        )
        if self.process is not None:
            self.process.tasks.add(self)

    def __hash__(self) -> int:
        return self.number


class SimFuture(asyncio.Future[Any]):
    """A future that knows its number and its process."""

    __slots__ = ("number", "process")

    number: int
    process: Process | None

    def __hash__(self) -> int:
        return self.number


class Errand:
    """What would be a thread's work: done in one go, at some time."""

    __slots__ = ("args", "function", "future")

    def __init__(
        self, future: asyncio.Future[Any], function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self.future = future
        self.function = function
        self.args = args

    def get_name(self) -> str:
        return "thread"

    def run(self) -> None:
        # In a thread there is no running loop.
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            result = self.function(*self.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  (a thread's future takes any)
            if not self.future.done():
                self.future.set_exception(error)
        else:
            if not self.future.done():
                self.future.set_result(result)
        finally:
            asyncio._set_running_loop(loop)


def whereabouts(task: asyncio.Task[Any]) -> str:
    """Who a task is and what it awaits, the innermost await first."""
    process = getattr(task, "process", None)
    who = task.get_name() if process is None else f"{task.get_name()} of {process!r}"
    places: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            file = Path(frame.f_code.co_filename)
            # As asyncio's own modules are known by name, of ours the folder is told, too.
            place = "/".join(file.parts[-2:])
            places.append(f"{frame.f_code.co_qualname} ({place}:{frame.f_lineno})")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return f"{who}: {' <- '.join(reversed(places)) or 'not begun'}"


def _name(coroutine: object) -> str:
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)
