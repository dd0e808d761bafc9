"""The process that runs the user's functions: warm, one call after the other.

Started by path under the user's own interpreter, with nothing of dayfly on its path: the
standard library and cloudpickle only (so this file stays one file, and reads on any Python
3.8 or newer). The agent imports it too, for the frames below, and never runs it.

Two inherited sockets join it to the agent:

* the *channel* carries frames both ways: a header (kind, length) and raw bytes. What goes to
  the agent is never a pickle to be opened there.
* the *tickets*, eight bytes each, say which calls may be started. Calls are sent ahead of
  time, in batches; the runner takes a ticket before each call, and the agent, which holds the
  same end, can take back those that are left. So it is certain at any moment which calls
  have been started, and no call waits behind a long one while another runner is idle.
"""

# os.path is there already; pathlib would cost every start of a runner 5 ms.
# ruff: noqa: PTH100, PTH101, PTH105, PTH108, PTH110, PTH118, PTH120, PTH123

from __future__ import annotations

import faulthandler
import io
import json
import logging
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections import deque
from types import CoroutineType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, NoReturn

# -- frames; integers are little-endian --

HEADER = struct.Struct("<BQ")  # kind, length of the body
TICKET = struct.Struct("<Q")  # number of the call that may be started

# to the runner
LOAD = 1  # JOB, JSON {timed, environment, reserved, modules}, function payload
CALLS = 2  # BATCH, CALL for each, their items
FORGET = 3  # JOB
REPLY = 4  # LENGTH, JSON, data
JOB = struct.Struct("<II")  # the job's slot, length of the JSON that follows
BATCH = struct.Struct("<IQI")  # the job's slot, number of the first call, how many
CALL = struct.Struct("<QQ")  # the call's index in its job, length of its item
LENGTH = struct.Struct("<I")

# to the agent
STARTED = 16  # TICKET, only for jobs whose calls are timed
OUTCOME = 17  # RESULT, payload
LOG = 18  # LINE, text
ASK = 19  # LENGTH, JSON {operation, ...}, data: to be answered by REPLY
RESULT = struct.Struct("<QBdd")  # number, kind, started, ended
LINE = struct.Struct("<QBd")  # number of the call (0: none yet), 1 stdout or 2 stderr, time


def calls(count: int) -> struct.Struct:
    """As many CALLs in a row."""
    return struct.Struct(f"<{2 * count}Q")


def tickets(count: int) -> struct.Struct:
    """As many TICKETs in a row."""
    return struct.Struct(f"<{count}Q")


#: The kinds of outcome that a runner tells of, as in dayfly.model.OutcomeKind.
VALUE, RAISED, UNPICKLABLE = 0, 2, 6

#: Of a runner in a container: variables that name the image, and a folder that both see.
IMAGE, EXCHANGE = "DAYFLY_IMAGE", "DAYFLY_EXCHANGE"
#: Exit status of a runner whose agent is gone.
ORPHANED = 70

LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"
#: Longer lines are cut in pieces; longer texts lose their middle.
LONGEST_LINE = 64 * 1024
LONGEST_TEXT = 32 * 1024
#: A pickled exception larger than this is left out; its text still travels.
LARGEST_EXCEPTION = 1024 * 1024


class StorageError(Exception):
    """Storage refused or failed; dayfly.errors.StorageError on the client."""

    __module__ = "dayfly.errors"

    def __str__(self) -> str:
        return Exception.__str__(self)


class ObjectNotFoundError(StorageError, KeyError):
    """No object has this key."""

    __module__ = "dayfly.errors"


class ObjectExistsError(StorageError):
    """A put with ``if_absent`` came second."""

    __module__ = "dayfly.errors"


class SerializationError(Exception):
    """A function that this interpreter must not unpickle."""

    __module__ = "dayfly.errors"


#: Types whose values need no look into ``__main__``.
PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
#: Known to the client by their names alone; their classes here are only stand-ins.
OURS = (StorageError, SerializationError)


