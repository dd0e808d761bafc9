"""One ``asyncio.Future`` per call, each cancellable alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class CallFuture(asyncio.Future[Any]):
    """The future of one call; cancelling it stops that call on its worker.

    An exception that nobody asks for is not complained of: the job tells it too.
    """

    def __init__(self, index: int, withdraw: Callable[[int], None]) -> None:
        super().__init__()
        self.index = index
        self._withdraw = withdraw

    def cancel(self, msg: Any | None = None) -> bool:
        """Stop this call, and no other one."""
        if not super().cancel(msg=msg):
            return False
        self._withdraw(self.index)
        return True

    def settle(self, value: Any, error: BaseException | None) -> None:
        """The call's outcome is here; a future that was cancelled stays so."""
        if self.done():
            return
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)
            self.exception()  # counts as retrieved
