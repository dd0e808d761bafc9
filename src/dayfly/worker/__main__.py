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
from dayfly.phases import Timeline
from dayfly.runtimes import Runtime
from dayfly.storage.base import Storage
from dayfly.worker import metadata
from dayfly.worker.agent import Agent
from dayfly.worker.containers.images import ImageEnvironments
from dayfly.worker.materials import MODULES


async def serve(config: WorkerConfig) -> None:
    """Serve until asked to end (SIGTERM).

    Raises:
        ProvisionError: The configuration is another VM's.
    """
    if where := metadata.address():
        await metadata.confirm(config.instance, where)
    storage = open_storage(config.storage)
    try:
        agent = agent_of(config, storage)
        serving = asyncio.create_task(agent.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):  # that is how SIGTERM ends it
            await serving
    finally:
        await storage.aclose()


def agent_of(config: WorkerConfig, storage: Storage) -> Agent:
    """The agent of this VM, whose runners are its processes or in containers."""
    clock, entropy = SystemClock(), SystemEntropy()
    runtime = Runtime.parse(config.runtime)
    if not runtime.image:
        return Agent(config, storage, clock=clock, entropy=entropy)
    timeline = Timeline(clock)
    images = ImageEnvironments(
        runtime,
        config.registry,
        config.instance,
        timeline,
        folder=guest.path("/var/lib/dayfly/containers"),
        modules=guest.path(MODULES),
    )
    return Agent(
        config,
        storage,
        clock=clock,
        entropy=entropy,
        runner=images.start,
        environments=images,
        timeline=timeline,
    )


def main() -> None:
    """Read the configuration and serve."""
    path = guest.path("/etc/dayfly/worker.json")
    config = msgspec.json.decode(path.read_bytes(), type=WorkerConfig)
    guest.log_at(config.log_level)
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
