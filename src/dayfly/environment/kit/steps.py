"""One order, carried out step by step, each within its deadline."""

from __future__ import annotations

import collections
import contextlib
import os
import time
from pathlib import Path

from dayfly.environment.kit import interruption, room
from dayfly.environment.kit.children import Children
from dayfly.environment.kit.failure import Failure, of_machine
from dayfly.environment.kit.home import Home
from dayfly.environment.kit.interpreter import Interpreters
from dayfly.environment.kit.interruption import Overdue, Stopped
from dayfly.environment.kit.packages import Packages
from dayfly.environment.kit.record import Record
from dayfly.environment.kit.uv import Uv
from dayfly.environment.kit.wheels import Wheels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: Seconds, where the order says nothing.
DEADLINE = 900.0
DEADLINES = {"lock": 600.0, "room": 10.0, "python": 300.0, "check": 120.0, "deposit": 300.0}


class Kit:
    """One order.

    Args:
        order: As it came; the package's docstring says what is in it.

    Raises:
        Failure: It makes no sense.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        key = str(order["key"])
        self._order = order
        prefix = os.environ.get("DAYFLY_ROOT", "")
        self._root = Path(prefix + str(order.get("root") or "/opt/dayfly"))
        self._log = Path(prefix + "/tmp/dayfly/bootstrap.log")  # noqa: S108 - see bootstrap.py
        self._record = Record(str(order.get("name") or key)[:12])
        self._home = Home(self._root, key, self._record)
        self._wheels = Wheels(self._root, self._home.part, order, self._record)
        self._begun = time.monotonic()
        self._step = "lock"
        self._limit = 0.0

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
            interruption.within(0)
            self._wheels.stop()

    def _steps(self) -> None:
        with self._within("lock") as said:
            self._home.take()
            self._keep_log()
            said["complete"] = complete = self._home.is_complete()
        if complete:
            self._done()
            return
        order, root, home, wheels = self._order, self._root, self._home, self._wheels
        children = Children(root, home.lock, self._record)
        uv = Uv(root, home.part, order["uv"], wheels)
        files = [*order["files"], order["uv"]]
        with self._within("room") as said:
            archive = (order.get("interpreters") or {}).get("archive")
            coming = [*files, archive] if archive else files
            absent = [file for file in coming if not wheels.path(file).exists()]
            size = sum(int(file.get("size") or 0) for file in absent)
            said["free"], said["needed"] = room.look(root, size)
        with self._within("python") as said:
            interpreters = Interpreters(order, root, home.part, wheels, uv, children)
            said["path"], said["brought"] = interpreters.have()
            interpreter = said["path"]
        with self._within("fetch") as said:
            had = wheels.fetch(files)
            said["bytes"] = sum(size for _, source, size in had if source != "disk")
            said["from"] = dict(collections.Counter(source for _, source, _ in had))
        deposited = wheels.deposit()
        packages = Packages(order, root, home, wheels, uv, children)
        with self._within("install") as said:
            packages.install(interpreter)
            said["packages"] = len(order["files"])
        with self._within("check"):
            packages.check()
        home.complete(durable=bool(order.get("durable")))
        self._done()
        self._deposited(deposited)

    def report(self, failure: Failure) -> None:
        """Tell why it cannot be had."""
        self._record.tell(failed=self._step, **failure.told())

    def _done(self) -> None:
        seconds = round(time.monotonic() - self._begun, 3)
        key, python = str(self._order["key"]), str(self._home.python)
        self._record.tell(done=key, python=python, seconds=seconds)

    @contextlib.contextmanager
    def _within(self, step: str) -> Iterator[dict[str, Any]]:
        """One step, within its deadline; what is said of it is filled in by the step."""
        self._step = step
        begun = time.monotonic()
        left = float(self._order.get("deadline") or DEADLINE) - (begun - self._begun)
        own = {**DEADLINES, **self._order.get("deadlines", {})}.get(step, left)
        self._limit = max(0.001, min(left, own))
        said: dict[str, Any] = {}
        interruption.within(self._limit)
        yield said
        interruption.within(0)
        self._record.tell(step=step, seconds=round(time.monotonic() - begun, 3), **said)

    def _overdue(self) -> Failure:
        what = f"the {self._step} step did not end within {self._limit:.3g} s"
        if self._step == "lock":
            return Failure(
                "busy",
                f"{what}: another one installs this environment on the VM",
                cause=f"process {self._home.holder()} holds {self._home.path / 'lock'}",
                advice="wait for it, or end that process on the VM",
            )
        doing = [f"{name} from {source}" for name, source in self._wheels.doing.items()]
        return Failure(
            "deadline",
            what,
            cause="under way: " + ", ".join(sorted(doing))
            if doing
            else "\n".join(self._record.tail),
            advice=f"see {self._home.log} on the VM",
        )

    def _keep_log(self) -> None:
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._record.keep(self._log)
        except OSError as error:  # root's, perhaps; the environment's own log is enough
            self._record.log(f"no {self._log}: {error}")

    def _deposited(self, wait: Callable[[], tuple[int, list[str]]]) -> None:
        """Wait until storage has what it lacked; others may use the environment meanwhile."""
        self._home.release()
        if not self._wheels.new:
            return
        try:
            with self._within("deposit") as said:
                said["files"], notes = wait()
                for note in notes:
                    self._record.tell(note=note, step="deposit")
        except (Overdue, Stopped):  # the next one does it
            self._record.tell(note="not all files were kept in storage in time", step="deposit")
