"""From files to an interpreter with packages, on a bare VM.

Sent to the VM as this one file and run by the system's own ``python3`` (3.8 or newer; no pip,
no venv, no root), with nothing but the standard library; the agent runs it in the same way.

**The order** is one JSON object on standard input. Its URLs open what they name to whoever has
them, so they are in no argument, log or message; what is told of them ends before the query::

    key          of the Lock; the environment's name on this disk
    name         what people call it: "agent", or the key again
    root         "/opt/dayfly", below $DAYFLY_ROOT
    python       "3.11"
    implementation  "cpython"
    files        [FILE], the wheels
    uv           FILE, uv's own wheel
    interpreters {"mirror": url, "downloads": url, "archive": FILE or null}
                 where uv takes a Python from; an archive (install_only.tar.gz) needs no mirror
    check        ["msgspec", ...] modules to be imported at the end
    deadline     seconds for all steps; deadlines {"fetch": seconds, ...} for single ones
    durable      sync the disk before it is called complete: for an image
    pauses       [0.5, 1, 2] seconds between tries; silence: seconds without a byte

    FILE = {"package", "version", "filename", "sha256", "size", "sources": [SOURCE], "deposit": url}
    SOURCE = {"name": "storage" or "index", "url": url}

Sources are tried in order. A file that came from any but ``storage`` is written to ``deposit``.

**What it says**, one JSON object per line on standard output::

    {"step": "fetch", "seconds": 1.2, ...}         as each step ends, with figures of its own
    {"note": "...", "step": "fetch"}               what went wrong on the way and did no harm
    {"done": key, "python": path, "seconds": 3.1}  the environment may be used from here on
    {"failed": step, "kind", "package", "what", "cause", "advice"}   the last line; status 1

Steps: ``lock``, ``room``, ``python``, ``fetch``, ``install``, ``check``, ``deposit``. Where the
environment is complete already there is ``lock`` alone.

**On the disk**, below the root::

    env/<key>/       lock, log, part/ (of an unfinished run), venv/, and complete: written last
    wheels/<sha256>/<filename>   shared by the environments of the VM
    uv/<sha256>/uv   python/*    brought here     uv-cache/<boot>   hard links come from there

Nothing counts before ``complete`` is there, so a run may be killed at any moment. uv inherits
the lock: where this process is killed and uv lives on, the next run waits for uv.
"""

# It runs on Python 3.8 too, where the newer forms of these are missing.
# ruff: noqa: UP017

from __future__ import annotations

import base64
import collections
import contextlib
import errno
import fcntl
import glob
import hashlib
import http.client
import json
import os
import platform
import queue
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from datetime import datetime, timezone
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any, BinaryIO, NoReturn

#: Wheels, what they unpack to, and room to work: bytes of disk per byte of wheel. 311 MB of
#: wheels were seen to become 1.0 GB.
SWELL = 4
#: Files on disk per MB of wheels; twice what was seen.
INODES = 150
#: Bytes that every environment takes, uv among them.
FLOOR = 100 << 20
#: Files that are fetched at the same time.
LANES = 16
#: Bytes that are read at once.
BLOCK = 1 << 18
#: Lines of a child's output that a failure shows.
TAIL = 12
#: Seconds, where the order says nothing.
DEADLINE = 900.0
DEADLINES = {"lock": 600.0, "room": 10.0, "python": 300.0, "check": 120.0, "deposit": 300.0}
PAUSES = (0.5, 1.0, 2.0)
SILENCE = 20.0
#: HTTP answers after which the same request may well succeed.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: What dayfly and its users' packages cannot do without; some distributions leave it out.
ESSENTIALS = ("asyncio", "ctypes", "multiprocessing", "sqlite3", "ssl", "zlib")

PROBE = """
import importlib, json, sys, sysconfig
lacks = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        lacks.append(name)
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2], "implementation": sys.implementation.name,
    "free": bool(sysconfig.get_config_var("Py_GIL_DISABLED")), "lacks": lacks,
    "base": getattr(sys, "_base_executable", None) or sys.executable}))
"""

# The name of each is told before it is imported: one that crashes the interpreter is named too.
IMPORTS = """
import importlib, sys, traceback
for name in sys.argv[1:]:
    print("importing", name, flush=True)
    try:
        importlib.import_module(name)
    except BaseException:
        traceback.print_exc()
        sys.exit("failed " + name)
"""