class Channel:
    """The frames."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._reader = open(fd, "rb", buffering=256 * 1024, closefd=False)  # noqa: SIM115
        self._lock = threading.Lock()

    def send(self, kind: int, *parts: bytes) -> None:
        """Send a frame; without an agent there is nothing left to live for."""
        frame = b"".join((HEADER.pack(kind, sum(map(len, parts))), *parts))
        with self._lock:
            try:
                sent = os.write(self.fd, frame)
                while sent < len(frame):
                    sent += os.write(self.fd, memoryview(frame)[sent:])
            except OSError:
                os._exit(ORPHANED)

    def receive(self) -> tuple[int, memoryview]:
        """The next frame: its kind and its body."""
        header = self._reader.read(HEADER.size)
        if len(header) < HEADER.size:
            os._exit(ORPHANED)
        kind, size = HEADER.unpack(header)
        body = self._reader.read(size)
        if len(body) < size:
            os._exit(ORPHANED)
        return kind, memoryview(body)


class LineStream(io.RawIOBase):
    """What is under ``sys.stdout`` and ``sys.stderr``: each line is a frame of its call."""

    def __init__(self, runner: Runner, fd: int) -> None:
        super().__init__()
        self._runner: Runner | None = runner
        self._fd = fd
        self._rest = b""

    def writable(self) -> bool:  # noqa: D102
        return True

    def fileno(self) -> int:  # noqa: D102
        return self._fd

    def close(self) -> None:
        """Stay open: the next call prints too."""

    def write(self, data: Any) -> int:  # noqa: D102
        size = len(data)
        if self._runner is None:
            return os.write(self._fd, data)
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        while len(self._rest) > LONGEST_LINE:
            lines.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        for line in lines:
            self._emit(line)
        return size

    def end_call(self) -> None:
        """Send what was printed without an end of line."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._emit(rest)

    def forked(self) -> None:
        """In a forked child: write to the pipe, the channel is the parent's."""
        self._runner = None

    def _emit(self, line: bytes) -> None:
        if self._runner is not None:
            head = LINE.pack(self._runner.number, self._fd, time.time())
            self._runner.channel.send(LOG, head, line)


