"""One runner process, seen from the agent: its sockets, its pipes and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dayfly.worker import obituary, runner, spawn
from dayfly.worker.dispatch import Call

#: Bytes taken from a socket or a pipe at once.
CHUNK = 256 * 1024
#: Bytes from which on what was read is cut up where it lies: to cut up a copy is quicker for less.
LARGE = 1024 * 1024
#: Frames up to this size are joined to be sent by one system call.
JOINED = 256 * 1024
#: Seconds that a process may live on after it has closed its channel.
PATIENCE = 0.5
#: Lines of file descriptor 2 that are kept as last words.
LAST_WORDS = 12


class Result(NamedTuple):
    """What a runner says of a call that has ended; see :data:`dayfly.worker.runner.RESULT`."""

    number: int
    kind: int
    started: float
    ended: float
    payload: bytes


class Listener(Protocol):
    """Who is told what a runner does; never twice, and nothing after ``died``."""

    def call_started(self, process: Runner, number: int) -> None:
        """A timed call has begun."""
        ...

    def calls_ended(self, process: Runner, results: Sequence[Result]) -> None:
        """Calls have their outcomes, in this order."""
        ...

    def line(
        self, process: Runner, number: int | None, stream: int, when: float | None, text: str
    ) -> None:
        """A line was printed; one that came by a pipe names neither its call nor its time."""
        ...

    def asked(self, process: Runner, request: bytes) -> None:
        """A function wants something of storage."""
        ...

    def pause(self, process: Runner) -> None:
        """Everything that was there to read has been told."""
        ...

    def died(self, process: Runner, death: obituary.Death) -> None:
        """It is gone, and so is everything that it had started."""
        ...


class Runner(Protocol):
    """What a pool needs of a runner; :class:`RunnerProcess` says what it means."""

    @property
    def id(self) -> int:
        """The pool's number for it."""
        ...

    @property
    def pid(self) -> int:
        """Its process."""
        ...

    @property
    def unstarted(self) -> list[int]:
        """Once it has died: the calls that it had not started."""
        ...

    def load(self, slot: int, facts: bytes, function: bytes) -> None:
        """Make a job known under a slot number."""
        ...

    def give(self, slot: int, first: int, calls: Sequence[Call]) -> None:
        """Send calls."""
        ...

    def forget(self, slot: int) -> None:
        """Drop a job."""
        ...

    def reply(self, answer: bytes, data: bytes) -> None:
        """Answer what a function asked of storage."""
        ...

    def withdraw(self) -> list[int]:
        """Take back the calls that have not been started."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def hold(self) -> None:
        """Read no more from it, for a while."""
        ...

    def go_on(self) -> None:
        """Read again."""
        ...

    def drain(self) -> None:
        """Tell all that it has said until now."""
        ...


class Start(Protocol):
    """How a runner is started; :class:`RunnerProcess` is the real form."""

    def __call__(self, id: int, command: spawn.Command, listener: Listener, /) -> Runner:  # noqa: A002
        """Start one.

        Raises:
            OSError: It cannot be started.
        """
        ...


class RunnerProcess:
    """A runner.

    Args:
        id: The pool's number for it.
        command: How to start it.
        listener: Who is told what it does.
        embody: What makes what it runs in.

    Raises:
        OSError: The interpreter cannot be started.
    """

    def __init__(
        self,
        id: int,  # noqa: A002
        command: spawn.Command,
        listener: Listener,
        embody: spawn.Embody = spawn.Child,
    ) -> None:
        self.id = id
        #: Once it has died: the calls that it had not started.
        self.unstarted: list[int] = []
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._oom_kills = obituary.oom_kills()
        self._buffer = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._reading = True
        self._cut: asyncio.TimerHandle | None = None
        self._mute = False
        self._body = embody(command, f"{os.getpid()}.{id}")
        self.pid = self._body.pid
        self._channel, self._tickets, self._tickets_far = self._body.ends
        self._pipes = self._body.pipes
        self._rests = {1: b"", 2: b""}
        self._poll = select.poll()
        for pipe in self._pipes.values():
            os.set_blocking(pipe, False)
            self._poll.register(pipe, select.POLLIN)
            self._loop.add_reader(pipe, self._read_pipes)
        self._loop.add_reader(self._channel, self._on_readable)
        self._end = self._body.watch(self._on_exit)

    # -- to the runner --

    def load(self, slot: int, facts: bytes, function: bytes) -> None:
        """Make a job known under a slot number."""
        self._send(runner.LOAD, runner.JOB.pack(slot, len(facts)), facts, function)

    def give(self, slot: int, first: int, calls: Sequence[Call]) -> None:
        """Send calls, and the tickets to start them."""
        count = len(calls)
        head = runner.BATCH.pack(slot, first, count)
        sizes = runner.calls(count).pack(*(n for c in calls for n in (c.index, len(c.item))))
        self._send(runner.CALLS, head, sizes, *(call.item for call in calls))
        # They always fit: the dispatcher never lets a runner hold more than a buffer takes.
        self._tickets.send(runner.tickets(count).pack(*range(first, first + count)))

    def forget(self, slot: int) -> None:
        """Drop a job."""
        self._send(runner.FORGET, runner.JOB.pack(slot, 0))

    def reply(self, answer: bytes, data: bytes) -> None:
        """Answer what a function asked of storage."""
        self._send(runner.REPLY, runner.LENGTH.pack(len(answer)), answer, data)

    def withdraw(self) -> list[int]:
        """Take back the calls that have not been started; from now on they never will be."""
        try:
            # The kernel gives each ticket either to the runner or to us.
            data = self._tickets_far.recv(CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        return [number for (number,) in runner.TICKET.iter_unpack(data)]

    def kill(self) -> None:
        """End it and what it has started, at once; ``died`` follows."""
        self._body.kill()

    def hold(self) -> None:
        """Read no more from it, for a while: it waits as soon as the buffers are full."""
        if self._reading:
            self._reading = False
            for source in (self._channel.fileno(), *self._pipes.values()):
                self._loop.remove_reader(source)

    def go_on(self) -> None:
        """Read again."""
        if not self._reading and self._channel.fileno() >= 0:
            self._reading = True
            self._loop.add_reader(self._channel, self._on_readable)
            for pipe in self._pipes.values():
                self._loop.add_reader(pipe, self._read_pipes)

    def _send(self, kind: int, *parts: bytes) -> None:
        size = sum(map(len, parts))
        header = runner.HEADER.pack(kind, size)
        parts = (b"".join((header, *parts)),) if size <= JOINED else (header, *parts)
        idle = not self._unsent
        self._unsent.extend(memoryview(part) for part in parts if part)
        if idle:
            self._write()

    def _write(self) -> None:
        while self._unsent:
            try:
                sent = self._channel.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._channel, self._write)
                return
            except OSError:  # it has died; its end is told elsewhere
                self._unsent.clear()
                break
            if sent < len(self._unsent[0]):
                self._unsent[0] = self._unsent[0][sent:]
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._channel)

    # -- from the runner --

    def drain(self) -> None:
        """Read and tell all that the runner has said until now."""
        while self._read_channel():
            pass

    def _on_readable(self) -> None:
        if self._read_channel():
            self._listener.pause(self)

    def _read_channel(self) -> bool:
        # What C code printed before an outcome was written is told before it.
        if self._poll.poll(0):
            self._read_pipes()
        try:
            data = self._channel.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            # Most often its process has just ended, which is told elsewhere.
            self._loop.remove_reader(self._channel)
            if self._cut is None:
                self._cut = self._loop.call_later(PATIENCE, self._cut_off)
            return False
        self._buffer += data
        self._tell_frames()
        return True

    def _tell_frames(self) -> None:
        """Tell of every frame that is there in full."""
        size = runner.HEADER.size
        if len(self._buffer) < size:
            return
        if len(self._buffer) < size + runner.HEADER.unpack_from(self._buffer)[1]:
            return
        if len(self._buffer) > LARGE:
            with memoryview(self._buffer) as data:
                frames, end = _cut_up(data)
        else:
            frames, end = _cut_up(bytes(self._buffer))
        del self._buffer[:end]
        for frame in frames:
            if isinstance(frame, list):
                self._end_lines()
                self._last_words.clear()
                self._listener.calls_ended(self, frame)
            else:
                self._tell(*frame)

    def _cut_off(self) -> None:
        self._mute = not self._body.over
        self.kill()

    def _tell(self, kind: int, body: bytes) -> None:
        if kind == runner.LOG:
            number, stream, when = runner.LINE.unpack_from(body)
            text = body[runner.LINE.size :].decode("utf-8", "replace")
            self._listener.line(self, number, stream, when, text)
        elif kind == runner.STARTED:
            self._listener.call_started(self, runner.TICKET.unpack(body)[0])
        elif kind == runner.ASK:
            self._listener.asked(self, body)

    def _read_pipes(self) -> None:
        for stream, pipe in self._pipes.items():
            try:
                data = os.read(pipe, CHUNK)
            except BlockingIOError:
                continue
            if not data:
                self._loop.remove_reader(pipe)
                with contextlib.suppress(KeyError):  # seen before
                    self._poll.unregister(pipe)
                continue
            *lines, rest = (self._rests[stream] + data).split(b"\n")
            if len(rest) > runner.LONGEST_LINE:
                lines.append(rest)
                rest = b""
            self._rests[stream] = rest
            for line in lines:
                self._raw_line(stream, line)

    def _raw_line(self, stream: int, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        if stream == 2:
            self._last_words.append(text)
        self._listener.line(self, None, stream, None, text)

    def _end_lines(self) -> None:
        for stream, rest in self._rests.items():
            if rest:
                self._rests[stream] = b""
                self._raw_line(stream, rest)

    # -- its end --

    def _on_exit(self) -> None:
        self.drain()
        self._read_pipes()
        self._end_lines()
        remains = self._body.bury()
        self._close()
        self._listener.died(
            self,
            obituary.Death(
                status=remains.status,
                peak=remains.peak,
                cause=remains.cause,
                memory=obituary.machine_memory(),
                oom_kills=obituary.oom_kills() - self._oom_kills,
                mute=self._mute,
                last_words="\n".join(self._last_words),
            ),
        )

    def _close(self) -> None:
        self._end()
        if self._cut is not None:
            self._cut.cancel()
        self.unstarted = self.withdraw()
        for source in (self._channel.fileno(), *self._pipes.values()):
            self._loop.remove_reader(source)
        self._loop.remove_writer(self._channel)
        self._body.close()


def _cut_up(data: bytes | memoryview) -> tuple[list[list[Result] | tuple[int, bytes]], int]:
    """The frames of a runner, outcomes that follow each other together; and where they end."""
    frames: list[list[Result] | tuple[int, bytes]] = []
    results: list[Result] = []
    at, size = 0, runner.HEADER.size
    while len(data) - at >= size:
        kind, length = runner.HEADER.unpack_from(data, at)
        start, stop = at + size, at + size + length
        if len(data) < stop:
            break
        at = stop
        if kind != runner.OUTCOME:
            results = []
            frames.append((kind, bytes(data[start:stop])))
            continue
        if not results:
            frames.append(results)
        number, what, started, ended = runner.RESULT.unpack_from(data, start)
        payload = bytes(data[start + runner.RESULT.size : stop])
        results.append(Result(number, what, started, ended, payload))
    return frames, at