class Failure(Exception):  # noqa: N818 - it is not an error of this program
    """Why the environment cannot be had.

    Args:
        kind: ``order``, ``busy``, ``disk``, ``permission``, ``interpreter``, ``network``,
            ``file``, ``package``, ``import``, ``deadline``, ``stopped`` or ``defect``.
        what: What happened.
        cause: The evidence.
        advice: What to do.
        package: Which one it happened to.
    """

    def __init__(
        self, kind: str, what: str, *, cause: str = "", advice: str = "", package: str = ""
    ) -> None:
        super().__init__(what)
        self.kind, self.what, self.cause = kind, what, cause
        self.advice, self.package = advice, package


class Overdue(Exception):  # noqa: N818
    """The deadline of a step has passed."""


class Stopped(Exception):  # noqa: N818
    """Somebody wants this process to end."""


# -- what is told, and to whom --


def scrubbed(text: str) -> str:
    """A text with no secret of a URL in it."""
    text = re.sub(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", r"\1", text, flags=re.IGNORECASE)
    return re.sub(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"`)]+)[?#][^\s'\"`)]+", r"\1", text)


class Record:
    """What happened: every line to the log files, the results to standard output."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._files: list[int] = []
        self._mute = threading.Lock()
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL)

    def keep(self, path: Path) -> None:
        """Write to this file too, from now on."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._files.append(os.open(path, flags, 0o600))

    def log(self, text: str) -> None:
        """Keep a line, with the time."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        text = scrubbed(text.rstrip())
        line = f"{now} {self._name}: {text}\n".encode("utf-8", "replace")
        with self._mute:
            self.tail.append(text)
            for file in self._files:
                with contextlib.suppress(OSError):  # a full disk is told by what fills it
                    os.write(file, line)

    def tell(self, **said: Any) -> None:
        """Say a line to whoever started this, and log it."""
        clean = {name: scrubbed(it) if isinstance(it, str) else it for name, it in said.items()}
        line = json.dumps(clean)
        self.log(line)
        with self._mute:
            try:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            except OSError:
                # Nobody listens any more. The work goes on: the next one finds it done.
                with Path(os.devnull).open("wb") as nowhere:
                    os.dup2(nowhere.fileno(), sys.stdout.fileno())


# -- failures of the machine, in words --


def of_machine(code: int, where: str) -> Failure | None:
    """The failure that an ``errno`` means on this disk, or ``None``."""
    if code in (errno.ENOSPC, errno.EDQUOT):
        return Failure(
            "disk",
            f"the VM's disk is full: {free(where)}",
            advice="give the VMs a larger volume (ebs_volumes), or clear the disk",
        )
    if code == errno.EROFS:
        return Failure(
            "disk",
            f"the VM's disk can only be read: {where}",
            advice="see the kernel's log (dmesg) for errors of the disk; take another VM",
        )
    if code in (errno.EACCES, errno.EPERM):
        return Failure(
            "permission",
            f"user {os.getuid()} may not write to {where} on the VM",
            advice=f"let the SSH user own {where}: sudo chown -R USER {where}",
        )
    return None


#: What programs print of these, as Rust, glibc and Python say it.
SPOKEN = (
    ("No space left on device", errno.ENOSPC),
    ("Disk quota exceeded", errno.EDQUOT),
    ("Read-only file system", errno.EROFS),
)


def spoken(output: str, where: str) -> Failure | None:
    """The failure of the machine that a program's output tells of, or ``None``."""
    for words, code in SPOKEN:
        if words in output:
            return of_machine(code, where)
    if "failed to map segment" in output:
        return noexec(where)
    return None


def noexec(where: str) -> Failure:
    """Programs may not be run from this disk."""
    return Failure(
        "permission",
        f"programs below {where} may not be run on the VM",
        advice=f"mount the disk of {where} without noexec",
    )


def free(where: str) -> str:
    """How much room there is, in words."""
    try:
        disk = os.statvfs(where)
    except OSError as error:
        return f"{where} cannot be asked ({error.strerror})"
    room = disk.f_bavail * disk.f_frsize
    return f"{megabytes(room)} and {disk.f_favail} files are left at {where}"


def megabytes(count: float) -> str:
    """A size, in words."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


# -- the network --


class Unavailable(Exception):  # noqa: N818
    """A source does not have a file, or does not give it.

    Args:
        words: Why.
        passing: Another try may succeed.
        host: It is the whole host that cannot be reached, and not this one file.
        altered: It gave something, which is not the file.
    """

    def __init__(
        self, words: str, *, passing: bool = False, host: bool = False, altered: bool = False
    ) -> None:
        super().__init__(words)
        self.words, self.passing, self.host, self.altered = words, passing, host, altered


def trouble(error: Exception, url: str) -> Unavailable:
    """What an exception of urllib means."""
    host = urllib.parse.urlsplit(url).hostname or ""
    if isinstance(error, urllib.error.HTTPError):
        words = f"{host} answered HTTP {error.code} ({error.reason})"
        if error.code in (401, 403):
            words += ": it is not there, or this URL has no right to it any more"
        return Unavailable(words, passing=error.code in PASSING)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return Unavailable(f"no DNS server knows {host} ({reason})", passing=True, host=True)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Unavailable(
            f"the certificate of {host} is not trusted on the VM ({reason.verify_message})",
            host=True,
        )
    if isinstance(reason, ssl.SSLError):
        return Unavailable(f"no TLS with {host} ({reason})", passing=True, host=True)
    if isinstance(reason, (socket.timeout, TimeoutError)):
        return Unavailable(f"{host} does not answer (timeout)", passing=True, host=True)
    if isinstance(reason, (ConnectionResetError, BrokenPipeError, http.client.HTTPException)):
        return Unavailable(f"{host} broke the connection ({reason!r})", passing=True)
    if isinstance(reason, OSError) and reason.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Unavailable(f"no route to {host}", passing=True, host=True)
    if isinstance(reason, ConnectionRefusedError):
        return Unavailable(f"{host} refuses the connection", passing=True, host=True)
    return Unavailable(f"{host}: {reason}", passing=True)


def request(url: str, content: BinaryIO | None = None, size: int = 0) -> urllib.request.Request:
    """A GET, or a PUT of some content; the user in a URL becomes a header."""
    parts = urllib.parse.urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    made = urllib.request.Request(  # noqa: S310 - the order's own URL, of any scheme that it names
        urllib.parse.urlunsplit(parts._replace(netloc=netloc, fragment="")),
        data=content,
        method="GET" if content is None else "PUT",
        headers={"User-Agent": "dayfly"},
    )
    if content is not None:
        made.add_header("Content-Length", str(size))
        made.add_header("Content-Type", "application/octet-stream")
    if parts.username:
        user = urllib.parse.unquote(parts.username)
        password = urllib.parse.unquote(parts.password or "")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        made.add_unredirected_header("Authorization", f"Basic {token}")
    return made


def local(url: str) -> Path | None:
    """The file that a ``file:`` URL names."""
    parts = urllib.parse.urlsplit(url)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


@contextlib.contextmanager
def opened(url: str, silence: float) -> Iterator[tuple[Callable[[int], bytes], int]]:
    """What a URL names, to be read: how to read it, and its size (-1: not told)."""
    path = local(url)
    if path is not None:
        try:
            file = path.open("rb")
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from None
        with file:
            yield file.read, os.fstat(file.fileno()).st_size
        return
    try:
        answer = urllib.request.urlopen(request(url), timeout=silence)  # noqa: S310
    except (OSError, http.client.HTTPException) as error:
        raise trouble(error, url) from None
    with answer:

        def read(size: int) -> bytes:
            try:
                block: bytes = answer.read(size)
            except (OSError, http.client.HTTPException) as error:
                raise trouble(error, url) from None
            return block

        yield read, int(answer.headers.get("Content-Length", -1))


class Wheels:
    """The files of the VM: fetched by many threads, known by their hash."""

    def __init__(self, root: Path, part: Path, order: dict[str, Any], record: Record) -> None:
        self._home = root / "wheels"
        self._part = part
        self._record = record
        self._pauses = tuple(order.get("pauses", PAUSES))
        self._silence = float(order.get("silence", SILENCE))
        self._dead: dict[str, str] = {}
        self._stop = threading.Event()
        self.doing: dict[str, str] = {}
        self.new: list[dict[str, Any]] = []  # what storage is to be given

    def path(self, file: dict[str, Any]) -> Path:
        """Where a file lies once it is here."""
        return self._home / str(file["sha256"]) / str(file["filename"])

    def stop(self) -> None:
        """Begin nothing more."""
        self._stop.set()

    def fetch(self, files: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str, int]]:
        """Have all of the files here: each with where it came from, and its bytes.

        The threads are not waited for when something goes wrong: they hold nothing that
        outlives this process but temporary files of an unfinished run.
        """
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # The largest first: the last one to end is then a small one.
        for file in sorted(files, key=lambda file: -int(file.get("size") or 0)):
            waiting.put(file)

        def work() -> None:
            while not self._stop.is_set():
                try:
                    file = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((file, *self._have(file)))
                except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                    done.put(error)

        for _ in range(min(LANES, len(files))):
            threading.Thread(target=work, daemon=True).start()
        had = []
        for _ in files:
            outcome = done.get()
            if isinstance(outcome, Exception):
                self.stop()
                raise outcome
            had.append(outcome)
            file, source, _ = outcome
            if file.get("deposit") and source not in ("disk", "storage"):
                self.new.append(file)
        return had

    def _have(self, file: dict[str, Any]) -> tuple[str, int]:
        path = self.path(file)
        if path.exists():
            # The disk may have lost the end of it when the power went: it is read again.
            with path.open("rb") as kept:
                if digest(kept) == file["sha256"]:
                    return "disk", path.stat().st_size
        path.parent.mkdir(parents=True, exist_ok=True)
        why: list[Unavailable] = []
        for source in file["sources"]:
            url, name = str(source["url"]), str(source["name"])
            try:
                return name, self._from(file, name, url, path)
            except Unavailable as error:
                why.append(Unavailable(f"{name}: {error.words}", altered=error.altered))
                self._record.log(f"{file['filename']}: {name} {url}: {error.words}")
                if error.altered:
                    self._record.tell(note=f"{file['filename']}: {error.words}", step="fetch")
        raise self._missing(file, why)

    def _from(self, file: dict[str, Any], name: str, url: str, path: Path) -> int:
        """Have a file from one source, in as many tries as there are."""
        host = urllib.parse.urlsplit(url).netloc
        pauses = iter(self._pauses)
        while True:
            if host in self._dead:
                raise Unavailable(self._dead[host])
            part = self._part / f"{file['sha256'][:16]}-{secrets.token_hex(4)}"
            self.doing[file["filename"]] = name
            try:
                size = self._stream(file, name, url, part)
            except Unavailable as error:
                with contextlib.suppress(OSError):  # it may not have come that far
                    part.unlink()
                pause = next(pauses, None) if error.passing else None
                if pause is None:
                    if error.host:
                        self._dead[host] = error.words
                    raise
                self._record.log(f"{file['filename']}: {name}: {error.words}; again in {pause} s")
                if self._stop.wait(pause):
                    raise
            else:
                part.replace(path)
                return size
            finally:
                self.doing.pop(file["filename"], None)

    def _stream(self, file: dict[str, Any], name: str, url: str, part: Path) -> int:
        seen = hashlib.sha256()
        got = 0
        with opened(url, self._silence) as (read, size), part.open("wb") as kept:
            while True:
                block = read(BLOCK)
                if not block:
                    break
                if self._stop.is_set():
                    raise Unavailable("stopped")
                seen.update(block)
                got += kept.write(block)
        if got < size:
            words = f"the connection broke after {got} of {size} bytes"
            raise Unavailable(words, passing=True)
        if seen.hexdigest() != file["sha256"]:
            words = f"what {name} has is another file (SHA-256 {seen.hexdigest()[:16]}..., "
            words += f"{got} bytes; expected {file['sha256'][:16]}...)"
            raise Unavailable(words, altered=True)
        return got

    def _missing(self, file: dict[str, Any], why: list[Unavailable]) -> Failure:
        package = f"{file['package']}=={file['version']}"
        cause = "\n".join(reason.words for reason in why) or "the order names no source"
        if any(reason.altered for reason in why):
            return Failure(
                "file",
                f"no source has the {file['filename']} that was locked",
                cause=cause,
                advice="it was altered, there or on the way; if the index replaced it, "
                "lock the environment anew",
                package=package,
            )
        return Failure(
            "network",
            f"{file['filename']} cannot be had on the VM",
            cause=cause,
            advice="let the VM reach the index or the storage (routes, security groups, proxy, "
            "DNS), or use an image that has the environment (dayfly image build)",
            package=package,
        )

    def deposit(self) -> Callable[[], tuple[int, list[str]]]:
        """Begin to write new files to storage; what is returned waits for the end of it."""
        files = self.new
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        done: queue.SimpleQueue[str] = queue.SimpleQueue()
        for file in files:
            waiting.put(file)

        def work() -> None:
            while True:
                try:
                    file = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._put(self.path(file), str(file["deposit"]))
                    done.put("")
                except (OSError, http.client.HTTPException) as error:
                    words = trouble(error, str(file["deposit"])).words
                    done.put(f"{file['filename']} was not kept in storage: {words}")

        for _ in range(min(4, len(files))):
            threading.Thread(target=work, daemon=True).start()

        def wait() -> tuple[int, list[str]]:
            notes = [note for note in (done.get() for _ in files) if note]
            return len(files) - len(notes), notes

        return wait

    def _put(self, path: Path, url: str) -> None:
        target = local(url)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".dayfly-{secrets.token_hex(8)}.part")
            shutil.copyfile(path, part)
            part.replace(target)
            return
        with path.open("rb") as content:
            put = request(url, content, path.stat().st_size)
            with urllib.request.urlopen(put, timeout=self._silence):  # noqa: S310
                pass


def digest(file: BinaryIO) -> str:
    """SHA-256 of a file, in hexadecimal."""
    seen = hashlib.sha256()
    for block in iter(lambda: file.read(BLOCK), b""):
        seen.update(block)
    return seen.hexdigest()


# -- the steps --


class Kit:
    """One order, carried out."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._key = str(order["key"])
        if not re.fullmatch(r"[0-9A-Za-z_.-]{1,100}", self._key) or self._key.startswith("."):
            raise Failure("order", f"{self._key!r} cannot be the name of a folder")
        prefix = os.environ.get("DAYFLY_ROOT", "")
        self._root = Path(prefix + str(order.get("root") or "/opt/dayfly"))
        self._log = Path(prefix + "/tmp/dayfly/bootstrap.log")  # noqa: S108 - see bootstrap.py
        self._home = self._root / "env" / self._key
        self._part = self._home / "part"
        self._venv = self._home / "venv"
        self._python = self._venv / "bin" / "python"
        self._complete = self._home / "complete"
        self._record = Record(str(order.get("name") or self._key)[:12])
        self._wheels = Wheels(self._root, self._part, order, self._record)
        self._begun = time.monotonic()
        self._step = "lock"
        self._limit = 0.0
        self._lock = -1
        self._uv_ready = False

    def run(self) -> None:
        """Carry it out.

        Raises:
            Failure: It cannot be had.
        """
        try:
            self._steps()
        except Overdue:
            raise self._overdue() from None
        except Stopped as stopped:
            raise Failure(
                "stopped", f"the {self._step} step was stopped by {stopped}", advice="run it again"
            ) from None
        except OSError as error:
            if error.errno is None:
                raise
            known = of_machine(error.errno, str(self._root))
            if known is None:
                raise
            known.cause = str(error)
            raise known from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._wheels.stop()

    def _steps(self) -> None:
        with self._within("lock") as said:
            self._take_lock()
            said["complete"] = complete = self._is_complete()
        if complete:
            self._done()
            return
        with self._within("room") as said:
            self._room(said)
        with self._within("python") as said:
            interpreter = self._interpreter(said)
        with self._within("fetch") as said:
            self._fetch(said)
        deposited = self._wheels.deposit()
        with self._within("install") as said:
            self._install(interpreter)
            said["packages"] = len(self._order["files"])
        with self._within("check"):
            self._check()
        self._mark()
        self._done()
        self._deposited(deposited)

    def report(self, failure: Failure) -> None:
        """Tell why it cannot be had."""
        self._record.tell(
            failed=self._step,
            kind=failure.kind,
            package=failure.package,
            what=failure.what,
            cause=failure.cause,
            advice=failure.advice,
        )

    def _done(self) -> None:
        seconds = round(time.monotonic() - self._begun, 3)
        self._record.tell(done=self._key, python=str(self._python), seconds=seconds)

    @contextlib.contextmanager
    def _within(self, step: str) -> Iterator[dict[str, Any]]:
        """One step, within its deadline; what is said of it is filled in by the step."""
        self._step = step
        begun = time.monotonic()
        left = float(self._order.get("deadline") or DEADLINE) - (begun - self._begun)
        own = {**DEADLINES, **self._order.get("deadlines", {})}.get(step, left)
        self._limit = max(0.001, min(left, own))
        said: dict[str, Any] = {}
        signal.setitimer(signal.ITIMER_REAL, self._limit)
        yield said
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._record.tell(step=step, seconds=round(time.monotonic() - begun, 3), **said)

    def _overdue(self) -> Failure:
        what = f"the {self._step} step did not end within {self._limit:.3g} s"
        if self._step == "lock":
            return Failure(
                "busy",
                f"{what}: another one installs this environment on the VM",
                cause=f"process {self._holder()} holds {self._home / 'lock'}",
                advice="wait for it, or end that process on the VM",
            )
        doing = [f"{name} from {source}" for name, source in self._wheels.doing.items()]
        return Failure(
            "deadline",
            what,
            cause="under way: " + ", ".join(sorted(doing))
            if doing
            else "\n".join(self._record.tail),
            advice=f"see {self._home / 'log'} on the VM",
        )

    # -- lock, marker --

    def _take_lock(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        self._record.keep(self._home / "log")
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._record.keep(self._log)
        except OSError as error:  # root's, perhaps; the environment's own log is enough
            self._record.log(f"no {self._log}: {error}")

    def _holder(self) -> str:
        try:
            return os.pread(self._lock, 20, 0).decode("ascii", "replace") or "?"
        except OSError:
            return "?"

    def _is_complete(self) -> bool:
        """Whether all of it is there; what an unfinished run left is removed."""
        try:
            marker = json.loads(self._complete.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            marker = {}
        runs = os.access(self._python, os.X_OK)
        if marker and runs:
            if marker["boot"] in ("", boot()):
                return True
            # What was not yet on the disk when the power went is lost; a clean stop loses
            # nothing. A look at all of it is cheaper than to sync at each installation.
            if marker["measure"] == measure(self._venv):
                self._write_marker(marker["measure"], boot())
                return True
            self._record.tell(note="it was damaged by a power cut: made anew", step="lock")
        with contextlib.suppress(FileNotFoundError):
            self._complete.unlink()
        for left in (self._part, self._venv):
            if left.exists():
                shutil.rmtree(left)
        self._part.mkdir()
        return False

    def _mark(self) -> None:
        shutil.rmtree(self._part, ignore_errors=True)
        durable = bool(self._order.get("durable"))
        if durable:
            os.sync()
        self._write_marker(measure(self._venv), "" if durable else boot())

    def _write_marker(self, measured: list[int], during: str) -> None:
        part = self._home / "complete.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump({"boot": during, "measure": measured}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._complete)
        folder = os.open(self._home, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    # -- room --

    def _room(self, said: dict[str, Any]) -> None:
        files = [*self._order["files"], self._order["uv"]]
        absent = [file for file in files if not self._wheels.path(file).exists()]
        bytes_needed = FLOOR + SWELL * sum(int(file.get("size") or 0) for file in absent)
        inodes_needed = 1000 + INODES * (bytes_needed // SWELL >> 20)
        disk = os.statvfs(self._root)
        bytes_free = disk.f_bavail * disk.f_frsize
        said["free"], said["needed"] = bytes_free, bytes_needed
        advice = "give the VMs a larger volume (ebs_volumes), or clear the disk"
        if bytes_free < bytes_needed:
            raise Failure(
                "disk",
                f"the VM's disk is too small: about {megabytes(bytes_needed)} are needed at "
                f"{self._root}, {megabytes(bytes_free)} are free",
                advice=advice,
            )
        # Some file systems have as many files as there is room for, and say 0.
        if disk.f_files and disk.f_favail < inodes_needed:
            raise Failure(
                "disk",
                f"the VM's disk cannot hold enough files: about {inodes_needed} more are needed "
                f"at {self._root}, it has room for {disk.f_favail}",
                advice=advice,
            )

    # -- python --

    def _interpreter(self, said: dict[str, Any]) -> str:
        looked: list[str] = []
        found = self._find(self._candidates(), looked)
        said["brought"] = found is None
        if found is None:
            found = self._bring(looked)
        said["path"] = found
        return found

    def _candidates(self) -> list[str]:
        wanted = self._order["python"]
        short = "pypy" if self._order.get("implementation") == "pypy" else "python"
        names = (f"{short}{wanted}", f"{short}3")
        paths = [f"{folder}/{names[0]}" for folder in ("/usr/bin", "/usr/local/bin")]
        paths += [found for found in map(shutil.which, names) if found]
        return [*paths, sys.executable, *self._brought()]

    def _brought(self) -> list[str]:
        short = "pypy" if self._order.get("implementation") == "pypy" else "python"
        pattern = f"{self._root}/python/*/bin/{short}{self._order['python']}"
        return sorted(glob.glob(pattern), reverse=True)  # noqa: PTH207 - a hidden one is unfinished

    def _find(self, candidates: list[str], looked: list[str]) -> str | None:
        """The first interpreter that serves; what is wrong with the others is noted."""
        seen = set()
        for candidate in candidates:
            real = os.path.realpath(candidate)
            if not os.access(candidate, os.X_OK) or real in seen:
                continue
            seen.add(real)
            status, output = self._call([candidate, "-I", "-c", PROBE, *ESSENTIALS])
            try:
                told = json.loads(output.splitlines()[-1])
            except (IndexError, ValueError):
                looked.append(f"{candidate} does not run (status {status})")
                continue
            version = f"{told['implementation']} {told['version']}"
            wanted = f"{self._order.get('implementation', 'cpython')} {self._order['python']}"
            if version != wanted:
                looked.append(f"{candidate} is {version}")
            elif told["free"]:
                looked.append(f"{candidate} is built without the GIL")
            elif told["lacks"]:
                looked.append(f"{candidate} lacks {', '.join(told['lacks'])}")
            else:
                return str(told["base"])
        return None

    def _bring(self, looked: list[str]) -> str:
        """Have uv, or an archive, bring an interpreter."""
        wanted = f"{self._order.get('implementation', 'cpython')}@{self._order['python']}"
        interpreters = self._order.get("interpreters") or {}
        archive = interpreters.get("archive")
        if archive:
            self._wheels.fetch([archive])
            cause = self._unpack(archive)
        else:
            self._wheels.fetch([self._order["uv"]])
            argv = [*self._uv(), "python", "install", "--install-dir", f"{self._root}/python"]
            extra = {
                "UV_PYTHON_INSTALL_MIRROR": interpreters.get("mirror"),
                "UV_PYTHON_DOWNLOADS_JSON_URL": interpreters.get("downloads"),
            }
            _, cause = self._call(
                [*argv, "--no-bin", "--managed-python", "--reinstall", wanted],
                {name: value for name, value in extra.items() if value},
            )
        found = self._find(self._brought(), looked)
        if found is not None:
            return found
        known = spoken(cause, str(self._root))
        if known is not None:
            known.cause = cause
            raise known
        has = "; ".join(looked) or "no Python at all"
        raise Failure(
            "interpreter",
            f"the VM has no Python {self._order['python']} and cannot be brought one",
            cause=f"looked at /usr/bin, /usr/local/bin, PATH and {self._root}/python: {has}\n"
            + (cause or "the archive holds no such interpreter"),
            advice=f"choose a target_ami that has Python {self._order['python']}, set "
            "python_mirror to a mirror of CPython builds that the VM reaches, or build an "
            "image that has it (dayfly image build)",
        )

    def _unpack(self, archive: dict[str, Any]) -> str:
        """Unpack an ``install_only`` archive; returns what went wrong with it."""
        part = self._part / "python"
        home = self._root / "python" / str(archive["sha256"])[:16]
        try:
            with tarfile.open(self._wheels.path(archive)) as tar:
                if hasattr(tarfile, "tar_filter"):
                    tar.extractall(part, filter="tar")
                else:
                    tar.extractall(part)  # noqa: S202 - its hash is the one that was locked
        except (tarfile.TarError, EOFError) as error:
            return f"{archive['filename']} cannot be unpacked: {error}"
        tops = list(part.iterdir())
        home.parent.mkdir(parents=True, exist_ok=True)
        if home.exists():  # no interpreter was found in it: it is damaged
            shutil.rmtree(home)
        (tops[0] if len(tops) == 1 else part).rename(home)
        return ""

    # -- fetch, install, check --

    def _fetch(self, said: dict[str, Any]) -> None:
        had = self._wheels.fetch([*self._order["files"], self._order["uv"]])
        said["bytes"] = sum(size for _, source, size in had if source != "disk")
        said["from"] = dict(collections.Counter(source for _, source, _ in had))

    def _uv(self) -> list[str]:
        """The command line of uv, unpacked from its wheel, which is here."""
        wheel = self._wheels.path(self._order["uv"])
        path = self._root / "uv" / str(self._order["uv"]["sha256"]) / "uv"
        if not self._uv_ready:
            try:
                with zipfile.ZipFile(wheel) as packed:
                    names = [name for name in packed.namelist() if name.endswith("/scripts/uv")]
                    entry = packed.getinfo(names[0])
                    if not path.exists() or path.stat().st_size != entry.file_size:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        part = self._part / "uv"
                        with packed.open(entry) as source, part.open("wb") as target:
                            shutil.copyfileobj(source, target, BLOCK)
                        part.chmod(0o755)
                        part.replace(path)
            except (IndexError, zipfile.BadZipFile) as error:
                raise Failure(
                    "file", f"{wheel.name} holds no uv", cause=repr(error), package="uv"
                ) from None
            self._uv_ready = True
        cache = self._root / "uv-cache" / boot()
        return [str(path), "--no-config", "--no-progress", "--cache-dir", str(cache)]

    def _install(self, interpreter: str) -> None:
        # What uv unpacked before a power cut may lack its end, and would be linked from.
        for old in (self._root / "uv-cache").glob("*"):
            if old.name != boot():
                shutil.rmtree(old, ignore_errors=True)
        make = ["venv", "--offline", "--no-project", "--python", interpreter, str(self._venv)]
        status, output = self._call([*self._uv(), *make])
        if status:
            raise self._failed("the virtual environment cannot be made", output, "interpreter")
        files = [str(self._wheels.path(file)) for file in self._order["files"]]
        if not files:
            return
        install = ["pip", "install", "--offline", "--no-index", "--no-deps", "--no-build"]
        install += ["--python", str(self._python), *files]
        status, output = self._call([*self._uv(), *install])
        if status:
            raise self._failed("the packages cannot be installed", output, "package")

    def _failed(self, what: str, output: str, kind: str) -> Failure:
        known = spoken(output, str(self._root))
        if known is not None:
            known.cause = output
            return known
        package = ""
        for file in self._order["files"]:
            name, pin = file["package"], f"{file['package']}=={file['version']}"
            if any(it in output for it in (file["filename"], pin, f"`{name}`", f"ause {name} has")):
                package = pin
                what = f"{file['filename']} cannot be installed"
                break
        machine = f"Python {self._order['python']} on {platform.machine()}, {glibc()}"
        return Failure(
            kind,
            f"{what} on the VM ({machine})",
            cause=output,
            advice="take another version of the package, or leave it out of the environment"
            if package
            else f"see {self._home / 'log'} on the VM",
            package=package,
        )

    def _check(self) -> None:
        modules = [str(name) for name in self._order.get("check", ())]
        status, output = self._call([str(self._python), "-I", "-c", IMPORTS, *modules])
        if not status:
            return
        known = spoken(output, str(self._root))
        if known is not None:
            known.cause = output
            raise known
        begun = re.findall(r"^(?:importing|failed) (\S+)$", output, re.MULTILINE)
        module = begun[-1] if begun else ""
        died = f" ({signal.Signals(-status).name})" if status < 0 else ""
        raise Failure(
            "import",
            f"module {module} cannot be imported on the VM{died}"
            if module
            else f"the new interpreter does not run{died}",
            cause=output,
            advice="it may need a library of the system (extra_apt_packages)",
            package=module,
        )

    def _deposited(self, wait: Callable[[], tuple[int, list[str]]]) -> None:
        """Wait until storage has what it lacked; others may use the environment meanwhile."""
        os.close(self._lock)
        if not self._wheels.new:
            return
        try:
            with self._within("deposit") as said:
                said["files"], notes = wait()
                for note in notes:
                    self._record.tell(note=note, step="deposit")
        except (Overdue, Stopped):  # the next one does it
            self._record.tell(note="not all files were kept in storage in time", step="deposit")

    # -- child processes --

    def _call(self, argv: list[str], extra: dict[str, str] | None = None) -> tuple[int, str]:
        """Run a program to its end: its status, and the last lines of its output."""
        # A user's settings for Python or uv are not for this.
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "UV_", "VIRTUAL_ENV", "PIP_"))
        }
        env.update({"UV_HTTP_TIMEOUT": "30", "UV_HTTP_RETRIES": "2", "NO_COLOR": "1"})
        env.update(extra or {})
        self._record.log("$ " + " ".join(argv[:1] + [word[:80] for word in argv[1:]][:12]))
        try:
            child = subprocess.Popen(
                argv,
                env=env,
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[self._lock],
            )
        except PermissionError:
            raise noexec(str(self._root)) from None
        except OSError as error:
            return 127, f"{argv[0]} cannot be run: {error}"
        tail: collections.deque[str] = collections.deque(maxlen=TAIL)
        try:
            assert child.stdout is not None  # noqa: S101
            for raw in child.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                self._record.log(f"  {line}"[:2000])
                tail.append(scrubbed(line)[:500])
            return child.wait(), "\n".join(tail)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        finally:
            if child.stdout is not None:
                child.stdout.close()


def boot() -> str:
    """Which boot of the VM this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # not Linux
        return "this"


def measure(folder: Path) -> list[int]:
    """How many files a folder holds, and their bytes, but for what Python compiles by itself."""
    count = size = 0
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            count += 1
            size += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118 - many of them
    return [count, size]


def glibc() -> str:
    """The C library, in words."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").strip() or "another C library"
    except (ValueError, OSError):
        return "another C library"


def overdue(_number: int, _frame: FrameType | None) -> NoReturn:
    """The handler of the clock that runs during each step."""
    raise Overdue


def stop(number: int, _frame: FrameType | None) -> NoReturn:
    """The handler of signals that end this process."""
    raise Stopped(signal.Signals(number).name)


def main() -> int:
    """Carry out the order on standard input."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, stop)
    signal.signal(signal.SIGALRM, overdue)
    kit = None
    try:
        order = json.load(sys.stdin)
        kit = Kit(order)
        kit.run()
    except Failure as error:
        failure = error
    except Stopped as stopped:
        failure = Failure("stopped", f"stopped by {stopped}", advice="run it again")
    except (KeyError, ValueError, TypeError) as error:
        if kit is None:
            failure = Failure("order", "the order cannot be read", cause=repr(error))
        else:
            failure = defect()
    except Exception:  # noqa: BLE001 - whatever it is, it is told
        failure = defect()
    else:
        return 0
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    if kit is not None:
        kit.report(failure)
    else:
        Record("kit").tell(
            failed="order",
            kind=failure.kind,
            package="",
            what=failure.what,
            cause=failure.cause,
            advice=failure.advice,
        )
    return 1


def defect() -> Failure:
    """The failure that nobody thought of, from the exception at hand."""
    return Failure(
        "defect",
        "dayfly's installer failed in a way that it does not know",
        cause="\n".join(traceback.format_exc().splitlines()[-TAIL:]),
        advice="report it, with the log",
    )


if __name__ == "__main__":
    sys.exit(main())
