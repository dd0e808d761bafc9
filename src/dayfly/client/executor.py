"""The user's way in: functions and data -> jobs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from dayfly import serialize
from dayfly.client import items
from dayfly.client.channel import ClosableSession, JobChannel
from dayfly.client.display import Display, Silent, board
from dayfly.client.job import Job
from dayfly.client.keeper import Keeper
from dayfly.client.leaving import leave_all, left_at_once
from dayfly.client.options import CallOptions, call_options
from dayfly.client.parties import Connect, GiveUp, Items
from dayfly.client.requests import first_items, job_request, job_spec
from dayfly.clock import Clock, Entropy, SystemClock, SystemEntropy
from dayfly.errors import JobError, UsageError
from dayfly.model import LogLine
from dayfly.parts import Parts, open_parts
from dayfly.phases import CLIENT, Timeline
from dayfly.processes import ThisProcess, name_of
from dayfly.storage.base import Storage

R = TypeVar("R")


class FunctionExecutor:
    """Runs functions on VMs that live just as long as the work.

    Use it as an async context manager; leaving it cancels the jobs that still run, but for those
    that were detached or attached to. Without ``async with``, ``await executor.aclose()`` does the
    same.

    Args:
        config: The configuration as a mapping of sections.
        config_file: Or a file to read it from. Without either it is looked for in
            ``$DAYFLY_CONFIG``, ``$DAYFLY_CONFIG_FILE``, ``./.dayfly_config``,
            ``~/.dayfly/config`` and ``/etc/dayfly/config``.
        progress: ``False`` shows nothing; else a live line in a terminal, a table in a
            notebook, plain lines elsewhere, and the lines that functions print.
        on_log: Called on the event loop with each line that a function prints or logs.
        session: What brings jobs to a master; by default made from the parts.
        parts: Cloud, storage and what else is worked with; by default those of the
            configuration. The executor closes them.
        clock: Where time comes from; by default the parts' own.
        entropy: Where chance comes from; likewise.
        backend_keys: Any key of the backend's section.

    Raises:
        ConfigError: The configuration is refused; nothing has been launched.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        config_file: str | Path | None = None,
        *,
        progress: bool | None = None,
        on_log: Callable[[LogLine], None] | None = None,
        session: ClosableSession | None = None,
        parts: Parts | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        **backend_keys: Any,
    ) -> None:
        from dayfly.config import load  # where it is read; to import dayfly takes half as long

        self._config = load(config, config_file, **backend_keys)
        self._show = progress is not False
        self._on_log = on_log
        self._clock = clock or (SystemClock() if parts is None else parts.clock)
        self._entropy = entropy or (SystemEntropy() if parts is None else parts.entropy)
        self._timeline = Timeline(self._clock) if parts is None else parts.timeline
        self._parts = parts
        self._process = ThisProcess() if parts is None else parts.process
        self._session = session
        self._display: Display | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: dict[Job[Any], None] = {}
        self._closing = self._closed = self._left = False

    @classmethod
    async def attach(
        cls,
        job_id: str,
        config: Mapping[str, Any] | None = None,
        config_file: str | Path | None = None,
        **keys: Any,
    ) -> Job[Any]:
        """Take up a job again that was begun elsewhere: by another program, or on another machine.

        It may run, or be over, with or without VMs that are still there: all of its outcomes come,
        each once. While it runs, an attached client counts as one of its own: it launches workers
        in place of those that are lost, and awaiting it, or cancelling that, does what it does for
        the client that began it. Leaving it does not cancel it.

        Args:
            job_id: The job's ``id``, as it was printed and as ``dayfly job list`` shows it.
            config: As for the class, like all that follow.
            config_file: Likewise.
            keys: Likewise.

        Returns:
            The job; await it for what its first client would have got. It lets go of what it
            holds when it is over; before that, ``await job.aclose()`` or ``async with job`` does.

        Raises:
            JobError: Nobody knows such a job.
            DayflyError: Storage, the cloud or the master could not be asked.
        """
        executor = cls(config, config_file, **keys)
        keeper = Keeper(executor.aclose)
        try:
            job = await executor._take_up(job_id, keeper.let_go)
        except BaseException:
            await executor.aclose()
            raise
        keeper.keep(job)
        return job

    async def reattach(self, job_id: str) -> Job[Any]:
        """Take up a job again, as :meth:`attach` does, by this executor.

        Raises:
            JobError: Nobody knows such a job.
            DayflyError: Storage, the cloud or the master could not be asked.
        """
        return await self._take_up(job_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, _: object) -> None:
        try:
            await self.aclose()
        except JobError as untold:
            if error is None:
                raise
            error.add_note(str(untold))  # what ends the block goes on, a cancellation most of all

    async def aclose(self) -> None:
        """Cancel the jobs that still run, and let go of the master and of storage.

        Jobs that were detached go on, once the master has all of their items and workers; those
        that were attached to are left as they are. The VMs that the execution mode promises to
        keep stay up until their timers fire.

        Raises:
            JobError: A detached job could not be handed over; it tells what may become of it.
        """
        self._closing = True
        try:
            await leave_all(list(self._jobs))
        finally:
            self._closed = True
            session, self._session = self._session, None
            parts, self._parts = self._parts, None
            async with AsyncExitStack() as opened:
                if parts is not None:
                    opened.push_async_callback(parts.aclose)
                if session is not None:
                    opened.push_async_callback(session.aclose, hurried=self._left)

    @property
    def storage(self) -> Storage:
        """The storage of the configuration, for your own objects too."""
        return self._open_parts().storage

    def map(
        self,
        fn: Callable[..., R],
        iterdata: Iterable[Any] | AsyncIterable[Any],
        *,
        extra_args: Sequence[Any] | Mapping[str, Any] | None = None,
        extra_env: Mapping[str, str] | None = None,
        chunksize: int = 0,
        timeout: float | None = None,
        retries: int = 0,
        return_exceptions: bool = False,
        include_modules: Sequence[str] | None = None,
        exclude_modules: Sequence[str] | None = None,
        detach: bool = False,
    ) -> Job[list[R]]:
        """Call ``fn`` once for each item, on the workers; begins at once.

        Args:
            fn: Anything callable; a coroutine function's result is awaited on the worker.
            iterdata: The items. A tuple becomes positional arguments, a dict keyword
                arguments, anything else the first argument. Generators and async iterators
                are read as the work goes on.
            extra_args: For every call: a sequence goes after the item's positional arguments,
                a mapping becomes keyword arguments.
            extra_env: Environment variables of every call.
            chunksize: Calls handed to a worker together; 0 lets the master size them.
            timeout: Seconds that one call may run.
            retries: How many more times a call is run that raised, ran over its timeout or lost
                its process: on another worker if one is free within a minute. Only its last
                try counts; that one's error, or :class:`Outcome`, tells of the others.
            return_exceptions: A failed call's exception takes its place in the results; the
                others go on.
            include_modules: Local modules to ship, beside those that ``fn`` refers to.
            exclude_modules: Local modules not to ship.
            detach: The job runs to its end under its timers when this program goes; leaving the
                executor waits only until the master has all items and workers, and raises if it
                cannot have them. :meth:`attach` or ``dayfly job result`` gets the results.

        Returns:
            The job; await it for the results, in the order of the items.

        Raises:
            UsageError: An argument cannot be worked with, or no event loop runs.
            SerializationError: ``fn`` or ``extra_args`` cannot be pickled.
        """
        items.check(iterdata)
        return self._begin(
            serialize.dump_function(fn, extra_args),
            iterdata,
            call_options(
                extra_env,
                chunksize,
                timeout,
                retries,
                include_modules,
                exclude_modules,
                return_exceptions=return_exceptions,
                detach=detach,
            ),
        )

    def submit(self, fn: Callable[..., R], *args: Any, **kwargs: Any) -> Job[R]:
        """Call ``fn(*args, **kwargs)`` once, on a worker; begins at once.

        Returns:
            The job; await it for what ``fn`` returns.

        Raises:
            UsageError: No event loop runs.
            SerializationError: ``fn`` cannot be pickled.
        """
        return self._begin(
            serialize.dump_function(fn, style="call"),
            [(args, kwargs)],
            CallOptions(single=True),
        )

    def map_reduce(
        self,
        fn: Callable[..., Any],
        iterdata: Iterable[Any] | AsyncIterable[Any],
        reduce_fn: Callable[[list[Any]], R],
        *,
        extra_args: Sequence[Any] | Mapping[str, Any] | None = None,
        extra_env: Mapping[str, str] | None = None,
        chunksize: int = 0,
        timeout: float | None = None,
        retries: int = 0,
        include_modules: Sequence[str] | None = None,
        exclude_modules: Sequence[str] | None = None,
    ) -> Job[R]:
        """Map, then call ``reduce_fn`` with the list of results, on a worker too.

        The arguments are those of :meth:`map`; ``extra_args`` go to ``fn`` alone.

        Returns:
            The job of the reduction; await it for what ``reduce_fn`` returns. It begins when
            the map has ended, fails as the map fails, and cancels the map when cancelled.

        Raises:
            UsageError: An argument cannot be worked with, or no event loop runs.
            SerializationError: A function or ``extra_args`` cannot be pickled.
        """
        reduction = serialize.dump_function(reduce_fn)
        mapped = self.map(
            fn,
            iterdata,
            extra_args=extra_args,
            extra_env=extra_env,
            chunksize=chunksize,
            timeout=timeout,
            retries=retries,
            include_modules=include_modules,
            exclude_modules=exclude_modules,
        )
        return self._begin(
            reduction,
            items.Once(mapped),
            call_options(
                extra_env, 0, timeout, retries, include_modules, exclude_modules, single=True
            ),
        )

    # -- a job's beginning --

    def _begin(
        self,
        function: serialize.FunctionDump,
        iterdata: Iterable[Any] | AsyncIterable[Any],
        options: CallOptions,
    ) -> Job[Any]:
        display = self._enter_loop()
        begun = self._clock.now()
        job_id = f"j-{datetime.fromtimestamp(begun, UTC):%Y%m%d-%H%M%S}-{self._entropy.hex(6)}"
        source = items.Source(
            iterdata,
            serialize.dump_items,
            first=first_items(self._config, iterdata),
            clock=self._clock,
            # What the master does not have when this program goes, it never gets.
            ahead=sys.maxsize if options.detach else items.AHEAD,
        )

        async def connect(give_up: GiveUp, /) -> JobChannel | None:
            with self._timeline.during(CLIENT, "function and items"):
                if not (first := await source.peek()):
                    return None
                by = name_of(self._process)
                spec = job_spec(self._config, job_id, function, options, at=begun, by=by)
                request = await job_request(spec, function, first, options, display.note)
            return self._open_session().start(request, items.Feed(source, give_up))

        return self._follow(
            job_id,
            function.name,
            source,
            connect,
            display=display,
            single=options.single,
            return_exceptions=options.return_exceptions,
            lasting=options.detach,
        )

    async def _take_up(
        self, job_id: str, close: Callable[[], Awaitable[None]] | None = None
    ) -> Job[Any]:
        """Follow a job that was begun elsewhere."""
        display = self._enter_loop()
        found = await self._open_session().attach(job_id)

        async def connect(_: GiveUp, /) -> JobChannel:
            return found.channel

        return self._follow(
            job_id,
            found.function,
            items.Elsewhere(found.total),
            connect,
            display=display,
            single=found.single,
            return_exceptions=found.return_exceptions,
            lasting=True,
            close=close,
        )

    def _follow(
        self,
        job_id: str,
        function: str,
        source: Items,
        connect: Connect,
        *,
        display: Display,
        single: bool,
        return_exceptions: bool,
        lasting: bool,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> Job[Any]:
        async def fetch(key: str) -> bytes:
            return await self.storage.get_object(key)

        job: Job[Any] = Job(
            id=job_id,
            function=function,
            source=source,
            connect=connect,
            fetch=fetch,
            single=single,
            return_exceptions=return_exceptions,
            lasting=lasting,
            close=close,
            display=display,
            on_log=self._on_log,
            on_ended=lambda job: self._jobs.pop(job, None),
            on_abandoned=self._leave,
            clock=self._clock,
            timeline=self._timeline,
        )
        self._jobs[job] = None
        return job

    def _enter_loop(self) -> Display:
        """Check that a job can begin here and now, and give the loop's display."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise UsageError(
                "map() and submit() begin at once, and no event loop is running to begin on",
                cause="they were called outside of a coroutine",
                hint="async def main(): ... await executor.map(fn, data), then asyncio.run(main())",
            ) from error
        self._refuse_when_closed(self._closing)
        if self._loop not in (None, loop):
            raise UsageError(
                "this executor belongs to another event loop",
                cause="its connection was made by an earlier asyncio.run",
                hint="make the executor in the coroutine that uses it",
            )
        if self._display is None:
            self._loop, self._display = loop, board(self._clock) if self._show else Silent()
            for warning in self._config.warnings:
                self._display.note(warning)
        return self._display

    def _refuse_when_closed(self, closed: bool) -> None:
        if closed:
            raise UsageError("this executor is closed", hint="make another one: FunctionExecutor()")

    def _open_parts(self) -> Parts:
        if self._parts is None:
            self._refuse_when_closed(self._closed)
            self._parts = open_parts(self._config, self._timeline)
        return self._parts

    def _open_session(self) -> ClosableSession:
        if self._session is None:
            with self._timeline.during(CLIENT, "modules imported"):
                from dayfly.client.session import open_session

                self._session = open_session(self._open_parts())
        return self._session

    def _leave(self) -> None:
        """Interrupted while the master was being told: say once what may be left."""
        if self._left:
            return
        self._left = True
        text = left_at_once(self._config.policy, list(self._jobs), self._config.dayfly.backend)
        print(text, file=sys.stderr, flush=True)  # noqa: T201  # nothing else will say it
