"""Which object inside a function or an item cannot be pickled."""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import socket
import threading
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final

import cloudpickle

#: Parts looked at in one object, and steps from the outermost one: past these the search
#: gives up, as it only runs to make a message better.
_WIDTH: Final = 1000
_DEPTH: Final = 12


def blame(value: Any) -> tuple[str, Any]:
    """The innermost part of ``value`` that cannot be pickled by itself.

    Returns:
        The way to it (``global 'pool' > attribute '_lock'``; empty when it is ``value``
        itself), and the part.
    """
    path: list[str] = []
    seen = {id(value)}
    for _ in range(_DEPTH):
        new = ((step, part) for step, part in _parts(value) if id(part) not in seen)
        step, part = next((each for each in new if not pickles(each[1])), ("", value))
        if part is value:
            break
        seen.add(id(part))
        if step:
            path.append(step)
        value = part
    return " > ".join(path), value


def pickles(value: Any) -> bool:
    """Whether ``value`` can be pickled."""
    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001  # the question is only whether
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling ``value`` pickles too, each with the step that leads there."""
    found = _parts_of(value)
    for _, part in zip(range(_WIDTH), found, strict=False):
        yield part


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        yield "", value.func
        yield from _parts_of(value.args)
        yield from ((f"argument {name!r}", part) for name, part in value.keywords.items())
    elif isinstance(value, types.MethodType):
        yield f"the {type(value.__self__).__name__} it is bound to", value.__self__
        yield "", value.__func__
    elif isinstance(value, types.FunctionType):
        yield from _variables(value)
    elif isinstance(value, Mapping):
        yield from ((f"value of {short(key)}", part) for key, part in value.items())
        yield from ((f"key {short(key)}", key) for key in value)
    elif isinstance(value, tuple | list | set | frozenset):
        yield from ((f"element {i}", part) for i, part in enumerate(value))
    elif isinstance(value, type):
        yield from ((f"attribute {name!r}", part) for name, part in vars(value).items())
    else:
        for name, part in getattr(value, "__dict__", {}).items():
            yield f"attribute {name!r}", part
        for cls in type(value).__mro__:
            for name in _slots(cls):
                if hasattr(value, name):
                    yield f"attribute {name!r}", getattr(value, name)


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _variables(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield f"variable {name!r}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in _names(fn.__code__):
        if name in fn.__globals__:
            yield f"global {name!r}", fn.__globals__[name]
    defaults = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
    yield from (("a default", part) for part in defaults)


def _names(code: types.CodeType) -> Iterator[str]:
    """The globals that a function may read, those of functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def hint_for(culprit: Any) -> str:
    """What to do about an object that cannot be pickled."""
    if inspect.isgenerator(culprit):
        return "a generator cannot travel: give list(...) of it, or map over it"
    if inspect.iscoroutine(culprit) or inspect.isasyncgen(culprit):
        return "give the async function itself; the worker awaits what it returns"
    if isinstance(culprit, io.IOBase):
        return "an open file cannot travel: give its path, or its content"
    if isinstance(culprit, socket.socket):
        return "a connection cannot travel: open it inside the function"
    if isinstance(culprit, asyncio.Future | asyncio.AbstractEventLoop):
        return "await it first, and give its result"
    if isinstance(culprit, threading.Thread | type(threading.Lock()) | type(threading.RLock())):
        return "threads and locks cannot travel: make them inside the function"
    return "make it inside the function, or give the plain data that it is made of"


def short(value: Any) -> str:
    """A value in a few words, for messages."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001  # the user's __repr__
        text = "..."
    if len(text) > 80:
        text = text[:77] + "..."
    return text if text.startswith("<") else f"{text} ({type(value).__name__})"
