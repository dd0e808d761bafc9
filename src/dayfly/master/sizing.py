"""How many calls a worker may hold, and how many it is given at once: plain arithmetic.

A worker that holds too few calls waits for the network between them; one that holds too many
keeps them from workers that are idle. The measure is time: :data:`AHEAD` of work in hand.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Seconds of work that a worker holds beyond what its processes run; it is filled up again
#: when half of it is used.
AHEAD = 0.1
#: Calls longer than this (mean, seconds) are not handed out ahead at all.
SLOW = 0.2
#: Seconds of work below which a span is not worth its message.
LEAST = 0.005
#: The least that a call can cost, in seconds: handing it to a process and back.
FLOOR = 20e-6
#: Weight of one call in the moving mean of durations.
ALPHA = 0.1


def mean_after(mean: float | None, seconds: float, calls: int) -> float:
    """The moving mean after ``calls`` more calls that took ``seconds`` in all."""
    fresh = max(FLOOR, seconds / calls)
    if mean is None:
        return fresh
    old = (1.0 - ALPHA) ** calls
    return old * mean + (1.0 - old) * fresh


def is_slow(mean: float | None) -> bool:
    """Whether calls of this mean are handed out one per free process; unknown ones are."""
    return mean is None or mean > SLOW


def cost(mean: float | None) -> float:
    """What one call in hand weighs when jobs are compared: slow ones a whole process."""
    return 1.0 if mean is None or mean > SLOW else mean / SLOW


def room(mean: float | None, processes: int, held: Iterable[tuple[int, float | None]]) -> int:
    """How many more calls of this mean a worker may take.

    Args:
        mean: Of the calls to be handed out.
        processes: The worker's.
        held: For each job that it serves, the calls in hand and their mean.
    """
    calls = slow_calls = 0
    backlog = 0.0
    for count, its_mean in held:
        calls += count
        if its_mean is None or its_mean > SLOW:
            slow_calls += count
        else:
            backlog += count * its_mean
    if mean is None or mean > SLOW:
        return max(0, processes - slow_calls)
    free = max(0, processes - calls)
    ahead = processes * AHEAD
    if backlog > processes * mean + ahead / 2:
        return free
    return max(free, processes + int((ahead - backlog) / mean))


def grant(
    mean: float | None, room: int, pending: int, workers: int, processes: int, chunksize: int
) -> int:
    """How many calls to hand out at once.

    Args:
        mean: Of the calls.
        room: What the worker may take.
        pending: Calls that wait.
        workers: Workers that share them.
        processes: The worker's.
        chunksize: The user's own choice; 0 for none.
    """
    if chunksize:
        return min(chunksize, pending)
    share = -(-pending // (2 * workers))
    if mean is not None and mean <= SLOW:
        share = max(share, int(processes * LEAST / mean))
    return min(room, share, pending)