class Storage:
    """The cluster's storage, as the reserved parameter ``storage`` of a function."""

    def __init__(self, runner: Runner, exchange: str) -> None:
        self._ask = runner.ask
        self._exchange = exchange

    def put_object(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Store an object, whole or not at all."""
        self._ask({"operation": "put_object", "key": key, "if_absent": if_absent}, bytes(data))

    def get_object(self, key: str, *, byte_range: tuple[int, int] | None = None) -> bytes:
        """Read an object, or its bytes from ``byte_range[0]`` up to ``byte_range[1]``."""
        request = {"operation": "get_object", "key": key, "byte_range": byte_range}
        return self._ask(request)[1]

    def head_object(self, key: str) -> dict[str, Any]:
        """Describe an object: its ``key``, ``size`` in bytes, ``modified`` in seconds."""
        description: dict[str, Any] = self._ask({"operation": "head_object", "key": key})[0]
        return description

    def list_keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with ``prefix``, in order."""
        keys: list[str] = self._ask({"operation": "list_keys", "prefix": prefix})[0]
        return keys

    def delete_object(self, key: str) -> None:
        """Delete an object; one that is gone already is not an error."""
        self._ask({"operation": "delete_object", "key": key})

    def upload_file(self, path: Any, key: str) -> None:
        """Store a file's content under ``key``."""
        with _Between(self._exchange, path) as between:
            if between != path:
                _copy(path, between, f"the file {path} could not be read")
            self._ask({"operation": "upload_file", "key": key, "path": os.path.abspath(between)})

    def download_file(self, key: str, path: Any) -> None:
        """Write an object's content to ``path``, whole or not at all."""
        with _Between(self._exchange, path) as between:
            self._ask({"operation": "download_file", "key": key, "path": os.path.abspath(between)})
            if between != path:
                _copy(between, path, f"the file {path} could not be written")


class _Between:
    """A file that the agent sees too: in a container it is another one than the function's."""

    def __init__(self, exchange: str, path: Any) -> None:
        self._exchange = exchange
        self._path = path
        self._folder: Any = None

    def __enter__(self) -> Any:
        if not self._exchange:
            return self._path
        import tempfile

        self._folder = tempfile.TemporaryDirectory(dir=self._exchange)
        os.chmod(self._folder.name, 0o777)  # noqa: S103  the agent is another user
        return os.path.join(self._folder.name, "file")

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _copy(source: Any, target: Any, trouble: str) -> None:
    """Copy a file; the target is there whole or not at all."""
    import shutil

    part = f"{os.fspath(target)}.{os.getpid()}.part"
    try:
        shutil.copyfile(source, part)
        os.chmod(part, 0o644)
        os.replace(part, target)
    except OSError as error:  # as the agent says it
        raise StorageError(f"{trouble}: {error.strerror or error}") from error
    finally:
        if os.path.exists(part):
            os.unlink(part)


class Job:
    """A function and how to call it; unpickled when its first call comes."""

    def __init__(self, facts: dict[str, Any], payload: memoryview) -> None:
        self.timed: bool = facts["timed"]
        self.environment: dict[str, str] = facts["environment"]
        self._reserved: list[str] = facts["reserved"]
        self._modules: str = facts["modules"]
        self._payload: memoryview | None = payload
        self.loaded = False
        self._error: BaseException | None = None
        self._frames: TracebackType | None = None
        self._function: Any = None
        self._extra: tuple[Any, ...] = ()
        self._extra_keywords: dict[str, Any] = {}
        self._style = "item"
        self._reserved_at: dict[str, int] = {}

    def load(self) -> None:
        """Unpickle the function, once; a failure is raised again for every call."""
        if self._payload is None:
            if self._error is not None:
                raise self._error.with_traceback(self._frames)
            return
        payload, self._payload = bytes(self._payload), None
        try:
            self._load(payload)
        except BaseException as error:
            self._error, self._frames = error, error.__traceback__
            raise
        self.loaded = True

    def _load(self, payload: bytes) -> None:
        line, _, data = payload.partition(b"\n")
        header = json.loads(line)
        # Before anything is unpickled: the wrong version's byte code ends in a segfault.
        made = (header["implementation"], *header["python"])
        here = (sys.implementation.name, *sys.version_info[:2])
        if made != here:
            theirs, ours = ("{} {}.{}".format(*each) for each in (made, here))
            text = f"the function was pickled by {theirs}, but {_interpreter()} is {ours}: "
            text += "they must agree"
            if IMAGE in os.environ:
                text += f"; use an image with {theirs}, or run this program with {ours}"
            raise SerializationError(text)
        if self._modules and self._modules not in sys.path:
            sys.path.insert(0, self._modules)
        try:
            self._function, extra = pickle.loads(data)  # noqa: S301
        except ImportError as error:
            note = (
                f"the function needs the module {error.name!r}, "
                f"which {_interpreter()} does not have"
            )
            error.__notes__ = [*getattr(error, "__notes__", ()), note]
            raise
        self._style = header.get("style", "item")
        if isinstance(extra, dict):
            self._extra_keywords = extra
        else:
            self._extra = tuple(extra or ())
        if self._reserved:
            self._reserved_at = _positions(self._function, self._reserved)

    def call(self, item: Any, given: dict[str, Any]) -> Any:
        """Call the function.

        Args:
            item: As unpickled.
            given: The values of all reserved parameters there are.
        """
        arguments: tuple[Any, ...]
        keywords: dict[str, Any]
        if self._style == "call":
            arguments, keywords = item
        elif isinstance(item, tuple):
            arguments, keywords = item, {}
        elif isinstance(item, dict):
            arguments, keywords = (), item
        else:
            arguments, keywords = (item,), {}
        arguments += self._extra
        if self._reserved:
            wanted = {
                name: given[name]
                for name, at in self._reserved_at.items()
                if name in given and name not in keywords and len(arguments) <= at
            }
            keywords = {**wanted, **keywords}
        value = self._function(*arguments, **keywords, **self._extra_keywords)
        if type(value) is CoroutineType:
            import asyncio

            value = asyncio.run(value)
        return value


class Runner:
    """Takes tickets, runs calls, tells their outcomes; everything in the main thread."""

    def __init__(self, channel: Channel, tickets: int, log_level: str) -> None:
        self.channel = channel
        self.number = 0
        self._tickets = tickets
        self._jobs: dict[int, Job] = {}
        self._calls: deque[tuple[int, Job, int, memoryview]] = deque()
        self._reading = threading.RLock()
        self._reply = memoryview(b"")
        self._entered: Job | None = None
        self._shadowed: dict[str, str | None] = {}
        exchange = os.environ.pop(EXCHANGE, "")
        self._given: dict[str, Any] = {"storage": Storage(self, exchange)}
        self._lines = (LineStream(self, 1), LineStream(self, 2))
        self._streams = tuple(
            io.TextIOWrapper(
                io.BufferedWriter(stream), "utf-8", "backslashreplace", line_buffering=True
            )
            for stream in self._lines
        )
        sys.stdout, sys.stderr = self._streams
        logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format=LOG_FORMAT)
        os.register_at_fork(after_in_child=self._forked)

    def serve(self) -> NoReturn:
        """Run calls until the agent is gone."""
        while True:
            ticket = os.read(self._tickets, TICKET.size)
            if len(ticket) < TICKET.size:
                os._exit(ORPHANED)
            self._run(TICKET.unpack(ticket)[0])

    def ask(self, request: dict[str, Any], data: bytes = b"") -> tuple[Any, bytes]:
        """Have the agent do something with storage; wait for its answer."""
        text = json.dumps(request).encode()
        with self._reading:
            self.channel.send(ASK, LENGTH.pack(len(text)), text, data)
            while self._read_frame() != REPLY:
                pass
            body, self._reply = self._reply, memoryview(b"")
        size = LENGTH.size + LENGTH.unpack_from(body)[0]
        answer = json.loads(bytes(body[LENGTH.size : size]))
        if "error" in answer:
            raise _storage_error(answer["error"], answer["message"])
        return answer["result"], bytes(body[size:])

    def _run(self, number: int) -> None:
        job, index, item = self._take(number)
        self.number = number
        out, err = self._streams
        sys.stdout, sys.stderr = out, err
        if job is not self._entered:
            self._enter(job)
        try:
            if not job.loaded:
                job.load()
        except BaseException as error:  # noqa: BLE001  the user's code, in unpickling
            started = ended = time.time()
            kind, payload = RAISED, raised(error, index)
        else:
            if job.timed:
                self.channel.send(STARTED, TICKET.pack(number))
            started, begun = time.time(), time.perf_counter()
            kind, payload = self._call(job, index, item)
            ended = started + (time.perf_counter() - begun)
        out.flush()
        err.flush()
        for lines in self._lines:
            lines.end_call()
        self.channel.send(OUTCOME, RESULT.pack(number, kind, started, ended), payload)

    def _call(self, job: Job, index: int, item: memoryview) -> tuple[int, bytes]:
        self._given["id"] = index
        try:
            value = job.call(pickle.loads(item), self._given)  # noqa: S301
        except BaseException as error:  # noqa: BLE001  whatever the function raises is its outcome
            return RAISED, raised(error, index)
        try:
            return VALUE, dumps(value)
        except Exception as error:  # noqa: BLE001  pickling runs the user's code
            text = (
                f"a {type(value).__qualname__}, {_text(value, repr, 200)}: "
                f"{type(error).__name__}: {_text(error)}"
            )
            return UNPICKLABLE, text.encode("utf-8", "backslashreplace")

    def _take(self, number: int) -> tuple[Job, int, memoryview]:
        """The call with this number; those before it were taken back by the agent."""
        with self._reading:
            while True:
                while self._calls:
                    at, job, index, item = self._calls.popleft()
                    if at == number:
                        return job, index, item
                self._read_frame()

    def _read_frame(self) -> int:
        kind, body = self.channel.receive()
        if kind == CALLS:
            slot, number, count = BATCH.unpack_from(body)
            job = self._jobs[slot]
            at = BATCH.size + count * CALL.size
            for index, size in CALL.iter_unpack(body[BATCH.size : at]):
                self._calls.append((number, job, index, body[at : at + size]))
                number += 1
                at += size
        elif kind == REPLY:
            self._reply = body
        elif kind == LOAD:
            slot, size = JOB.unpack_from(body)
            facts = json.loads(bytes(body[JOB.size : JOB.size + size]))
            self._jobs[slot] = Job(facts, body[JOB.size + size :])
        elif kind == FORGET:
            self._jobs.pop(JOB.unpack_from(body)[0], None)
        return kind

    def _enter(self, job: Job) -> None:
        """Give the process the environment of the job, and take away the last one's."""
        for name, value in self._shadowed.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._shadowed = {name: os.environ.get(name) for name in job.environment}
        os.environ.update(job.environment)
        self._entered = job

    def _forked(self) -> None:
        for lines in self._lines:
            lines.forked()
        os.close(self.channel.fd)
        os.close(self._tickets)


