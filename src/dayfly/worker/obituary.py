"""How a runner died, in words, with the evidence for it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec

#: What a signal means to people; source: signal(7).
MEANINGS = {
    signal.SIGSEGV: "segmentation fault: C code touched memory that is not its own",
    signal.SIGBUS: "bus error: C code touched memory that does not exist",
    signal.SIGABRT: "abort: C code gave itself up",
    signal.SIGFPE: "arithmetic error in C code",
    signal.SIGILL: "illegal instruction: a library built for another processor",
    signal.SIGTERM: "asked to end",
}
#: Share of the machine's memory from which on a SIGKILL is put down to memory.
SUSPICIOUS = 0.5


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a process that has ended.

    Attributes:
        status: As of ``waitpid``, decoded: an exit status, or minus the signal.
        peak: The most memory that it held, in bytes.
        memory: The machine's memory in bytes; 0 where unknown.
        oom_kills: Processes that the kernel killed for lack of memory in its lifetime.
        cause: Why it could not be started, in words; empty: it was.
        mute: Whether we had to kill it, because it had closed its way to us.
        last_words: What it last wrote to file descriptor 2.
    """

    status: int
    peak: int = 0
    memory: int = 0
    oom_kills: int = 0
    cause: str = ""
    mute: bool = False
    last_words: str = ""


def describe(death: Death) -> str:
    """How the process died: one sentence, then its last words."""
    if death.cause:
        text = death.cause
    elif death.mute:
        text = "its process closed the file descriptors by which dayfly runs it"
    elif death.status >= 0:
        text = (
            f"its process ended by itself with exit status {death.status}"
            " (os._exit, or a library that ends the process)"
        )
    else:
        text = f"its process was killed by {_signal(-death.status)}{_memory(death)}"
    if death.last_words:
        text += "\nits last words:\n" + death.last_words
    return text


def _signal(number: int) -> str:
    try:
        known = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    meaning = MEANINGS.get(known)
    return f"{known.name} ({meaning})" if meaning else known.name


def _memory(death: Death) -> str:
    held = f"it held up to {_size(death.peak)}"
    if death.memory:
        held += f" of the machine's {_size(death.memory)}"
    if -death.status != signal.SIGKILL:
        return ""
    if death.oom_kills:
        return f", for memory: the kernel ran out of it and killed a process; {held}"
    if death.memory and death.peak > SUSPICIOUS * death.memory:
        return f", most likely for memory: {held}"
    return f", most likely for memory or by another process: {held}"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def machine_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def oom_kills() -> int:
    """Processes that the kernel has killed for lack of memory since boot; 0 where it won't say.

    Source: ``oom_kill`` in /proc/vmstat, Linux 4.13.
    """
    with contextlib.suppress(FileNotFoundError):  # not Linux
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
