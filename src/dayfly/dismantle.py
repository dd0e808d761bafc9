"""When must this VM go: a pure rule, and the small coroutine that obeys it.

The rule is that of ``soft_dismantle_timeout`` and ``hard_dismantle_timeout``; the VM keeps a
deadline of its own a little later (:data:`SLACK`), for when whoever runs the coroutine is
gone.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import msgspec

from dayfly.clock import Clock
from dayfly.model import DismantlePolicy

Why: TypeAlias = Literal["soft", "hard", "spot"]

#: Seconds that a VM's own deadline lies behind the one that its orchestrator keeps.
SLACK = 5.0


class Due(msgspec.Struct, frozen=True):
    """The moment at which a VM goes, on the clock of the facts, and by which timer.

    ``spot`` is not one of ours: the cloud has told when it takes the VM back.
    """

    at: float
    why: Why


def deadline(
    policy: DismantlePolicy,
    *,
    launched: float,
    started: float | None,
    completed: float | None,
    busy: bool,
) -> Due | None:
    """When a VM must go; ``None`` for never.

    Args:
        policy: That of the job started last, or the VM's own.
        launched: When the VM was launched.
        started: When the job started last on it began.
        completed: When the job that ended last on it did.
        busy: Whether a job is on it now; a new job cancels the soft timer.

    All four are on one clock, and so is the answer.
    """
    if not policy.auto:
        return None
    hard = Due((launched if started is None else started) + policy.hard, "hard")
    if busy or completed is None:
        return hard
    soft = Due(completed + policy.soft, "soft")
    return min(soft, hard, key=lambda due: due.at)


async def obey(
    due: Callable[[], Due | None],
    changed: asyncio.Event,
    act: Callable[[Why], Awaitable[None]],
    clock: Clock,
) -> None:
    """Sleep until the deadline, wherever it moves to, then act once.

    Args:
        due: The deadline as the facts stand, on ``clock.monotonic()``. It is asked again at
            the last moment, with no await between the answer and the deed.
        changed: Set whenever the answer of ``due`` may have changed.
        act: What to do at the deadline.
        clock: Where time comes from.
    """
    sleeper: asyncio.Task[None] | None = None
    until = math.inf
    try:
        while True:
            changed.clear()
            now = due()
            if now is not None and now.at <= clock.monotonic():
                return await act(now.why)
            # With each job it moves to a later moment, which is seen when the sleep is over.
            if now is not None and now.at < until:
                if sleeper is not None:
                    sleeper.cancel()
                until = now.at
                sleeper = asyncio.create_task(clock.sleep(until - clock.monotonic()))
                sleeper.add_done_callback(lambda _: changed.set())
            await changed.wait()
            if sleeper is not None and sleeper.done():
                until = math.inf
    finally:
        if sleeper is not None:
            sleeper.cancel()
