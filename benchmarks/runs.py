"""Peers are run as processes of their own, each with the interpreter of its environment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import environments, figures, floor
from benchmarks.environments import REQUIREMENTS
from benchmarks.peers import IMPORTS, purge
from benchmarks.work import PROCESSES

_ROOT: Final = Path(__file__).parent.parent
#: Interpreters started for one sample of the import time.
_INTERPRETERS: Final = 5
#: Seconds that one peer may take for one round, and for its first result.
_PATIENCE: Final = 900.0
_FIRST_PATIENCE: Final = 120.0
#: After an import: what the process holds in memory, in kB.
_HELD: Final = (
    "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS:')][0])"
)


class FailedError(Exception):
    """A peer could not be measured; its text says why."""


@dataclass(frozen=True)
class Runner:
    """How a peer's processes are started."""

    peer: str
    python: str
    environment: Mapping[str, str]

    @contextmanager
    def start(self, *arguments: str, folder: Path | None) -> Iterator[subprocess.Popen[str]]:
        """A process of its own group, all of which is gone afterwards.

        Args:
            arguments: Of the interpreter.
            folder: Where a library finds its home, and leaves what it leaves.
        """
        environment = dict(self.environment)
        if folder is not None and self.peer in REQUIREMENTS:
            environment |= {"HOME": str(folder), "TMPDIR": str(folder)}
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                [self.python, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                cwd=_ROOT,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            except subprocess.TimeoutExpired as error:
                raise FailedError(f"not done in {error.timeout:.0f} s") from error
            finally:
                with contextlib.suppress(ProcessLookupError):  # all of it has ended by itself
                    os.killpg(process.pid, signal.SIGKILL)
            if process.wait():
                errors.seek(0)
                said = errors.read().split("\n")
                last = next((line for line in reversed(said) if line.strip()), "")
                raise FailedError(f"ended with {process.returncode}: {last[:200]}")


def runner(peer: str) -> Runner:
    """Install what a peer needs.

    Raises:
        CannotInstallError: That failed.
    """
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    python = sys.executable
    path = [str(_ROOT)]
    if peer in REQUIREMENTS:
        python = str(environments.interpreter(peer))
        # Some start programs of theirs by name.
        environment["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
    elif given := os.environ.get("PYTHONPATH"):
        path.append(given)
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return Runner(peer, python, environment)


@contextmanager
def folder_for(peer: str) -> Iterator[Path]:
    """A folder for all that a peer writes; dayfly's machines go with it."""
    with tempfile.TemporaryDirectory(prefix="dayfly-bench-", ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        finally:
            if peer == "dayfly":
                purge(Path(name))


def warm(
    run: Runner, parts: Sequence[str], keep: Callable[[Mapping[str, float]], None]
) -> dict[str, str]:
    """Measure a peer that is open; gives why parts were left out.

    Args:
        run: Its runner.
        parts: By the names that ``--only`` takes.
        keep: Told each sample as it comes, so that those before a failure count.

    Raises:
        FailedError: It failed on the way.
    """
    left_out = {}
    with folder_for(run.peer) as folder:
        arguments = ["-m", "benchmarks.peerside", run.peer, str(folder), *parts]
        with run.start(*arguments, folder=folder) as process:
            output, late = _listen(process, _PATIENCE)
            for line in output.splitlines():
                told = json.loads(line)
                if "figure" in told:
                    keep({told["figure"]: told["value"]})
                else:
                    left_out[told["part"]] = told["left_out"]
            if late:
                raise late
    return left_out


def _listen(
    process: subprocess.Popen[str], patience: float
) -> tuple[str, subprocess.TimeoutExpired | None]:
    """What a process prints until it ends, or is late."""
    try:
        return process.communicate(timeout=patience)[0], None
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], error


def first_result(run: Runner) -> dict[str, float]:
    """A new client process to its first result: from nothing, and on a cluster that is up."""
    with folder_for(run.peer) as folder, ExitStack() as stack:
        samples = {figures.FIRST: _time_first(run, folder, "cold")}
        if run.peer == "floor":
            stack.enter_context(floor.workers(folder, PROCESSES))
        if run.peer in {"floor", "dayfly"}:  # the others' workers end with their client
            samples[figures.FIRST_WARM] = _time_first(run, folder, "warm")
    return samples


def _time_first(run: Runner, folder: Path, state: str) -> float:
    began = time.perf_counter()
    with run.start(
        "-m", "benchmarks.first", run.peer, str(folder), state, folder=folder
    ) as process:
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        late = threading.Timer(_FIRST_PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        found = process.stdout.readline()
        taken = time.perf_counter() - began
        late.cancel()
        process.communicate(timeout=_FIRST_PATIENCE)
    if found != "first\n":
        raise FailedError("ended without a first result")
    return taken


def import_time(run: Runner) -> dict[str, float]:
    """What an interpreter takes longer with the import than without, and holds afterwards."""

    def execute(code: str) -> tuple[float, str]:
        began = time.perf_counter()
        with run.start("-c", code, folder=None) as process:
            output, _ = process.communicate(timeout=_FIRST_PATIENCE)
        return (time.perf_counter() - began) * 1e3, output

    statement = IMPORTS[run.peer]
    taken = [execute(statement)[0] - execute("pass")[0] for _ in range(_INTERPRETERS)]
    held = int(execute(f"{statement}\n{_HELD}")[1]) / 1e3
    return {figures.IMPORT: statistics.median(taken), figures.MEMORY: held}


#: Measures that start processes of their own, by the name that ``--only`` takes.
COLD: Final[Mapping[str, Callable[[Runner], dict[str, float]]]] = {
    "first_result": first_result,
    "import_time": import_time,
}
