"""Functions, items and outcomes <-> bytes; the far end is a process with the real runner."""

from __future__ import annotations

import asyncio
import base64
import functools
import itertools
import json
import operator
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dayfly import errors
from dayfly.model import CallOutcome, OutcomeKind, Try
from dayfly.serialize import (
    FunctionDump,
    Outcome,
    RemoteTraceback,
    decode,
    dump_function,
    dump_item,
    dump_items,
    function_name,
)

SRC = Path(__file__).parents[2] / "src"
TESTS = SRC.parent / "tests" / "unit"

#: Reads one line of JSON, answers with one line; the agent's part of the work is left out.
FAR_END = """
import base64, json, sys
from dayfly.worker import runner
for line in sys.stdin:
    ask = json.loads(line)
    facts = {"timed": False, "environment": {}, "reserved": ask["reserved"], "modules": ""}
    job = runner.Job(facts, memoryview(base64.b64decode(ask["function"])))
    answers = []
    for index, item in enumerate(ask["items"]):
        try:
            job.load()
            value = job.call(runner.pickle.loads(base64.b64decode(item)), {"id": index})
        except BaseException as error:
            kind, payload = 2, runner.raised(error, index)
        else:
            try:
                kind, payload = 0, runner.dumps(value)
            except Exception as error:
                kind, payload = 6, str(error).encode()
        answers.append([kind, base64.b64encode(payload).decode()])
    print(json.dumps(answers), flush=True)
"""


class FarEnd:
    """Another interpreter, which has not imported what this one has."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def map(self, fn: Callable[..., Any], items: list[Any], extra: Any = None) -> list[Outcome]:
        return self.send(dump_function(fn, extra), items)

    def send(self, function: FunctionDump, items: list[Any]) -> list[Outcome]:
        ask = {
            "function": base64.b64encode(function.payload).decode(),
            "items": [base64.b64encode(data).decode() for data in dump_items(items, 0)],
            "reserved": function.reserved,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(ask) + "\n")
        self._process.stdin.flush()
        return [
            decode(
                CallOutcome(
                    index, OutcomeKind(kind), base64.b64decode(payload), 1.0, 2.0, "worker-1"
                ),
                "j-1",
            )
            for index, (kind, payload) in enumerate(json.loads(self._process.stdout.readline()))
        ]

    def values(self, fn: Callable[..., Any], items: list[Any], extra: Any = None) -> list[Any]:
        return [outcome.result() for outcome in self.map(fn, items, extra)]

    def error(self, fn: Callable[..., Any], item: Any) -> BaseException:
        (outcome,) = self.map(fn, [item])
        assert outcome.error is not None
        return outcome.error


@pytest.fixture(scope="module")
def far() -> Iterator[FarEnd]:
    with subprocess.Popen(
        [sys.executable, "-c", FAR_END],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{SRC}:{TESTS}:{SRC.parent}"},
    ) as process:
        yield FarEnd(process)


# -- functions of every kind --


def double(x: int) -> int:
    return 2 * x


def countdown(n: int) -> int:
    return n and countdown(n - 1) + 1


class Scaler:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, x: int) -> int:
        return self.by * x

    def scale(self, x: int) -> int:
        return self.by * x


def test_functions_of_every_kind_arrive(far: FarEnd) -> None:
    factor = 3
    assert far.values(double, [1, 2]) == [2, 4]
    assert far.values(lambda x: factor * x, [1, 2]) == [3, 6]
    assert far.values(functools.partial(operator.mul, 5), [2]) == [10]
    assert far.values(countdown, [50]) == [50]
    assert far.values(Scaler(7), [2]) == [14]
    assert far.values(Scaler(8).scale, [2]) == [16]
    assert far.values(str.upper, ["a"]) == ["A"]
    assert far.values(len, [[1, 2]]) == [2]
    assert isinstance(far.values(Scaler, [1])[0], Scaler)


def test_a_local_function_may_call_itself(far: FarEnd) -> None:
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert far.values(fibonacci, [10]) == [55]


def test_a_coroutine_function_is_awaited(far: FarEnd) -> None:
    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert far.values(slow, [1]) == [2]


def test_items_are_arguments(far: FarEnd) -> None:
    def show(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert far.values(show, [1, (1, 2), {"a": 1}, [1, 2], None, range(2)]) == [
        ((1,), {}),
        ((1, 2), {}),
        ((), {"a": 1}),
        (([1, 2],), {}),
        ((None,), {}),
        ((range(2),), {}),
    ]
    assert far.values(show, [1, {"a": 1}], (8, 9)) == [((1, 8, 9), {}), ((8, 9), {"a": 1})]
    assert far.values(show, [1, (2, 3)], {"z": 0}) == [((1,), {"z": 0}), ((2, 3), {"z": 0})]
    assert far.values(show, [1], MappingProxyType({"z": 0})) == [((1,), {"z": 0})]
    assert far.values(show, [1], [8]) == [((1, 8), {})]


MAIN_SCRIPT = """
import base64, json, subprocess, sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_serialize import FAR_END, FarEnd

