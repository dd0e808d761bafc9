"""Functions, items and outcomes <-> bytes: the only place of the client that pickles.

The other half is ``dayfly/worker/runner.py``, which runs in the user's environment and so
imports none of this. Bytes are read back only once whoever sent them is authenticated:
they come through a :class:`~dayfly.wire.link.Link` or from the cluster's own storage.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import json
import operator
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import cloudpickle
import msgspec

from dayfly import errors
from dayfly.blame import blame, hint_for, pickles, short
from dayfly.errors import (
    CallCancelledError,
    CallCrashedError,
    CallError,
    CallTimeoutError,
    DayflyError,
    RemoteError,
    SerializationError,
    UsageError,
)
from dayfly.model import CallOutcome, OutcomeKind, Try

#: Raised by one whenever the shape of a payload changes.
FORMAT: Final = 1
PROTOCOL: Final = 5
#: Parameters that dayfly fills when a function has them and the item does not.
RESERVED: Final = ("id", "storage", "obj")

Style = Literal["item", "call"]

#: The kinds of nearly every outcome: members of an enumeration are looked up slowly.
VALUE: Final = OutcomeKind.VALUE
STORED: Final = OutcomeKind.STORED


class FunctionDump(msgspec.Struct, frozen=True, kw_only=True):
    """A function as it travels.

    Attributes:
        payload: One line of JSON that the worker checks, then the pickle.
        name: The function's name, for people.
        reserved: The reserved parameters that it takes and that nothing else fills.
    """

    payload: bytes
    name: str
    reserved: list[str]


class RemoteTraceback(Exception):  # noqa: N818  # the cause of an error, not one
    """The traceback of a remote exception, as the ``__cause__`` of its copy here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one call.

    Attributes:
        index: The item's position in the job, from 0.
        value: What the function returned; ``None`` when it failed.
        error: What :meth:`result` raises; ``None`` when it did not fail.
        started: When the call began on the worker, in seconds since the epoch.
        ended: When it ended.
        worker: Who ran it.
        tries: The times before that it was run and failed, where ``retries`` allowed for more.
    """

    index: int
    value: Any = None
    error: Exception | None = None
    started: float = 0.0
    ended: float = 0.0
    worker: str = ""
    tries: tuple[Try, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return self.error is None

    def result(self) -> Any:
        """What the function returned.

        Raises:
            Exception: What the function raised, as its own type.
            CallError: The call failed in another way.
            SerializationError: What it returned cannot be pickled, or not be rebuilt here.
        """
        if self.error is not None:
            raise self.error
        return self.value


def dump_function(
    fn: Callable[..., Any],
    extra_args: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    style: Style = "item",
) -> FunctionDump:
    """Pickle a function.

    Args:
        fn: Anything callable. What belongs to ``__main__`` goes by value.
        extra_args: Positional arguments after those of the item, or keyword arguments.
        style: ``item`` calls it with each item, ``call`` with an ``(args, kwargs)`` pair.

    Raises:
        UsageError: ``fn`` is no function, or ``extra_args`` are no arguments.
        SerializationError: Something cannot be pickled; the message names the object to blame.
    """
    if not callable(fn):
        raise UsageError(
            f"a function is needed, not {short(fn)}",
            cause=f"{type(fn).__name__} objects cannot be called",
        )
    name = function_name(fn)
    if not isinstance(extra_args, tuple | list | Mapping | None):
        raise UsageError(
            f"extra_args of {name} must be a tuple, a list or a dict, not {short(extra_args)}",
            hint=f"extra_args=({short(extra_args)},)",
        )
    keywords = dict(extra_args) if isinstance(extra_args, Mapping) else {}
    extra = keywords or tuple(extra_args or ())
    header = {
        "format": FORMAT,
        "python": list(sys.version_info[:2]),
        "implementation": sys.implementation.name,
        "cloudpickle": cloudpickle.__version__,
        "style": style,
    }
    try:
        body = cloudpickle.dumps((fn, extra), PROTOCOL)
    except Exception as error:  # whatever a __reduce__ of the user's raises
        if pickles(fn):
            raise _unpicklable(f"extra_args of {name}", extra, error) from error
        raise _unpicklable(f"the function {name}", fn, error) from error
    return FunctionDump(
        payload=json.dumps(header).encode() + b"\n" + body,
        name=name,
        reserved=[each for each in _reserved(fn) if each not in keywords],
    )


def function_name(fn: Any) -> str:
    """What people call it: the name of what a partial or a method wraps, or of its class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return str(name).rpartition("<locals>.")[2]


