"""What a user sees of a job: in a terminal, in a file, in a notebook, or nothing."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import pty
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly.client import display, progress
from dayfly.client.progress import Progress, View
from dayfly.model import JobState, LogLine

ROOT = Path(__file__).parents[2]


class Frozen:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class Stand:
    """A job that stands as a test says."""

    def __init__(self, total: int | None = 100, job: str = "j-1", **counts: Any) -> None:
        self.job = job
        self.keys: dict[str, Any] = {}
        self.counts = Progress(total=total, **counts)

    def view(self) -> View:
        return view(self.counts, job=self.job, **self.keys)

    def now(self, **counts: Any) -> None:
        self.counts = Progress(total=self.counts.total, **counts)


def view(counts: Progress, **keys: Any) -> View:
    keys = {"job": "j-1", "function": "square", "started": 100.0, **keys}
    return View(counts=counts, **keys)


@pytest.fixture
def clock() -> Frozen:
    return Frozen()


# -- how it reads --


def test_it_says_what_is_waited_for_and_for_how_long() -> None:
    waiting = view(Progress(total=9, waiting="2 VMs to answer SSH"), waiting_since=101.0)
    assert progress.live_line(waiting, 105.2) == "square  waiting for 2 VMs to answer SSH  4.2 s"


def test_then_it_says_how_far_it_is() -> None:
    counts = Progress(total=1000, done=512, failed=3, running=24, workers_ready=3, workers_coming=1)
    line = progress.live_line(view(counts, flowing_since=102.0), 104.0, 120)
    assert line.startswith("square  ━")
    assert line.endswith("512/1,000  3 failed  24 running  3 VMs, 1 coming  256/s  4.0 s")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_line_fits_the_terminal(width: int) -> None:
    counts = Progress(total=1000, done=512, running=24, workers_ready=3)
    assert len(progress.live_line(view(counts, flowing_since=102.0), 104.0, width)) <= width


def test_without_a_total_there_is_no_bar() -> None:
    line = progress.live_line(view(Progress(total=None, done=5)), 101.0)
    assert line == "square  5  1.0 s"


@pytest.mark.parametrize(
    ("done", "drawn"), [(0, "────────"), (4, "━━━━────"), (999, "━━━━━━━─"), (1000, "━━━━━━━━")]
)
def test_the_bar_is_full_only_when_all_is_done(done: int, drawn: str) -> None:
    assert progress.bar(done * 2 if done == 4 else done, 16 if done == 4 else 1000, 8) == drawn


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (4.21, "4.2 s"),
        (59.96, "1 min 00 s"),
        (65, "1 min 05 s"),
        (3600, "1 h 00 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_the_last_line_says_what_became_of_it() -> None:
    counts = Progress(total=100, done=100, failed=2)
    done = view(counts, state=JobState.COMPLETED, ended=104.0)
    assert progress.last_line(done, 200.0) == "square j-1: 100 calls done, 2 failed in 4.0 s"
    failed = view(
        Progress(total=100, done=7), state=JobState.FAILED, ended=104.0, error="NoWorkersError: x"
    )
    assert (
        progress.last_line(failed, 200.0)
        == "square j-1: failed after 4.0 s, 7/100 done: NoWorkersError: x"
    )


def test_html_is_escaped() -> None:
    text = progress.html(view(Progress(total=2, done=1), function="<lambda>"), 101.0)
    assert "&lt;lambda&gt;" in text
    assert "1/2" in text


# -- plain lines --


def test_plain_lines_tell_of_changes_and_quarters_and_no_more(clock: Frozen) -> None:
    stream = io.StringIO()
    lines = display.PlainLines(stream, clock)
    job = Stand()
    lines.add(job)
    for _ in range(3):
        job.now(waiting="2 VMs to answer SSH")
        lines.changed(job)
    for done in range(101):
        clock.time += 0.25
        job.now(done=done, running=100 - done)
        lines.changed(job)
    job.keys = {"state": JobState.COMPLETED, "ended": clock.time}
    lines.remove(job)
    said = stream.getvalue().splitlines()
    assert said[0] == "job j-1: square over 100 items; dayfly job result j-1"
    assert said[1] == "square j-1: waiting for 2 VMs to answer SSH (0.0 s)"
    assert ["/100 done" in line for line in said[2:5]] == [True, True, True]
    assert said[5].startswith("square j-1: 100 calls done in")
    assert len(said) == 6


def test_what_is_waited_for_is_said_once_however_many_outcomes_come_meanwhile(
    clock: Frozen,
) -> None:
    stream = io.StringIO()
    lines = display.PlainLines(stream, clock)
    job = Stand()
    lines.add(job)
    for done in range(20):
        job.now(done=done, waiting="1 VM to answer SSH")
        lines.changed(job)
        job.now(done=done, waiting="")
        lines.changed(job)
    assert stream.getvalue().count("1 VM to answer SSH") == 1


def test_a_single_quick_call_says_nothing(clock: Frozen) -> None:
    stream = io.StringIO()
    lines = display.PlainLines(stream, clock)
    job = Stand(total=1)
    lines.add(job)
    lines.changed(job)
    job.now(done=1)
    job.keys = {"state": JobState.COMPLETED, "ended": clock.time + 0.01}
    lines.remove(job)
    assert stream.getvalue() == ""


def test_a_cancellation_is_shown(clock: Frozen) -> None:
    stream = io.StringIO()
    lines = display.PlainLines(stream, clock)
    job = Stand(done=3)
    lines.add(job)
    job.keys = {"cancelling": True}
    lines.changed(job)
    assert "cancelling" in stream.getvalue()


def test_function_lines_name_their_call_and_their_job_only_among_others(clock: Frozen) -> None:
    stream = io.StringIO()
    lines = display.PlainLines(stream, clock)
    one, two = Stand(total=1, job="j-1"), Stand(total=1, job="j-2")
    lines.add(one)
    lines.log(LogLine("j-1", 12, "stdout", 0.0, "hello [red]"))
    lines.add(two)
    lines.log(LogLine("j-2", 0, "stdout", 0.0, "hello"))
    lines.log(LogLine("j-2", -1, "stderr", 0.0, "who am I", "w-1"))
    assert stream.getvalue().splitlines() == [
        "[call 12] hello [red]",
        "[j-2 call 0] hello",
        "[j-2 w-1] who am I",
    ]


def test_silence_keeps_notes_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    silent = display.Silent()
    job = Stand()
    silent.add(job)
    silent.changed(job)
    silent.log(LogLine("j-1", 0, "stdout", 0.0, "hello"))
    silent.remove(job)
    with caplog.at_level(logging.INFO, "dayfly"):
        silent.note("running with 1 of 2 workers")
        silent.note("fine", "info")
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "running with 1 of 2 workers"),
        ("INFO", "fine"),
    ]


# -- a terminal --


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_jobs_share_one_live_display(clock: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "GRACE", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    board = display.make_board(stream, clock)
    assert isinstance(board, display.LiveLine)
    one, two = Stand(job="j-1", done=5), Stand(job="j-2", waiting="a VM to boot")
    board.add(one)
    board.add(two)
    await asyncio.sleep(0.1)
    board.log(LogLine("j-1", 3, "stdout", 0.0, "hello [bold]"))
    drawn = stream.getvalue()
    assert "5/100" in drawn
    assert "waiting for a VM to boot" in drawn
    assert "[j-1 call 3] hello [bold]" in drawn
    for job in (one, two):
        job.keys = {"state": JobState.COMPLETED, "ended": clock.time + 1}
        board.remove(job)
    assert "square j-2: 0 calls done in 1.0 s" in stream.getvalue()
    length = len(stream.getvalue())
    await asyncio.sleep(0.15)
    assert len(stream.getvalue()) == length, "it draws nothing when there is nothing"


async def test_what_is_over_in_a_moment_is_not_drawn(clock: Frozen) -> None:
    stream = Terminal()
    board = display.make_board(stream, clock)
    job = Stand(total=1)
    board.add(job)
    job.keys = {"state": JobState.COMPLETED, "ended": clock.time}
    board.remove(job)
    assert stream.getvalue() == ""


def test_in_a_real_terminal_prints_go_above_the_line_and_stdout_stays_a_file(
    tmp_path: Path,
) -> None:
    script = """
        import asyncio, sys
        from dayfly import FunctionExecutor
        from tests.unit.inprocess import InProcess

        async def main():
            session = InProcess()
            session.held = {0}
            async with FunctionExecutor(session=session) as executor:
                job = executor.map(abs, [-1, -2])
                await asyncio.sleep(0.7)
                print("to the file")
                session.channels[0].print(0, "from the call")
                await asyncio.sleep(0.2)
                session.release()
                await job

        asyncio.run(main())
    """
    leader, follower = pty.openpty()
    out = tmp_path / "out"
    with out.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            stdout=file,
            stderr=follower,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "TERM": "xterm"},
        )
    os.close(follower)
    said = b""
    while True:
        try:
            data = os.read(leader, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        said += data
    os.close(leader)
    assert process.wait(10) == 0
    assert out.read_text() == "to the file\n"
    text = said.decode()
    assert "1/2" in text
    assert "[call 0] from the call" in text
    assert "abs j-" in text
    assert "2 calls done" in text


# -- a notebook --


async def test_a_notebook_shows_a_table_that_follows(
    clock: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "GRACE", 0.01)
    monkeypatch.setattr(display.NotebookCell, "frame", 0.01)
    shown: list[str] = []
    updated = asyncio.Event()

    class Handle:
        def update(self, table: dict[str, str], *, raw: bool) -> None:
            shown.append(table["text/html"])
            updated.set()

    def show(table: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert not shown, "one table per job"
        shown.append(table["text/html"])
        return Handle()

    kernel(monkeypatch, show)
    board = display.make_board(io.StringIO(), clock)
    job = Stand(done=5)
    board.add(job)
    await updated.wait()
    job.now(done=100)
    job.keys = {"state": JobState.COMPLETED, "ended": clock.time}
    board.remove(job)
    assert "5/100" in shown[0]
    assert "100/100" in shown[-1]
    assert "completed" in shown[-1]


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert display.notebook() is None


def kernel(monkeypatch: pytest.MonkeyPatch, show: Callable[..., Any]) -> None:
    """Look like a notebook's kernel."""
    ipython, shown = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    shown.display = show  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
