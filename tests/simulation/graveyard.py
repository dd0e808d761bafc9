"""What killed processes leave behind.

A coroutine that nobody refers to is closed by the interpreter, and its ``finally`` blocks are
run; those of a killed process are never run. So all that is left of the dead is referred
to until the scenario is over, and is closed then, when nothing it does has any effect.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any

from tests.simulation.process import Process
from tests.simulation.tasks import SimTask

#: How often a coroutine may answer its closing by waiting for something else.
_PATIENCE = 100


class Graveyard:
    """The tasks of killed processes, and whatever else may refer to their coroutines."""

    def __init__(self) -> None:
        self._tasks: deque[SimTask] = deque()
        self._belongings: list[object] = []

    def entomb(self, process: Process, tasks: list[SimTask]) -> None:
        """Take in a process that was just killed."""
        for task in tasks:
            self.lay(task)
        self.keep(process.held)
        process.held = []

    def lay(self, task: SimTask) -> None:
        """Take in a pending task of a dead process."""
        # For asyncio it is no more: nobody cancels it at the end, and nobody complains that it
        # "was destroyed but it is pending". The typeshed knows neither.
        asyncio.tasks._unregister_task(task)
        setattr(task, "_log_destroy_pending", False)  # noqa: B010
        self._tasks.append(task)

    def keep(self, belonging: object) -> None:
        """Take in something that is not to be closed, but must not be let go either."""
        self._belongings.append(belonging)

    def bury(self) -> None:
        """Close all that is here."""
        with _quiet():
            while self._tasks:
                task = self._tasks.popleft()
                coroutine = task.get_coro()
                context = Context() if task.process is None else task.process.context()
                if isinstance(coroutine, Coroutine):
                    context.run(_close, coroutine)
                del task, coroutine
            self._belongings.clear()
            gc.collect()


def _close(coroutine: Coroutine[Any, Any, Any]) -> None:
    for _ in range(_PATIENCE):
        # Whatever a dead coroutine raises is heard by nobody; one that waits for something
        # else is closed again, one await after the other.
        with suppress(BaseException):
            coroutine.close()
            return


@contextmanager
def _quiet() -> Iterator[None]:
    """No running loop, and no complaint about coroutines that nobody awaited."""
    running = asyncio._get_running_loop()
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    asyncio._set_running_loop(None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        asyncio._set_running_loop(running)
        sys.unraisablehook = hook