def _interpreter() -> str:
    image = os.environ.get(IMAGE)
    return f"Python in the container image {image}" if image else f"the worker's {sys.executable}"


def dumps(value: Any) -> bytes:
    """Pickle a value; what only lives in ``__main__`` goes by value."""
    if type(value) in PLAIN:
        return pickle.dumps(value, 5)
    import cloudpickle

    by_value = type(value).__module__ in cloudpickle.list_registry_pickle_by_value()
    try:
        data = pickle.dumps(value, 5)
    except Exception:  # noqa: BLE001  cloudpickle can do more, and says why if not
        by_value = True
    if by_value or b"__main__" in data:
        data = cloudpickle.dumps(value)
    return data


def raised(error: BaseException, index: int) -> bytes:
    """The payload of a call that raised: what people read, then the exception if it can travel."""
    import traceback

    frames = error.__traceback__
    library = os.path.dirname(os.__file__) + os.sep + "asyncio" + os.sep
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith((__file__, library)):
        frames = frames.tb_next
    header = {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "message": _text(error),
        "traceback": _shorten("".join(traceback.format_exception(type(error), error, frames))),
        "index": index,
    }
    data = b""
    if not isinstance(error, OURS):
        try:
            data = dumps(error)
            pickle.loads(data)  # noqa: S301  our own bytes: would the client be able to?
        except Exception:  # noqa: BLE001  then its text alone must do
            data = b""
    if len(data) > LARGEST_EXCEPTION:
        data = b""
    return json.dumps(header).encode() + b"\n" + data


