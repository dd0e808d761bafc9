"""Users' programs, each in a simulated process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from tests.simulation.process import Process, outside


class DiedError(Exception):
    """A client was killed before its program had ended."""


class Client:
    """A user's program, in a process of its own.

    Attributes:
        process: That one.
        ended: What its program returned or raised; :class:`DiedError` if it was killed before.
    """

    def __init__(self, process: Process, program: Coroutine[Any, Any, Any]) -> None:
        self.process = process
        self.ended: asyncio.Future[Any] = process.loop.create_future()
        process.on_kill(self._killed)
        task = process.spawn(self._run(program), process.name)
        task.add_done_callback(self._done, context=outside())

    async def _run(self, program: Coroutine[Any, Any, Any]) -> Any:
        """As :func:`asyncio.run` does: what the program leaves running is cancelled."""
        try:
            return await program
        finally:
            me = asyncio.current_task()
            left = [
                task
                for task in asyncio.all_tasks()
                if getattr(task, "process", None) is self.process and task is not me
            ]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.ended.cancel()
        elif (error := task.exception()) is not None:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(task.result())
        self.process.kill()

    def _killed(self) -> None:
        if not self.ended.done():
            self.ended.set_exception(DiedError(f"{self.process.name} was killed"))
            self.ended.exception()  # nobody need have waited for it


@dataclass(frozen=True)
class Identity:
    """A simulated process as the product names it (:class:`dayfly.processes.Process`)."""

    process: Process

    @property
    def user(self) -> str:
        return "alice"

    @property
    def host(self) -> str:
        return self.process.host.name

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def place(self) -> str:
        return self.process.host.name

    def alive(self, place: str, pid: int) -> bool:
        return place != self.place or any(each.pid == pid for each in self.process.host.processes)
