"""One world: a cloud, a network, machines and laptops, in which the unmodified product lives."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dayfly import config as configuration
from dayfly.bootstrap import Package
from dayfly.config import Config
from dayfly.errors import DayflyError
from dayfly.model import InstanceState
from dayfly.parts import Parts, scope_of
from dayfly.phases import Timeline
from dayfly.processes import runs
from dayfly.storage.scoped import ScopedStorage
from tests.simulation.chance import Chance, SimEntropy
from tests.simulation.clients import Client, DiedError, Identity
from tests.simulation.cloud import CloudState, SimCloud
from tests.simulation.keys import simulated_keys
from tests.simulation.loop import SeededLoop
from tests.simulation.machine import Machine, Service
from tests.simulation.network import Network
from tests.simulation.process import Host, Process
from tests.simulation.runner import Execution, Poison, drawn_seconds
from tests.simulation.services import Master, Worker
from tests.simulation.shell import SimShell
from tests.simulation.storage import SimStorage, StorageState
from tests.simulation.surroundings import NoFaults, Strikes, heavy
from tests.simulation.units import Program

__all__ = ["Calm", "Client", "DiedError", "Execution", "Knobs", "World"]

T = TypeVar("T")

#: Where disks are: files that are never read again need not reach a real one.
MEMORY = Path("/dev/shm")
FOLDERS = "dayfly-simulation-"
#: What is installed on VMs: nothing of it runs there.
PACKAGE = Package(digest="simulated", files={"dayfly/__init__.py": b""})


class Knobs(Protocol):
    """What a world must know of its circumstances; :mod:`tests.simulation.knobs` draws them."""

    @property
    def network(self) -> float:
        """Seconds that a message takes, about."""
        ...

    @property
    def boot(self) -> float:
        """Seconds that a VM takes to answer SSH, about."""
        ...

    @property
    def skew(self) -> float:
        """Seconds by which wall clocks differ at most."""
        ...

    @property
    def late(self) -> float:
        """Seconds by which a timer fires late at most."""
        ...

    @property
    def shuffle(self) -> bool:
        """Whether ready tasks go on in a drawn order."""
        ...


@dataclass(frozen=True)
class Calm:
    """Circumstances in which nothing goes wrong."""

    network: float = 0.001
    boot: float = 5.0
    skew: float = 0.0
    late: float = 0.0
    shuffle: bool = True


class World:
    """Everything that one story needs; use it as a context manager.

    Args:
        seed: Of all that is drawn.
        knobs: The circumstances.
        faults: Makes what strikes, from the world's chance and its :meth:`note`.
        recorded: See :class:`~tests.simulation.loop.SeededLoop`.

    Attributes:
        trace: What happened, with the virtual time of it.
        cloud: The truth about instances.
        storage: The truth about objects.
        machines: The insides of each instance that ever ran, by its id.
        laptops: The users' machines, by name.
        executions: Every run of a call so far.
        crashes: What no service and no conversation expected: when, where and what.
        torn: When a master's journal lost its newest part.
        durations: Seconds that calls take, by job; others are drawn.
        poisons: Calls that take their VM's service, or all of it, with them, by job.
    """

    def __init__(
        self,
        seed: int = 0,
        knobs: Knobs | None = None,
        *,
        faults: Callable[[Chance, Callable[[str], None]], Strikes] | None = None,
        recorded: bool = False,
    ) -> None:
        self.seed = seed
        self.knobs: Knobs = knobs or Calm()
        self.chance = Chance(seed)
        self.trace: list[tuple[float, str]] = []
        self.loop = SeededLoop(self.chance, shuffled=self.knobs.shuffle, recorded=recorded)
        self.faults: Strikes = NoFaults() if faults is None else faults(self.chance, self.note)
        self.cloud = CloudState(self.loop, self.chance.stream("cloud"), self.faults)
        self.storage = StorageState(self.loop, self.chance.stream("storage"), self.faults)
        self.network = Network(self.loop, self.knobs.network, self.chance.stream("network"))
        self.machines: dict[str, Machine] = {}
        self.laptops: dict[str, Host] = {}
        self.executions: list[Execution] = []
        self.crashes: list[tuple[float, str, BaseException]] = []
        self.torn: list[float] = []
        self.durations: dict[str, Sequence[float]] = {}
        self.poisons: dict[str, Mapping[int, Poison] | Collection[int]] = {}
        self.users_key = "private key of a user"
        self._machine_stream = self.chance.stream("machines")
        self._folder: Path | None = None
        self._closing = contextlib.ExitStack()
        self.cloud.on_change(self._changed)
        self.cloud.on_notice(self._warned)
        if self.knobs.late:
            self.loop.lateness = self._lateness

    def __enter__(self) -> World:
        self._closing.enter_context(_quiet())
        self._closing.enter_context(simulated_keys(self.chance.stream("keys")))
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.after_step = None
        self.loop.lateness = None
        for host in [*self.laptops.values(), *(m.host for m in self.machines.values() if m.host)]:
            host.kill()
        self.loop.bury()
        self.loop.close()
        if self._folder is not None:
            shutil.rmtree(self._folder)
        self._closing.close()

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        """Run the world until a coroutine of its own has ended."""
        return self.loop.run_until_complete(story)

    def note(self, text: str) -> None:
        """Write down what has happened."""
        self.trace.append((self.loop.time(), text))

    # -- users --

    def laptop(self, name: str = "laptop") -> Host:
        """A user's machine; made when it is first asked for."""
        if name not in self.laptops:
            self.laptops[name] = self.new_host(name, uptime=1e5)
        return self.laptops[name]

    def client(
        self,
        program: Callable[[Process], Coroutine[Any, Any, Any]],
        *,
        laptop: str = "laptop",
        name: str = "client",
    ) -> Client:
        """Start a user's program."""
        process = self.laptop(laptop).start(name)
        self.note(f"{process.name} starts on {laptop}")
        return Client(process, program(process))

    def parts(self, process: Process, config: Config) -> Parts:
        """What a client process works with."""

        async def scope() -> str:
            return await scope_of(cloud)

        cloud = SimCloud(self.cloud, process)
        return Parts(
            config=config,
            cloud=cloud,
            storage=ScopedStorage(SimStorage(self.storage, process), scope),
            shell=self._shell(process),
            clock=process.clock,
            entropy=self._entropy(process),
            dial=self.network.dial(process),
            package=lambda: PACKAGE,
            process=Identity(process),
            timeline=Timeline(process.clock),
        )

    def open_parts(self, process: Process, config: Mapping[str, Any]) -> Parts:
        """The same, from a configuration as users write it."""
        return self.parts(process, configuration.load(config))

    def add_users_vm(self, name: str = "mine", *, running: bool = False) -> str:
        """A VM for ``consume`` mode; returns its id."""
        return self.cloud.add_users_vm(name, running=running).id

    @functools.cached_property
    def users_key_file(self) -> str:
        """For ``ssh_key_filename``: opens the user's own VMs."""
        path = self.disk("users-key")
        path.write_text(self.users_key)
        return str(path)

    # -- what is asked of machines --

    def machine(self, instance_id: str) -> Machine:
        """The insides of an instance."""
        if instance_id not in self.machines:
            self.machines[instance_id] = Machine(self, instance_id, self._machine_stream)
        return self.machines[instance_id]

    def booted_at(self, instance_id: str) -> float | None:
        """When its system came up last, so that its own deadline is armed; else ``None``."""
        machine = self.machines.get(instance_id)
        return machine.deadline.armed_at if machine is not None and machine.deadline else None

    def answered_at(self, instance_id: str) -> float | None:
        """When it answered SSH since it came up last; ``None`` before."""
        machine = self.machines.get(instance_id)
        return machine.answered if machine is not None and machine.up else None

    def kill_service(self, instance_id: str, service: Service) -> bool:
        """SIGKILL to a service's process; whether it ran."""
        process = self.machine(instance_id).service(service)
        if process is not None:
            process.kill()
        return process is not None

    def master(self) -> Machine | None:
        """The machine on which a master's service runs, if one does."""
        found = (m for m in self.machines.values() if m.service("master") is not None)
        return next(found, None)

    # -- what machines ask --

    def new_host(self, name: str, *, uptime: float) -> Host:
        skew = self._machine_stream.uniform(-1.0, 1.0) * self.knobs.skew
        return Host(self.loop, name, skew=skew, uptime=uptime)

    def boot_seconds(self) -> float:
        seconds = heavy(self._machine_stream, self.knobs.boot)
        if self.faults.strikes("slow boot"):
            seconds += self.faults.amount("slow boot", 20.0, 900.0)
        return seconds

    def disk(self, name: str) -> Path:
        if self._folder is None:
            place = MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())
            _sweep(place)
            self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDERS}{os.getpid()}-", dir=place))
        return self._folder / name

    def journal_torn(self) -> None:
        self.torn.append(self.loop.time())

    def crashed(self, where: str, error: BaseException) -> None:
        self.note(f"CRASH {where}: {error!r}")
        if not isinstance(error, DayflyError):
            self.crashes.append((self.loop.time(), where, error))

    def program(
        self, machine: Machine, service: Service, process: Process, ready: Callable[[], None]
    ) -> Program:
        self.note(f"the {service} service of {machine.id} starts")
        storage, entropy = SimStorage(self.storage, process), self._entropy(process)
        if service == "master":
            return Master(
                machine,
                process,
                ready=ready,
                storage=storage,
                shell=self._shell(process),
                network=self.network,
                package=PACKAGE,
                entropy=entropy,
                crashed=self.crashed,
            )
        return Worker(
            machine,
            process,
            ready=ready,
            storage=storage,
            network=self.network,
            work=self,
            entropy=entropy,
            stream=self.chance.stream("runners"),
        )

    # -- what runners ask (Work) --

    def seconds(self, job: str, index: int) -> float:
        durations = self.durations.get(job)
        if durations is not None and index < len(durations):
            return durations[index]
        return drawn_seconds(self.seed, job, index)

    def poison(self, job: str, index: int) -> Poison:
        poisons = self.poisons.get(job, ())
        if isinstance(poisons, Mapping):
            taken: Poison = poisons.get(index, "")
            return taken
        return "service" if index in poisons else ""

    def poisoned(self, instance: str, what: Poison) -> None:
        self.note(f"a poisonous call takes the {what} of {instance} with it")
        if what == "service":
            self.kill_service(instance, "worker")
        else:
            self.cloud.lose(instance)

    # -- parts of these --

    def _changed(self, instance_id: str, old: InstanceState | None, new: InstanceState) -> None:
        reason = self.cloud.vms[instance_id].instance.state_reason
        self.note(f"{instance_id} is {new}{': ' if reason else ''}{reason}")
        self.machine(instance_id).heed(new)

    def _warned(self, instance_id: str, at: float) -> None:
        self.note(f"{instance_id} will be taken back in {at - self.loop.time():.0f} s")
        self.machine(instance_id).warn(at)

    def _shell(self, process: Process) -> SimShell:
        return SimShell(self.network, process, self.faults, self.chance.stream("ssh"))

    def _entropy(self, process: Process) -> SimEntropy:
        name = f"entropy {process.host.name} {process.name} {process.pid} {self.loop.time()!r}"
        return SimEntropy(random.Random(f"{self.seed}/{name}"))

    def _lateness(self, process: Process) -> float:
        if not self.faults.strikes("late wake-up"):
            return 0.0
        return self.faults.amount("late wake-up", 0.0001, self.knobs.late)


def _sweep(place: Path) -> None:
    """Delete the disks of simulations that were killed."""
    for folder in place.glob(f"{FOLDERS}*-*"):
        owner = folder.name.removeprefix(FOLDERS).partition("-")[0]
        if owner.isdecimal() and not runs(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)  # another may be at it, too


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the product logs goes to whoever listens (:mod:`.evidence`), and nowhere else."""
    logger = logging.getLogger("dayfly")
    before = logger.level, logger.propagate
    logger.setLevel(logging.CRITICAL)
    logger.propagate = False
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
