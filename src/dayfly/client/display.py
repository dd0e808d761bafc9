"""Where progress is shown: a live line in a terminal, plain lines elsewhere, a notebook's cell.

What it reads like is :mod:`dayfly.client.progress`; this module draws it. rich and IPython
are imported when something is drawn with them, never before.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO
from weakref import WeakKeyDictionary

from dayfly.client import progress
from dayfly.clock import Clock
from dayfly.model import LogLine

if TYPE_CHECKING:
    from rich.live import Live

logger = logging.getLogger("dayfly")

#: Seconds that a job runs before it is drawn: what is over sooner is not worth a flicker, nor
#: the import of rich.
GRACE = 0.4
#: Seconds between frames in a terminal and in a notebook.
FRAME, CELL_FRAME = 0.1, 0.25
#: Least seconds between two plain lines that tell of done calls only.
QUIET = 3.0


class Watched(Protocol):
    """What a display needs of a job."""

    def view(self) -> progress.View:
        """How it stands now."""
        ...


class Display(Protocol):
    """Where jobs are shown. No method waits or fails."""

    def add(self, job: Watched) -> None:
        """A job has begun."""
        ...

    def changed(self, job: Watched) -> None:
        """Its view is another one."""
        ...

    def remove(self, job: Watched) -> None:
        """A job has ended."""
        ...

    def log(self, line: LogLine) -> None:
        """A function printed or logged a line."""
        ...

    def note(self, text: str, level: str = "warning") -> None:
        """Something that the user should read; ``level`` as in :mod:`logging`."""
        ...


class Silent:
    """No display; notes go to the logger ``dayfly``."""

    def add(self, job: Watched) -> None:  # noqa: D102
        pass

    def changed(self, job: Watched) -> None:  # noqa: D102
        pass

    def remove(self, job: Watched) -> None:  # noqa: D102
        pass

    def log(self, line: LogLine) -> None:  # noqa: D102
        pass

    def note(self, text: str, level: str = "warning") -> None:  # noqa: D102
        logger.log(logging.getLevelNamesMapping().get(level.upper(), logging.WARNING), text)


class Board:
    """What the displays have in common: which jobs there are, and lines that stay."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._jobs: list[Watched] = []

    def add(self, job: Watched) -> None:  # noqa: D102
        self._jobs.append(job)

    def changed(self, job: Watched) -> None:  # noqa: D102
        pass

    def remove(self, job: Watched) -> None:  # noqa: D102
        self._jobs.remove(job)

    def log(self, line: LogLine) -> None:  # noqa: D102
        who = f"call {line.index}" if line.index >= 0 else (line.worker or "worker")
        self._line(
            f"[{line.job} {who}] {line.text}" if len(self._jobs) > 1 else f"[{who}] {line.text}"
        )

    def note(self, text: str, level: str = "warning") -> None:  # noqa: ARG002, D102
        self._line(f"dayfly: {text}")

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)  # the user's own screen

    def _brief(self, view: progress.View, now: float) -> bool:
        """Whether it was a single call that nobody could have watched."""
        return view.counts.total in (0, 1) and view.elapsed(now) < GRACE and not view.error

    def _last(self, view: progress.View, now: float) -> None:
        """Its last line, which stays."""
        if not self._brief(view, now):
            self._line(progress.last_line(view, now))


