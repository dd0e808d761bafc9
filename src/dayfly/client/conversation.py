"""The one conversation with the master that every job of an executor shares.

When it breaks (the master's service or VM went down, the laptop slept) it is taken up again:
what had been said is said again, and deliveries go on from the last number that came. The
master knows a repeated word by its job and its place, and passes over it. What was over before
that is read from storage, and no VM is started for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from dayfly import errors
from dayfly.client.ascent import Ascender, Ascent
from dayfly.client.channel import Event, JobRequest, Waiting
from dayfly.client.leaving import may_go_on
from dayfly.client.received import Received
from dayfly.client.supply import Supply
from dayfly.clock import Clock
from dayfly.model import JobState
from dayfly.wire import messages as m

log = logging.getLogger(__name__)

#: Times that a conversation which breaks while it is being taken up is taken up again.
RESUMES = 5
#: Seconds between two attempts while the cloud cannot be asked: a laptop that has just been woken
#: may be without a network for a while.
PAUSE = 2.0


class Teller(Protocol):
    """Whoever can say something to the master on a job's behalf."""

    async def tell(
        self, channel: Channel, message: m.FromClient, *, remember: bool = False
    ) -> None:
        """See :meth:`Conversation.tell`."""
        ...

    async def confirm(self, channel: Channel) -> bool:
        """Wait until the master has all that was said of a job, and its workers.

        Returns:
            ``False`` when the job has ended instead.
        """
        ...


class Channel:
    """One job's part of it, as the handle sees it (:class:`dayfly.client.channel.JobChannel`).

    Attributes:
        said: What the master must know of the job, in order; said again after a break.
        last: Number of the last delivery that came, of those of ``journal``.
        journal: What numbers them.
        attached: Whether another client began the job.
        withdrawn: Calls that were cancelled before it was submitted.
        cancelled: Whether the whole job is to stop.
        left: Whether it goes on without this client.
        supply: Its workers, once it is known how many it needs.
        launching: Whether a launch for it is under way.
        owed: Workers that the master asked for meanwhile.
        consoles: How many of its silent workers' consoles were read.
        staffed: Whether its workers are here, and none is on its way.
        task: Whatever brings the job to the master.
    """

    def __init__(self, teller: Teller, request: JobRequest, *, attached: bool = False) -> None:
        self._teller = teller
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._heard = True
        self.request = request
        self.attached = attached
        self.said: list[m.FromClient] = []
        self.last = 0
        self.journal = ""
        self._received = Received()
        self.withdrawn: list[int] = []
        self.cancelled = self.left = False
        self._over = asyncio.Event()
        self.supply: Supply | None = None
        self.launching = False
        self.owed = self.consoles = 0
        self.staffed = False
        self.task: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.request.spec.id

    @property
    def lasting(self) -> bool:
        """Whether it may go on without this client."""
        return self.attached or self.request.spec.detach

    @property
    def ended(self) -> bool:
        """Whether the last event has been queued."""
        return self._over.is_set()

    async def events(self) -> AsyncIterator[Event]:
        """See :meth:`dayfly.client.channel.JobChannel.events`."""
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, m.JobEnded):
                    return
        finally:
            # A job that was left may go on for hours, and nobody takes what comes of it here.
            self._heard, self._events = False, asyncio.Queue()

    async def cancel(self, indices: list[int] | None = None) -> None:
        """See :meth:`dayfly.client.channel.JobChannel.cancel`."""
        if self.ended:
            return
        if indices is None:
            self.cancelled = True
            if self.task is not None and not self.task.done():
                self.task.cancel()
                await asyncio.wait([self.task])
            if not self.submitted:
                self.end(m.JobEnded(job=self.id, state=JobState.CANCELLED, after=0))
                return
            await self._teller.tell(self, m.Cancel(job=self.id))
            await self._over.wait()
        elif self.submitted:
            await self._teller.tell(self, m.Cancel(job=self.id, indices=indices), remember=True)
        else:
            self.withdrawn += indices

    @property
    def submitted(self) -> bool:
        """Whether the master is told of the job itself, and not of its workers alone."""
        return self.attached or any(isinstance(word, m.Submit) for word in self.said)

    @property
    def entrusted(self) -> bool:
        """See :attr:`dayfly.client.channel.JobChannel.entrusted`."""
        return self.attached or any(isinstance(word, m.ItemsEnd) for word in reversed(self.said))

    async def handed_over(self) -> bool:
        """See :meth:`dayfly.client.channel.JobChannel.handed_over`."""
        if self.attached:
            return True
        if self.task is not None:
            await asyncio.wait([self.task])
        return await self._teller.confirm(self)

    def leave(self) -> bool:
        """See :meth:`dayfly.client.channel.JobChannel.leave`."""
        self.left = not self.ended
        return self.left

    def talks_to(self, journal: str) -> None:
        """Deliveries are numbered by this journal from now on.

        A master whose disk is gone has taken its outcomes along: the next one runs the job again.
        A power cut may have cost it its last moments. Either way all is sent again, and only
        what is new is taken.
        """
        if self.journal != journal:
            self.journal, self.last = journal, 0

    def deliver(self, delivery: m.Delivery) -> None:
        """Queue what is new of a delivery; others have come before."""
        if delivery.number != self.last + 1:
            return
        self.last = delivery.number
        fresh = self._received.fresh(delivery.outcomes)
        if len(fresh) < len(delivery.outcomes):
            delivery = msgspec.structs.replace(delivery, outcomes=fresh)
        if fresh:
            self.emit(delivery)

    def emit(self, event: Event) -> None:
        """Queue an event for the handle."""
        if self._heard and not self.ended:
            self._events.put_nowait(event)

    def end(self, event: m.JobEnded) -> None:
        """Queue the last event."""
        self.emit(event)
        self._over.set()

    def fail(self, error: BaseException) -> None:
        """The job cannot be brought to the master, or back from it."""
        if self._heard and not self.ended:
            self._events.put_nowait(error)
        self._over.set()


