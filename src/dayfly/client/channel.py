"""What a job handle needs of the session: the seam between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, TypeAlias

import msgspec

from dayfly.model import JobSpec
from dayfly.wire import messages as m


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """What the session is waiting for before the master can speak for itself.

    Attributes:
        waiting: In words, as the progress line shows it (``2 VMs to answer SSH``).
    """

    waiting: str


#: What comes out of a channel, in order; :class:`~dayfly.wire.messages.JobEnded` is the last.
Event: TypeAlias = Waiting | m.Delivery | m.Logs | m.JobStatus | m.Notice | m.JobEnded


class JobChannel(Protocol):
    """One job's conversation; it survives a broken connection to the master."""

    def events(self) -> AsyncIterator[Event]:
        """What happens to the job, up to and with its end.

        Each delivery comes once and in order, whatever happens to the connection.

        Raises:
            DayflyError: The job cannot be brought to the master, or back from it.
        """
        ...

    async def cancel(self, indices: list[int] | None = None) -> None:
        """Stop the job, or some of its calls.

        Returns when the master has confirmed the end of the job; for some calls, when it has
        been told. Whoever has no patience bounds it.
        """
        ...

    @property
    def entrusted(self) -> bool:
        """Whether all of it was said, so that the master may go on with it alone."""
        ...

    async def handed_over(self) -> bool:
        """Wait until the master has all that the job needs to go on without this program.

        Whoever has no patience bounds it.

        Returns:
            ``False`` when the job has ended instead: its end is among the events.
        """
        ...

    def leave(self) -> bool:
        """The job is its master's from now on: nothing that fails here ends it.

        Returns:
            ``False`` when it has ended already: its end is among the events.
        """
        ...


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the executor hands it to the session; items follow through ``items``."""

    spec: JobSpec
    function: bytes
    #: Zip archive of local modules, and its digest; empty for none.
    modules: bytes = b""
    modules_digest: str = ""
    #: Full names of the modules that the function and its local modules import.
    imports: frozenset[str] = frozenset()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was begun elsewhere, as it is found.

    Attributes:
        function: The function's name, for people.
        single: Whether awaiting it gives the value of its one call, and not a list.
        return_exceptions: Whether failed calls give their exception as result.
        total: Calls in all; ``None`` while the items are still being read.
        channel: What happens to it, from its first outcome on.
    """

    function: str
    single: bool
    return_exceptions: bool
    total: int | None
    channel: JobChannel


class Session(Protocol):
    """Whatever brings jobs to a master."""

    def start(self, request: JobRequest, items: AsyncIterator[list[bytes]]) -> JobChannel:
        """Bring the job to the master, launching what is missing.

        Args:
            request: The job.
            items: The pickled items in order, some at a time. The first batch holds at least
                as many as tell how many workers the job needs: ``max_workers * processes``,
                or all of them, or what a slow source gave within a second.
        """
        ...

    async def attach(self, job: str) -> Found:
        """Find a job that was begun elsewhere, and follow it from its first outcome.

        Raises:
            JobError: Nobody knows it.
            DayflyError: Storage, the cloud or the master could not be asked.
        """
        ...


class ClosableSession(Session, Protocol):
    """A session that the executor closes."""

    async def aclose(self, *, hurried: bool = False) -> None:
        """Let go of the master.

        Args:
            hurried: Whether its user has left at once, and was told what may go on.
        """
        ...
