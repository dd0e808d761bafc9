"""What a process of the scale benchmark costs, told over its standard streams when it is asked."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import io
import json
import pstats
import resource
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

#: Seconds between two beats of the loop, and without one after which it is blocked.
BEAT, LATE = 0.005, 0.03
#: Rows of a profile; times that the loop was blocked, and places that were seen in each.
ROWS, GAPS, PLACES = 25, 6, 3


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was used since the reading before.

    Attributes:
        seconds: Since then.
        cpu: User and system seconds.
        rss: MB now.
        peak: MB at most, in all of the process's life.
        gap: Longest time that the loop did not get to its timers, in ms.
        own: Longest time that the process computed in one such gap, in ms: what is less than
            ``gap`` was taken by others on the machine.
        collection: Longest garbage collection, in ms of computing.
    """

    seconds: float
    cpu: float
    rss: float
    peak: float
    gap: float
    own: float
    collection: float


class Gauge:
    """Watches the running loop, and its process."""

    def __init__(self) -> None:
        self._cpu, self._at = time.process_time(), time.perf_counter()
        self._gap = self._own = self._collection = self._collecting = 0.0
        self._profile: cProfile.Profile | None = None
        self._watch: _Watch | None = None
        self._paused = False
        self._beat_at, self._beat_cpu = time.perf_counter(), time.thread_time()
        gc.callbacks.append(self._collected)
        self._beat()

    def read(self) -> Reading:
        """What was used since this was asked last."""
        if not self._paused:
            self._look()
        cpu, at = time.process_time(), time.perf_counter()
        reading = Reading(
            seconds=at - self._at,
            cpu=cpu - self._cpu,
            rss=_memory("VmRSS"),
            peak=_memory("VmHWM"),
            gap=self._gap * 1e3,
            own=self._own * 1e3,
            collection=self._collection * 1e3,
        )
        self._cpu, self._at = cpu, at
        self._gap = self._own = self._collection = 0.0
        return reading

    def profile(self) -> str:
        """Begin a profile; or end the one that was begun, and tell of it."""
        if self._profile is None:
            self._profile = cProfile.Profile()
            self._profile.enable()
            return ""
        self._profile.disable()
        said = io.StringIO()
        pstats.Stats(self._profile, stream=said).sort_stats("tottime").print_stats(ROWS)
        self._profile = None
        return said.getvalue()

    def watch(self) -> str:
        """Begin to look what blocks the loop; or end it, and tell of it."""
        if self._watch is None:
            self._watch = _Watch()
            return ""
        said, self._watch = self._watch.end(), None
        return said

    def pause(self) -> None:
        """Beat no more, or again: a beat costs more than an idle worker."""
        self._paused = not self._paused
        self._beat_at, self._beat_cpu = time.perf_counter(), time.thread_time()
        self._beat()

    def _beat(self) -> None:
        if self._paused:
            return
        self._look()
        asyncio.get_running_loop().call_later(BEAT, self._beat)

    def _look(self) -> None:
        at, cpu = time.perf_counter(), time.thread_time()
        self._gap = max(self._gap, at - self._beat_at - BEAT)
        self._own = max(self._own, cpu - self._beat_cpu)
        self._beat_at, self._beat_cpu = at, cpu
        if self._watch is not None:
            self._watch.beat(at)

    def _collected(self, phase: str, _: Mapping[str, int]) -> None:
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._collection = max(self._collection, time.thread_time() - self._collecting)


class _Watch:
    """Looks from a thread what the loop does while it does not beat."""

    def __init__(self) -> None:
        self._beat = time.perf_counter()
        #: By the beat before a gap: how long it was, and what was seen in it.
        self._gaps: dict[float, float] = {}
        self._seen: dict[float, Counter[str]] = {}
        self._ended = threading.Event()
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def beat(self, at: float) -> None:
        if at - self._beat > LATE:
            self._gaps[self._beat] = at - self._beat
        self._beat = at

    def end(self) -> str:
        self._ended.set()
        self._thread.join()
        if not self._gaps:
            return f"the loop was never blocked for {LATE * 1e3:.0f} ms"
        lines = [f"the longest of {len(self._gaps)} times that the loop was blocked:"]
        for beat in sorted(self._gaps, key=self._gaps.__getitem__, reverse=True)[:GAPS]:
            seen = self._seen.get(beat, Counter())
            lines.append(f"{self._gaps[beat] * 1e3:6.0f} ms, of {seen.total()} looks")
            lines += [f"{count:12}  {place}" for place, count in seen.most_common(PLACES)]
        return "\n".join(lines)

    def _look(self) -> None:
        while not self._ended.wait(BEAT):
            beat = self._beat
            if time.perf_counter() - beat > LATE / 3:
                calls = traceback.extract_stack(sys._current_frames()[self._main])
                ours = [call for call in calls if "/dayfly/" in call.filename] or calls[-3:]
                place = " < ".join(map(_place, reversed(ours[-4:])))
                self._seen.setdefault(beat, Counter())[place] += 1


def _place(call: traceback.FrameSummary) -> str:
    return f"{'/'.join(Path(call.filename).parts[-2:])}:{call.lineno} {call.name}"


def _memory(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"this system does not tell {field} of a process")


Do = Callable[..., Awaitable[Any]]


async def obey(gauge: Gauge, does: Mapping[str, Do], ready: object = None) -> None:
    """Do what is asked on standard input, a JSON line each, until it ends.

    Args:
        gauge: Answers to the names of its methods.
        does: What else can be asked, by name; the answer must be fit for JSON.
        ready: The first answer, to nothing that was asked.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say(ready)
    while line := await reader.readline():
        what, *arguments = json.loads(line)
        if what in does:
            _say(await does[what](*arguments))
        else:
            _say(msgspec.to_builtins(getattr(gauge, what)()))


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def raise_limit() -> int:
    """Let this process, and those that it starts, open as many files as it may; tells how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