class Conversation:
    """Keeps the master's door open for as long as jobs need it."""

    def __init__(
        self,
        ascender: Ascender,
        channels: dict[str, Channel],
        heard: Callable[[m.ToClient], Awaitable[None]],
        *,
        recall: Callable[[Channel], Awaitable[bool]],
        renewed: Callable[[], None],
        given_up: Callable[[Channel], None],
        patience: float,
        clock: Clock,
    ) -> None:
        """Nothing happens before the first word.

        Args:
            ascender: Brings the master up.
            channels: The jobs that are open, by id; those that fail here are taken out.
            heard: Called with each thing that the master says unasked, in order.
            recall: Ends a job that is over by what storage remembers of it, if that can be done.
            renewed: Called when the master is another one than before, or has been booted: it may
                not know of the workers that are up.
            given_up: Called with each job that ends because the master cannot be had.
            patience: Seconds for which the cloud may not answer once a conversation broke.
            clock: Time.
        """
        self._ascender = ascender
        self._channels = channels
        self._heard = heard
        self._recall = recall
        self._renewed = renewed
        self._given_up = given_up
        self._patience = patience
        self._clock = clock
        self._ascent: Ascent | None = None
        self._journal = ""
        self._ascending = asyncio.Lock()
        #: More than one only while an older one still lets go of its master.
        self._listeners: set[asyncio.Task[None]] = set()
        self._closed = False
        #: Jobs that were given up here, and that the master may not have been told to stop.
        self._withdrawn: set[str] = set()

    @property
    def withdrawing(self) -> bool:
        """Whether the master is still to be told to stop a job."""
        return bool(self._withdrawn)

    @property
    def open(self) -> bool:
        """Whether the master is being talked to."""
        return self._ascent is not None

    def has_others(self, channel: Channel) -> bool:
        """Whether another job than this one is open."""
        return any(not each.ended for each in self._channels.values() if each is not channel)

    async def tell(
        self, channel: Channel, message: m.FromClient, *, remember: bool = False
    ) -> None:
        """Say something to the master, bringing it up if need be.

        Args:
            channel: Whose job it is about.
            message: What to say.
            remember: Say it again after a break.

        Raises:
            DayflyError: The master cannot be brought up.
        """
        ascent = await self.ascent()
        if remember:
            channel.talks_to(ascent.door.journal)
            channel.said.append(message)
        with suppress(errors.WireError):  # the listener sees the break too, and mends it
            await ascent.door.send(message)

    async def withdraw(self, job: str) -> bool:
        """Have the master stop a job that was given up here.

        Returns:
            Whether it could be told now; else it is when the conversation is taken up again.
        """
        self._withdrawn.add(job)
        if self._ascent is None:
            return False
        with suppress(errors.WireError):
            await self._ascent.door.send(m.Cancel(job=job))
            return True
        return False

    async def tell_withdrawn(self) -> None:
        """Have the master stop all that was given up here, bringing it up if need be.

        Raises:
            DayflyError: It cannot be told.
        """
        await self._tell_withdrawn(await self.ascent())

    async def stopped(self, job: str) -> None:
        """The master says that a job which was given up here is over, or unknown to it."""
        if job in self._withdrawn:
            self._withdrawn.discard(job)
            if self._ascent is not None:
                with suppress(errors.WireError):
                    await self._ascent.door.send(m.Release(job=job))

    async def ascent(self) -> Ascent:
        """The master, up and listened to.

        Raises:
            DayflyError: It cannot be brought up.
        """
        asked = self._clock.monotonic()
        async with self._ascending:
            self._refuse_when_closed()
            if self._ascent is None:
                ascent = await self._take_up(asked)
                try:
                    self._refuse_when_closed()  # which may have come meanwhile
                except errors.WireError:
                    await ascent.aclose()
                    raise
                self._ascent = ascent
                before, self._journal = self._journal, ascent.door.journal
                if before not in {"", self._journal}:
                    self._renewed()
                listener = asyncio.create_task(self._listen(ascent), name="dayfly listener")
                self._listeners.add(listener)
                listener.add_done_callback(self._listeners.discard)
            return self._ascent

    async def aclose(self) -> None:
        """Hang up, for good."""
        self._closed = True
        listeners = list(self._listeners)
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        if self._ascent is not None:  # its listener had not begun
            await self._ascent.aclose()
            self._ascent = None

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise errors.WireError("the executor was closed")

    async def _take_up(self, asked: float) -> Ascent:
        for attempt in range(1, RESUMES + 1):
            # For those who only listen no master is launched: a new one would know no job.
            launch = any(not channel.attached for channel in self._channels.values())
            ascent = await self._ascender.ascend(self._told, launch=launch, asked=asked)
            try:
                await self._resume(ascent)
            except BaseException as error:
                await ascent.aclose()
                if attempt == RESUMES or not isinstance(error, errors.WireError):
                    raise
                asked = self._clock.monotonic()  # it was there just now
            else:
                return ascent
        raise AssertionError  # the last attempt returns or raises

    async def _resume(self, ascent: Ascent) -> None:
        await self._tell_withdrawn(ascent)
        for channel in list(self._channels.values()):
            if channel.ended or not channel.said:
                continue
            channel.talks_to(ascent.door.journal)
            for message in channel.said:
                await ascent.door.send(message)
            if not channel.submitted:
                continue  # its workers were quicker; it is submitted, and so followed, after this
            await ascent.door.send(m.Follow(job=channel.id, after=channel.last))
            if channel.cancelled:
                await ascent.door.send(m.Cancel(job=channel.id))

    async def _tell_withdrawn(self, ascent: Ascent) -> None:
        for job in list(self._withdrawn):
            await ascent.door.send(m.Cancel(job=job))
            with suppress(errors.JobError):  # it knows none such
                await ascent.door.describe(job)  # the answer says that the other was heard
            self._withdrawn.discard(job)

    def _told(self, waiting: str) -> None:
        for channel in self._channels.values():
            channel.emit(Waiting(waiting=waiting))

    async def _listen(self, ascent: Ascent) -> None:
        try:
            try:
                async for message in ascent.door.pushed():
                    await self._heard(message)
            finally:
                # Whatever ended it: what nobody listens to is not open.
                self._ascent = None
                await ascent.aclose()
            await self._mend()
        except Exception as error:
            # A fault of ours must not leave whoever awaits a job without an answer.
            self._fail(error)
            raise

    async def _mend(self) -> None:
        """Take the conversation up again, for the jobs that are not over."""
        until = self._clock.monotonic() + self._patience
        if self._channels:
            log.warning("the conversation with the master broke; taking it up again")
        while await self._any_open():
            try:
                await self.ascent()
            except (errors.DeniedError, errors.InstanceNotFoundError) as error:
                self._fail(error)
            except errors.CloudError as error:
                if self._clock.monotonic() >= until:
                    self._fail(error)
                await self._clock.sleep(PAUSE)
            except errors.DayflyError as error:
                self._fail(error)
            else:
                return

    async def _any_open(self) -> bool:
        """Whether a job is left that was not over before."""
        for channel in list(self._channels.values()):
            if channel.said and not channel.ended:
                await self._recall(channel)
        return any(not channel.ended for channel in self._channels.values())

    def _fail(self, error: Exception) -> None:
        """The master cannot be had: whoever awaits a job here is told, which may go on there."""
        for channel in list(self._channels.values()):
            del self._channels[channel.id]
            if channel.ended:
                continue
            if channel.task is not None:
                channel.task.cancel()
            if channel.said:
                error.add_note(may_go_on(channel.id))
                if not channel.lasting:
                    self._withdrawn.add(channel.id)
            channel.fail(error)
            self._given_up(channel)
