"""What the product tells of itself, in its logs: which timer fired, which worker was given up.

The product is not changed for this: a handler reads the records of its loggers.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.simulation.process import current

#: Every timer and bound of the product, as the campaign counts them.
TIMERS = (
    "soft worker",
    "hard worker",
    "soft master",
    "hard master",
    "own deadline",
    "hard job",
    "max_cost",
    "client grace",
    "start_timeout",
    "start_timeout of a client",
    "comeback",
    "drained",
    "call convicted",
    "never called",
    "worker given up, is back",
    "end of create",
    "sweep",
    "sweep of create",
    "master restarted",
    "journal recovered",
    "conversation resumed",
    "silent client",
)


class Evidence:
    """The product's own words, with the virtual time at which they were said.

    Attributes:
        counts: How often each of :data:`TIMERS` fired.
        opened: When each job was submitted to a master; when it was submitted last, where a
            master was lost with its journal.
        started: When each job's first call was handed out, likewise.
        over: When each job ended, and why.
        lost: When the master gave each worker up, and why.
        left: When each worker was retired, and by which timer.
        draining: Since when each worker drains, of those that somebody still looks at.
        served: When a master's service began to serve.
        leaving: When a master began to go by one of its timers.
        restored: When each job was last recovered from a journal.
        submissions: How often each job was submitted to a master that did not know it.
        connected: When each worker's agent reached a master, by the worker's host.
        refused: When it reached one that did not let it in.
        parted: When each worker's agent lost its master last.
        here: When clients came to a master.
        ended: When masters heard that clients had ended or hung up, by the client's name.
        silent: When a master noticed that a client had gone silent: it may be asleep.
        unstored: Calls whose outcome could not be put to storage at least once.
        agents: When each worker's agent was started.
        asked: Workers that masters asked clients for, by job.
        on_agent: Called with each worker whose agent is started.
        on_connected: Called with each worker whose agent reaches a master, before it says a word.
        on_left: Called with each worker that is retired, and the reason.
        on_over: Called with each job that ends.
    """

    def __init__(self, now: Callable[[], float], noted: Callable[[str], None]) -> None:
        self._now = now
        self._noted = noted
        self.counts: Counter[str] = Counter()
        self.opened: dict[str, float] = {}
        self.submissions: dict[str, list[float]] = defaultdict(list)
        self.started: dict[str, float] = {}
        self.over: dict[str, tuple[float, str]] = {}
        self.lost: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self.left: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self.draining: dict[str, float] = {}
        self.served: list[float] = []
        self.leaving: list[float] = []
        self.restored: dict[str, float] = {}
        self.connected: dict[str, list[float]] = defaultdict(list)
        self.refused: dict[str, list[float]] = defaultdict(list)
        self.parted: dict[str, float] = {}
        self.here: list[float] = []
        self.ended: dict[str, list[float]] = defaultdict(list)
        self.silent: list[float] = []
        self.unstored: set[tuple[str, int]] = set()
        self.agents: dict[str, list[float]] = defaultdict(list)
        self.asked: Counter[str] = Counter()
        self.on_agent: list[Callable[[str], None]] = []
        self.on_connected: list[Callable[[str], None]] = []
        self.on_left: list[Callable[[str, str], None]] = []
        self.on_over: list[Callable[[str], None]] = []
        self._heard: dict[str, Callable[[tuple[Any, ...]], None]] = {
            "job %s (%s) from %s": self._opened,
            "job %s has started": self._started,
            "job %s is over: %s %s": self._over,
            "job %s goes on: %d of its outcomes are here": self._restored,
            "worker %s is lost: %s": self._lost,
            "worker %s goes: %s": self._goes,
            "worker %s: %s": self._phase,
            "worker %s is back": lambda _: self._count("worker given up, is back"),
            "the master goes: its %s timer fired": self._master_goes,
            "serving at %s:%d": self._serving,
            "sweeping VMs past their expiry: %s": lambda _: self._count("sweep"),
            "stopping VMs past their expiry: %s": lambda _: self._count("sweep"),
            "ending workers whose client is gone: %s": lambda _: self._count("sweep of create"),
            "connected to %s": self._connected,
            "the master is gone; calls go on": self._parted,
            "the master refused: %s: %s": self._refused,
            "client %s has %s": self._client_left,
            "client %s is here": lambda _: self.here.append(self._now()),
            "%s: %d runners started": self._agent_started,
            "the outcome of call %d of %s: %s": lambda args: self.unstored.add((args[1], args[0])),
            "job %s needs workers (%d): %s": self._needs,
            "the conversation with the master broke; taking it up again": lambda _: self._count(
                "conversation resumed"
            ),
        }

    @property
    def listens_for(self) -> list[str]:
        """The product's words, as its code has them."""
        return list(self._heard)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Read the product's logs for as long as the context is open."""
        logger = logging.getLogger("dayfly")
        handler = _Handler(self.hear)
        before = logger.level, logger.propagate, logger.handlers[:]
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers[:] = [handler]
        try:
            yield
        finally:
            logger.level, logger.propagate, logger.handlers[:] = before

    def hear(self, record: logging.LogRecord) -> None:
        """Take in what was logged."""
        process = current()
        where = f"{process.name} on {process.host.name}" if process else "the world"
        self._noted(f"{where}: {_in_a_line(record)}")
        if heed := self._heard.get(str(record.msg)):
            heed(record.args if isinstance(record.args, tuple) else ())

    def has_master(self, worker: str, *, up: float = 0.0) -> bool:
        """Whether a worker's agent has a master, as far as it knows.

        One that is killed says no more that it lost its master; the next has none until it calls.

        Args:
            worker: Which.
            up: When its VM came up: an agent that ends with its VM says nothing either.
        """
        since = max(up, self.parted.get(worker, 0.0), *self.agents[worker][-1:])
        return any(at > since for at in self.connected[worker][-1:])

    def fired(self, timer: str) -> None:
        """A timer that the product does not log has fired, by the truth."""
        self._count(timer)

    def _count(self, timer: str) -> None:
        self.counts[timer] += 1

    def _opened(self, args: tuple[Any, ...]) -> None:
        self.opened[args[0]] = self._now()
        self.submissions[args[0]].append(self._now())
        self.over.pop(args[0], None)

    def _started(self, args: tuple[Any, ...]) -> None:
        self.started[args[0]] = self._now()

    def _restored(self, args: tuple[Any, ...]) -> None:
        self.restored[args[0]] = self._now()
        self.over.pop(args[0], None)
        self._count("journal recovered")

    def _over(self, args: tuple[Any, ...]) -> None:
        job, _, reason = args
        self.over[job] = self._now(), f"{args[1]} {reason}".strip()
        for words, timer in (
            ("was cut by hard_dismantle_timeout", "hard job"),
            ("was cut by max_cost", "max_cost"),
            ("no client was attached", "client grace"),
            ("within start_timeout", "start_timeout"),
        ):
            if words in reason:
                self._count(timer)
        for listener in self.on_over:
            listener(job)

    def _lost(self, args: tuple[Any, ...]) -> None:
        worker, reason = str(args[0]), str(args[1])
        self.lost[worker].append((self._now(), reason))
        if "come back" in reason:
            self._count("comeback")
        elif "never called" in reason:
            self._count("never called")

    def _goes(self, args: tuple[Any, ...]) -> None:
        worker, why = str(args[0]), str(args[1])
        self.left[worker].append((self._now(), why))
        if why in ("soft", "hard"):
            self._count(f"{why} worker")
        elif why == "spot":
            self._count("drained")
        elif "made for is over" in why:
            self._count("end of create")
        for listener in self.on_left:
            listener(worker, why)

    def _master_goes(self, args: tuple[Any, ...]) -> None:
        self.leaving.append(self._now())
        self._count(f"{args[0]} master")

    def _phase(self, args: tuple[Any, ...]) -> None:
        if args[1] == "draining":
            self.draining.setdefault(str(args[0]), self._now())

    def _connected(self, _: tuple[Any, ...]) -> None:
        if process := current():
            self.connected[process.host.name].append(self._now())
            for listener in self.on_connected:
                listener(process.host.name)

    def _refused(self, _: tuple[Any, ...]) -> None:
        if (process := current()) and (calls := self.connected[process.host.name]):
            self.refused[process.host.name].append(calls.pop())

    def _parted(self, _: tuple[Any, ...]) -> None:
        if process := current():
            self.parted[process.host.name] = self._now()

    def _client_left(self, args: tuple[Any, ...]) -> None:
        if args[1] == "gone silent":
            self.silent.append(self._now())
            self._count("silent client")
        else:
            self.ended[str(args[0])].append(self._now())

    def _agent_started(self, args: tuple[Any, ...]) -> None:
        self.agents[str(args[0])].append(self._now())
        for listener in self.on_agent:
            listener(str(args[0]))

    def _needs(self, args: tuple[Any, ...]) -> None:
        self.asked[args[0]] += args[1]

    def _serving(self, _: tuple[Any, ...]) -> None:
        self.served.append(self._now())


class _Handler(logging.Handler):
    def __init__(self, hear: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.INFO)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record)


def _in_a_line(record: logging.LogRecord) -> str:
    text = record.getMessage().replace("\n", " | ")
    if record.exc_info and record.exc_info[1] is not None:
        text += f" ({record.exc_info[1]!r})"
    return f"{record.levelname.lower()}: {text}"
