"""Services under a VM's service manager, as bootstrap's units describe them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

from tests.simulation.process import Process, outside

#: As bootstrap's units say.
RESTART = 1.0
START_TIMEOUT = 60.0
#: systemd's own: from SIGTERM to SIGKILL.
STOP_TIMEOUT = 90.0

State = Literal["inactive", "activating", "active", "deactivating"]


class Program(Protocol):
    """What a service runs."""

    def main(self) -> Coroutine[Any, Any, None]:
        """Until it ends."""
        ...

    def terminate(self) -> None:
        """SIGTERM."""
        ...


class Unit:
    """One service: started, told to stop, and started again when it ends by itself.

    Args:
        name: Of the service.
        manager: The VM's first process.
        make: Makes what it runs, for a new process; called again for each start.
        told: Called with what becomes of it.
        starting: Seconds that an interpreter takes to start; asked for each start.

    Attributes:
        state: As systemd has it.
        process: The one that runs now.
        mark: What the installation wrote beside it; survives the VM's restarts.
    """

    def __init__(
        self,
        name: str,
        manager: Process,
        make: Callable[[Process, Callable[[], None]], Program],
        *,
        told: Callable[[str, BaseException | None], None],
        starting: Callable[[], float],
    ) -> None:
        self.name = name
        self.state: State = "inactive"
        self.process: Process | None = None
        self._manager = manager
        self._make = make
        self._told = told
        self._starting = starting
        self._program: Program | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._up: asyncio.Future[bool] = manager.loop.create_future()
        self._over: asyncio.Future[None] = manager.loop.create_future()

    async def restart(self) -> bool:
        """Stop it if it runs, and start it; whether it says in time that it is ready."""
        await self.stop()
        self._up = self._manager.loop.create_future()
        self._keeper = self._manager.spawn(self._keep(), f"keeper of {self.name}")
        try:
            async with asyncio.timeout(START_TIMEOUT):
                return bool(await asyncio.shield(self._up))
        except TimeoutError:
            if self.process is not None:
                self.process.kill()
            return False

    async def stop(self) -> None:
        """SIGTERM, patience, SIGKILL.

        As systemd does, SIGTERM is followed by SIGCONT (systemd.kill, ``KillSignal=``).
        """
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if self.process is not None and self.process.alive:
            self.state = "deactivating"
            if self._program is not None:
                self._program.terminate()
                self.process.resume()
            else:
                self.process.kill()
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await asyncio.shield(self._over)
            except TimeoutError:
                self._told("did not heed SIGTERM", None)
                self.process.kill()
        self.state = "inactive"

    def kill(self) -> bool:
        """SIGKILL to its process; whether there was one."""
        if self.process is None or not self.process.alive:
            return False
        self.process.kill()
        return True

    async def _keep(self) -> None:
        while True:
            await self._live()
            await asyncio.sleep(RESTART)

    async def _live(self) -> None:
        process = self.process = self._manager.host.start(self.name)
        over: asyncio.Future[None] = process.loop.create_future()
        self._over = over
        self._program = None
        self.state = "activating"
        process.on_kill(lambda: self._ended(over))
        main = process.spawn(self._run(process), self.name)
        # Whatever its tasks wait for: it ends with its first function.
        main.add_done_callback(lambda _: process.kill(), context=outside())
        await asyncio.shield(over)

    async def _run(self, process: Process) -> None:
        await asyncio.sleep(self._starting())
        try:
            self._program = self._make(process, self._ready)
            await self._program.main()
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001  # an exit status of 1
            self._told("failed", error)
        else:
            self._told("ended", None)

    def _ready(self) -> None:
        self.state = "active"
        if not self._up.done():
            self._up.set_result(True)

    def _ended(self, over: asyncio.Future[None]) -> None:
        if self.state != "deactivating":
            self.state = "inactive"
        over.set_result(None)
        if not self._up.done():
            self._up.set_result(False)
