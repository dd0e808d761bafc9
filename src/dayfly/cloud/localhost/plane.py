"""What the embedded cloud's API does, in plain steps on files and processes.

Every step may take some milliseconds, so :class:`~dayfly.cloud.localhost.cloud.LocalhostCloud`
takes them beside its event loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dayfly.clock import Clock, Entropy
from dayfly.cloud.base import Resource
from dayfly.cloud.localhost import files, processes, vm
from dayfly.cloud.localhost.addresses import draw_endpoint
from dayfly.cloud.localhost.environment import machine_environment
from dayfly.cloud.localhost.faults import Faults, read_faults, write_faults
from dayfly.cloud.localhost.record import BY_USER, Record
from dayfly.cloud.localhost.registry import Registry
from dayfly.errors import CapacityError, CloudError, InstanceNotFoundError
from dayfly.model import UP, Instance, InstanceSpec, InstanceState, Launch, Shortfall, Tag

#: Seconds for a supervisor to be started; it takes 2 ms on an idle machine.
_START = 30.0
#: Seconds for a VM that has just ended to let go of its lock.
_LET_GO = 5.0
#: A shell starts the supervisor and ends: so it is nobody's child, and no launcher has to
#: wait for it.
_DETACHED = ("/bin/sh", "-c", '"$@" &', "sh")


class Plane:
    """EC2's control plane, as far as one user's directory goes.

    Args:
        directory: The cloud's.
        boot_time: See :class:`~dayfly.cloud.localhost.cloud.LocalhostCloud`.
        clock: For dates.
        entropy: For names and addresses.
        environment: What a machine that this plane powers on finds in its environment,
            beside what :func:`~dayfly.cloud.localhost.environment.machine_environment` keeps.
    """

    def __init__(
        self,
        directory: Path,
        *,
        boot_time: float,
        clock: Clock,
        entropy: Entropy,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._boot_time = boot_time
        self._clock = clock
        self._entropy = entropy
        self._environment = dict(environment or {})
        self._registry = Registry(directory)

    def records(self) -> Sequence[Record]:
        """Every record, true as of now."""
        return self._registry.settled(self._clock.now())

    def record(self, instance_id: str) -> Record:
        """One record.

        Raises:
            InstanceNotFoundError: There is none.
        """
        return self._registry.read(instance_id)

    def launch(self, spec: InstanceSpec, count: int, minimum: int, token: str) -> Launch:
        """Launch instances."""
        self.records()
        with contextlib.ExitStack() as stack:
            with self._registry.locked():
                records = self._registry.all()
                again = [record for record in records if record.token == token]
                if again:
                    return self._answer(spec, again[0].asked, again)
                free = self._free_capacity(records)
                got = count if free is None else min(count, free)
                if got < minimum:
                    raise CapacityError(
                        f"{count} x {spec.instance_types[0]} were asked for, at least {minimum}, "
                        f"and {got} can be had",
                        cause=_no_capacity(free),
                        hint="dayfly worker list; dayfly clean gives machines back",
                    )
                launched = [self._create(spec, count, token, records, stack) for _ in range(got)]
            self._power_on(launched)
        return self._answer(spec, count, [record for record, _ in launched])

    def _free_capacity(self, records: Sequence[Record]) -> int | None:
        capacity = read_faults(self._directory).capacity
        if capacity is None:
            return None
        return max(0, capacity - sum(record.state in UP for record in records))

    def _answer(self, spec: InstanceSpec, asked: int, records: Sequence[Record]) -> Launch:
        shortfalls = []
        if len(records) < asked:
            shortfalls.append(
                Shortfall(
                    pool=spec.instance_types[0],
                    asked=asked,
                    got=len(records),
                    code="InsufficientInstanceCapacity",
                    message=_no_capacity(0),
                )
            )
        return Launch(instances=[record.instance for record in records], shortfalls=shortfalls)

    def _create(
        self,
        spec: InstanceSpec,
        asked: int,
        token: str,
        records: Sequence[Record],
        stack: contextlib.ExitStack,
    ) -> tuple[Record, int]:
        """Make a VM's folder and record; its lock is held before anyone can see it."""
        instance_type = spec.instance_types[0]  # no type of this machine is ever sold out alone
        taken = {other.instance.address for other in records}
        endpoint = draw_endpoint(taken, self._entropy)
        fault, rest = read_faults(self._directory).draw()
        if fault:
            write_faults(self._directory, rest)
        instance = Instance(
            id=f"i-{self._entropy.hex(17)}",
            instance_type=instance_type,
            state=InstanceState.PENDING,
            tags=spec.tags | spec.type_tags.get(instance_type, {}) | {Tag.LAUNCH.value: token},
            launched_at=self._clock.now(),
            address=endpoint.address,
            ssh_port=endpoint.ssh_port,
            service_port=endpoint.service_port,
            spot=spec.spot,
        )
        record = Record(
            instance=instance,
            on_poweroff=spec.on_poweroff,
            token=token,
            asked=asked,
            boot_time=self._boot_time,
            fault=fault,
        )
        layout = self._registry.layout(instance.id)
        layout.folder.mkdir(mode=0o700)
        lock = files.lock(layout.lock, timeout=_LET_GO)
        stack.callback(os.close, lock)
        files.write_atomically(layout.user_data, spec.user_data.encode())
        self._registry.write(record)
        return record, lock

    def _power_on(self, machines: Sequence[tuple[Record, int]]) -> None:
        """Start supervisors and give each its VM's lock; ours are then closed by the caller."""
        starting = []
        for record, lock in machines:
            layout = self._registry.layout(record.id)
            environment = machine_environment(layout, os.environ, self._environment)
            with layout.console.open("ab") as console:
                starting.append(
                    subprocess.Popen(
                        [
                            *_DETACHED,
                            sys.executable,
                            "-m",
                            "dayfly.cloud.localhost.vm",
                            record.id,
                            str(self._directory),
                        ],
                        stdin=subprocess.DEVNULL,
                        stdout=console,
                        stderr=console,
                        cwd=layout.folder,
                        env=environment | {vm.LOCK_VARIABLE: str(lock)},
                        pass_fds=[lock],
                    )
                )
        for process in starting:
            try:
                process.wait(_START)
            except subprocess.TimeoutExpired:
                process.kill()  # its VM's lock falls free, and the next list() tells of it
                process.wait()

    def start(self, ids: Sequence[str]) -> None:
        """Start stopped instances."""
        self.records()
        for instance_id in ids:
            state = self._registry.read(instance_id).state
            if state not in UP | {InstanceState.STOPPED}:
                raise CloudError(
                    f"{instance_id} is {state} and cannot be started",
                    cause="IncorrectInstanceState, as on EC2",
                    hint="wait until it is stopped, or let another be launched",
                )
        with contextlib.ExitStack() as stack:
            started = []
            for instance_id in dict.fromkeys(ids):
                if self._registry.read(instance_id).state in UP:
                    continue
                lock = self._lock_stopped(instance_id)
                if lock is None:
                    continue
                stack.callback(os.close, lock)
                os.ftruncate(lock, 0)
                started.append((self._registry.change(instance_id, self._pending), lock))
            self._power_on(started)

    def _lock_stopped(self, instance_id: str) -> int | None:
        """The lock of a VM that is stopped; ``None`` once somebody else has started it."""
        path = self._registry.layout(instance_id).lock
        deadline = time.monotonic() + _LET_GO
        # The supervisor of its last life may be about to end.
        while (lock := files.try_lock(path)) is None:
            if self._registry.read(instance_id).state in UP:
                return None
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{path} was locked by another process for {_LET_GO:g} s")
            time.sleep(0.005)
        if self._registry.read(instance_id).state is InstanceState.STOPPED:
            return lock
        os.close(lock)
        return None

    def _pending(self, record: Record) -> Record:
        free = self._free_capacity(self._registry.all())
        if free == 0:
            raise CapacityError(f"{record.id} cannot be started", cause=_no_capacity(free))
        pending = record.become(InstanceState.PENDING)
        # EC2's launch time is that of the last start, too.
        instance = msgspec.structs.replace(pending.instance, launched_at=self._clock.now())
        return msgspec.structs.replace(pending, instance=instance, boot_time=self._boot_time)

    def stop(self, ids: Sequence[str]) -> None:
        """Stop instances."""
        self.records()
        for instance_id in ids:
            record = self._registry.read(instance_id)
            if record.instance.spot:
                raise CloudError(
                    f"{instance_id} is a one-time spot instance and cannot be stopped",
                    cause="UnsupportedOperation, as on EC2",
                    hint="terminate it, or set request_spot_instances: False",
                )
            if record.state in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED):
                raise CloudError(
                    f"{instance_id} is {record.state} and cannot be stopped",
                    cause="IncorrectInstanceState, as on EC2",
                )
        for instance_id in ids:
            self._registry.change(instance_id, lambda old: old.leave("stop", BY_USER))
            self._registry.nudge(instance_id)

    def terminate(self, ids: Sequence[str]) -> None:
        """Terminate instances."""
        for instance_id in ids:
            try:
                record = self._registry.change(
                    instance_id, lambda old: old.leave("terminate", BY_USER)
                )
            except InstanceNotFoundError:
                continue  # gone already, and forgotten
            self._registry.nudge(instance_id)
            # A stopped VM has no supervisor that would end it.
            self._registry.settle(record, self._clock.now())

    def interrupt(self, instance_id: str, notice: float) -> None:
        """Announce and schedule a spot interruption."""
        record = self._registry.read(instance_id)
        if not record.instance.spot:
            raise CloudError(f"{instance_id} is not a spot instance")
        if record.state not in UP:
            raise CloudError(f"{instance_id} is {record.state}")
        end = self._clock.now() + notice
        at = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = self._registry.layout(instance_id).inside("/run/spot-instance-action")
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(
            path, json.dumps({"action": "terminate", "time": at}).encode(), mode=0o644
        )
        self._registry.change(
            instance_id, lambda old: msgspec.structs.replace(old, interrupt_at=end)
        )
        self._registry.nudge(instance_id)

    def tag(self, ids: Iterable[str], tags: Mapping[str, str]) -> None:
        """Add or replace tags."""

        def add(record: Record) -> Record:
            instance = msgspec.structs.replace(
                record.instance, tags={**record.instance.tags, **tags}
            )
            return msgspec.structs.replace(record, instance=instance)

        ids = list(ids)
        for instance_id in ids:
            self._registry.read(instance_id)
        for instance_id in ids:
            self._registry.change(instance_id, add)

    def console(self, instance_id: str) -> str:
        """What a VM printed."""
        self._registry.read(instance_id)
        path = self._registry.layout(instance_id).console
        return path.read_text(errors="replace") if path.exists() else ""

    def set_faults(self, faults: Faults) -> None:
        """Ask for faults."""
        with self._registry.locked():
            write_faults(self._directory, faults)

    def inventory(self) -> Sequence[Resource]:
        """Everything of ours that exists."""
        found = [
            Resource(
                kind="instance",
                id=record.id,
                detail=f"{record.instance.name}, {record.state}, {record.instance.address}",
            )
            for record in self.records()
            if record.state is not InstanceState.TERMINATED and _ours(record)
        ]
        if not found:
            found += [
                Resource(kind="process", id=str(pid), detail=processes.command(pid))
                for pid in sorted(self._strays())
            ]
        return found

    def end_ours(self) -> list[str]:
        """Ask for the end of every VM of ours; returns their ids. A user's own VMs stay."""
        ours = [record.id for record in self.records() if _ours(record)]
        self.terminate(ours)
        return ours

    def delete_ours(self) -> set[int]:
        """Kill what is left and delete our files; who could not be killed."""
        left = processes.exterminate(self._strays)
        others = {record.id for record in self.records() if not _ours(record)}
        for instance_id in self._registry.ids():
            if instance_id not in others:  # also what a killed launch left without a record
                files.delete_tree(self._registry.layout(instance_id).folder)
        if not others:
            files.delete_tree(self._directory / "instances")
            for name in ("faults.json", "lock"):
                (self._directory / name).unlink(missing_ok=True)
            for folder in (self._directory, self._directory.parent):
                # The user may keep something there; and only ~/.dayfly itself is ours.
                if folder == self._directory or folder.name == ".dayfly":
                    with contextlib.suppress(OSError):
                        folder.rmdir()
        return left

    def _strays(self) -> set[int]:
        """Processes of VMs that are not a user's own."""
        root = self._directory / "instances"
        found = processes.marked("DAYFLY_ROOT", str(root), below=True) - {os.getpid()}
        for record in self.records():
            if not _ours(record):
                found -= processes.marked("DAYFLY_INSTANCE", record.id)
                found -= {pid for pid in found if not processes.command(pid)}
        return found


def _ours(record: Record) -> bool:
    return record.instance.tags.get(Tag.MANAGED) == "true"


def _no_capacity(free: int | None) -> str:
    return (
        f"InsufficientInstanceCapacity: this cloud's capacity fault leaves room for {free or 0}; "
        "see Faults.capacity"
    )
