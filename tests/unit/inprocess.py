"""A session in this process: it speaks the protocol, and runs the calls on the spot."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from typing import Any

from dayfly.client.channel import Event, Found, JobRequest, Waiting
from dayfly.errors import DayflyError, JobError
from dayfly.model import CallOutcome, JobState, LogLine, OutcomeKind
from dayfly.wire import messages as m


class InProcess:
    """Answers every job at once, but for what a test holds back.

    Attributes:
        requests: What was submitted.
        batches: Sizes of the batches of items, of all jobs.
        told: Cancellations, as (job, indices).
        held: Calls that do not end before :meth:`release`, or before they are cancelled.
        deaf: Whether cancelling never gets an answer.
        mute: Whether the master never says that it has all of a job.
        failure: What every conversation fails of, in place of its end.
        last_word: What every job ends with.
        stored: Outcomes that lie in storage rather than travel inline, by index.
    """

    def __init__(self) -> None:
        self.requests: list[JobRequest] = []
        self.batches: list[int] = []
        self.told: list[tuple[str, list[int] | None]] = []
        self.held: set[int] = set()
        self.deaf = False
        self.mute = False
        self.failure: DayflyError | None = None
        self.last_word: m.JobEnded | None = None
        self.stored: dict[int, str] = {}
        self.objects: dict[str, bytes] = {}
        self.channels: list[InProcessChannel] = []
        self.closed = False

    def start(self, request: JobRequest, items: AsyncIterator[list[bytes]]) -> InProcessChannel:
        self.requests.append(request)
        self.channels.append(InProcessChannel(self, request, items))
        return self.channels[-1]

    async def attach(self, job: str) -> Found:
        raise JobError(f"there is no job {job!r}")

    def release(self, *indices: int) -> None:
        self.held -= set(indices or self.held)
        for channel in self.channels:
            channel.look_again()

    async def aclose(self, *, hurried: bool = False) -> None:
        for channel in self.channels:
            channel.worker.cancel()
        await asyncio.gather(*(c.worker for c in self.channels), return_exceptions=True)
        self.closed = True


class InProcessChannel:
    def __init__(
        self, session: InProcess, request: JobRequest, items: AsyncIterator[list[bytes]]
    ) -> None:
        self.session = session
        self.id = request.spec.id
        self.style = json.loads(request.function.partition(b"\n")[0])["style"]
        self.function, self.extra = pickle.loads(  # noqa: S301  # a test's own
            request.function.partition(b"\n")[2]
        )
        self.queue: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self.waiting: dict[int, bytes] = {}
        self.read_all = False
        self.read_to_the_end = asyncio.Event()
        self.total = 0
        self.delivered = 0
        self.worker = asyncio.create_task(self.work(items), name="in-process session")

    async def events(self) -> AsyncIterator[Event]:
        while True:
            event = await self.queue.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, m.JobEnded):
                return

    async def cancel(self, indices: list[int] | None = None) -> None:
        self.session.told.append((self.id, indices))
        if self.session.deaf:
            await asyncio.Event().wait()
        if indices is None:
            self.worker.cancel()
            self.queue.put_nowait(
                m.JobEnded(job=self.id, state=JobState.CANCELLED, after=self.delivered)
            )
            return
        gone = [index for index in indices if self.waiting.pop(index, None) is not None]
        self.deliver([CallOutcome(index, OutcomeKind.CANCELLED, b"") for index in gone])
        self.look_again()

    @property
    def entrusted(self) -> bool:
        return self.read_all

    async def handed_over(self) -> bool:
        await self.read_to_the_end.wait()
        if self.session.mute:
            await asyncio.Event().wait()
        return bool(self.waiting)

    def leave(self) -> bool:
        return not self.read_all or bool(self.waiting)

    async def work(self, items: AsyncIterator[list[bytes]]) -> None:
        self.queue.put_nowait(Waiting(waiting="2 VMs to answer SSH"))
        try:
            async for batch in items:
                self.session.batches.append(len(batch))
                self.waiting.update(enumerate(batch, self.total))
                self.total += len(batch)
                self.look_again()
        except Exception as error:  # noqa: BLE001  # as the session does: the user's iterable
            self.queue.put_nowait(error)
            return
        self.read_all = True
        self.read_to_the_end.set()
        self.look_again()

    def look_again(self) -> None:
        """Run what may run, and end the job when nothing is left."""
        self.queue.put_nowait(
            m.JobStatus(
                job=self.id, done=self.delivered, running=len(self.waiting), ready=2, coming=1
            )
        )
        ready = [index for index in self.waiting if index not in self.session.held]
        if ready:
            self.deliver([self.call(index, self.waiting.pop(index)) for index in ready])
        if self.session.failure is not None:
            self.queue.put_nowait(self.session.failure)
        elif self.read_all and not self.waiting:
            ended = m.JobEnded(job=self.id, state=JobState.COMPLETED, after=self.delivered)
            self.queue.put_nowait(self.session.last_word or ended)

    def deliver(self, outcomes: list[CallOutcome]) -> None:
        self.delivered += 1
        self.queue.put_nowait(m.Delivery(job=self.id, number=self.delivered, outcomes=outcomes))

    def print(self, index: int, text: str) -> None:
        self.queue.put_nowait(m.Logs(lines=[LogLine(self.id, index, "stdout", 0.0, text, "w1")]))

    def call(self, index: int, pickled: bytes) -> CallOutcome:
        try:
            value = self.apply(pickle.loads(pickled))  # noqa: S301  # a test's own
        except Exception as error:  # noqa: BLE001  # as the runner does
            return CallOutcome(index, OutcomeKind.RAISED, self.raised(error, index))
        data = pickle.dumps(value, 5)
        if index in self.session.stored:
            key = self.session.stored[index]
            self.session.objects[key] = data
            return CallOutcome(index, OutcomeKind.STORED, key.encode())
        return CallOutcome(index, OutcomeKind.VALUE, data, 1.0, 2.0, "w1")

    def apply(self, item: Any) -> Any:
        if self.style == "call":
            args, kwargs = item
            return self.function(*args, **kwargs)
        if isinstance(item, tuple):
            return self.function(*item, *self.extra)
        if isinstance(item, dict):
            return self.function(**item)
        return self.function(item, *self.extra)

    def raised(self, error: Exception, index: int) -> bytes:
        header = {
            "type": type(error).__name__,
            "module": type(error).__module__,
            "message": str(error),
            "traceback": "the remote traceback",
            "index": index,
        }
        return json.dumps(header).encode() + b"\n" + pickle.dumps(error)
