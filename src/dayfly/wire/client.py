"""The one door to the master: requests with replies, and what the master pushes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from dayfly import errors
from dayfly.model import JobRow, LogLine, WorkerRow
from dayfly.wire import messages as m
from dayfly.wire.link import Dial, Link, dial

#: Seconds to wait for a reply: the master answers from memory.
REPLY = 20.0

Question: TypeAlias = m.Describe | m.ListJobs | m.ListWorkers | m.ReadLogs


class MasterDoor:
    """An open conversation with the master.

    Replies go to whoever asked; everything else that the master says comes out of
    :meth:`pushed`. Use it as an async context manager.
    """

    def __init__(self, link: Link[m.ToClient]) -> None:
        self._link = link
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[m.ToClient]] = {}
        self._pushed: asyncio.Queue[m.ToClient | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, socket: Path, *, secret: str, name: str, dial: Dial = dial) -> MasterDoor:
        """Call the master through the Unix socket of an SSH tunnel.

        Raises:
            WireError: Nobody answered; or one of its kinds, as :func:`dayfly.wire.link.dial`.
        """
        return cls(
            await dial(m.TO_CLIENT, role="client", name=name, secret=secret, unix_socket=socket)
        )

    @property
    def package(self) -> str:
        """Digest of the dayfly that the master runs."""
        return self._link.welcome.package if self._link.welcome else ""

    @property
    def journal(self) -> str:
        """What numbers the deliveries, see :class:`~dayfly.wire.messages.Welcome`."""
        return self._link.welcome.journal if self._link.welcome else ""

    async def __aenter__(self) -> MasterDoor:
        self._reader = asyncio.create_task(self._read(), name="dayfly master door")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._link.aclose()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def send(self, message: m.FromClient) -> None:
        """Say something that has no reply.

        Raises:
            WireError: The conversation is over.
        """
        await self._link.send(message)

    async def pushed(self) -> AsyncGenerator[m.ToClient, None]:
        """What the master says unasked, until the conversation is over."""
        while (message := await self._pushed.get()) is not None:
            yield message

    async def list_jobs(self) -> list[JobRow]:
        """The jobs that the master knows, oldest first."""
        reply = await self._ask(m.ListJobs(request=next(self._numbers)))
        assert isinstance(reply, m.Jobs)  # noqa: S101  # narrowed for the type checker
        return reply.rows

    async def list_workers(self) -> list[WorkerRow]:
        """The master and its workers."""
        return await (await self.ask_workers())()

    async def ask_workers(self) -> Callable[[], Awaitable[list[WorkerRow]]]:
        """Ask for the workers and return at once: what is said next is heard after it.

        Returns:
            What waits for the answer.
        """
        question = m.ListWorkers(request=next(self._numbers))
        reply = await self._question(question)

        async def rows() -> list[WorkerRow]:
            answer = await self._reply(question, reply)
            assert isinstance(answer, m.Workers)  # noqa: S101  # narrowed for the type checker
            return answer.rows

        return rows

    async def describe(self, job: str) -> m.Described:
        """A job whose outcomes the master holds, or will hold.

        Raises:
            JobError: It holds none of such a job.
        """
        reply = await self._ask(m.Describe(request=next(self._numbers), job=job))
        assert isinstance(reply, m.Described)  # noqa: S101  # narrowed for the type checker
        return reply

    async def read_logs(self, job: str) -> list[LogLine]:
        """Every line that the job has printed so far."""
        reply = await self._ask(m.ReadLogs(request=next(self._numbers), job=job))
        assert isinstance(reply, m.Logs)  # noqa: S101  # narrowed for the type checker
        return reply.lines

    async def _ask(self, question: Question) -> m.ToClient:
        return await self._reply(question, await self._question(question))

    async def _question(self, question: Question) -> asyncio.Future[m.ToClient]:
        reply: asyncio.Future[m.ToClient] = asyncio.get_running_loop().create_future()
        self._asked[question.request] = reply
        await self._link.send(question)
        return reply

    async def _reply(self, question: Question, reply: asyncio.Future[m.ToClient]) -> m.ToClient:
        try:
            return await asyncio.wait_for(reply, REPLY)
        except TimeoutError as error:
            raise errors.WireError(
                f"the master did not answer {type(question).__name__} within {REPLY:.0f} s"
            ) from error
        finally:
            self._asked.pop(question.request, None)

    async def _read(self) -> None:
        over: BaseException = errors.WireError("the master hung up")
        try:
            async for message in self._link:
                self._dispatch(message)
        except errors.WireError as error:
            over = error
        finally:
            for reply in self._asked.values():
                if not reply.done():
                    reply.set_exception(over)
                    reply.exception()  # whoever asked may have gone away; that is no error
            self._pushed.put_nowait(None)

    def _dispatch(self, message: m.ToClient) -> None:
        request = getattr(message, "request", 0)
        if not request:
            self._pushed.put_nowait(message)
        elif (reply := self._asked.get(request)) and not reply.done():
            if isinstance(message, m.Refused):
                kind = errors.named(message.code, errors.WireError)
                reply.set_exception(kind(message.reason))
            else:
                reply.set_result(message)
