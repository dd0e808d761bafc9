"""The user's way in: functions and data -> jobs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from dayfly import config as configuration
from dayfly import modules, serialize
from dayfly.client import items
from dayfly.client.channel import JobChannel, JobRequest, Session
from dayfly.client.course import Feed
from dayfly.client.display import Display, Silent, board
from dayfly.client.job import Job
from dayfly.client.options import CallOptions, call_options
from dayfly.clock import Clock, Entropy, SystemClock, SystemEntropy
from dayfly.errors import UsageError
from dayfly.model import JobSpec, LogLine
from dayfly.parts import Parts, open_parts
from dayfly.processes import ThisProcess, name_of
from dayfly.storage.base import Storage

R = TypeVar("R")

#: vCPUs of a worker to reckon with while ``AUTO`` is not resolved: the most that there are,
#: for data that is in memory already, and what is common, for data that takes time to make.
MOST_VCPUS, COMMON_VCPUS = 192, 16

#: Items that are looked into for local modules: those of one map are mostly of a kind.
LOOKED_INTO = 10


class ClosableSession(Session, Protocol):
    """A session that the executor closes."""

    async def aclose(self) -> None:
        """Let go of the master."""
        ...


class FunctionExecutor:
    """Runs functions on VMs that live just as long as the work.

    Use it as an async context manager; leaving it cancels the jobs that still run. Without
    ``async with``, ``await executor.aclose()`` does the same.

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
        self._config = configuration.load(config, config_file, **backend_keys)
        self._show = progress is not False
        self._on_log = on_log
        self._clock = clock or (SystemClock() if parts is None else parts.clock)
        self._entropy = entropy or (SystemEntropy() if parts is None else parts.entropy)
        self._parts = parts
        self._process = ThisProcess() if parts is None else parts.process
        self._session = session
        self._display: Display | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: set[Job[Any]] = set()
        self._closed = False
        self._left = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the jobs that still run, and let go of the master and of storage.

        The VMs that the execution mode promises to keep stay up until their timers fire.
        """
        self._closed = True
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        try:
            await asyncio.gather(*(job.settled() for job in jobs))
        finally:
            session, self._session = self._session, None
            parts, self._parts = self._parts, None
            if session is not None:
                await session.aclose()
            if parts is not None:
                await parts.aclose()

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
        return_exceptions: bool = False,
        include_modules: Sequence[str] | None = None,
        exclude_modules: Sequence[str] | None = None,
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
            return_exceptions: A failed call's exception takes its place in the results; the
                others go on.
            include_modules: Local modules to ship, beside those that ``fn`` refers to.
            exclude_modules: Local modules not to ship.

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
            shape=_as_they_are,
            return_exceptions=return_exceptions,
            options=call_options(extra_env, chunksize, timeout, include_modules, exclude_modules),
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
            shape=_the_only,
            options=CallOptions(),
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
            include_modules=include_modules,
            exclude_modules=exclude_modules,
        )
        return self._begin(
            reduction,
            _OnceMapped(mapped),
            shape=_the_only,
            options=call_options(extra_env, 0, timeout, include_modules, exclude_modules),
        )

    # -- a job's beginning --

    def _begin(
        self,
        function: serialize.FunctionDump,
        iterdata: Iterable[Any] | AsyncIterable[Any],
        *,
        shape: Callable[[list[Any]], R],
        return_exceptions: bool = False,
        options: CallOptions,
    ) -> Job[R]:
        display = self._enter_loop()
        begun = self._clock.now()
        job_id = f"j-{datetime.fromtimestamp(begun, UTC):%Y%m%d-%H%M%S}-{self._entropy.hex(6)}"

        async def connect(feed: Feed, /) -> JobChannel | None:
            first = await feed.source.peek()
            if not first:
                return None
            pickles = [function.payload, *first[:LOOKED_INTO]]
            # Half a millisecond where nothing is found, which is less than a thread costs.
            found = modules.local_modules(
                *pickles, include=options.include, exclude=options.exclude
            )
            archive = await _archive(found, options)
            for warning in archive.warnings:
                display.note(warning)
            request = JobRequest(
                spec=self._spec(job_id, begun, function, options),
                function=function.payload,
                modules=archive.data,
                modules_digest=archive.digest,
            )
            return self._open_session().start(request, feed)

        async def fetch(key: str) -> bytes:
            return await self.storage.get_object(key)

        job = Job(
            id=job_id,
            function=function.name,
            source=items.Source(
                iterdata, serialize.dump_item, first=self._first(iterdata), clock=self._clock
            ),
            connect=connect,
            fetch=fetch,
            shape=shape,
            return_exceptions=return_exceptions,
            display=display,
            on_log=self._on_log,
            on_ended=self._jobs.discard,
            on_abandoned=self._leave,
            clock=self._clock,
        )
        self._jobs.add(job)
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
        self._refuse_when_closed()
        if self._loop not in (None, loop):
            raise UsageError(
                "this executor belongs to another event loop",
                cause="its connection was made by an earlier asyncio.run",
                hint="make the executor in the coroutine that uses it",
            )
        if self._display is None:
            self._loop = loop
            self._display = board(self._clock) if self._show else Silent()
            for warning in self._config.warnings:
                self._display.note(warning)
        return self._display

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise UsageError("this executor is closed", hint="make another one: FunctionExecutor()")

    def _first(self, iterdata: object) -> int:
        """Items from which on every worker has work: they tell how many are needed."""
        compute = self._config.compute
        processes = compute.worker_processes
        if processes == "AUTO":
            processes = MOST_VCPUS if isinstance(iterdata, Sized) else COMMON_VCPUS
        return compute.max_workers * processes

    def _spec(
        self, job: str, begun: float, function: serialize.FunctionDump, options: CallOptions
    ) -> JobSpec:
        """All that is known here; the session fills in what only the cloud knows."""
        compute = self._config.compute
        processes = compute.worker_processes
        return JobSpec(
            id=job,
            function=function.name,
            mode=compute.exec_mode,
            runtime=compute.runtime,
            instance_types=list(compute.worker_instance_types),
            processes=0 if processes == "AUTO" else processes,
            wanted=compute.max_workers,
            policy=self._config.policy,
            submitted_at=begun,
            timeout=options.timeout,
            chunksize=options.chunksize,
            environment=dict(options.environment),
            reserved=function.reserved,
            client=name_of(self._process),
            max_cost=compute.max_cost,
        )

    def _open_parts(self) -> Parts:
        if self._parts is None:
            self._refuse_when_closed()
            self._parts = open_parts(self._config)
        return self._parts

    def _open_session(self) -> ClosableSession:
        if self._session is None:
            from dayfly.client.session import open_session

            self._session = open_session(self._open_parts())
        return self._session

    def _leave(self) -> None:
        """Interrupted while the master was being told: say once what may be left."""
        if self._left:
            return
        self._left = True
        policy = self._config.policy
        bound = (
            f"its timers end that within {policy.hard:.0f} s (hard_dismantle_timeout)"
            if policy.auto
            else "no timer ends that (auto_dismantle: False)"
        )
        left = ", ".join(sorted(job.id for job in self._jobs)) or "a job"
        workers = sum(
            job.progress.workers_ready + job.progress.workers_coming for job in self._jobs
        )
        print(  # noqa: T201  # the program is going; nothing else will say it
            f"dayfly: left at once; {left} may still run on the master and {workers} workers: "
            f"{bound}, or now: dayfly clean -b {self._config.dayfly.backend}",
            file=sys.stderr,
            flush=True,
        )


class _OnceMapped:
    """The one item of a reduction: the list of results, once the map has ended."""

    def __init__(self, mapped: Job[list[Any]]) -> None:
        self._mapped = mapped

    def __len__(self) -> int:
        return 1

    async def __aiter__(self) -> AsyncIterator[list[Any]]:
        yield await self._mapped


async def _archive(found: set[str], options: CallOptions) -> modules.Archive:
    """The local modules by these names; read beside the loop."""
    if not found:
        return modules.Archive()
    return await asyncio.to_thread(modules.archive, found, exclude=options.exclude)


def _as_they_are(results: list[Any]) -> list[Any]:
    return results


def _the_only(results: list[Any]) -> Any:
    return results[0]
