"""How a job stands, as a value, and how that reads, as text.

Everything here is plain: values in, text out. Moments are seconds of the monotonic clock.
"""

from __future__ import annotations

import msgspec

from dayfly.cost import dollars
from dayfly.model import JobState

#: Widths of the bar, in characters.
NARROWEST, WIDEST = 8, 32


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a job, at one moment.

    Attributes:
        total: Calls in all; ``None`` while the items are still being read.
        done: Calls whose outcome is here, failed ones among them.
        failed: Calls that ended with an error.
        running: Calls in the hands of workers.
        workers_ready: Workers that can take calls of this job.
        workers_coming: Workers on their way.
        waiting: What is being waited for, in words; empty while calls run.
    """

    total: int | None
    done: int = 0
    failed: int = 0
    running: int = 0
    workers_ready: int = 0
    workers_coming: int = 0
    waiting: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """All that a display shows of a job.

    Attributes:
        cancelling: It has been cancelled, and the master is being told.
        waiting_since: When it began to wait for what ``counts.waiting`` says.
        flowing_since: When its first call ran; ``None`` before.
        ended: When it ended; ``None`` before.
        error: Why it ended early, in one line.
        cost: US dollars so far; ``None`` where no price is known.
    """

    job: str
    function: str
    counts: Progress
    started: float
    state: JobState = JobState.RUNNING
    cancelling: bool = False
    waiting_since: float = 0.0
    flowing_since: float | None = None
    ended: float | None = None
    error: str = ""
    cost: float | None = None

    def elapsed(self, now: float) -> float:
        """Seconds since its start, up to its end."""
        return (now if self.ended is None else self.ended) - self.started


def duration(seconds: float) -> str:
    """A duration as people say it: ``4.2 s``, ``3 min 05 s``, ``1 h 02 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 call``, ``2,000 calls``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def bar(done: int, total: int, width: int) -> str:
    """A bar of ``width`` characters, full when all is done and never before."""
    filled = width if done >= total else min(width - 1, done * width // total)
    return "━" * filled + "─" * (width - filled)


def live_line(view: View, now: float, width: int = 80) -> str:
    """The job's line while it runs, at most ``width`` characters where that can be done."""
    counts = view.counts
    elapsed = duration(view.elapsed(now))
    if view.cancelling:
        return f"{view.function}  cancelling: waiting for the master to be told  {elapsed}"
    if counts.waiting and not counts.done:
        waited = duration(now - view.waiting_since)
        paid = f"  {money(view)}" if money(view) else ""
        return f"{view.function}  waiting for {counts.waiting}  {waited}{paid}"
    parts = [tally(counts)]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    if counts.running:
        parts.append(f"{counts.running:,} running")
    parts.append(vms(counts))
    if speed := rate(view, now):
        parts.append(speed)
    parts += [elapsed, money(view)]
    if counts.waiting:
        parts.append(f"waiting for {counts.waiting}")
    text = "  ".join(part for part in parts if part)
    room = min(WIDEST, width - len(view.function) - len(text) - 4)
    if counts.total and room >= NARROWEST:
        text = f"{bar(counts.done, counts.total, room)}  {text}"
    return f"{view.function}  {text}"


def plain_line(view: View, now: float) -> str:
    """The same where every line stays: in a file, a pipe or a build's log."""
    counts = view.counts
    if view.cancelling:
        text = "cancelling: waiting for the master to be told"
    elif counts.waiting and not counts.done:
        text = f"waiting for {counts.waiting}"
    else:
        parts = [f"{tally(counts)} done"]
        if counts.failed:
            parts.append(f"{counts.failed:,} failed")
        parts += [part for part in (vms(counts), rate(view, now)) if part]
        if counts.waiting:
            parts.append(f"waiting for {counts.waiting}")
        text = ", ".join(parts)
    paid = f", {money(view)}" if money(view) else ""
    return f"{title(view)}: {text} ({duration(view.elapsed(now))}{paid})"


def first_line(view: View) -> str:
    """What a job says at its start: its name, and how to come by its results later."""
    total = view.counts.total
    over = "" if total is None else f" over {plural(total, 'item')}"
    return f"job {view.job}: {view.function}{over}; dayfly job result {view.job}"


def last_line(view: View, now: float) -> str:
    """What is left of a job on the screen."""
    counts = view.counts
    took = duration(view.elapsed(now))
    paid = f", {money(view)}" if money(view) else ""
    if is_left(view):
        return (
            f"{title(view)}: left running after {took}, {tally(counts)} done{paid};"
            f" dayfly job result {view.job}"
        )
    if view.state is JobState.COMPLETED:
        failed = f", {counts.failed:,} failed" if counts.failed else ""
        return f"{title(view)}: {plural(counts.done, 'call')} done{failed} in {took}{paid}"
    why = f": {view.error}" if view.error else ""
    return f"{title(view)}: {view.state.value} after {took}, {tally(counts)} done{paid}{why}"


def html(view: View, now: float) -> str:
    """The job as a table, for notebooks."""
    from html import escape

    counts = view.counts
    state, error = "cancelling" if view.cancelling else view.state.value, view.error
    if is_left(view):
        state, error = "left running", ""
    rows = {
        "state": state + (f": {error}" if error else ""),
        "waiting for": counts.waiting,
        "done": tally(counts),
        "failed": f"{counts.failed:,}",
        "running": f"{counts.running:,}",
        "VMs": vms(counts),
        "rate": rate(view, now),
        "time": duration(view.elapsed(now)),
        "cost": money(view),
    }
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
        if value
    )
    share = counts.done / counts.total if counts.total else 0.0
    return (
        f"<div><b>{escape(view.function)}</b> <code>{escape(view.job)}</code><br>"
        f'<progress value="{share:.4f}" max="1" style="width:24em"></progress>'
        f"<table>{cells}</table></div>"
    )


def is_left(view: View) -> bool:
    """Whether it goes on, and is followed no further."""
    return view.ended is not None and view.state is JobState.RUNNING


def title(view: View) -> str:
    """Function and job, where lines of several jobs stand together."""
    return f"{view.function} {view.job}"


def tally(counts: Progress) -> str:
    """``512/1,000``; without a total while the items are still being read."""
    return f"{counts.done:,}" + ("" if counts.total is None else f"/{counts.total:,}")


def vms(counts: Progress) -> str:
    """``2 VMs, 1 coming``."""
    if not counts.workers_ready and not counts.workers_coming:
        return ""
    coming = f", {counts.workers_coming:,} coming" if counts.workers_coming else ""
    return plural(counts.workers_ready, "VM") + coming


def rate(view: View, now: float) -> str:
    """Calls per second since the first one ran; empty while that says little."""
    if view.flowing_since is None or not view.counts.done:
        return ""
    seconds = (now if view.ended is None else view.ended) - view.flowing_since
    if seconds < 0.5:
        return ""
    speed = view.counts.done / seconds
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"


def money(view: View) -> str:
    """``$0.0031``; empty where nothing is paid, or nobody knows."""
    return dollars(view.cost) if view.cost else ""


def in_a_line(error: BaseException | None) -> str:
    """An error's type and the first line of what it says."""
    if error is None:
        return ""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