class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(self) is type(other) and self.x == other.x
    def __hash__(self): return hash(self.x)

class Refusal(Exception):
    pass

LIMIT = 3

def check(point, factor=1):
    if point.x > LIMIT:
        raise Refusal(point.x)
    return Point(point.x * factor)

with subprocess.Popen([sys.executable, "-c", FAR_END], stdin=-1, stdout=-1, text=True) as process:
    far = FarEnd(process)
    good, bad = far.map(check, [Point(2), Point(4)], {{"factor": 10}})
    assert good.value == Point(20), good
    try:
        bad.result()
    except Refusal as error:
        assert error.args == (4,)
        print("as its own type")
"""


def test_what_is_defined_in_main_arrives_and_comes_back_as_itself(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAIN_SCRIPT.format(tests=str(TESTS), root=str(SRC.parent)))
    run = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("as its own type\n", "")


def test_a_function_of_another_python_is_not_opened(far: FarEnd) -> None:
    function = dump_function(double)
    header, _, body = function.payload.partition(b"\n")
    told = json.loads(header)
    assert told["format"] == 1
    assert told["style"] == "item"
    assert told["python"] == list(sys.version_info[:2])
    assert pickle.loads(body) == (double, ())  # noqa: S301  # our own
    other = json.dumps({**told, "python": [3, 2]}).encode() + b"\nwhat would crash it"
    sent = FunctionDump(payload=other, name=function.name, reserved=[])
    (outcome,) = far.send(sent, [1])
    assert isinstance(outcome.error, errors.SerializationError)
    assert "pickled by cpython 3.2, but the worker's" in str(outcome.error)


def test_a_function_is_called_by_the_name_that_people_know() -> None:
    def local() -> None: ...

    assert function_name(double) == "double"
    assert function_name(local) == "local"
    assert function_name(lambda: 0) == "<lambda>"
    assert function_name(functools.partial(functools.partial(double, 1))) == "double"
    assert function_name(Scaler(1)) == "Scaler"
    assert function_name(Scaler(1).scale) == "Scaler.scale"
    assert function_name(len) == "len"


def test_reserved_parameters_are_found_where_nothing_else_fills_them() -> None:
    def takes(x: int, id: int, *, storage: Any = None, obj: Any = None) -> None: ...
    def positional(id: int, /) -> None: ...
    def anything(*args: Any, **kwargs: Any) -> None: ...

    class Callable:
        def __call__(self, x: int, storage: Any) -> None: ...

    class Made:
        def __init__(self, id: int) -> None: ...

    def reserved(fn: Any, extra: Any = None) -> list[str]:
        return dump_function(fn, extra).reserved

    assert reserved(takes) == ["id", "storage", "obj"]
    assert reserved(functools.partial(takes, id=1)) == ["storage", "obj"]
    assert reserved(takes, {"storage": 1}) == ["id", "obj"]
    assert reserved(positional) == reserved(anything) == reserved(max) == reserved(double) == []
    assert reserved(Callable()) == ["storage"]
    assert reserved(Made) == ["id"]


def test_the_call_knows_its_index(far: FarEnd) -> None:
    def tell(x: str, id: int) -> tuple[str, int]:
        return x, id

    assert far.values(tell, ["a", "b"]) == [("a", 0), ("b", 1)]


# -- what cannot be pickled --


class Connection:
    def __init__(self) -> None:
        self.pool = {"idle": [threading.Lock()]}


def refused(*args: Any) -> errors.SerializationError:
    with pytest.raises(errors.SerializationError) as caught:
        dump_function(*args)
    return caught.value


def test_the_variable_to_blame_is_named() -> None:
    lock = threading.Lock()
    connection = Connection()

    def locked(x: int) -> Any:
        return lock, x

    error = refused(locked)
    assert error.what == "the function locked cannot be pickled"
    assert "variable 'lock' is <unlocked _thread.lock object" in error.cause
    assert "TypeError: cannot pickle '_thread.lock' object" in error.cause
    assert error.hint == "threads and locks cannot travel: make them inside the function"
    path = "attribute 'pool' > value of 'idle' (str) > element 0 is <unlocked _thread.lock"
    assert f"variable 'connection' > {path}" in refused(lambda x: connection.pool[x]).cause
    bound: Any = functools.partial(max, key=connection)
    assert f"argument 'key' > {path}" in refused(bound).cause
    assert "extra_args of double cannot be pickled" in refused(double, (1, lock)).what
    assert "element 1 is <unlocked" in refused(double, (1, lock)).cause
    assert "variable 'locked' > variable 'lock' is" in refused(lambda: locked(1)).cause


def test_the_global_to_blame_is_named(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import socket\nfrom dayfly.serialize import dump_function\n"
        "link = socket.socket()\n"
        "def send(x):\n    return (lambda: link.send(x))()\n"
        "try:\n    dump_function(send)\nfinally:\n    link.close()\n"
    )
    run = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "the function send cannot be pickled" in run.stderr
    assert "global 'link' is <socket.socket" in run.stderr
    assert "a connection cannot travel: open it inside the function" in run.stderr


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(errors.UsageError, match=r"a function is needed, not 3 \(int\)"):
        dump_function(3)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(errors.UsageError, match="extra_args of double must be a tuple"):
        dump_function(double, 3)  # type: ignore[arg-type]  # on purpose


class Moody:
    def __reduce__(self) -> str:
        raise RuntimeError("not today")

    def __repr__(self) -> str:
        raise ValueError("nor this")


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ((n for n in range(3)), "a generator cannot travel: give list(...) of it"),
        ({"lock": threading.Lock()}, "value of 'lock' (str) is <unlocked _thread.lock"),
        (Connection(), "attribute 'pool' > value of 'idle' (str) > element 0"),
        (Moody(), "RuntimeError: not today"),
    ],
)
def test_an_item_that_cannot_be_pickled_is_named(item: Any, told: str) -> None:
    with pytest.raises(errors.SerializationError, match=r"item 8, .* cannot be pickled") as caught:
        dump_items([1, item], 7)
    assert told in str(caught.value)


def test_an_open_file_is_no_item(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file, pytest.raises(errors.SerializationError) as caught:
        dump_item({"log": file}, 3)
    assert "value of 'log' (str) is <_io.TextIOWrapper" in caught.value.cause
    assert caught.value.hint == "an open file cannot travel: give its path, or its content"


def test_an_item_that_is_too_deep_is_named_too() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(errors.SerializationError, match="item 0"):
        dump_item(deep, 0)
    while deep:  # taken apart by hand: freeing it may recurse as deeply
        deep = deep[0]


def test_a_hundred_thousand_numbers_are_pickled_in_a_blink() -> None:
    begun = time.perf_counter()
    pickles = dump_items(range(100_000), 0)
    took = time.perf_counter() - begun
    assert len(pickles) == 100_000
    assert took < 1.0, "0.04 s where it was measured"


def test_lambdas_are_items_too(far: FarEnd) -> None:
    assert far.values(lambda fn: fn(4), [lambda x: x + 1, Scaler(3)]) == [5, 12]


# -- outcomes --


class OddError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class SealedError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is sealed")


def test_an_exception_is_raised_as_itself_with_what_happened_there(far: FarEnd) -> None:
    def divide(x: int) -> float:
        return 1 / x

    (outcome,) = far.map(divide, [0])
    assert not outcome.ok
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        outcome.result()
    told = "".join(traceback.format_exception(caught.value))
    assert "in divide" in told
    assert "return 1 / x" in told
    assert "call 0 of job j-1 on worker worker-1 raised this" in told
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert isinstance(pickle.loads(pickle.dumps(caught.value.__cause__)), RemoteTraceback)  # noqa: S301


def test_an_error_tells_of_the_tries_before_it() -> None:
    tries = (
        Try("w-1", 10.0, 10.2, OutcomeKind.RAISED, "raised ValueError: bad luck"),
        Try("w-2", 11.0, 12.0, OutcomeKind.TIMED_OUT, "ran over its timeout"),
    )
    crashed = CallOutcome(7, OutcomeKind.CRASHED, b"SIGSEGV", 13.0, 14.0, "w-1", 2, tries)
    outcome = decode(crashed, "j-1")
    assert outcome.tries == tries
    assert outcome.error is not None
    assert outcome.error.__notes__ == [
        "try 1 of 3 on worker w-1 raised ValueError: bad luck after 0.2 s",
        "try 2 of 3 on worker w-2 ran over its timeout after 1.0 s",
    ]


def test_a_value_tells_of_the_tries_before_it() -> None:
    tries = (Try("w-1", 10.0, 10.2, OutcomeKind.RAISED, "raised ValueError: bad luck"),)
    value = CallOutcome(7, OutcomeKind.VALUE, pickle.dumps(1), 13.0, 14.0, "w-1", 1, tries)
    assert decode(value, "j-1").tries == tries


def test_notes_and_attributes_travel(far: FarEnd) -> None:
    def fail(x: int) -> None:
        error = KeyError(x)
        error.add_note("look in the cellar")
        error.floor = -1  # type: ignore[attr-defined]  # as users do
        raise error

    error = far.error(fail, 5)
    assert error.args == (5,)
    assert error.__notes__[0] == "look in the cellar"
    assert error.floor == -1  # type: ignore[attr-defined]


def test_exception_groups_travel(far: FarEnd) -> None:
    def fail(x: int) -> None:
        raise ExceptionGroup("several", [ValueError(x), OSError(2, "gone")])

    with pytest.raises(ExceptionGroup) as caught:
        raise far.error(fail, 5)
    assert [type(each) for each in caught.value.exceptions] == [ValueError, FileNotFoundError]


def test_an_exception_that_takes_no_attributes_is_told_where_it_was_raised(far: FarEnd) -> None:
    def fail(x: int) -> None:
        raise SealedError(x)

    error = far.error(fail, 5)
    assert isinstance(error, SealedError)
    assert "call 0 of job j-1" in error.__notes__[0]
    assert "in fail" in str(error.__cause__)


def test_an_exception_that_cannot_travel_is_told_in_full(far: FarEnd) -> None:
    def fail(x: int) -> None:
        error = ValueError(f"bad {x}")
        error.lock = threading.Lock()  # type: ignore[attr-defined]  # as users do
        raise error

    error = far.error(fail, 5)
    assert isinstance(error, errors.RemoteError)
    assert error.what == "call 0 of job j-1 on worker worker-1 raised ValueError: bad 5"
    assert "cannot be pickled" in error.cause
    assert "in fail" in str(error.__cause__)


def test_an_exception_with_an_odd_constructor_keeps_its_text(far: FarEnd) -> None:
    def fail(x: int) -> None:
        raise OddError(x, "odd")

    error = far.error(fail, 5)
    assert isinstance(error, OddError | errors.RemoteError)
    assert "5: odd" in str(error)


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, StopIteration]
)
def test_what_would_end_this_program_does_not(far: FarEnd, kind: type[BaseException]) -> None:
    def fail(x: int) -> None:
        raise kind(x)

    error = far.error(fail, 3)
    assert isinstance(error, errors.RemoteError)
    assert f"raised {'' if kind.__module__ == 'builtins' else kind.__module__ + '.'}" in error.what
    assert f"{kind.__name__}: 3" in error.what


def test_our_own_errors_come_back_by_their_names() -> None:
    header = {
        "type": "ObjectNotFoundError",
        "module": "dayfly.errors",
        "message": "there is no object 'x'",
        "traceback": "",
        "index": 4,
    }
    outcome = CallOutcome(4, OutcomeKind.RAISED, json.dumps(header).encode() + b"\n")
    error = decode(outcome, "j-1").error
    assert isinstance(error, errors.ObjectNotFoundError)
    assert error.what == "there is no object 'x'"


def test_a_value_that_cannot_be_pickled_is_an_error_of_its_call(far: FarEnd) -> None:
    def make(x: int) -> Any:
        return itertools.repeat(x) if x else threading.Lock()

    with pytest.raises(errors.SerializationError, match=r"call 0 of job j-1 .* returned something"):
        raise far.error(make, 0)


@pytest.mark.parametrize(
    ("kind", "error", "told"),
    [
        (OutcomeKind.TIMED_OUT, errors.CallTimeoutError, "ran over its timeout"),
        (OutcomeKind.CRASHED, errors.CallCrashedError, "lost its process"),
        (OutcomeKind.CANCELLED, errors.CallCancelledError, "was cancelled"),
        (OutcomeKind.UNPICKLABLE, errors.SerializationError, "cannot be pickled"),
    ],
)
def test_every_other_end_names_the_call_the_job_and_the_worker(
    kind: OutcomeKind, error: type[errors.DayflyError], told: str
) -> None:
    outcome = decode(CallOutcome(7, kind, b"signal 11 (SIGSEGV)", 1.0, 2.0, "worker-1"), "j-1")
    assert (outcome.index, outcome.started, outcome.ended) == (7, 1.0, 2.0)
    with pytest.raises(error) as caught:
        outcome.result()
    assert caught.value.what == f"call 7 of job j-1 on worker worker-1 {told}" or (
        caught.value.what.startswith("call 7 of job j-1 on worker worker-1 returned")
    )
    assert caught.value.cause == "signal 11 (SIGSEGV)"


def test_a_large_value_is_read_from_storage() -> None:
    outcome = CallOutcome(7, OutcomeKind.STORED, b"dayfly/out/j-1/7")
    assert decode(outcome, "j-1", pickle.dumps([1])).result() == [1]
    with pytest.raises(ValueError, match="its value lies in storage"):
        decode(outcome, "j-1")


def test_a_value_that_cannot_be_rebuilt_here_fails_its_call_alone() -> None:
    data = pickle.dumps(Scaler(1)).replace(b"Scaler", b"Sculpt")
    error = decode(CallOutcome(7, OutcomeKind.VALUE, data), "j-1").error
    assert isinstance(error, errors.SerializationError)
    assert "call 7 of job j-1 returned a value that cannot be rebuilt here" in str(error)
    assert isinstance(error.__cause__, AttributeError)


def test_a_report_that_is_none_is_an_error_too() -> None:
    for payload in (b"", b"junk", b"{}\n", b'{"type": "X"}\nx'):
        error = decode(CallOutcome(7, OutcomeKind.RAISED, payload), "j-1").error
        assert isinstance(error, errors.RemoteError)
        assert "call 7 of job j-1 raised" in str(error)