def _positions(function: Any, names: list[str]) -> dict[str, int]:
    """After how many positional arguments each reserved parameter has been given already."""
    import inspect

    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a built-in without a signature
        return dict.fromkeys(names, sys.maxsize)
    order = [parameter.name for parameter in parameters if parameter.kind in positional]
    return {name: order.index(name) if name in order else sys.maxsize for name in names}


def _text(value: Any, render: Any = str, longest: int = LONGEST_TEXT) -> str:
    """A text of a user's object, whose own code for that may fail."""
    try:
        return _shorten(render(value), longest)
    except Exception as error:  # noqa: BLE001  the user's __str__ or __repr__
        return f"<{type(value).__qualname__}, whose text raises {type(error).__name__}>"


def _shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} [...] {text[-half:]}"


def _storage_error(name: str, message: str) -> Exception:
    known = (ObjectNotFoundError, ObjectExistsError, FileNotFoundError, PermissionError, ValueError)
    kinds: dict[str, type[Exception]] = {kind.__name__: kind for kind in known}
    return kinds.get(name, StorageError)(message)


def _settle(parent: int) -> None:
    """What only Linux can: die with the agent, before it for memory, and flush C's lines."""
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("500")
    import ctypes

    libc = ctypes.CDLL(None)
    pr_set_pdeathsig, line_buffered = 1, 1
    libc.prctl(pr_set_pdeathsig, signal.SIGKILL)
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, line_buffered, 0)
    if os.getppid() != parent:  # it went before we had asked
        os._exit(ORPHANED)


def main(
    channel: str, tickets: str, parent: str, log_level: str, spare: str, dayfly: str
) -> NoReturn:
    """Serve the agent.

    Args:
        channel: Number of the inherited channel.
        tickets: Number of the inherited socket of tickets.
        parent: The agent's process id.
        log_level: From which level on the functions' logging is shown.
        spare: The agent's own cloudpickle, for an interpreter that has none.
        dayfly: Folder of the agent's own dayfly: modules of the user's may import its names.
    """
    # Nobody's terminal: but children that the function starts must keep their own SIGINT.
    signal.signal(signal.SIGINT, lambda *_: None)
    faulthandler.enable(file=2, all_threads=False)
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    sys.path.append(dayfly)
    del sys.argv[1:]
    # The functions' __main__ is the user's, not this file.
    sys.modules["__dayfly_runner__"] = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    if sys.platform == "linux":
        _settle(int(parent))
    try:
        import cloudpickle  # noqa: F401
    except ModuleNotFoundError:
        _import_from(spare)
    for fd in (int(channel), int(tickets)):
        os.set_inheritable(fd, False)
    Runner(Channel(int(channel)), int(tickets), log_level).serve()


def _import_from(package: str) -> None:
    """Import cloudpickle (pure Python) from where the agent has it, and nothing else of there."""
    from importlib import util

    spec = util.spec_from_file_location(
        "cloudpickle", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"there is no cloudpickle in {package}")
    sys.modules["cloudpickle"] = module = util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main(*sys.argv[1:])
