"""The records of a cloud on disk: one writer at a time, and the truth about VMs that died."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from dayfly.cloud.localhost import files, processes
from dayfly.cloud.localhost.record import POWERED, Layout, Record
from dayfly.errors import CloudError, InstanceNotFoundError
from dayfly.model import InstanceState

#: Seconds for which a terminated instance stays visible (EC2: "usually one hour").
MEMORY = 3600.0


class Registry:
    """The records below one directory.

    Nothing here waits, except for another process's write, which takes about a millisecond.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def layout(self, instance_id: str) -> Layout:
        """Where a VM's things lie."""
        return Layout(self.directory, instance_id)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other writers out."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.directory.stat().st_uid != os.geteuid():
            raise CloudError(
                f"the embedded cloud's directory {self.directory} belongs to another user",
                hint="set localhost: directory: to one of your own",
            )
        with files.locked(self.directory / "lock"):
            (self.directory / "instances").mkdir(mode=0o700, exist_ok=True)
            yield

    def ids(self) -> list[str]:
        """The ids of all records."""
        try:
            return sorted(
                entry.name
                for entry in os.scandir(self.directory / "instances")
                if entry.name.startswith("i-")
            )
        except FileNotFoundError:
            return []

    def find(self, instance_id: str) -> Record | None:
        """A record; ``None`` when there is none."""
        path = self.layout(instance_id).record
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except msgspec.MsgspecError as error:
            raise CloudError(f"the record {path} cannot be read", cause=str(error)) from error

    def read(self, instance_id: str) -> Record:
        """A record.

        Raises:
            InstanceNotFoundError: There is none.
        """
        record = self.find(instance_id)
        if record is None:
            raise InstanceNotFoundError(
                f"the instance {instance_id!r} does not exist",
                cause=f"InvalidInstanceID.NotFound in {self.directory}",
                hint="dayfly worker list",
            )
        return record

    def all(self) -> list[Record]:
        """All records, as they are written."""
        found = (self.find(instance_id) for instance_id in self.ids())
        return [record for record in found if record is not None]

    def write(self, record: Record) -> None:
        """Write a record; only under :meth:`locked`."""
        files.write_atomically(self.layout(record.id).record, msgspec.json.encode(record))

    def change(self, instance_id: str, how: Callable[[Record], Record]) -> Record:
        """Change a record, as one step among all writers."""
        with self.locked():
            old = self.read(instance_id)
            new = how(old)
            if new != old:
                self.write(new)
        return new

    def supervisor(self, instance_id: str) -> int | None:
        """The process id of a VM's supervisor; ``None`` when it has none yet, or no more."""
        path = self.layout(instance_id).lock
        try:
            free = files.try_lock(path)
            if free is not None:
                os.close(free)
                return None
            pid = int(path.read_text() or 0)
        except FileNotFoundError:
            return None
        # Whoever holds the lock may be another client that is looking, as we are.
        return pid if pid and instance_id in processes.command(pid) else None

    def nudge(self, instance_id: str) -> None:
        """Have a VM's supervisor look at its record.

        One that is only just starting reads its record anyway, after it has told its id.
        """
        pid = self.supervisor(instance_id)
        if pid is not None:
            processes.send([pid], signal.SIGUSR1)

    def settled(self, now: float) -> list[Record]:
        """All records, each true: VMs that were killed are told so, old ends are forgotten."""
        settled = []
        for record in self.all():
            if record.state in POWERED:
                settled.append(self.settle(record, now))
            elif record.state is InstanceState.TERMINATED and now - record.ended_at > MEMORY:
                self.forget(record.id)
            else:
                settled.append(record)
        return settled

    def settle(self, record: Record, now: float) -> Record:
        """The true record of a VM that should have a supervisor."""
        try:
            lock = files.try_lock(self.layout(record.id).lock)
        except FileNotFoundError:
            return record  # purged meanwhile
        if lock is None:
            return record
        try:
            fresh = self.find(record.id)
            if fresh is None or fresh.state not in POWERED:
                return fresh or record
            return self.close(record.id, now, "all of its processes were killed")
        finally:
            os.close(lock)

    def close(self, instance_id: str, now: float, accident: str) -> Record:
        """End a VM for good, or until its next start; only under its own lock.

        Args:
            instance_id: Which VM.
            now: When.
            accident: Why, unless its end was asked for.
        """
        processes.exterminate(lambda: processes.marked("DAYFLY_INSTANCE", instance_id))
        # The disk goes first: a terminated VM has none.
        if self.read(instance_id).end(now).state is InstanceState.TERMINATED:
            self._delete_disk(instance_id)
        record = self.change(instance_id, lambda old: old.end(now, accident))
        if record.state is InstanceState.TERMINATED:  # perhaps asked for only meanwhile
            self._delete_disk(instance_id)
        return record

    def _delete_disk(self, instance_id: str) -> None:
        layout = self.layout(instance_id)
        files.delete_tree(layout.root)
        layout.user_data.unlink(missing_ok=True)

    def forget(self, instance_id: str) -> None:
        """Delete what is left of a terminated VM."""
        with self.locked():
            files.delete_tree(self.layout(instance_id).folder)
