"""The two kinds of callers, each with a writer of its own, so that a slow one holds up nobody.

A client's writer reads deliveries from the journal and logs from their files, each from where
this client stands: what it has not taken yet costs no memory here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import Protocol

from dayfly.errors import WireError
from dayfly.master.dossier import Dossier
from dayfly.master.events import Lease
from dayfly.master.journal import Journal
from dayfly.master.logbook import Logbook
from dayfly.master.shelf import Shelf
from dayfly.wire import messages as m
from dayfly.wire.link import Link

#: Deliveries, or frames of logs, that are sent before the writer looks at what else waits.
PAGE = 16
#: Answers that may wait for a client before its next question is read.
ANSWERS = 64


def dropped(job: str, request: int = 0) -> m.Refused:
    """The answer to whoever asks for a job that is not, or no more, in the journal."""
    return m.Refused(
        code="JobError",
        job=job,
        request=request,
        reason=f"the master does not hold the outcomes of job {job}: it never heard of it,"
        " or they were fetched before; they may be in storage",
    )


class Records(Protocol):
    """What the writers read from."""

    @property
    def journal(self) -> Journal:
        """Deliveries."""
        ...

    @property
    def logbook(self) -> Logbook:
        """Function logs."""
        ...

    @property
    def shelf(self) -> Shelf:
        """Chunks of items."""
        ...

    def dossier(self, job: str) -> Dossier | None:
        """A job that is not forgotten."""
        ...

    def knows(self, job: str) -> bool:
        """Whether a job runs, or has run."""
        ...


class _Writer:
    """Sends what waits, whenever it is woken."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something waits."""
        self._wake.set()

    async def write(self) -> None:
        """Send until the conversation is over."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while await self._send_some():
                    pass
        except WireError:
            return  # the reader of the same link sees the end, and says so

    async def _send_some(self) -> bool:
        raise NotImplementedError


class ClientPeer(_Writer):
    """A client.

    Attributes:
        follows: The jobs that it follows, and the number of the last delivery sent to it.
        unasked: Those of them that it follows because it submitted them.
        logs: The jobs whose logs it gets, and its place in each file.
        all_logs: Whether it also gets those of jobs to come.
        statuses: The newest status of each job that has not been sent.
    """

    def __init__(self, link: Link[m.FromClient], records: Records) -> None:
        super().__init__()
        self.link = link
        self._records = records
        self._answers: deque[m.Message] = deque()
        self._room = asyncio.Event()
        self.follows: dict[str, int] = {}
        self.unasked: set[str] = set()
        self.logs: dict[str, int] = {}
        self.all_logs = False
        self.statuses: dict[str, m.JobStatus] = {}
        self.told: dict[str, m.JobStatus] = {}

    def say(self, message: m.Message) -> None:
        """Let a message wait for the writer, which must still be woken."""
        self._answers.append(message)

    async def has_room(self) -> None:
        """Wait until the client has read most of its answers."""
        while len(self._answers) > ANSWERS:
            self._room.clear()
            await self._room.wait()

    def follow(self, job: str, after: int, *, unasked: bool = False) -> None:
        """Send the deliveries above ``after`` from now on."""
        if unasked:
            self.unasked.add(job)
        elif job in self.unasked:
            # What it follows since it submitted it is not sent twice.
            self.unasked.discard(job)
            after = max(after, self.follows.get(job, 0))
        self.follows[job] = after

    def unfollow(self, job: str) -> None:
        """The client has all that it wants of a job."""
        self.follows.pop(job, None)
        self.unasked.discard(job)
        self.statuses.pop(job, None)
        self.told.pop(job, None)

    async def _send_some(self) -> bool:
        while self._answers:
            message = self._answers.popleft()
            self._room.set()
            await self.link.send(message)
        while self.statuses:
            job, status = self.statuses.popitem()
            self.told[job] = status
            await self.link.send(status)
        more = False
        for job in list(self.logs):
            more |= await self._send_logs(job)
        for job in list(self.follows):
            more |= await self._send_deliveries(job)
        return more

    async def _send_logs(self, job: str) -> bool:
        place = self.logs.get(job)
        if place is None:
            return False
        for after, frame in islice(self._records.logbook.frames(job, place), PAGE):
            self.logs[job] = after
            await self.link.send_encoded(frame)
        more = self.logs.get(job, place) > place
        was_here = place > 0 or self._records.knows(job)  # else it may be on its way
        if not more and was_here and self._records.dossier(job) is None:
            self.logs.pop(job, None)  # nothing can come any more
        return more

    async def _send_deliveries(self, job: str) -> bool:
        dossier = self._records.dossier(job)
        after = self.follows.get(job)
        if dossier is None or after is None:
            return False
        if after < dossier.last:
            page = self._records.journal.deliveries(job, after, PAGE)
            if not page:
                self.unfollow(job)
                await self.link.send(dropped(job))
            for number, frame in page:
                # It may have asked for other numbers, or for none, while we waited.
                if number > dossier.last or self.follows.get(job) != number - 1:
                    break
                self.follows[job] = number
                await self.link.send_encoded(frame)
            return True
        if dossier.ended is not None:
            self.unfollow(job)
            await self._send_all_logs(job)
            await self.link.send(dossier.ended)
        return False

    async def _send_all_logs(self, job: str) -> None:
        while await self._send_logs(job):
            pass


class WorkerPeer(_Writer):
    """A worker's agent on one connection.

    Attributes:
        kept: The serial number up to which its outcomes are committed.
    """

    def __init__(self, link: Link[m.FromWorker], records: Records) -> None:
        super().__init__()
        self.link = link
        self.name = link.peer
        self.kept = 0
        self._acknowledged = 0
        self._records = records
        self._waiting: deque[m.Message | Lease] = deque()
        self._briefed: set[str] = set()

    def say(self, message: m.Message) -> None:
        """Let a message wait for the writer, which must still be woken."""
        self._waiting.append(message)

    def lease(self, lease: Lease) -> None:
        """Let a span wait; its items are fetched when it is sent."""
        self._waiting.append(lease)

    async def _send_some(self) -> bool:
        while self._waiting:
            message = self._waiting.popleft()
            if isinstance(message, Lease):
                await self._assign(message)
                continue
            if isinstance(message, m.Forget):
                self._briefed.discard(message.job)
            await self.link.send(message)
        if self.kept > self._acknowledged:
            self._acknowledged = self.kept
            await self.link.send(m.Acknowledge(serial=self.kept))
        return False

    async def _assign(self, lease: Lease) -> None:
        dossier = self._records.dossier(lease.job)
        message = self._records.shelf.assignment(lease.job, lease.span)
        if dossier is None or message is None:
            return  # the job was over before this was sent
        if lease.job not in self._briefed or lease.attempt:
            brief = None if lease.job in self._briefed else dossier.brief
            self._briefed.add(lease.job)
            message = m.Assign(
                job=message.job,
                span=message.span,
                brief=brief,
                items=message.items,
                key=message.key,
                chunk_start=message.chunk_start,
                attempt=lease.attempt,
            )
        await self.link.send(message)
