"""A step that never ends cannot be seen in virtual time: the processor's time is watched instead.

The timer is the kernel's, in seconds of processor time: a machine that is slow, or a process
that is stopped, is not taken for a busy one, and a test's own alarm clock is left alone.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def watched(
    step: Callable[[], int], patience: float, bite: Callable[[str], BaseException]
) -> Iterator[None]:
    """Interrupt a step that has kept the processor for ``patience`` seconds.

    What ``bite`` makes of the place where the step is gets raised there. In any thread but the
    main one nothing is watched, as signals reach no other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -1

    def tick(_signal: int, frame: FrameType | None) -> None:
        nonlocal last
        # The same step at two ticks: it has run for one interval at least, for two at most.
        now = step()
        if now == last:
            raise bite(_place(frame))
        last = now

    before = signal.signal(signal.SIGPROF, tick)
    signal.setitimer(signal.ITIMER_PROF, patience / 2, patience / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL if before is None else before)


def _place(frame: FrameType | None) -> str:
    lines = traceback.format_list(traceback.extract_stack(frame)[-3:])
    return "".join(lines).rstrip()