def _reserved(fn: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some of C's functions tell nothing of themselves
        return []
    bound = fn.keywords if isinstance(fn, functools.partial) else {}
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        name
        for name in RESERVED
        if name in parameters and parameters[name].kind in by_keyword and name not in bound
    ]


def dump_item(item: Any, index: int) -> bytes:
    """Pickle one item.

    Raises:
        SerializationError: It cannot be pickled; the message names its index.
    """
    return dump_items((item,), index)[0]


def dump_items(items: Iterable[Any], start: int) -> list[bytes]:
    """Pickle items, the first of which has the index ``start``.

    Raises:
        SerializationError: One cannot be pickled; the message names its index.
    """
    # By value goes what pickle would only name and the worker could not find by that name.
    by_value = bool(cloudpickle.list_registry_pickle_by_value())
    dumps = pickle.dumps
    if not by_value:
        items = list(items)
        with contextlib.suppress(Exception):  # each by itself, then: one is told of by its index
            pickles = [dumps(item, PROTOCOL) for item in items]
            if not any(map(operator.contains, pickles, itertools.repeat(b"__main__"))):
                return pickles
    pickles = []
    for index, item in enumerate(items, start):
        try:
            data = b"" if by_value else dumps(item, PROTOCOL)
        except Exception:  # noqa: BLE001  # tried again, and then told
            data = b""
        if not data or b"__main__" in data:
            try:
                data = cloudpickle.dumps(item, PROTOCOL)
            except Exception as error:
                raise _unpicklable(f"item {index}, {short(item)},", item, error) from error
        pickles.append(data)
    return pickles


def _unpicklable(what: str, value: Any, error: Exception) -> SerializationError:
    path, culprit = blame(value)
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    where = f"{path} is {short(culprit)}; " if path else ""
    return SerializationError(
        f"{what} cannot be pickled",
        cause=where + reason,
        hint=hint_for(culprit),
    )


# -- outcomes --


class _Raised(msgspec.Struct, frozen=True):
    """The line before the pickle of an exception."""

    type: str
    module: str
    message: str
    traceback: str
    index: int = 0

    @property
    def summary(self) -> str:
        kind = self.type if self.module == "builtins" else f"{self.module}.{self.type}"
        return f"{kind}: {self.message}" if self.message else kind


_RAISED: Final = msgspec.json.Decoder(_Raised)


def decode(outcome: CallOutcome, job: str, stored: bytes | memoryview | None = None) -> Outcome:
    """Read an outcome.

    Args:
        outcome: As it came from the master.
        job: The job's id, for the messages.
        stored: What the payload names; needed for STORED alone.
    """
    value: Any = None
    error: Exception | None = None
    kind = outcome.kind
    if kind is VALUE or kind is STORED:
        data = outcome.payload if kind is VALUE else stored
        if data is None:
            raise ValueError(f"call {outcome.index} of job {job}: its value lies in storage")
        try:
            value = pickle.loads(data)  # noqa: S301  # from our own worker
        except Exception as reason:  # noqa: BLE001  # whatever the user's class raises
            error = SerializationError(
                f"{_call(outcome, job)} returned a value that cannot be rebuilt here",
                cause=f"{type(reason).__name__}: {reason}",
                hint="its class must be importable in this program too",
            )
            error.__cause__ = reason
    elif kind is OutcomeKind.RAISED:
        error = _raised(outcome, job)
    else:
        error = _failed(outcome, job)
    if error is not None and outcome.tries:
        total = len(outcome.tries) + 1
        _note(error, *(f"try {n} of {total} {one}" for n, one in enumerate(outcome.tries, 1)))
    return Outcome(
        index=outcome.index,
        value=value,
        error=error,
        started=outcome.started,
        ended=outcome.ended,
        worker=outcome.worker,
        tries=outcome.tries,
    )


