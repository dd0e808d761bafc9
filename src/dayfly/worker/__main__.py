"""The worker's service: ``python -m dayfly.worker``."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import msgspec

from dayfly import guest
from dayfly.clock import SystemClock, SystemEntropy
from dayfly.model import WorkerConfig
from dayfly.parts import open_storage
from dayfly.worker.agent import Agent


async def serve(config: WorkerConfig) -> None:
    """Serve until asked to end (SIGTERM)."""
    storage = open_storage(config.storage)
    try:
        agent = Agent(config, storage, clock=SystemClock(), entropy=SystemEntropy())
        serving = asyncio.create_task(agent.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):  # that is how SIGTERM ends it
            await serving
    finally:
        await storage.aclose()


def main() -> None:
    """Read the configuration and serve."""
    path = guest.path("/etc/dayfly/worker.json")
    config = msgspec.json.decode(path.read_bytes(), type=WorkerConfig)
    guest.log_at(config.log_level)
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
