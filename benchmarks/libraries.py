"""The peers that block while they work, behind one face. Each needs its own library alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.work import PROCESSES

Fn = Callable[[Any], Any]

#: Calls that a pool's iterator hands over together; ``multiprocessing`` would have them one by one.
_STREAMED = 500


class Library(Protocol):
    """Something that calls functions in other processes, warm."""

    def call(self, fn: Fn, item: object) -> object:
        """One call."""
        ...

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        """Many, by the library's own choice of batches."""
        ...


class Streaming(Library, Protocol):
    """One that also hands out results before it has read all of the items."""

    def total(self, fn: Fn, items: Iterable[Any], count: int) -> int:
        """The sum of what the calls return, added up as they come."""
        ...


class _Executor:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def call(self, fn: Fn, item: object) -> object:
        return self._pool.submit(fn, item).result()

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(fn, items))


@contextmanager
def executor(folder: Path) -> Iterator[Library]:  # noqa: ARG001
    """``concurrent.futures``: one call in each message."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(PROCESSES) as pool:
        yield _Executor(pool)


class _Pool:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def call(self, fn: Fn, item: object) -> object:
        return self._pool.apply(fn, (item,))

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(fn, items))

    def total(self, fn: Fn, items: Iterable[Any], count: int) -> int:  # noqa: ARG002
        return sum(self._pool.imap_unordered(fn, items, chunksize=_STREAMED))


@contextmanager
def pool(folder: Path) -> Iterator[Library]:  # noqa: ARG001
    """``multiprocessing.Pool``."""
    import multiprocessing

    pool = multiprocessing.get_context("fork").Pool(PROCESSES)
    try:
        yield _Pool(pool)
    finally:
        pool.terminate()
        pool.join()


class _Joblib:
    def __init__(self, parallel: Any, streaming: Any, delayed: Any) -> None:
        self._parallel = parallel
        self._streaming = streaming
        self._delayed = delayed

    def call(self, fn: Fn, item: object) -> object:
        (result,) = self._parallel([self._delayed(fn)(item)])
        return result

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        call = self._delayed(fn)
        return list(self._parallel(call(item) for item in items))

    def total(self, fn: Fn, items: Iterable[Any], count: int) -> int:  # noqa: ARG002
        call = self._delayed(fn)
        return sum(self._streaming(call(item) for item in items))


@contextmanager
def joblib(folder: Path) -> Iterator[Library]:  # noqa: ARG001
    """Its own kind of pool, loky, which both ways of calling share."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    streaming = Parallel(n_jobs=PROCESSES, return_as="generator_unordered")
    try:
        with Parallel(n_jobs=PROCESSES) as parallel:
            yield _Joblib(parallel, streaming, delayed)
    finally:
        get_reusable_executor().shutdown(wait=True)


class _Mpire:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def call(self, fn: Fn, item: object) -> object:
        # Workers that begin with `apply` fail in a `map` of the same function.
        (result,) = self._pool.map(fn, [item])
        return result

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(fn, items))

    def total(self, fn: Fn, items: Iterable[Any], count: int) -> int:
        calls = self._pool.imap_unordered(
            functools.partial(
                fn
            ),  # workers take a function that they have mapped for that map again
            items,
            iterable_len=count,
            chunk_size=_STREAMED,
            max_tasks_active=PROCESSES * 4 * _STREAMED,
        )
        return sum(calls)


@contextmanager
def mpire(folder: Path) -> Iterator[Library]:  # noqa: ARG001
    """A pool whose workers are kept from map to map."""
    from mpire import WorkerPool

    with WorkerPool(PROCESSES, keep_alive=True) as pool:
        yield _Mpire(pool)


class _Ray:
    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote: dict[Fn, Any] = {}

    def _function(self, fn: Fn) -> Any:
        if fn not in self._remote:
            self._remote[fn] = self._ray.remote(fn)
        return self._remote[fn]

    def call(self, fn: Fn, item: object) -> object:
        return self._ray.get(self._function(fn).remote(item))

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        function = self._function(fn)
        return list(self._ray.get([function.remote(item) for item in items]))


@contextmanager
def ray(folder: Path) -> Iterator[Library]:
    """A cluster of its own, without a dashboard."""
    import ray

    ray.init(
        address="local",
        num_cpus=PROCESSES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(folder / "ray"),
    )
    try:
        yield _Ray(ray)
    finally:
        ray.shutdown()


class _Dask:
    def __init__(self, client: Any) -> None:
        self._client = client

    def call(self, fn: Fn, item: object) -> object:
        return self._client.submit(fn, item, pure=False).result()

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        return list(self._client.gather(self._client.map(fn, items, pure=False)))


@contextmanager
def dask(folder: Path) -> Iterator[Library]:
    """A scheduler and four workers of one thread."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=PROCESSES,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(folder),
            silence_logs="ERROR",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield _Dask(client)


class _Parsl:
    def __init__(self, python_app: Any) -> None:
        self._python_app = python_app
        self._apps: dict[Fn, Any] = {}

    def _app(self, fn: Fn) -> Any:
        if fn not in self._apps:
            self._apps[fn] = self._python_app(fn)
        return self._apps[fn]

    def call(self, fn: Fn, item: object) -> object:
        return self._app(fn)(item).result()

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        app = self._app(fn)
        return [future.result() for future in [app(item) for item in items]]


@contextmanager
def parsl(folder: Path) -> Iterator[Library]:
    """Its high-throughput executor: an interchange, a manager and four workers."""
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    htex = HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=PROCESSES,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    config = Config(executors=[htex], run_dir=str(folder / "parsl"), usage_tracking=0)
    with parsl.load(config):
        yield _Parsl(parsl.python_app)


class _Lithops:
    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def call(self, fn: Fn, item: object) -> object:
        return self._executor.get_result(self._executor.call_async(fn, (item,)))

    def map(self, fn: Fn, items: Sequence[Any]) -> list[Any]:
        futures = self._executor.map(fn, list(items))
        return list(self._executor.get_result(futures))


@contextmanager
def lithops(folder: Path) -> Iterator[Library]:  # noqa: ARG001
    """Its localhost backend and storage, as they are by default; its files go with the folder."""
    import lithops

    config = {
        "lithops": {"backend": "localhost", "storage": "localhost", "data_cleaner": False},
        "localhost": {"worker_processes": PROCESSES},
    }
    with lithops.FunctionExecutor(config=config, log_level=None) as executor:
        yield _Lithops(executor)


#: By the peer's name.
OPEN: Final[Mapping[str, Callable[[Path], AbstractContextManager[Library]]]] = {
    "executor": executor,
    "pool": pool,
    "joblib": joblib,
    "mpire": mpire,
    "ray": ray,
    "dask": dask,
    "parsl": parsl,
    "lithops": lithops,
}