def _note(error: Exception, *notes: str) -> None:
    # Not by setattr or add_note: an exception may be sealed, as frozen dataclasses are.
    BaseException.__setattr__(error, "__notes__", [*getattr(error, "__notes__", ()), *notes])


def _call(outcome: CallOutcome, job: str) -> str:
    where = f" on worker {outcome.worker}" if outcome.worker else ""
    return f"call {outcome.index} of job {job}{where}"


def _failed(outcome: CallOutcome, job: str) -> DayflyError:
    call, told = _call(outcome, job), outcome.payload.decode(errors="replace")
    match outcome.kind:
        case OutcomeKind.TIMED_OUT:
            return CallTimeoutError(
                f"{call} ran over its timeout",
                cause=told,
                hint="give it longer by map(..., timeout=SECONDS), or its work in smaller items",
            )
        case OutcomeKind.CRASHED:
            return CallCrashedError(
                f"{call} lost its process", cause=told, hint=f"dayfly logs get {job}"
            )
        case OutcomeKind.CANCELLED:
            return CallCancelledError(f"{call} was cancelled", cause=told)
        case OutcomeKind.UNPICKLABLE:
            return SerializationError(
                f"{call} returned something that cannot be pickled",
                cause=told,
                hint="return plain data, or write it to storage and return the key",
            )
        case _:  # a newer worker's kind
            return CallError(f"{call} failed", cause=told)


def _raised(outcome: CallOutcome, job: str) -> Exception:
    """The exception that a function raised, as itself where that is safe, else RemoteError."""
    line, _, body = outcome.payload.partition(b"\n")
    call = _call(outcome, job)
    try:
        header = _RAISED.decode(line)
    except msgspec.MsgspecError as error:
        return RemoteError(f"{call} raised, but its report cannot be read", cause=str(error))
    raised, lost = _rebuild(body) if body else _by_name(header)
    # Raised here, SystemExit or KeyboardInterrupt would end this program, CancelledError
    # would look like a cancelled await, and StopIteration cannot leave a coroutine.
    if isinstance(raised, Exception) and not isinstance(raised, StopIteration | StopAsyncIteration):
        _note(raised, f"{call} raised this")
        BaseException.__setattr__(raised, "__cause__", RemoteTraceback(header.traceback))
        return raised
    remote = RemoteError(
        f"{call} raised {header.summary}",
        cause=lost or "raised here as itself, it would end this program or upset its event loop",
    )
    remote.__cause__ = RemoteTraceback(header.traceback)
    return remote


def _rebuild(body: bytes) -> tuple[object, str]:
    """What an exception's pickle holds; or ``None``, and why."""
    try:
        return pickle.loads(body), ""  # noqa: S301  # from our own worker
    except Exception as reason:  # noqa: BLE001  # whatever the user's class raises
        return None, f"it cannot be rebuilt here: {type(reason).__name__}: {reason}"


def _by_name(header: _Raised) -> tuple[object, str]:
    """An error of ours, of which the runner knows the name alone; or ``None``, and why."""
    kind = getattr(errors, header.type, None) if header.module == errors.__name__ else None
    if isinstance(kind, type) and issubclass(kind, DayflyError):
        return kind(header.message), ""
    return None, "it cannot be pickled, so it could not travel"


# -- results, for a file --


def dump_results(results: list[Any]) -> bytes:
    """Pickle a list of results, where an exception that cannot be pickled is a RemoteError.

    Raises:
        SerializationError: A value cannot be pickled here, though it could on its worker.
    """
    portable = [_portable(each) if isinstance(each, Exception) else each for each in results]
    try:
        data: bytes = cloudpickle.dumps(portable, PROTOCOL)
    except Exception as error:  # whatever a __reduce__ of the user's raises
        raise SerializationError(
            "the results cannot be pickled again",
            cause=f"{type(error).__name__}: {error}",
            hint="await FunctionExecutor.attach(JOB) has them as they are",
        ) from error
    return data


def _portable(error: Exception) -> Exception:
    """The exception itself, where it comes out of a pickle as it went in."""
    try:
        pickle.loads(cloudpickle.dumps(error, PROTOCOL))  # noqa: S301  # just made here
    except Exception:  # noqa: BLE001  # whatever the user's class raises
        return RemoteError(f"{type(error).__name__}: {error}")
    return error