class PlainLines(Board):
    """A line when what is waited for changes, at quarters of the way, and at the end."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        super().__init__(stream, clock)
        #: By job: what was waited for, quarters done, and when that was said.
        self._said: dict[Watched, tuple[str, int, float]] = {}

    def add(self, job: Watched) -> None:
        """Begin; a single call says nothing before it has to wait."""
        super().add(job)
        view = job.view()
        self._said[job] = ("", 0, self._clock.monotonic())
        if view.counts.total not in (0, 1):
            self._line(progress.first_line(view))

    def changed(self, job: Watched) -> None:
        """Say it, if it is worth a line."""
        view, now = job.view(), self._clock.monotonic()
        counts = view.counts
        waiting, quarter, when = self._said[job]
        waits_for = "cancelling" if view.cancelling else counts.waiting
        quarters = counts.done * 4 // counts.total if counts.total else quarter
        stepped = quarter < quarters < 4 and now - when >= QUIET
        if (waits_for and waits_for != waiting) or stepped:
            self._line(progress.plain_line(view, now))
            quarter, when = quarters, now
        # Outcomes that come meanwhile are no reason to say the same again after them.
        self._said[job] = (waits_for or waiting, quarter, when)

    def remove(self, job: Watched) -> None:
        """The last line."""
        super().remove(job)
        del self._said[job]
        self._last(job.view(), self._clock.monotonic())


class Ticking(Board):
    """A board that is drawn anew some times a second, while there are jobs on it."""

    frame = FRAME

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        super().__init__(stream, clock)
        self._timer: asyncio.TimerHandle | None = None

    def add(self, job: Watched) -> None:
        """Begin; it is drawn after a moment."""
        super().add(job)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GRACE, self._tick)

    def remove(self, job: Watched) -> None:
        """Draw its end; the last job takes the timer with it."""
        super().remove(job)
        if not self._jobs and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.frame, self._tick)
        self._draw()

    def _draw(self) -> None:
        raise NotImplementedError


class LiveLine(Ticking):
    """One line per running job at the foot of a terminal; what is printed goes above it."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        super().__init__(stream, clock)
        self._live: Live | None = None
        #: Those whose name was said.
        self._named: set[Watched] = set()

    def remove(self, job: Watched) -> None:
        """Leave the job's last line above those that still run."""
        super().remove(job)
        self._named.discard(job)
        view, now = job.view(), self._clock.monotonic()
        if self._live is None:
            if progress.is_left(view):
                self._last(view, now)
            return
        self._draw()
        self._last(view, now)
        if not self._jobs:
            self._live.stop()
            self._live = None

    def _line(self, text: str) -> None:
        if self._live is None:
            super()._line(text)
            return
        from rich.text import Text

        self._live.console.print(Text(text), soft_wrap=True)

    def _draw(self) -> None:
        from rich.text import Text

        if self._live is None:
            self._live = self._open()
        for job in self._jobs:
            if job not in self._named:
                self._named.add(job)
                self._line(progress.first_line(job.view()))
        now, width = self._clock.monotonic(), self._live.console.width
        lines = (progress.live_line(job.view(), now, width) for job in self._jobs)
        text = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
        self._live.update(text, refresh=True)

    def _open(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        live = Live(
            console=Console(file=self._stream, highlight=False),
            auto_refresh=False,  # that would be a thread; the loop ticks
            transient=True,
            # What goes to a file must not be led to the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        live.start()
        return live


class NotebookCell(Ticking):
    """A table per job in the cell that started it, kept up to date through IPython."""

    frame = CELL_FRAME

    def __init__(self, stream: TextIO, clock: Clock, display: Callable[..., Any]) -> None:
        super().__init__(stream, clock)
        self._display = display
        self._handles: dict[Watched, Any] = {}

    def remove(self, job: Watched) -> None:
        """Leave the table as it stands at the end."""
        super().remove(job)
        if job in self._handles:
            self._show(job)
            del self._handles[job]

    def _draw(self) -> None:
        for job in self._jobs:
            self._show(job)

    def _show(self, job: Watched) -> None:
        table = {"text/html": progress.html(job.view(), self._clock.monotonic())}
        if job in self._handles:
            self._handles[job].update(table, raw=True)
        else:
            self._handles[job] = self._display(table, raw=True, display_id=True)


#: A terminal has one foot: the jobs of all executors of a loop share one board.
_boards: WeakKeyDictionary[asyncio.AbstractEventLoop, Display] = WeakKeyDictionary()


def board(clock: Clock) -> Display:
    """The running loop's display, in the form that suits where the program runs."""
    loop = asyncio.get_running_loop()
    if loop not in _boards:
        _boards[loop] = make_board(sys.stderr, clock)
    return _boards[loop]


def make_board(stream: TextIO, clock: Clock) -> Display:
    """A notebook's cell, a terminal's live line, or plain lines."""
    if display := notebook():
        return NotebookCell(stream, clock, display)
    return LiveLine(stream, clock) if stream.isatty() else PlainLines(stream, clock)


def notebook() -> Callable[..., Any] | None:
    """IPython's ``display`` when this program is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

    found: Callable[..., Any] = display
    return found
